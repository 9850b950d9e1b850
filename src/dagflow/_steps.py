"""Steps of one run: what has been decided is written, and only then let out.

Nothing leaves before the write has committed: no call is started, no observer is told, no result is handed out. When a
write fails the state is thrown away with the driver, and whoever goes on with the run folds it from the journal again.

A run in which one call follows another, and nothing is waited for but the store, needs no task of its own: the task of
the call that has ended decides what follows, and where the store answers, that is released. For all else the bell is
rung, and the driver makes a turn.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import attrs

from dagflow._active import Waiters, let_go_of
from dagflow._answers import Answer
from dagflow._events import RunStatus
from dagflow._facts import Raised, Returned
from dagflow.errors import ExecutorError, RunCancelledError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from dagflow._calls import Calls
    from dagflow._course import Course
    from dagflow._events import Event
    from dagflow._facts import Fact
    from dagflow._observers import Observers
    from dagflow._state import NodeState
    from dagflow._timers import Bell
    from dagflow.protocols import Clock

__all__ = ["Steps", "Wishes"]

# Looked up once, because it is on the way of every node.
_GOES_ON = RunStatus.RUNNING


@attrs.define(eq=False)
class Wishes:
    """What is wanted of a run from outside.

    Attributes:
        grace: Seconds that calls may take to end when they are cancelled.
        stopping: It is left where it is, to be resumed.
        cancelling: It is cancelled.
        pausing: It is paused when what is running has ended.
        frozen: Nothing new is started while it is not certain that the run is still ours.
        winding_down: Nothing new is started, and the run is left when what is running has ended.
        lost: It belongs to another executor: nothing more is written.
    """

    grace: float
    stopping: bool = False
    cancelling: bool = False
    pausing: bool = False
    frozen: bool = False
    winding_down: bool = False
    lost: bool = False

    @property
    def can_start(self) -> bool:
        """Whether new calls may be started."""
        return not (self.frozen or self.winding_down or self.pausing or self.stopping or self.cancelling)


class Steps:
    """Writes what is decided of one run, and releases it.

    It knows nothing of the driver, so that neither keeps the other alive.

    Args:
        course: Decides.
        calls: Makes the calls.
        bell: Wakes the driver.
        wishes: What is wanted of the run.
        observers: Are told what was committed.
        clock: Tells the time to record.

    Attributes:
        committed: Those who wait for the next commit; they are told as well when the run has ended or was stopped.
        may_step: Nothing is waited for but the only call, so what follows from its end can be decided at once.
        is_in_flight: A step is being written.
        failure: Why the run has to be given up.
    """

    __slots__ = (
        "_bell",
        "_calls",
        "_clock",
        "_course",
        "_ended",
        "_events",
        "_flight",
        "_journal",
        "_observers",
        "_starts",
        "_state",
        "_wishes",
        "committed",
        "failure",
        "may_step",
    )

    def __init__(  # noqa: PLR0917 - the parts of a driver, which alone makes one
        self, course: Course, calls: Calls, bell: Bell, wishes: Wishes, observers: Observers, clock: Clock
    ) -> None:
        self.committed = Waiters()
        self.may_step = False
        self.failure: BaseException | None = None
        self._course = course
        self._state, self._journal = course.state, course.journal
        self._calls = calls
        self._bell = bell
        self._wishes = wishes
        self._observers = observers
        self._clock = clock
        # A step that is being written: the store's answer, what is written, and the nodes to call then. Nobody may know
        # of it before that has come to its end.
        self._flight: Awaitable[object] | None = None
        self._events: list[Event] = []
        self._starts: Sequence[NodeState] = ()
        self._ended: Callable[[], None] | None = None

    @property
    def is_in_flight(self) -> bool:
        return self._flight is not None

    # -- without a task ---------------------------------------------------------------------------

    def begin(self, opening: list[Event], *, call: Callable[[], None], ended: Callable[[], None]) -> None:
        """Begin a new run, and drive it as long as steps are enough.

        Args:
            opening: The events that made the run ours.
            call: Calls the driver, once: something has to be waited for.
            ended: Called instead when the run has ended.
        """
        self._bell.unheard, self._ended = call, ended
        self.may_step = True
        self._step(None, opening)

    async def join(self) -> None:
        """Leave off driving, because the driver has come; a step that is being written comes to its end first.

        Raises:
            BaseException: The run has to be given up.
        """
        self._ended = self._bell.unheard = None
        await self.rest()
        self.check()

    async def rest(self) -> None:
        """Make no more steps; one that is being written comes to its end first, as with a turn."""
        self.may_step = False
        if self._flight is not None:
            await self._land(self._flight)

    def check(self) -> None:
        """Raise what the run has to be given up for, if so."""
        if self.failure is not None:
            raise self.failure

    # -- steps ------------------------------------------------------------------------------------

    def take(self, fact: Fact) -> None:
        """Take what came of a call.

        When it was the only one, nothing more can gather, and all that follows is plain: then its task decides at
        once, and whoever brings the answer of the store goes on. That spares the loop two turns for each node.
        """
        course, bell = self._course, self._bell
        if type(fact) is Returned and self.may_step and not bell.is_rung:
            if len(course.calls) == 1 and not course.facts:
                self._step(fact, [])
                return
        elif type(fact) is Raised and self._is_no_failure(fact):
            return
        course.facts.append(fact)
        bell.ring()

    def _is_no_failure(self, fact: Raised) -> bool:
        """Return whether a call only answers to its cancellation, to that of its run, or to the end of its executor."""
        wishes = self._wishes
        is_run = self._course.plan.nodes[fact.node.index].node.child is not None
        if is_run and isinstance(fact.cause, StoreUnavailableError):
            # The run of a sub-workflow lost its store, which is ours as well: no failure of the node.
            self.failure = fact.cause
            self.stop()
            return True
        if wishes.cancelling and is_run and isinstance(fact.cause, RunCancelledError):
            return True
        return self._calls.is_closing or (wishes.stopping and isinstance(fact.cause, ExecutorError))

    def _step(self, fact: Returned | None, events: list[Event]) -> None:
        """Do what a turn of the driver does, for a run in which nothing has to be waited for but the store."""
        course = self._course
        starts: list[NodeState] = []
        try:
            now = self._clock.now()
            self._journal.heard = self._journal.received
            course.step(fact, starts, events, now)
            if not starts and course.end(events, now, is_pausing=False):
                self._bell.ring()
            if not events:
                self._bell.ring()
                return
            self._events, self._starts, self._flight = events, starts, self._append(events)
        except BaseException as exc:  # noqa: BLE001 - it belongs to the driver, and this is the task of a call
            self._fail(exc, starts)
            return
        if isinstance(self._flight, Answer):
            self._flight.then(self._landed)
        else:
            self._bell.ring()

    async def write(self, events: list[Event], starts: Sequence[NodeState]) -> None:
        """Write what a turn has decided and release it; where nothing can gather meanwhile, that is a step."""
        course = self._course
        try:
            answer = self._append(events)
            can_step = starts and course.plan.is_plain and not course.calls
            step = answer if can_step and isinstance(answer, Answer) else None
            if step is None:
                await answer
        except BaseException:
            # They will not be called, so they hold no slots.
            course.give_back(starts)
            raise
        if step is None:
            self._tell(events)
            self._calls.start(starts, self.take)
        else:
            self._events, self._starts, self._flight = events, starts, step
            step.then(self._landed)

    async def _land(self, answer: Awaitable[object]) -> None:
        try:
            await answer
        except BaseException as exc:
            self._landed(answer, exc)
            raise
        self._landed(answer, None)

    def _landed(self, answer: Awaitable[object], error: BaseException | None) -> None:
        """Release what a step has written, unless that has been done."""
        if self._flight is not answer:
            return
        starts = self._starts
        try:
            if error is None:
                self._tell(self._events)
                self._calls.start(starts, self.take)
            else:
                self.failure = error
                self._course.give_back(starts)
            self._flight = None
        except BaseException as exc:  # noqa: BLE001 - as above: this is where the store answers
            self._flight = None
            # Those whose calls have been started hold their slots until these end.
            self._fail(exc, [node for node in starts if node not in self._calls.under_way])
        if error is None and starts:
            return
        if error is None and self._ended is not None and self._state.phase.is_terminal and not self._bell.is_rung:
            ended, self._ended = self._ended, None
            self._bell.unheard = None
            ended()
        else:
            self._bell.ring()

    def _fail(self, error: BaseException, starts: Iterable[NodeState]) -> None:
        """Let the driver end with an error that came up outside its task; must be called while that is handled."""
        self._course.give_back(starts)
        is_ours = isinstance(error, Exception)
        self.failure = error if is_ours else let_go_of(self._state.run_id)
        self._bell.ring()
        if not is_ours:
            raise error

    def stop(self) -> None:
        """Leave the run where it is; conditions are asked no longer."""
        self._wishes.stopping = True
        self._calls.stop_asking(self._wishes.grace)
        self._bell.ring()

    def abandon(self) -> None:
        """Let nothing out any more: no call goes on, and none holds a slot."""
        self._ended = None
        answer, self._flight = self._flight, None
        if answer is not None:
            self._course.give_back(self._starts)
            if inspect.iscoroutine(answer):
                answer.close()
        self._calls.abandon()
        self._course.give_back(self._calls.under_way)
        self._calls.under_way.clear()

    def _append(self, events: list[Event]) -> Awaitable[object]:
        status, next_at = self._state.status, self._course.timers.next_at
        is_over = status is not _GOES_ON and status.is_terminal
        return self._journal.write(events, status=status, wake_at=next_at, release=is_over)

    def _tell(self, events: list[Event]) -> None:
        """Tell those who wait what has been committed."""
        self._journal.is_new = False
        self._observers.tell(events, self._state, self._course.plan)
        self.committed.tell()
