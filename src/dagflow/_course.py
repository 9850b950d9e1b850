"""The course of one run: takes facts in, starts what is ready, ends the run. It decides at once and waits for nothing.

What it decides is in the state and in the list of events that it is given; nobody else knows of it before that is
written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagflow._events import NodeStatus
from dagflow._facts import Fact, Parked, Raised, Returned
from dagflow._scheduler import advance, finish, pause, start
from dagflow._state import apply

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from dagflow._admission import Admission
    from dagflow._events import Event
    from dagflow._journal import Journal
    from dagflow._plan import Plan
    from dagflow._state import NodeState, RunState
    from dagflow._timers import Timers
    from dagflow._wakes import Wakes

__all__ = ["Course"]

# Looked up once, because they are on the way of every node.
_RUNNING = NodeStatus.RUNNING
_OF_A_CALL = (Returned, Raised, Parked)


class Course:
    """Decides how one run goes on.

    Args:
        plan: The workflow.
        state: The run, which is changed.
        journal: Counts what has been heard.
        admission: Where ready nodes stand in line.
        timers: Take nodes that wait for a time.
        wakes: Let nodes look at the runs that they have started.
        calls: The calls that are under way, by node; those that have ended are taken out.

    Attributes:
        facts: What has happened and is not taken in yet.
        causes: What the functions of failed nodes have raised, by node.
    """

    __slots__ = ("_admission", "_wakes", "calls", "causes", "facts", "journal", "plan", "state", "timers")

    def __init__(  # noqa: PLR0917 - the parts of a driver, which alone makes one
        self,
        plan: Plan,
        state: RunState,
        journal: Journal,
        admission: Admission,
        timers: Timers,
        wakes: Wakes,
        calls: dict[NodeState, asyncio.Task[None]],
    ) -> None:
        self.facts: list[Fact] = []
        self.causes: dict[str, BaseException] = {}
        self.plan = plan
        self.state = state
        self.journal = journal
        self._admission = admission
        self.timers = timers
        self._wakes = wakes
        self.calls = calls

    def take_facts(self, events: list[Event], now: datetime) -> None:
        """Take in what has happened, and all that follows from it."""
        facts, self.facts = self.facts, []
        for fact in facts:
            if isinstance(fact, _OF_A_CALL) and self.calls.pop(fact.node, None) is not None:
                self._admission.give_back(fact.node)
        self.follow(facts, events, now)
        if self.journal.held:
            self._wakes.calls_ended(facts)

    def follow(self, facts: Sequence[Fact], events: list[Event], now: datetime) -> None:
        """Let everything follow from facts, and what has become ready stand in line."""
        more, ready = advance(self.plan, self.state, facts, now=now)
        events += more
        self._admission.add(ready)
        for fact in facts:
            if type(fact) is Raised:
                self._after_failure(fact)

    def _after_failure(self, fact: Raised) -> None:
        node = fact.node
        self.timers.add(node)
        if node.status is NodeStatus.FAILED and fact.cause is not None:
            self.causes.setdefault(node.name, fact.cause)

    def step(self, fact: Returned | None, starts: list[NodeState], events: list[Event], now: datetime) -> None:
        """Take in the end of the only call, and start what is ready, where no node has to be asked anything.

        Args:
            fact: What the call returned; ``None`` at the beginning, when nothing has been called.
            starts: Gets the nodes to call when the events are written.
            events: Gets what is to be written.
            now: The time to record, aware UTC.
        """
        state, admission = self.state, self._admission
        if fact is not None:
            del self.calls[fact.node]
            admission.give_back(fact.node)
        more, ready = advance(self.plan, state, () if fact is None else (fact,), now=now)
        events += more
        admitted = admission.pass_on(ready)
        while admitted:
            self.start(admitted, starts, events, now)
            if not state.settled:
                break
            self.follow((), events, now)
            admitted = admission.admit()

    def start(self, nodes: Iterable[NodeState], starts: list[NodeState], events: list[Event], now: datetime) -> None:
        """Start nodes that have been admitted, and add to ``starts`` those that are to be called."""
        plan, state = self.plan, self.state
        for node in nodes:
            event = start(plan, state, node, now=now)
            apply(state, event)
            events.append(event)
            if node.status is _RUNNING and node.items is None:
                starts.append(node)
            else:
                self.timers.add(node)
                self._admission.give_back(node)

    def end(self, events: list[Event], now: datetime, *, is_pausing: bool) -> bool:
        """End or pause a run, if nothing goes on in it.

        Returns:
            Whether more follows: clean-ups start, or a map has failed.
        """
        if self.calls or self.facts:
            return False
        self.journal.heard = self.journal.received
        if is_pausing:
            end: Event | list[NodeState] | None = pause(self.state, now=now)
        elif self._admission or self.timers.first_at("retry"):
            return False
        else:
            end = finish(self.plan, self.state, now=now)
        if isinstance(end, list):
            self._admission.add(end)
        elif end is not None:
            apply(self.state, end)
            events.append(end)
        return end is not None and not self.state.status.is_terminal

    def give_back(self, nodes: Iterable[NodeState]) -> None:
        """Return the slots of nodes that are not called, or no longer."""
        for node in nodes:
            self._admission.give_back(node)
