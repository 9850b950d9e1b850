"""Opening the executor, serving its store, and closing what was opened here."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from dagflow._redacting import redacted
from dagflow.web._problems import Problem

if TYPE_CHECKING:
    from dagflow.executor import DAGExecutor

__all__ = ["Start"]

_LOGGER = logging.getLogger("dagflow")
_PATIENCE_S = 2.0
_PAUSE_S = 1.0


class Start:
    """The life of an app: opened by its lifespan, or else by its first request.

    Args:
        executor: Open or not; only one that was opened here is closed here.
        serve: Whether runs of the store are claimed and driven.
        poll: Seconds between two looks at the store.
    """

    def __init__(self, executor: DAGExecutor, *, serve: bool, poll: float) -> None:
        self._executor = executor
        self._serves = serve
        self._poll = poll
        self._opened_here = False
        self._is_up = False
        self._opening: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._tried_at = 0.0
        self.error: str | None = None

    @property
    def is_up(self) -> bool:
        """Whether the store has been opened, and its schema brought up to date."""
        return self._is_up and self._executor.is_open

    @property
    def is_serving(self) -> bool:
        """Whether runs are driven, if they shall be."""
        return not self._serves or (self._serving is not None and not self._serving.done())

    async def up(self) -> None:
        """Open the executor and begin to serve; a start that has been made is not made again.

        Raises:
            StoreError: The store cannot be reached.
        """
        if self.is_up:
            return
        if not self._executor.is_open:
            await self._executor.__aenter__()
            self._opened_here = True
        self._is_up = True
        self.error = None
        if self._serves:
            self._serving = asyncio.get_running_loop().create_task(self._serve(), name="dagflow-serve")

    async def down(self) -> None:
        """Stop serving, and close the executor if it was opened here."""
        self._is_up = False
        tasks = [task for task in (self._opening, self._serving) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._opened_here:
            await self._executor.__aexit__(None, None, None)

    def begin(self) -> None:
        """Begin to open the executor, unless somebody has lately."""
        loop = asyncio.get_running_loop()
        if self.is_up or (self._opening is not None and not self._opening.done()):
            return
        if self._opening is None or loop.time() - self._tried_at >= _PAUSE_S:
            self._tried_at = loop.time()
            self._opening = loop.create_task(self._try(), name="dagflow-start")

    async def wait(self) -> None:
        """Return when the app is up, which its first request brings about.

        Raises:
            Problem: It is not yet.
        """
        if self.is_up:
            return
        self.begin()
        if self._opening is not None:
            await asyncio.wait([self._opening], timeout=_PATIENCE_S)
        if not self.is_up:
            reason = f": {self.error}" if self.error else ""
            raise Problem(503, f"the app has not started yet{reason}", {"Retry-After": "1"})

    async def _try(self) -> None:
        try:
            await self.up()
        except Exception as exc:  # noqa: BLE001 - of the store, which may be a plug-in; the next request tries again
            self.error = redacted(exc) or type(exc).__name__
            _LOGGER.warning("the app could not be started: %s", self.error)

    async def _serve(self) -> None:
        while True:
            try:
                await self._executor.serve(poll=self._poll)
            except Exception:
                _LOGGER.exception("serving has stopped and begins anew")
                await asyncio.sleep(_PAUSE_S)
