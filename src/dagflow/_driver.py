"""Drives one run: wait for facts, react, append, then release. The only room where state, store and calls meet.

The state runs ahead of the journal by what is being appended. While that is in flight further results gather, and the
next append takes all of them. Where nothing can gather, in a run in which one call follows another, a step takes the
place of a turn; a run in which that is all that happens needs no task that drives it. See `dagflow._steps`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagflow._admission import Admission, Limits
from dagflow._calls import Calls
from dagflow._course import Course
from dagflow._decisions import Decision, decision_message
from dagflow._events import MessageKind, NodeStatus, RunStatus
from dagflow._facts import Elapsed, Fact
from dagflow._journal import facts_of
from dagflow._node import ReviewSpec
from dagflow._scheduler import cancel
from dagflow._steps import Steps, Wishes
from dagflow._timers import Bell, Timers
from dagflow._wakes import Wakes
from dagflow.errors import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextvars import Context
    from datetime import datetime

    from dagflow._attempt import Attempts
    from dagflow._events import Event, Message
    from dagflow._journal import Journal
    from dagflow._leases import Leases
    from dagflow._observers import Observers
    from dagflow._plan import Plan
    from dagflow._state import NodeState, RunState
    from dagflow.protocols import Clock, Codec

__all__ = ["Driver"]

# Looked up once, because it is on the way of every node.
_GOES_ON = RunStatus.RUNNING


class Driver:
    """Drives one run that this executor owns, until it has ended or is stopped.

    Args:
        plan: The workflow.
        state: The run, with the opening taken in.
        opening: The events that made the run ours; they are written first.
        journal: Writes the events.
        attempts: Makes the calls.
        codec: Encodes what deadlines decide.
        limits: Shared by all runs of the executor.
        leases: Keeps the claims of the executor's runs alive.
        clock: Tells the time and waits for the next attempts.
        observers: Are told what was committed.
        grace: Seconds that cancelled attempts may take to end.
        patience: Seconds that a timer may be away before the run is let go of; ``None`` to wait for any timer.

    Attributes:
        state: The run, which runs ahead of the journal.
        causes: What the functions of failed nodes have raised, by node.
        wake: Makes it look again at what can be done.
        committed: Those who wait for the next commit; they are told as well when the run has ended or was stopped.
        is_put_off: It let go of the run although a timer is all that is waited for.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        state: RunState,
        opening: list[Event],
        journal: Journal,
        attempts: Attempts,
        codec: Codec,
        limits: Limits,
        leases: Leases,
        clock: Clock,
        observers: Observers,
        grace: float,
        patience: float | None = None,
    ) -> None:
        self._bell = Bell()
        self.wake = self._bell.ring
        self.state = state
        self.journal = journal
        self._plan = plan
        self._opening = opening
        self._attempts = attempts
        self._admission = Admission(plan, state, limits, self.wake, priority=journal.record.priority)
        self._codec = codec
        self._clock = clock
        self._patience = patience
        self._wishes = Wishes(grace)
        self._timers = Timers(clock, self.wake)
        self._calls = Calls(attempts, leases)
        self._wakes = Wakes(state, journal, self._admission)
        self._course = Course(plan, state, journal, self._admission, self._timers, self._wakes, self._calls.under_way)
        self._steps = Steps(self._course, self._calls, self._bell, self._wishes, observers, clock)
        self.causes, self.committed = self._course.causes, self._steps.committed
        self.is_put_off = False

    @property
    def context(self) -> Context:
        """Who began to drive the run has called the driver in this context; it is nobody else's."""
        return self._calls.context

    # -- asked from outside -----------------------------------------------------------------------

    def stop(self, grace: float | None = None) -> None:
        """Leave the run where it is, to be resumed; ``grace`` is what is left of the grace time of its calls."""
        self._wishes.grace = self._wishes.grace if grace is None else grace
        self._steps.stop()

    def cancel(self) -> None:
        """Cancel the run."""
        self._wishes.cancelling = True
        self._attempts.stop_asking(self._wishes.grace)
        self.wake()

    def freeze(self, *, frozen: bool) -> None:
        """Start nothing new while it is not certain that the run is still ours."""
        if self._wishes.frozen != frozen:
            self._wishes.frozen = frozen
            self.wake()

    def wind_down(self) -> None:
        """Start nothing new, and leave the run when what is running has ended."""
        self._wishes.winding_down = True
        self.wake()

    def deliver(self, messages: Sequence[Message]) -> None:
        """Take messages in, in their order; those that are known already are passed over."""
        for message in messages:
            if message.number <= self.journal.received:
                continue
            self.journal.received = message.number
            if message.number in self.journal.ignored:
                continue
            if message.kind is MessageKind.CANCEL:
                self.cancel()
            elif message.kind is MessageKind.PAUSE:
                self._wishes.pausing = True
                self.journal.held[""] = message.number
            elif message.kind is MessageKind.WAKE:
                self._wakes.take(message)
            else:
                self._course.facts += facts_of(message)
        self.wake()

    def restore_timers(self) -> None:
        """Set the timers that the last owner left."""
        for node in self.state.by_name.values():
            if node.status is NodeStatus.WAITING:
                self._timers.add(node)
        self._wakes.look_at_all()

    def awaited_limits(self, name: str) -> tuple[str, ...]:
        """Return the limits of which a node that is ready waits for a slot."""
        return self._admission.awaited(self.state.by_name.get(name))

    def lose(self) -> None:
        """The run belongs to another executor: write nothing more."""
        self._wishes.lost = True
        self.stop()

    # -- the loop ---------------------------------------------------------------------------------

    def begin(self, call: Callable[[], None], ended: Callable[[], None]) -> None:
        """Begin to drive.

        Args:
            call: Is called once when `drive` is needed: at once, or when something has to be waited for that is not the
                store.
            ended: Is called instead when the run has ended without that.
        """
        if self.journal.is_new and self.journal.record.parent is None and self._plan.is_plain and self.state.settled:
            opening, self._opening = self._opening, []
            self._steps.begin(opening, call=call, ended=ended)
        else:
            call()

    async def drive(self) -> None:
        """Drive until the run has ended or is stopped.

        Raises:
            LeaseLostError: Another executor has taken the run over.
            StoreError: The store failed; the run can be resumed.
        """
        try:
            await self._steps.join()
            if self._opening and not self.journal.is_new:
                self.deliver(await self.journal.receive())
            while not (self._wishes.stopping or self.state.phase.is_terminal):
                await self._turn()
                # While something is called, or is about to be, it is plain that the run goes on.
                is_busy = self._steps.is_in_flight or (self._calls.under_way and self.state.phase is _GOES_ON)
                if not is_busy and await self._is_over():
                    break
                await self._rest()
            if self._wishes.lost and not self.state.status.is_terminal:
                raise LeaseLostError(self.state.run_id, self.journal.claim.epoch)
            self._steps.check()
            await self._record_the_last()
        finally:
            await self._close()

    async def _turn(self) -> None:
        """Take in what has happened, write all that follows, then release it."""
        self._bell.is_rung = False
        now = self._clock.now()
        events, self._opening = self._opening, []
        if self._wishes.cancelling:
            await self._attempts.change_children(MessageKind.CANCEL)
            await self._end_calls()
        elif self._wishes.pausing and self._calls.under_way:
            await self._attempts.change_children(MessageKind.PAUSE)
        if self._timers.next_at is not None:
            await self._ring_due(now)
        self.journal.heard = self.journal.received
        if self._course.facts or self.state.settled:
            self._course.take_facts(events, now)
        starts: list[NodeState] = []
        if self._wishes.cancelling:
            events += cancel(self.state, now=now)
        else:
            starts = await self._start(events, now)
            if not starts and not self._wishes.stopping and not self._wishes.cancelling:
                self._end_when_idle(events, now)
        if events:
            await self._steps.write(events, starts)

    async def _rest(self) -> None:
        """Wait until there is something to do that neither the end of a call nor the store's answer does by itself."""
        self._timers.set_alarm()
        # Whatever changes one of these rings.
        is_plain = self._plan.is_plain and self._timers.next_at is None and not self.journal.held
        self._steps.may_step = is_plain and self._wishes.can_start
        try:
            if not self._bell.is_rung:
                await self._bell.next_ring()
        finally:
            await self._steps.rest()
        self._steps.check()

    async def _record_the_last(self) -> None:
        """Record what had ended when the run was stopped, so that it is not done again."""
        events: list[Event] = []
        if self._course.facts and not self.state.status.is_terminal:
            self.journal.heard = self.journal.received
            self._course.take_facts(events, self._clock.now())
        if events:
            await self._steps.write(events, ())

    async def _ring_due(self, now: datetime) -> None:
        for node in self._timers.due(now):
            if node.status is NodeStatus.WAITING and node.due_at is not None and node.due_at <= now:
                await self._ring(node, now)

    async def _ring(self, node: NodeState, now: datetime) -> None:
        wait = self._plan.nodes[node.index].node.wait
        if node.waits_for == "retry":
            self._admission.add([node])
        elif isinstance(wait, ReviewSpec) and wait.on_deadline != "fail":
            decision = Decision(node.name, approved=wait.on_deadline == "approve", by=None, at=now)
            await self.journal.send(decision_message(self.state.run_id, node.requested, decision, self._codec))
            self.deliver(await self.journal.receive())
        else:
            self._course.facts.append(Elapsed(node))

    async def _start(self, events: list[Event], now: datetime) -> list[NodeState]:
        """Start what is ready and fits the limits; return what is to be called once that is committed."""
        starts: list[NodeState] = []
        planned, state, course = self._plan.nodes, self.state, self._course
        can_start = self._wishes.can_start
        while can_start and (admitted := self._admission.admit()):
            facts: list[Fact] = []
            for node in admitted:
                if not planned[node.index].is_plain:
                    is_first = node.map is None and node.started_at is None
                    fact = await self._attempts.judge(node) if is_first else None
                    can_start = self._wishes.can_start
                    # When it was stopped, its condition may have been cut off: no answer, the node stays as it is.
                    is_cut_off = self._wishes.stopping or self._wishes.cancelling
                    if fact is not None and not is_cut_off:
                        facts.append(fact)
                    if fact is not None or is_cut_off:
                        self._admission.give_back(node)
                        continue
                course.start((node,), starts, events, now)
            if not facts and not state.settled:
                break
            course.follow(facts, events, now)
        if self.journal.held:
            self._wakes.started(starts)
        if not can_start:
            # Somebody else can.
            self._admission.withdraw()
        return starts

    def _end_when_idle(self, events: list[Event], now: datetime) -> None:
        wishes = self._wishes
        is_left = wishes.frozen or (wishes.winding_down and not wishes.pausing)
        if not is_left and self._course.end(events, now, is_pausing=wishes.pausing):
            self.wake()

    async def _is_over(self) -> bool:
        """Return whether nothing happens before something comes from outside, or a timer that is far away."""
        status, wishes = self.state.status, self._wishes
        if status.is_terminal or status is RunStatus.PAUSED or (wishes.winding_down and not self._calls.under_way):
            return True
        if self._calls.under_way or self._admission or wishes.frozen or self._bell.is_rung or not self.state.waiting:
            return False
        due_at = self._timers.first_at("retry", "timer")
        if due_at and (self._patience is None or (due_at - self._clock.now()).total_seconds() < self._patience):
            return False
        self.is_put_off = due_at is not None
        self.deliver(await self.journal.receive())
        return not (self._course.facts or self._admission or wishes.cancelling or wishes.pausing)

    # -- ending -----------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Drive no longer, because whoever was called to do it was cancelled before it came."""
        self._admission.withdraw()
        self._steps.abandon()
        self.committed.tell()

    async def _end_calls(self) -> None:
        """Cancel the calls that are under way and wait for them, for the grace time at the most."""
        self._admission.withdraw()
        await self._calls.end(grace=self._wishes.grace, run_id=self.state.run_id)

    async def _close(self) -> None:
        self._timers.stop()
        await self._end_calls()
        self._course.give_back(self._calls.under_way)
        self._calls.under_way.clear()
        self.committed.tell()
