"""Crashes at chosen moments: at any statement of a SQLite file, or at any write of any store.

A process that is killed at each point in turn, and started again, shows whether a run survives it::

    points = CrashPoints(kill_at=k)
    store = SQLiteStore(path, at=points)

`CrashAfter` does the like to any store without killing anything, which is quick enough for hypothesis::

    with suppress(Crash):
        await run_to_end(CrashAfter(store, 3))
    await run_to_end(store)
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    from dagflow._events import Claim, Event, Message, RunQuery, RunRecord, RunStatus
    from dagflow.protocols import ContextStore

__all__ = ["Crash", "CrashAfter", "CrashPoints"]

ResultT = TypeVar("ResultT")


class Crash(BaseException):
    """The process is dead, as far as the test is concerned.

    It is no `Exception`, so that nothing handles it that only means to handle errors, as nothing handles SIGKILL.
    """


class CrashPoints:
    """Counts the points that a store passes, and does something at one of them.

    Give it to `SQLiteStore` as ``at``. There is a point before and after every statement of the connection that
    writes, named like ``before BEGIN``, ``after INSERT events``, ``before COMMIT``. It may be called by any thread.

    Attributes:
        names: The names of the points that were passed, in order.
    """

    def __init__(
        self, *, kill_at: int | None = None, raise_at: int | None = None, error: BaseException | None = None
    ) -> None:
        """Say what happens where; without arguments, points are counted only.

        Args:
            kill_at: Number of the point at which the process is killed with SIGKILL; the first is 1.
            raise_at: Number of the point at which ``error`` is raised.
            error: What is raised, `Crash` unless given.
        """
        self.names: list[str] = []
        self._kill_at = kill_at
        self._raise_at = raise_at
        self._error = error if error is not None else Crash(f"at point {raise_at}")
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How many points were passed."""
        return len(self.names)

    def __call__(self, point: str) -> None:
        """Count a point, and do what is due there."""
        with self._lock:
            self.names.append(point)
            number = len(self.names)
        if number == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self._raise_at:
            raise self._error


class CrashAfter:
    """A store that lets some writes through and then behaves like one whose process has died.

    From then on every call raises `Crash`, and nothing reaches the store behind it, which can be used by the next
    "process". Writes are ``create``, ``append``, ``claim``, ``release``, ``send`` and ``delete``; renewing a lease
    is none, because its moment depends on the clock and no journal depends on it.

    Attributes:
        writes: How many writes have reached the store.
        is_dead: Whether it has crashed.
    """

    def __init__(self, store: ContextStore, writes: int, *, acknowledged: bool = True) -> None:
        """Say when it dies.

        Args:
            store: The store behind it.
            writes: How many writes are kept. With 0, nothing is.
            acknowledged: Whether the writer hears that the last of them was kept, and dies at the next one. When false,
                it dies after the last write was kept and before it is told.
        """
        self.writes = 0
        self.is_dead = False
        self._store = store
        self._limit = writes
        self._acknowledged = acknowledged

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Open the store behind."""
        self._check()
        await self._store.open()

    async def close(self) -> None:
        """Close the store behind, which its operating system does for a process that has died."""
        await self._store.close()

    async def create(self, run: RunRecord, events: Sequence[Event], *, lease: float = 0.0) -> RunRecord:
        """Create a run, or die."""
        return await self._write(lambda: self._store.create(run, events, lease=lease))

    async def append(
        self,
        events: Sequence[Event],
        *,
        claim: Claim,
        version: int,
        status: RunStatus,
        wake_at: datetime | None = None,
        received: int | None = None,
        release: bool = False,
    ) -> None:
        """Append, or die."""
        await self._write(
            lambda: self._store.append(
                events,
                claim=claim,
                version=version,
                status=status,
                wake_at=wake_at,
                received=received,
                release=release,
            )
        )

    async def read(self, run_id: str, *, after: int = 0) -> tuple[RunRecord, list[Event]]:
        """Read, unless dead."""
        self._check()
        return await self._store.read(run_id, after=after)

    async def find(self, query: RunQuery) -> list[RunRecord]:
        """Find, unless dead."""
        self._check()
        return await self._store.find(query)

    async def claim(self, run_id: str, *, owner: str, lease: float, dead_owner: str | None = None) -> RunRecord:
        """Claim a run, or die."""
        return await self._write(lambda: self._store.claim(run_id, owner=owner, lease=lease, dead_owner=dead_owner))

    async def renew(self, claims: Sequence[Claim], *, lease: float) -> list[Claim]:
        """Renew claims, unless dead."""
        self._check()
        return await self._store.renew(claims, lease=lease)

    async def release(self, claims: Sequence[Claim]) -> None:
        """Release claims, or die."""
        await self._write(lambda: self._store.release(claims))

    async def send(self, message: Message) -> Message:
        """Send a message, or die."""
        return await self._write(lambda: self._store.send(message))

    async def receive(self, cursors: Mapping[str, int]) -> list[Message]:
        """Receive messages, unless dead."""
        self._check()
        return await self._store.receive(cursors)

    async def delete(self, run_id: str) -> None:
        """Delete a run, or die."""
        await self._write(lambda: self._store.delete(run_id))

    async def _write(self, write: Callable[[], Awaitable[ResultT]]) -> ResultT:
        self._check()
        if self.writes >= self._limit:
            self._die()
        # It counts from here, so that writes that are made at once are not let through one too many.
        self.writes += 1
        is_last = self.writes == self._limit
        result = await write()
        self._check()
        if is_last and not self._acknowledged:
            self._die()
        return result

    def _check(self) -> None:
        if self.is_dead:
            self._die()

    def _die(self) -> NoReturn:
        self.is_dead = True
        message = f"after {self.writes} writes"
        raise Crash(message)
