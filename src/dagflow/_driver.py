"""Drives one run: wait for facts, react, append, then release. The only room where state, store and calls meet.

The state runs ahead of the journal by what is being appended. That is safe because nothing leaves this room before the
append has committed: no call is started, no observer is told, no result is handed out. When an append fails the state
is thrown away with the driver, and whoever goes on with the run folds it from the journal again.

While an append is in flight further results gather, and the next append takes all of them. Where nothing can gather, in
a run in which one call follows another, a step takes the place of a turn: it is made in the task of the call that has
ended, and released where the store answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagflow._active import Waiters, let_go_of
from dagflow._admission import Admission, Limits
from dagflow._answers import Answer
from dagflow._calls import Calls
from dagflow._course import Course, Flight
from dagflow._decisions import Decision, decision_message
from dagflow._events import MessageKind, NodeStatus, RunStatus
from dagflow._facts import Elapsed, Fact, Raised, Returned
from dagflow._journal import facts_of
from dagflow._node import ReviewSpec
from dagflow._scheduler import cancel
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
        self._observers = observers
        self._grace = grace
        self._patience = patience
        self._timers = Timers(clock, self.wake)
        self.committed = Waiters()
        self._calls = Calls(attempts, leases)
        self._wakes = Wakes(state, journal, self._admission)
        self._course = Course(plan, state, journal, self._admission, self._timers, self._wakes, self._calls.under_way)
        self.causes = self._course.causes
        self._flight: Flight | None = None
        self._failure: BaseException | None = None
        self._stopping = self._cancelling = self._pausing = self._frozen = self._winding_down = self._lost = False
        self.is_put_off = self._may_step = False

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
        self._lost = True
        self.stop()

    # -- the loop ---------------------------------------------------------------------------------

    async def drive(self) -> None:
        """Drive until the run has ended or is stopped.

        Raises:
            LeaseLostError: Another executor has taken the run over.
            StoreError: The store failed; the run can be resumed.
        """
        try:
            if not self.journal.is_new:
                self.deliver(await self.journal.receive())
            while not (self._stopping or self.state.phase.is_terminal):
                await self._turn()
                # While something is called, or is about to be, it is plain that the run goes on.
                is_busy = self._flight is not None or (self._calls.under_way and self.state.phase is _GOES_ON)
                if not is_busy and await self._is_over():
                    break
                await self._rest()
            if self._lost and not self.state.status.is_terminal:
                raise LeaseLostError(self.state.run_id, self.journal.claim.epoch)
            if self._failure is not None:
                raise self._failure
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
        elif self._pausing and self._calls.under_way:
            await self._attempts.change_children(MessageKind.PAUSE)
        if self._timers.next_at is not None:
            await self._ring_due(now)
        self.journal.heard = self.journal.received
        if self._course.facts or self.state.settled:
            self._course.take_facts(events, now)
        starts: list[NodeState] = []
        if self._cancelling:
            events += cancel(self.state, now=now)
        else:
            starts = await self._start(events, now)
            if not starts and not self._stopping and not self._cancelling:
                self._end_when_idle(events, now)
        if events:
            await self._write(events, starts)

    async def _write(self, events: list[Event], starts: Sequence[NodeState]) -> None:
        """Write what has been decided and release it; where nothing can gather meanwhile, that is a step."""
        try:
            answer = self._append(events)
            can_step = starts and self._plan.is_plain and not self._calls.under_way
            step = answer if can_step and isinstance(answer, Answer) else None
            if step is None:
                await answer
        except BaseException:
            # They will not be called, so they hold no slots.
            self._course.give_back(starts)
            raise
        if step is None:
            self._tell(events)
            self._calls.start(starts, self._ended)
        else:
            self._flight = Flight(events, starts, step)
            step.then(self._landed)

    async def _rest(self) -> None:
        """Wait until there is something to do that neither the end of a call nor the store's answer does by itself."""
        self._timers.set_alarm()
        # Whatever changes one of these rings.
        is_plain = self._plan.is_plain and self._timers.next_at is None and not self.journal.held
        self._may_step = is_plain and self._can_start()
        try:
            if not self._bell.is_rung:
                await self._bell.next_ring()
        finally:
            self._may_step = False
            if self._flight is not None:
                # What a step has asked the store for comes to its end first, as with a turn.
                await self._land(self._flight)
        if self._failure is not None:
            raise self._failure

    # -- a turn without waiting -------------------------------------------------------------------

    def _ended(self, fact: Fact) -> None:
        """Take what came of a call.

        When it was the only one, nothing more can gather, and all that follows is plain: then its task decides at
        once, and whoever brings the answer of the store goes on. That spares the loop two turns for each node.
        """
        if type(fact) is Raised and self._is_no_failure(fact):
            return
        is_free = self._may_step and not self._bell.is_rung
        if is_free and type(fact) is Returned and len(self._calls.under_way) == 1 and not self._course.facts:
            self._step(fact)
        else:
            self._course.facts.append(fact)
            self.wake()

    def _is_no_failure(self, fact: Raised) -> bool:
        """Return whether a call only answers to its cancellation, to that of its run, or to the end of its executor."""
        is_run = self._plan.nodes[fact.node.index].node.child is not None
        if is_run and isinstance(fact.cause, StoreUnavailableError):
            # The run of a sub-workflow lost its store, which is ours as well: no failure of the node.
            self._failure = fact.cause
            self.stop()
            return True
        if self._cancelling and is_run and isinstance(fact.cause, RunCancelledError):
            return True
        return self._calls.is_closing or (self._stopping and isinstance(fact.cause, ExecutorError))

    def _step(self, fact: Returned) -> None:
        """Do what `_turn` does, for a run in which nothing has to be waited for but the store."""
        starts: list[NodeState] = []
        try:
            now = self._clock.now()
            self.journal.heard = self.journal.received
            events, starts = self._course.step(fact, now)
            if not starts:
                self._end_when_idle(events, now)
            self._flight = flight = Flight(events, starts, self._append(events)) if events else None
        except BaseException as exc:  # noqa: BLE001 - it belongs to the driver, and this is the task of a call
            self._fail(exc, starts)
            return
        if flight is not None and isinstance(flight.answer, Answer):
            flight.answer.then(self._landed)
        else:
            self.wake()

    async def _land(self, flight: Flight) -> None:
        try:
            await flight.answer
        except BaseException as exc:
            self._landed(flight.answer, exc)
            raise
        self._landed(flight.answer, None)

    def _landed(self, answer: Awaitable[object], error: BaseException | None) -> None:
        """Release what a step has written, unless that has been done."""
        flight = self._flight
        if flight is None or flight.answer is not answer:
            return
        try:
            if error is None:
                self._tell(flight.events)
                self._calls.start(flight.starts, self._ended)
            else:
                self._failure = error
                self._course.give_back(flight.starts)
            self._flight = None
        except BaseException as exc:  # noqa: BLE001 - as above: this is where the store answers
            self._flight = None
            self._fail(exc, ())
        if error is not None or not flight.starts:
            self.wake()

    def _fail(self, error: BaseException, starts: Iterable[NodeState]) -> None:
        """Let the driver end with an error that came up outside its task; must be called while that is handled."""
        self._course.give_back(starts)
        is_ours = isinstance(error, Exception)
        self._failure = error if is_ours else let_go_of(self.state.run_id)
        self.wake()
        if not is_ours:
            raise error

    async def _record_the_last(self) -> None:
        """Record what had ended when the run was stopped, so that it is not done again."""
        events: list[Event] = []
        if self._course.facts and not self.state.status.is_terminal:
            self.journal.heard = self.journal.received
            self._course.take_facts(events, self._clock.now())
        if events:
            await self._write(events, ())

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
        can_start = self._can_start()
        while can_start and (admitted := self._admission.admit()):
            facts: list[Fact] = []
            for node in admitted:
                if not planned[node.index].is_plain:
                    is_first = node.map is None and node.started_at is None
                    fact = await self._attempts.judge(node) if is_first else None
                    can_start = self._can_start()
                    # When it was stopped, its condition may have been cut off: no answer, the node stays as it is.
                    is_cut_off = self._stopping or self._cancelling
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

    def _can_start(self) -> bool:
        return not (self._frozen or self._winding_down or self._pausing or self._stopping or self._cancelling)

    def _end_when_idle(self, events: list[Event], now: datetime) -> None:
        is_busy = self._calls.under_way or self._course.facts
        if is_busy or self._frozen or (self._winding_down and not self._pausing):
            return
        self.journal.heard = self.journal.received
        if self._course.end(events, now, is_pausing=self._pausing):
            self.wake()

    async def _is_over(self) -> bool:
        """Return whether nothing happens before something comes from outside, or a timer that is far away."""
        status = self.state.status
        if status.is_terminal or status is RunStatus.PAUSED or (self._winding_down and not self._calls.under_way):
            return True
        if self._calls.under_way or self._admission or self._frozen or self._bell.is_rung or not self.state.waiting:
            return False
        due_at = self._timers.first_at("retry", "timer")
        if due_at and (self._patience is None or (due_at - self._clock.now()).total_seconds() < self._patience):
            return False
        self.is_put_off = due_at is not None
        self.deliver(await self.journal.receive())
        return not (self._course.facts or self._admission or self._cancelling or self._pausing)

    def _append(self, events: list[Event]) -> Awaitable[object]:
        status = self.state.status
        return self.journal.write(events, status=status, wake_at=self._timers.next_at, release=status.is_terminal)

    def _tell(self, events: list[Event]) -> None:
        """Tell those who wait what has been committed."""
        self.journal.is_new = False
        self._observers.tell(events, self.state, self._plan)
        self.committed.tell()

    # -- ending -----------------------------------------------------------------------------------

    async def _end_calls(self) -> None:
        """Cancel the calls that are under way and wait for them, for the grace time at the most."""
        self._admission.withdraw()
        await self._calls.end(grace=self._grace, run_id=self.state.run_id)

    async def _close(self) -> None:
        self._timers.stop()
        await self._end_calls()
        self._course.give_back(self._calls.under_way)
        self._calls.under_way.clear()
        self.committed.tell()
