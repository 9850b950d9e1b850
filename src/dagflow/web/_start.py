"""Opening the executor, serving its store, and closing what was opened here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dagflow._log import LOGGER
from dagflow._redacting import redacted
from dagflow.web._problems import Problem

if TYPE_CHECKING:
    from dagflow.executor import DAGExecutor

__all__ = ["Start"]

_PATIENCE_S = 2.0
_PAUSE_S = 1.0


class Start:
    """The life of an app: opened by its lifespan, or else by its first request.

    An app may be started again after it has ended, on another event loop too: since an executor is opened once, one
    that was opened here is followed by a copy then.

    Args:
        executor: Open or not; only one that was opened here is closed here.
        serve: Whether runs of the store are claimed and driven.
        poll: Seconds between two looks at the store.

    Attributes:
        executor: The present one.
        error: Why the last start has failed, without passwords.
    """

    def __init__(self, executor: DAGExecutor, *, serve: bool, poll: float) -> None:
        self.executor = executor
        self.error: str | None = None
        self._serves = serve
        self._poll = poll
        self._opened_here = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._warned = ""

    @property
    def is_up(self) -> bool:
        """Whether the store has been opened, and its schema brought up to date."""
        return self._loop is asyncio.get_running_loop() and self.executor.is_open

    @property
    def is_serving(self) -> bool:
        """Whether runs are driven, if they shall be."""
        return not self._serves or (self._serving is not None and not self._serving.done())

    async def up(self) -> None:
        """Open the executor and begin to serve; a start that has been made is not made again.

        Raises:
            StoreError: The store cannot be reached.
        """
        if not self.is_up:
            # One that stops waiting does not take the start from the others.
            await asyncio.shield(self._share())

    async def down(self) -> None:
        """Stop serving, and close the executor if it was opened here."""
        self._loop, self.error = None, None
        loop = asyncio.get_running_loop()
        tasks = [task for task in (self._opening, self._serving) if task is not None and task.get_loop() is loop]
        self._opening = self._serving = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._opened_here:
            await self.executor.__aexit__(None, None, None)

    def begin(self) -> None:
        """Begin to open the executor, unless somebody has."""
        if not self.is_up:
            self._share().add_done_callback(self._warn)

    async def wait(self, patience: float = _PATIENCE_S) -> None:
        """Return when the app is up, which its first request brings about.

        Args:
            patience: Seconds to wait.

        Raises:
            Problem: It is not yet.
        """
        if self.is_up:
            return
        self.begin()
        if self._opening is not None:
            await asyncio.wait([self._opening], timeout=patience)
        if not self.is_up:
            reason = f": {self.error}" if self.error else ""
            raise Problem(503, f"the app has not started yet{reason}", {"Retry-After": "1"})

    def _share(self) -> asyncio.Task[None]:
        """Return the opening that is going on, or begin one."""
        loop = asyncio.get_running_loop()
        opening = self._opening
        if opening is None or opening.done() or opening.get_loop() is not loop:
            opening = self._opening = loop.create_task(self._open(), name="dagflow-start")
            opening.add_done_callback(self._note)
        return opening

    def _note(self, opening: asyncio.Task[None]) -> None:
        error = None if opening.cancelled() else opening.exception()
        self.error = None if error is None else redacted(error) or type(error).__name__

    def _warn(self, _opening: asyncio.Task[None]) -> None:
        # Requests that come meanwhile all try; the same reason is said once.
        if self.error is not None and self.error != self._warned:
            self._warned = self.error
            LOGGER.warning("the app could not be started: %s", self.error)

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._opened_here and (not self.executor.is_open or self._loop is not loop):
            # Closed here, or left behind on a loop that has ended.
            self.executor = self.executor.copy()
            self._opened_here = False
        if self.executor.is_open:
            # It may belong to another loop.
            await self.executor.runs(limit=1)
        else:
            await self.executor.__aenter__()
            self._opened_here = True
        self._loop = loop
        if self._serves:
            self._serving = loop.create_task(self._serve(), name="dagflow-serve")

    async def _serve(self) -> None:
        while self.executor.is_open:
            try:
                await self.executor.serve(poll=self._poll)
            except Exception:
                LOGGER.exception("serving has stopped and begins anew")
                await asyncio.sleep(_PAUSE_S)
