"""Which ready nodes may start now: the limits of the executor, of named resources, and of maps.

Ready nodes stand in lanes, one for each set of limits that they count against, so that a node that must wait holds up
only those that wait for the same thing. A slot is held for the time of a call: a node that waits for its next attempt
holds none.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from dagflow._scheduler import may_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from dagflow._plan import Lane, Plan
    from dagflow._state import NodeState, RunState

__all__ = ["Admission", "Limits"]


class Limits:
    """Counts the calls of all runs of one executor.

    Args:
        max_concurrency: How many calls run at a time, ``None`` for no limit.
        named: How many calls that name a limit in ``uses=`` run at a time.
    """

    def __init__(self, max_concurrency: int | None = None, named: Mapping[str, int] | None = None) -> None:
        if max_concurrency is not None and not _is_limit(max_concurrency):
            raise ValueError(f"max_concurrency must be at least 1, or None for no limit, not {max_concurrency!r}")
        for name, limit in (named or {}).items():
            if not _is_limit(limit):
                raise ValueError(f"limits[{name!r}] must be at least 1, not {limit!r}")
        self._limited = max_concurrency is not None
        self._free_calls = max_concurrency or 0
        self._free = dict(named or {})
        self._waiting: deque[Callable[[], None]] = deque()

    def names(self) -> frozenset[str]:
        """Return the names that ``uses=`` may have."""
        return frozenset(self._free)

    def take(self, uses: tuple[str, ...]) -> bool:
        """Take a slot of everything that a call counts against, or of nothing."""
        if not self._limited and not uses:
            return True
        if (self._limited and not self._free_calls) or any(not self._free[name] for name in uses):
            return False
        self._free_calls -= self._limited
        for name in uses:
            self._free[name] -= 1
        return True

    def give_back(self, uses: tuple[str, ...]) -> None:
        """Give the slots of a call back and wake those who wait for one."""
        if not self._limited and not uses:
            return
        self._free_calls += self._limited
        for name in uses:
            self._free[name] += 1
        waiting, self._waiting = self._waiting, deque()
        for wake in waiting:
            wake()

    def wait(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` once when slots are given back; those that wait longest are called first."""
        if wake not in self._waiting:
            self._waiting.append(wake)


class Admission:
    """The ready nodes of one run.

    Args:
        plan: The workflow.
        state: The run; read, never changed.
        limits: Shared by all runs of the executor.
        wake: Called when slots that this run waits for may be free.
    """

    def __init__(self, plan: Plan, state: RunState, limits: Limits, wake: Callable[[], None]) -> None:
        self._plan = plan
        self._state = state
        self._limits = limits
        self._wake = wake
        self._lanes: dict[Lane, deque[NodeState]] = {}
        self._planned = plan.nodes
        self._running: dict[int, int] = {}

    def __bool__(self) -> bool:
        return any(self._lanes.values())

    def add(self, nodes: Iterable[NodeState]) -> None:
        """Let nodes stand in line."""
        for node in nodes:
            lane = self._planned[node.index].lane
            line = self._lanes.get(lane)
            if line is None:
                line = self._lanes[lane] = deque()
            line.append(node)

    def admit(self) -> Iterator[NodeState]:
        """Yield the nodes that may start now, each with its slots taken; `give_back` returns them."""
        for lane, line in self._lanes.items():
            while line:
                node = line[0]
                if not may_start(self._plan, self._state, node):
                    line.popleft()
                    continue
                if not self._take(lane):
                    break
                line.popleft()
                yield node

    def __contains__(self, node: object) -> bool:
        return any(node in line for line in self._lanes.values())

    def give_back(self, node: NodeState) -> None:
        """Return the slots of a node whose call has ended, or that was not called after all."""
        index, uses = self._planned[node.index].lane
        if index >= 0:
            self._running[index] -= 1
        if uses is not None:
            self._limits.give_back(uses)

    def _take(self, lane: Lane) -> bool:
        index, uses = lane
        spec = self._plan.nodes[index].node.map if index >= 0 else None
        if spec is not None and spec.limit is not None and self._running.get(index, 0) >= spec.limit:
            return False
        if uses is not None and not self._limits.take(uses):
            self._limits.wait(self._wake)
            return False
        if index >= 0:
            self._running[index] = self._running.get(index, 0) + 1
        return True


def _is_limit(value: object) -> bool:
    return isinstance(value, int) and value >= 1
