"""Time limits for pieces of work, of which one timer looks after all.

A timer of its own, as `asyncio.timeout` has, was a twentieth of what the interpreter did for a node of a chain. So a
limit is noticed up to a quarter of a second late.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

    from dagflow.stores._postgres_connections import Session

__all__ = ["Limit", "Watch"]

_PERIOD = 0.25
"""Seconds between two looks at what is under way."""


class Watch:
    """Looks after the limits that are running on one event loop at a time."""

    def __init__(self) -> None:
        self.limits: set[Limit] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, limit: Limit) -> None:
        """Look after a limit until it is discarded from ``limits``."""
        self.limits.add(limit)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PERIOD, self._look)

    def cut(self) -> None:
        """Let nothing that is running go on; what has a connection fails at once."""
        for limit in list(self.limits):
            limit.cut()

    def close(self) -> None:
        """Look no more; another loop may use it next."""
        # A loop that died has left its own here.
        self.limits.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for limit in [limit for limit in self.limits if limit.at <= now]:
            limit.expire()
        self._timer = loop.call_later(_PERIOD, self._look) if self.limits else None


class Limit:
    """Cancels the task that enters it when it is there for too long, which raises `TimeoutError` at the end.

    Attributes:
        at: When it is too long, by the clock of the loop.
        session: What it works with, once it has it.
    """

    session: Session | None = None

    def __init__(self, watch: Watch, at: float) -> None:
        self.at = at
        self._watch = watch
        self._task: asyncio.Task[Any]
        self._cancelling = 0
        self._cancels = 0

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            message = "a limit is for a task"
            raise RuntimeError(message)
        self._task = task
        self._cancelling = task.cancelling()
        self._watch.add(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.lift()
        # As `asyncio.timeout` does it: who else has cancelled the task shall not be passed over.
        is_ours = bool(self._cancels)
        while self._cancels:
            self._cancels -= 1
            is_ours = self._task.uncancel() <= self._cancelling
        if is_ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error

    def lift(self) -> None:
        """Let what is under way go on for as long as it takes."""
        self._watch.limits.discard(self)

    def expire(self) -> None:
        """Cancel what is under way; psycopg asks the server to stop, and gives it ten seconds to answer."""
        self.lift()
        self._cancels += 1
        self._task.cancel()

    def cut(self) -> None:
        """Do not wait for a server that may never answer: whoever waits for it finds that the line is dead."""
        if self.session is not None:
            self.session.cut()
        if self.session is None or self._task.cancelling() > self._cancelling:
            self.expire()
