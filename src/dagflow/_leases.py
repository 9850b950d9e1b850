"""Keeps the claims of one executor alive: all of them in one statement, at a third of the lease.

Time is counted by the loop's monotonic clock, which no one sets. When two thirds of the lease have passed without a
renewal, the runs are frozen: they start nothing new until it is certain again that they are ours.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from dagflow._log import LOGGER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dagflow._driver import Driver
    from dagflow.protocols import ContextStore

__all__ = ["Leases"]

_LATE = 0.2


class Leases:
    """Renews the claims of the runs that an executor drives.

    Args:
        store: Keeps the claims.
        lease: Seconds until a claim lapses.
        drivers: Tells which runs are driven now.
    """

    def __init__(self, store: ContextStore, *, lease: float, drivers: Callable[[], Iterable[Driver]]) -> None:
        self._store = store
        self._lease = lease
        self._drivers = drivers
        self._renewed_at = 0.0
        # When the next renewal begins, and what is done when it has ended.
        self._due_at = math.inf
        self._ended: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_cut_off(self) -> bool:
        """Whether renewing was cancelled, as everything is when a loop ends before the executor is closed."""
        return self._task is not None and self._task.cancelling() > 0

    def age(self) -> float:
        """Return the seconds since they were last renewed."""
        return asyncio.get_running_loop().time() - self._renewed_at

    def is_due(self, now: float) -> bool:
        """Return whether a renewal is under way, or would be if nothing had blocked the loop."""
        return now >= self._due_at

    async def ended(self) -> None:
        """Return when the next renewal has ended, or the one that is under way."""
        if self._ended is not None:
            await asyncio.wait([self._ended])

    async def keep(self) -> None:
        """Renew for ever."""
        loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        asked_at = self._renewed_at = loop.time()
        try:
            while True:
                ended = self._ended = loop.create_future()
                # Counted from the last question: where the loop was blocked, its answer came late, and the next is due.
                self._due_at = asked_at + self._lease / 3
                await asyncio.sleep(max(0.0, self._due_at - loop.time()))
                asked_at = loop.time()
                await self._renew_once(loop, asked_at)
                ended.set_result(None)
        finally:
            self._due_at = math.inf
            if self._ended is not None and not self._ended.done():
                self._ended.set_result(None)

    async def _renew_once(self, loop: asyncio.AbstractEventLoop, asked_at: float) -> None:
        try:
            await self._renew_in_time(loop)
            self._renewed_at = asked_at
        except Exception:  # of the store, which may be a plug-in; nobody else would go on renewing
            LOGGER.warning("the leases of the runs could not be renewed", exc_info=True)
        self._freeze(loop.time())

    async def _renew_in_time(self, loop: asyncio.AbstractEventLoop) -> None:
        """Renew within a third of the lease; a third in which the loop was blocked says nothing about the store.

        Raises:
            TimeoutError: The store did not answer.
        """
        third = self._lease / 3
        renewal = loop.create_task(self._renew())
        try:
            was_blocked = True
            while was_blocked:
                until = loop.time() + third
                if renewal in (await asyncio.wait([renewal], timeout=third))[0]:
                    return renewal.result()
                was_blocked = loop.time() - until > _LATE * third
                self._freeze(loop.time())
            raise TimeoutError
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)

    def _freeze(self, now: float) -> None:
        # Seen from now: a loop that was blocked may come here much later than it meant to.
        stale = now - self._renewed_at > self._lease * 2 / 3
        for driver in self._drivers():
            driver.freeze(frozen=stale)

    async def _renew(self) -> None:
        drivers = {driver.journal.claim: driver for driver in self._drivers() if not driver.journal.is_new}
        if not drivers:
            return
        for claim in await self._store.renew(list(drivers), lease=self._lease):
            if claim in drivers:
                drivers[claim].lose()
