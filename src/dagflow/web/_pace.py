"""Whose turn it is to be sent events: sending may take a small part of the time, while runs are driven here."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

__all__ = ["Pace"]

_BUSY_SHARE = 0.03
_IDLE_SHARE = 0.5
_CREDIT_S = 0.25
_QUIET_S = 0.5
_BREATH_S = 0.005
_MOST_EACH_S = 0.0002
_FIRST_GUESS_S = 0.00004
_TURN_S = 0.00004


class Pace:
    """Hands out turns so that all of them together take a share of the time.

    A turn costs what turns of late have cost for each event. While no run is driven here, or none has got any further
    for a moment, the share is large; and what a quiet quarter of a second has saved is not waited for: a few events go
    out at once.

    Args:
        is_busy: Returns whether runs are driven here.
    """

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self._is_busy = is_busy
        self._next_at = 0.0
        self._moved_at = 0.0
        self._each = _FIRST_GUESS_S
        self._waiting: dict[asyncio.Future[None], float] = {}

    @contextlib.asynccontextmanager
    async def turn(self, count: int) -> AsyncGenerator[None]:
        """Wait for a turn to send so many events, and note how long they take."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        at = max(self._next_at, now - _CREDIT_S)
        cost = _TURN_S + count * self._each
        self._next_at = at + cost / self._share(now)
        if at > now:
            await self._wait(loop, at, cost)
        begun = loop.time()
        yield
        # A client that did not take in what it was sent cost no more than the others.
        each = min((loop.time() - begun) / count, _MOST_EACH_S)
        self._each += (each - self._each) / 16

    def moved(self, now: float) -> None:
        """Take in that a run has got further."""
        self._moved_at = now

    def _share(self, now: float) -> float:
        return _BUSY_SHARE if now - self._moved_at < _QUIET_S and self._is_busy() else _IDLE_SHARE

    async def _wait(self, loop: asyncio.AbstractEventLoop, at: float, cost: float) -> None:
        due: asyncio.Future[None] = loop.create_future()
        timer = loop.call_at(at, _settle, due)
        self._waiting[due] = cost
        try:
            await due
        finally:
            timer.cancel()
            del self._waiting[due]

    def rest(self) -> None:
        """Let those who wait come sooner, one after the other, if no run is driven here any more."""
        if self._is_busy():
            return
        loop = asyncio.get_running_loop()
        # Those who wait for the end of the run come first.
        self._next_at = loop.time() + _BREATH_S
        for due, cost in self._waiting.items():
            loop.call_at(self._next_at, _settle, due)
            self._next_at += cost / _IDLE_SHARE


def _settle(due: asyncio.Future[None]) -> None:
    if not due.done():
        due.set_result(None)
