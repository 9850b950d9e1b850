"""Which ready nodes may start now: the limits of the executor, of named resources, and of maps.

Ready nodes stand in lanes, one for each priority and set of limits that they count against, so that a node that must
wait holds up only those that wait for the same thing. A slot is held for the time of a call: a node that waits for its
next attempt holds none. When slots are short, the runs of an executor stand in one line, the highest priority first,
then the longest wait.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from typing import TYPE_CHECKING

import attrs

from dagflow._scheduler import may_start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from dagflow._plan import Lane, Plan
    from dagflow._state import NodeState, RunState

__all__ = ["Admission", "Limits", "Ticket"]

Rank = tuple[int, int, int]
"""The priorities of a run and of a node, both negative so that the least is first, and the age of the node."""


@attrs.define(eq=False)
class Ticket:
    """A place in the line for slots.

    Attributes:
        uses: The names of the limits, besides that of the executor.
        wake: Called when it is granted.
        is_granted: The slots are taken on its behalf.
        is_void: Whoever held it has left the line.
    """

    uses: tuple[str, ...]
    wake: Callable[[], None]
    is_granted: bool = False
    is_void: bool = False


class Limits:
    """Counts the calls of all runs of one executor.

    Slots that are given back are handed to the first in line whom they suffice, so whoever finds slots free overtakes
    nobody.

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
        self._lines: dict[tuple[str, ...], list[tuple[Rank, int, Ticket]]] = {}
        self._tickets = itertools.count()
        self._ages = itertools.count()

    @property
    def counts_all(self) -> bool:
        """Whether calls are counted that name no limit."""
        return self._limited

    def names(self) -> frozenset[str]:
        """Return the names that ``uses=`` may have."""
        return frozenset(self._free)

    def age(self) -> int:
        """Return a number that grows from call to call, over all runs: the older is the lesser."""
        return next(self._ages)

    def full(self, uses: tuple[str, ...]) -> tuple[str, ...]:
        """Return which limits have no slot left for a call: ``max_concurrency``, and names in ``uses``."""
        full = tuple(name for name in uses if not self._free[name])
        return ("max_concurrency", *full) if self._limited and not self._free_calls else full

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
        """Give the slots of a call back, and hand them to those who wait for them."""
        if not self._limited and not uses:
            return
        self._free_calls += self._limited
        for name in uses:
            self._free[name] += 1
        while (ticket := self._next()) is not None:
            ticket.is_granted = self.take(ticket.uses)
            ticket.wake()

    def wait(self, uses: tuple[str, ...], rank: Rank, wake: Callable[[], None]) -> Ticket:
        """Stand in line for slots that could not be taken.

        Args:
            uses: What could not be taken.
            rank: Who is served first: the least.
            wake: Called once, when the slots are taken on behalf of the ticket.
        """
        ticket = Ticket(uses, wake)
        heapq.heappush(self._lines.setdefault(uses, []), (rank, next(self._tickets), ticket))
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Leave the line; slots that were granted meanwhile go to the next."""
        ticket.is_void = True
        if ticket.is_granted:
            self.give_back(ticket.uses)

    def _next(self) -> Ticket | None:
        """Take the first ticket out of the line for which the free slots suffice."""
        for line in self._lines.values():
            while line and line[0][2].is_void:
                heapq.heappop(line)
        served = [line for uses, line in self._lines.items() if line and not self.full(uses)]
        return heapq.heappop(min(served, key=_head))[2] if served else None


class Admission:
    """The ready nodes of one run.

    Args:
        plan: The workflow.
        state: The run; read, never changed.
        limits: Shared by all runs of the executor.
        wake: Called when slots that this run waits for are free.
        priority: The run's; when slots are short, nodes of higher runs start first.
    """

    __slots__ = (
        "_is_open",
        "_lanes",
        "_limits",
        "_line",
        "_plan",
        "_planned",
        "_priority",
        "_running",
        "_state",
        "_tickets",
        "_wake",
    )

    def __init__(
        self, plan: Plan, state: RunState, limits: Limits, wake: Callable[[], None], *, priority: int = 0
    ) -> None:
        self._plan = plan
        self._state = state
        self._limits = limits
        self._wake = wake
        self._priority = priority
        self._lanes: dict[Lane, deque[tuple[int, NodeState]]] = {}
        self._planned = plan.nodes
        self._running: dict[int, int] = {}
        self._tickets: dict[Lane, Ticket] = {}
        # Where nothing is counted and nobody comes first, all stand in one line, which costs a node much less.
        self._is_open = plan.is_open and not limits.counts_all
        self._line: list[NodeState] = []

    def __bool__(self) -> bool:
        return bool(self._line) or any(self._lanes.values())

    def __contains__(self, node: object) -> bool:
        lines = self._lanes.values()
        return any(node is other for other in self._line) or any(node is other for line in lines for _, other in line)

    def first_ready_at(self) -> datetime | None:
        """Return since when the node is ready that stands in line longest, as far as its journal tells."""
        state, times = self._state, []
        for node in (*self._line[:1], *(line[0][1] for line in self._lanes.values() if line)):
            ends = [state.nodes[index].ended_at for index in state.shape.predecessors[node.index]]
            times.append(max([at for at in (*ends, node.due_at) if at is not None], default=state.created_at))
        return min(times, default=None)

    def add(self, nodes: Iterable[NodeState]) -> None:
        """Let nodes stand in line.

        A clean-up that starts although something that it needs has not ended becomes ready once more when that ends;
        it stands in line once.
        """
        if self._state.failed:
            nodes = [node for node in nodes if not self._is_cleanup(node) or node not in self]
        if self._is_open:
            self._line += nodes
            return
        age = self._limits.age()
        for node in nodes:
            lane = self._planned[node.index].lane
            line = self._lanes.get(lane)
            if line is None:
                line = self._lanes[lane] = deque()
            line.append((age, node))

    def pass_on(self, nodes: list[NodeState]) -> list[NodeState]:
        """Let nodes stand in line, and return those that may start now; as `add` and `admit`, which cost more."""
        if self._is_open and not self._line and not self._state.failed:
            return nodes
        self.add(nodes)
        return self.admit()

    def admit(self) -> list[NodeState]:
        """Return the nodes that may start now, each with its slots taken; `give_back` returns them.

        Those of higher priority come first, then those that have been ready for longer.
        """
        if self._is_open:
            line, self._line = self._line, []
            return [node for node in line if may_start(self._plan, self._state, node)] if self._state.failed else line
        admitted: list[NodeState] = []
        lanes = [lane for lane, line in self._lanes.items() if line]
        heads = [(self._rank(lane), number, lane) for number, lane in enumerate(lanes)]
        heapq.heapify(heads)
        while heads:
            _, number, lane = heapq.heappop(heads)
            node = self._first(lane)
            if node is not None:
                admitted.append(node)
                if self._lanes[lane]:
                    heapq.heappush(heads, (self._rank(lane), number, lane))
        return admitted

    def give_back(self, node: NodeState) -> None:
        """Return the slots of a node whose call has ended, or that was not called after all."""
        if self._is_open:
            return
        index, uses, _ = self._planned[node.index].lane
        if index >= 0:
            self._running[index] -= 1
        if uses is not None:
            self._limits.give_back(uses)

    def withdraw(self) -> None:
        """Leave every line for slots, while nothing may be started."""
        tickets, self._tickets = self._tickets, {}
        for ticket in tickets.values():
            self._limits.leave(ticket)

    def awaited(self, node: NodeState | None) -> tuple[str, ...]:
        """Return the limits that keep a ready node waiting: names, ``max_concurrency``, or ``limit`` of its map."""
        if node is None or node not in self:
            return ()
        index, uses, _ = self._planned[node.index].lane
        full = self._limits.full(uses) if uses is not None else ()
        return ("limit", *full) if index >= 0 and self._is_map_full(index) else full

    def _is_cleanup(self, node: NodeState) -> bool:
        return node.map is None and self._planned[node.index].node.join == "all_done"

    def _rank(self, lane: Lane) -> Rank:
        return (-self._priority, -lane[2], self._lanes[lane][0][0])

    def _first(self, lane: Lane) -> NodeState | None:
        """Take the first node of a lane out of it, with its slots; ``None`` when there is none or it has to wait."""
        line = self._lanes[lane]
        while line:
            node = line[0][1]
            if may_start(self._plan, self._state, node):
                if not self._take(lane):
                    return None
                line.popleft()
                return node
            line.popleft()
        if self._tickets and (ticket := self._tickets.pop(lane, None)) is not None:
            self._limits.leave(ticket)
        return None

    def _take(self, lane: Lane) -> bool:
        index, uses, _ = lane
        if index >= 0 and self._is_map_full(index):
            return False
        if uses is not None and not self._take_slots(lane, uses):
            return False
        if index >= 0:
            self._running[index] = self._running.get(index, 0) + 1
        return True

    def _take_slots(self, lane: Lane, uses: tuple[str, ...]) -> bool:
        ticket = self._tickets.get(lane) if self._tickets else None
        if ticket is not None:
            if ticket.is_granted:
                del self._tickets[lane]
            return ticket.is_granted
        if self._limits.take(uses):
            return True
        self._tickets[lane] = self._limits.wait(uses, self._rank(lane), self._wake)
        return False

    def _is_map_full(self, index: int) -> bool:
        spec = self._planned[index].node.map
        return spec is not None and spec.limit is not None and self._running.get(index, 0) >= spec.limit


def _head(line: list[tuple[Rank, int, Ticket]]) -> tuple[Rank, int]:
    return line[0][:2]


def _is_limit(value: object) -> bool:
    return isinstance(value, int) and value >= 1
