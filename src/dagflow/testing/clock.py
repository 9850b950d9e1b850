"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import threading
from datetime import UTC, datetime, timedelta

import attrs

__all__ = ["FakeClock"]

_START = datetime(2030, 1, 1, tzinfo=UTC)


@attrs.frozen(order=True)
class _Sleeper:
    due: datetime
    number: int
    future: asyncio.Future[None] = attrs.field(order=False)

    def wake(self) -> None:
        loop = self.future.get_loop()
        # A loop that has been closed took its sleepers with it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, self.future)


class FakeClock:
    """A clock for tests: it stands still until it is moved, and any thread may move it.

    ::

        clock = FakeClock()
        task = asyncio.create_task(clock.sleep(30))
        await clock.asleep()
        clock.advance(30)
        await task

    With ``auto=True`` nobody has to move it: a sleep moves the clock to its own end and returns after a turn of the
    loop; of several sleeps the one that is due first returns first.

    Attributes:
        slept: The seconds of every sleep that was asked for, in the order of the calls.
        auto: Whether sleeps move the clock; may be changed at any time, and holds for the sleeps that start afterwards.
    """

    def __init__(self, start: datetime = _START, *, auto: bool = False) -> None:
        """Let the clock stand at ``start``, an aware datetime."""
        if start.tzinfo is None:
            message = f"FakeClock starts at an aware datetime, not at {start.isoformat()}: give it a tzinfo"
            raise ValueError(message)
        self.slept: list[float] = []
        self.auto = auto
        self._now = start.astimezone(UTC)
        self._sleepers: list[_Sleeper] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return where the clock stands, an aware UTC datetime."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock and wake everyone whose time has come, whatever loop they sleep on.

        Args:
            seconds: How far; fewer than 0 sets the clock back, as an operator may do.
        """
        with self._lock:
            self._now += timedelta(seconds=seconds)
            due = [heapq.heappop(self._sleepers) for _ in range(self._count_due())]
        for sleeper in due:
            sleeper.wake()

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has been moved by this many seconds, at the next turn of the loop when 0 or fewer."""
        self.slept.append(seconds)
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        sleeper = self._enter(seconds, loop.create_future())
        if self.auto:
            loop.call_soon(self._wake_the_first)
        await sleeper.future

    @property
    def sleepers(self) -> int:
        """How many sleep at present."""
        with self._lock:
            return sum(not sleeper.future.done() for sleeper in self._sleepers)

    async def asleep(self, count: int = 1) -> None:
        """Return once at least this many sleep."""
        while self.sleepers < count:  # noqa: ASYNC110 - they may sleep on other loops, in other threads
            await asyncio.sleep(0.0005)

    def _enter(self, seconds: float, future: asyncio.Future[None]) -> _Sleeper:
        with self._lock:
            sleeper = _Sleeper(self._now + timedelta(seconds=seconds), next(self._numbers), future)
            heapq.heappush(self._sleepers, sleeper)
        return sleeper

    def _count_due(self) -> int:
        return sum(sleeper.due <= self._now for sleeper in self._sleepers)

    def _wake_the_first(self) -> None:
        with self._lock:
            while self._sleepers and self._sleepers[0].future.done():
                heapq.heappop(self._sleepers)
            if not self._sleepers:
                return
            first = heapq.heappop(self._sleepers)
            self._now = max(self._now, first.due)
        first.wake()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
