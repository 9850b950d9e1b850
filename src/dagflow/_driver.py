"""Drives one run: wait for facts, react, append, then release. The only room where state, store and calls meet.

The state runs ahead of the journal by what is being appended. That is safe because nothing leaves this room before the
append has committed: no call is started, no observer is told, no result is handed out. When an append fails the state
is thrown away with the driver, and whoever goes on with the run folds it from the journal again.

While an append is in flight further results gather, and the next append takes all of them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from dagflow._admission import Admission, Limits
from dagflow._decisions import Decision, decision_message
from dagflow._events import MessageKind, NodeStatus, RunStatus
from dagflow._facts import Elapsed, Fact, Parked, Raised, Returned, describe
from dagflow._journal import facts_of
from dagflow._node import ReviewSpec
from dagflow._scheduler import advance, cancel, finish, pause, start
from dagflow._state import apply
from dagflow._timers import Bell, Timers
from dagflow._wakes import Wakes
from dagflow.errors import ExecutorError, LeaseLostError, RunCancelledError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence
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

_LOGGER = logging.getLogger("dagflow")
# Looked up once, because they are on the way of every node.
_RUNNING, _GOES_ON = NodeStatus.RUNNING, RunStatus.RUNNING
_OF_A_CALL = (Returned, Raised, Parked)


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
        journal: As given.
        wake: Makes it look again at what can be done.
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
        self.causes: dict[str, BaseException] = {}
        self.journal = journal
        self._plan = plan
        self._opening = opening
        self._attempts = attempts
        self._admission = Admission(plan, state, limits, self.wake, priority=journal.record.priority)
        self._leases = leases
        self._codec = codec
        self._clock = clock
        self._observers = observers
        self._grace = grace
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._facts: list[Fact] = []
        self._calls: dict[NodeState, asyncio.Task[None]] = {}
        self._timers = Timers(clock, self.wake)
        self._committed: list[asyncio.Future[None]] = []
        self._wakes = Wakes(state, journal, self._admission)
        self._stopping = False
        self._cancelling = False
        self._pausing = self._closing = False
        self._frozen = self._winding_down = self._lost = False
        self._broken: StoreUnavailableError | None = None
        self.is_put_off = False

    # -- asked from outside -----------------------------------------------------------------------

    def stop(self, grace: float | None = None) -> None:
        """Leave the run where it is, to be resumed; ``grace`` is what is left of the grace time of its calls."""
        self._grace = self._grace if grace is None else grace
        self._stopping = True
        self._attempts.stop_asking(self._grace)
        self.wake()

    def cancel(self) -> None:
        """Cancel the run."""
        self._cancelling = True
        self._attempts.stop_asking(self._grace)
        self.wake()

    def freeze(self, *, frozen: bool) -> None:
        """Start nothing new while it is not certain that the run is still ours."""
        if self._frozen != frozen:
            self._frozen = frozen
            self.wake()

    def wind_down(self) -> None:
        """Start nothing new, and leave the run when what is running has ended."""
        self._winding_down = True
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
                self._pausing = True
                self.journal.held[""] = message.number
            elif message.kind is MessageKind.WAKE:
                self._wakes.take(message)
            else:
                self._facts += facts_of(message)
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
        self._lost = True
        self.stop()

    def next_commit(self) -> asyncio.Future[None]:
        """Return what is done after the next commit, or when the run has ended or was stopped."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._committed.append(future)
        return future

    # -- the loop ---------------------------------------------------------------------------------

    async def drive(self) -> None:
        """Drive until the run has ended or is stopped.

        Raises:
            LeaseLostError: Another executor has taken the run over.
            StoreError: The store failed; the run can be resumed.
        """
        try:
            self.deliver(await self.journal.receive())
            while not self._stopping:
                await self._turn()
                # While something is called, it is plain that the run goes on.
                is_busy = self._calls and self.state.phase is _GOES_ON
                if not is_busy and (self._is_over() or await self._is_parked()):
                    break
                if not self._bell.is_rung:
                    self._timers.set_alarm()
                    await self._bell.next_ring()
            if self._lost and not self.state.status.is_terminal:
                raise LeaseLostError(self.state.run_id, self.journal.claim.epoch)
            if self._broken is not None:
                raise self._broken
            await self._record_the_last()
        finally:
            await self._close()

    async def _turn(self) -> None:
        """Take in what has happened, write all that follows, then release it."""
        self._bell.is_rung = False
        now = self._clock.now()
        events, self._opening = self._opening, []
        if self._cancelling:
            await self._attempts.change_children(MessageKind.CANCEL)
            await self._end_calls()
        elif self._pausing and self._calls:
            await self._attempts.change_children(MessageKind.PAUSE)
        if self._timers.next_at is not None:
            await self._ring_due(now)
        self.journal.heard = self.journal.received
        if self._facts or self.state.settled:
            self._take_facts(events, now)
        starts: list[NodeState] = []
        if self._cancelling:
            events += cancel(self.state, now=now)
        else:
            starts = await self._start(events, now)
            if not starts and not self._stopping and not self._cancelling:
                self._end_when_idle(events, now)
            if not events:
                return
        try:
            await self._append(events)
        except BaseException:
            # They will not be called, so they hold no slots.
            self._give_back(starts)
            raise
        self._tell(events)
        for node in starts:
            self._calls[node] = self._loop.create_task(self._call(node, node.attempts), name=node.name)

    def _give_back(self, nodes: Iterable[NodeState]) -> None:
        for node in nodes:
            self._admission.give_back(node)

    async def _record_the_last(self) -> None:
        """Record what had ended when the run was stopped, so that it is not done again."""
        events: list[Event] = []
        if self._facts and not self.state.status.is_terminal:
            self.journal.heard = self.journal.received
            self._take_facts(events, self._clock.now())
        if events:
            await self._append(events)
            self._tell(events)

    def _take_facts(self, events: list[Event], now: datetime) -> None:
        facts, self._facts = self._facts, []
        for fact in facts:
            if isinstance(fact, _OF_A_CALL) and self._calls.pop(fact.node, None) is not None:
                self._admission.give_back(fact.node)
        self._follow(facts, events, now)
        if self.journal.held:
            self._wakes.calls_ended(facts)

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
            self._facts.append(Elapsed(node))

    def _follow(self, facts: Sequence[Fact], events: list[Event], now: datetime) -> None:
        more, ready = advance(self._plan, self.state, facts, now=now)
        events += more
        self._admission.add(ready)
        for fact in facts:
            if type(fact) is Raised:
                self._after_failure(fact)

    def _after_failure(self, fact: Raised) -> None:
        node = fact.node
        self._timers.add(node)
        if node.status is NodeStatus.FAILED and fact.cause is not None:
            self.causes.setdefault(node.name, fact.cause)

    async def _start(self, events: list[Event], now: datetime) -> list[NodeState]:
        """Start what is ready and fits the limits; return what is to be called once that is committed."""
        starts: list[NodeState] = []
        planned, state = self._plan.nodes, self.state
        can_start = self._can_start()
        while can_start and (admitted := self._admission.admit()):
            facts: list[Fact] = []
            for node in admitted:
                if not planned[node.index].is_plain:
                    fact = await self._ask(node)
                    can_start = self._can_start()
                    # When it was stopped, its condition may have been cut off: no answer, the node stays as it is.
                    is_cut_off = self._stopping or self._cancelling
                    if fact is not None and not is_cut_off:
                        facts.append(fact)
                    if fact is not None or is_cut_off:
                        self._admission.give_back(node)
                        continue
                event = start(self._plan, state, node, now=now)
                apply(state, event)
                events.append(event)
                if node.status is _RUNNING and node.items is None:
                    starts.append(node)
                else:
                    self._timers.add(node)
                    self._admission.give_back(node)
            if not facts and not state.settled:
                break
            self._follow(facts, events, now)
        if self.journal.held:
            self._wakes.started(starts)
        if not can_start:
            # Somebody else can.
            self._admission.withdraw()
        return starts

    def _can_start(self) -> bool:
        return not (self._frozen or self._winding_down or self._pausing or self._stopping or self._cancelling)

    async def _ask(self, node: NodeState) -> Fact | None:
        """Judge the condition of a node and expand a map, before either is started for the first time."""
        if node.map is not None or node.started_at is not None:
            return None
        return await self._attempts.judge(node)

    def _end_when_idle(self, events: list[Event], now: datetime) -> None:
        if self._calls or self._facts or self._frozen or (self._winding_down and not self._pausing):
            return
        self.journal.heard = self.journal.received
        if self._pausing:
            end: Event | list[NodeState] | None = pause(self.state, now=now)
        elif self._admission or self._timers.first_at("retry"):
            return
        else:
            end = finish(self._plan, self.state, now=now)
        if isinstance(end, list):
            self._admission.add(end)
        elif end is not None:
            apply(self.state, end)
            events.append(end)
        if end is not None:  # clean-ups start, or a map has failed and something follows from it
            self.wake()

    def _is_over(self) -> bool:
        status = self.state.status
        return status.is_terminal or status is RunStatus.PAUSED or (self._winding_down and not self._calls)

    async def _is_parked(self) -> bool:
        """Return whether nothing can happen before something comes from outside, or a timer that is far away."""
        if self._calls or self._admission or self._frozen or self._bell.is_rung or not self.state.waiting:
            return False
        due_at = self._timers.first_at("retry", "timer")
        if due_at and (self._patience is None or (due_at - self._clock.now()).total_seconds() < self._patience):
            return False
        self.is_put_off = due_at is not None
        self.deliver(await self.journal.receive())
        return not (self._facts or self._admission or self._cancelling or self._pausing)

    def _append(self, events: list[Event]) -> Awaitable[None]:
        status = self.state.status
        return self.journal.write(events, status=status, wake_at=self._timers.next_at, release=status.is_terminal)

    def _tell(self, events: list[Event]) -> None:
        """Tell those who wait what has been committed."""
        self._observers.tell(events, self.state, self._plan)
        if self._committed:
            self._tell_committed()

    def _tell_committed(self) -> None:
        committed, self._committed = self._committed, []
        for future in committed:
            if not future.done():
                future.set_result(None)

    async def _call(self, node: NodeState, attempt: int) -> None:
        try:
            if self._leases.is_due(self._loop.time()):
                # A call that blocks the loop must not come between a lease and its renewal.
                await self._leases.ended()
            fact = await self._attempts.call(node, attempt)
        except asyncio.CancelledError as exc:
            if self._closing:
                raise
            # Somebody else cancelled the task, perhaps the function itself: an outcome like any other.
            fact = Raised(node, attempt, describe(exc), cause=exc)
        child = self._plan.nodes[node.index].node.child
        if child is not None and isinstance(fact, Raised) and isinstance(fact.cause, StoreUnavailableError):
            # The run of a sub-workflow lost its store, which is ours as well: no failure of the node.
            self._broken = fact.cause
            self.stop()
            return
        if isinstance(fact, Raised) and self._is_an_answer(fact, is_run=child is not None):
            return
        self._facts.append(fact)
        self.wake()

    def _is_an_answer(self, fact: Raised, *, is_run: bool) -> bool:
        """Return whether a call only answers to its cancellation, to that of its run, or to the end of its executor.

        That is no failure of its node.
        """
        if self._cancelling and is_run and isinstance(fact.cause, RunCancelledError):
            return True
        return self._closing or (self._stopping and isinstance(fact.cause, ExecutorError))

    # -- ending -----------------------------------------------------------------------------------

    async def _end_calls(self) -> None:
        """Cancel the calls that are under way and wait for them, for the grace time at the most."""
        calls = [call for call in self._calls.values() if not call.done()]
        self._closing = True
        self._admission.withdraw()
        for call in calls:
            call.cancel()
        if calls:
            _, late = await asyncio.wait(calls, timeout=self._grace)
            if late:
                facts = {"run_id": self.state.run_id, "calls": len(late)}
                _LOGGER.warning("cancelled calls do not end, they are abandoned", extra=facts)
        self._closing = False

    async def _close(self) -> None:
        self._timers.stop()
        await self._end_calls()
        self._give_back(self._calls)
        self._calls.clear()
        self._tell_committed()
