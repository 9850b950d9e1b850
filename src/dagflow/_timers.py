"""When what the nodes of one run wait for is due, and the bell that wakes its driver."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from dagflow._state import NodeState
    from dagflow.protocols import Clock

__all__ = ["Bell", "Timers"]


class Bell:
    """Wakes the one who waits.

    It knows nothing of those who wait and ring, so that none of them keeps another one alive.

    Attributes:
        is_rung: Somebody has rung since it was last silenced.
        unheard: Called, once, when it is rung before anybody has waited.
    """

    __slots__ = ("_loop", "_waiter", "is_rung", "unheard")

    def __init__(self) -> None:
        self.is_rung = False
        self.unheard: Callable[[], None] | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake whoever waits."""
        self.is_rung = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self.unheard is not None:
            unheard, self.unheard = self.unheard, None
            unheard()

    def next_ring(self) -> asyncio.Future[None]:
        """Return what is done when it is rung for the next time."""
        waiter = self._waiter = self._loop.create_future()
        return waiter


class Timers:
    """The timers of one run.

    A node that has stopped waiting for its time stays here until that has come; whoever is told looks at the node.

    Args:
        clock: Tells the time and waits.
        wake: Called when the next timer is due, while the alarm is set.

    Attributes:
        next_at: When the next one is due; ``None`` when there is none.
    """

    def __init__(self, clock: Clock, wake: Callable[[], None]) -> None:
        self.next_at: datetime | None = None
        self._clock = clock
        self._wake = wake
        self._heap: list[tuple[datetime, int, NodeState]] = []
        self._numbers = itertools.count()
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at: datetime | None = None

    def add(self, node: NodeState) -> None:
        """Set a timer for a node, if it waits for a time."""
        if node.due_at is not None:
            heapq.heappush(self._heap, (node.due_at, next(self._numbers), node))
            self.next_at = self._heap[0][0]

    def due(self, now: datetime) -> list[NodeState]:
        """Take the nodes out whose time has come."""
        due = []
        while self._heap and self._heap[0][0] <= now:
            due.append(heapq.heappop(self._heap)[2])
        self.next_at = self._heap[0][0] if self._heap else None
        return due

    def first_at(self, *reasons: str) -> datetime | None:
        """Return when the first node is due that waits for one of these; ``None`` when no node does."""
        return min((due_at for due_at, _, node in self._heap if node.waits_for in reasons), default=None)

    def set_alarm(self) -> None:
        """Let the alarm ring when the next timer is due."""
        due_at = self.next_at
        if due_at is None or (self._alarm_at == due_at and self._alarm is not None and not self._alarm.done()):
            return
        self.stop()
        self._alarm_at = due_at
        self._alarm = asyncio.get_running_loop().create_task(self._ring(due_at))

    def stop(self) -> None:
        """Set the alarm off."""
        if self._alarm is not None:
            self._alarm.cancel()

    async def _ring(self, due_at: datetime) -> None:
        await self._clock.sleep(max(0.0, (due_at - self._clock.now()).total_seconds()))
        self._wake()
