"""Who drives which run: creating, claiming, sharing and letting go of runs on behalf of one executor."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import attrs

from dagflow._active import LAST_S, STORE_S, Active, let_go_of, those_late
from dagflow._attempt import Attempts, Children
from dagflow._driver import Driver
from dagflow._events import Event, EventKind, Message, MessageKind, RunRecord, RunStatus
from dagflow._identity import new_owner
from dagflow._journal import Journal
from dagflow._leases import Leases
from dagflow._log import LOGGER
from dagflow._mail import Mail
from dagflow._orders import Order, check_same, inputs_of
from dagflow._scheduler import reopen
from dagflow._state import RunState, fold
from dagflow._states import child_node_name
from dagflow._taking import Taking
from dagflow.errors import (
    ExecutorError,
    RunExistsError,
    RunNotFoundError,
    RunOwnedError,
    StoreError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagflow._admission import Limits
    from dagflow._metering import Metering
    from dagflow._observers import Observers
    from dagflow._plan import Plan
    from dagflow._resources import Resources
    from dagflow._spilling import Spilling
    from dagflow.protocols import Clock, Codec, ContextStore, Meter, Runner

__all__ = ["Active", "Engine"]

_POLL_S = 0.1
_RESTING = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.WAITING, RunStatus.PAUSED})
_FLUSH_S = 0.1
_FLUSH_LAST_S = 2.0


@attrs.define(eq=False)
class Engine:
    """Drives the runs of one executor.

    Attributes:
        store: Keeps the runs.
        codec: Turns values into payloads and back.
        clock: Tells the time.
        limits: Shared by all runs.
        observers: Are told what was committed.
        meter: Takes the figures that are no events.
        spilling: The codec, when it has to do with an artifact store.
        runners: Where functions are called, by name.
        resources: Values that parameters may be bound to.
        lease: Seconds until a claim lapses unless it is renewed.
        grace: Seconds that calls may take to end when they are cancelled.
        poll: Seconds between two looks for messages from other processes.
        owner: Name of the executor among all that ever were.
    """

    store: ContextStore
    codec: Codec
    clock: Clock
    limits: Limits
    observers: Observers
    runners: Mapping[str, Runner]
    resources: Resources
    lease: float
    grace: float
    meter: Meter | None = None
    spilling: Spilling | None = None
    poll: float = 0.5
    owner: str = attrs.field(factory=new_owner)
    children: Children | None = attrs.field(default=None, init=False)
    metering: Metering | None = attrs.field(default=None, init=False)
    active: dict[str, Active] = attrs.field(factory=dict, init=False)
    # One lock for each run that somebody is about to take; it lives as long as anybody holds it or waits for it.
    _locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = attrs.field(factory=WeakValueDictionary, init=False)
    _is_closed: bool = attrs.field(default=False, init=False)
    _services: list[asyncio.Task[None]] = attrs.field(factory=list, init=False)
    _given_up: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)
    leases: Leases = attrs.field(init=False)
    mail: Mail = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.mail = Mail(self.store, self.active, self.poll)
        self.leases = Leases(self.store, lease=self.lease, drivers=lambda: [a.driver for a in self.active.values()])

    @property
    def taking(self) -> Taking:
        """Claims runs for the executor."""
        return Taking(self.store, self.clock, self.owner, self.lease, self._given_up)

    async def open(self) -> None:
        """Open the store and begin to keep leases."""
        await self.store.open()
        if self.metering is not None:
            try:
                await self.metering.look()
            except BaseException:
                await self.store.close()
                raise
        loop = asyncio.get_running_loop()
        self._services.append(loop.create_task(self.leases.keep(), name="dagflow-leases"))
        self._services.append(loop.create_task(self.mail.keep(), name="dagflow-messages"))
        self._services.append(loop.create_task(self._stand_by(), name="dagflow-standby"))
        if self.metering is not None:
            self._services.append(loop.create_task(self.metering.keep(), name="dagflow-metering"))

    async def close(self) -> None:
        """Stop what is driven, tell observers what waits for them, and let go of everything."""
        self._is_closed = True
        clock = asyncio.get_running_loop().time
        begun, driven = clock(), list(self.active.values())
        for active in driven:
            active.driver.stop()
            active.ends_at = min(active.ends_at, begun + self.grace + LAST_S)
        end = max((active.ends_at for active in driven), default=begun + LAST_S)
        try:
            late = await those_late([active.task for active in driven if active.task is not None], end - STORE_S)
            for service in self._services:
                service.cancel()
            late += await those_late([*self._services, *self._given_up], end - STORE_S)
            await self.observers.close(timeout=max(end - STORE_S - clock(), min(self.grace, _FLUSH_LAST_S)))
            if self.metering is not None:
                await self.metering.close()
            for runner in self.runners.values():
                await runner.close()
            await self.resources.close()
        finally:
            # Also when whoever closes has no more time.
            await self._close_store(max(end, clock() + STORE_S))
        # They have waited for a store that does not answer, and that gives them up when it is closed.
        await those_late(late, clock() + STORE_S)

    async def _close_store(self, end: float) -> None:
        try:
            async with asyncio.timeout_at(end):
                await self.store.close()
        except TimeoutError:
            LOGGER.warning("the store did not end in time what was under way, which is in doubt")

    # -- taking runs ------------------------------------------------------------------------------

    async def begin(
        self, order: Order, run_id: str, *, is_new: bool, wait: bool, parent: str | None = None, is_joined: bool = False
    ) -> Active | RunState:
        """Start a run, or go on with the one that has this id.

        Args:
            order: What the caller wants.
            run_id: Id of the run.
            is_new: The id was made up just now.
            wait: Whether to wait for another owner.
            parent: The run that starts it.
            is_joined: The caller does nothing but `join` it, at once; so a new run need not be recorded before that.

        Returns:
            The run as it is driven here, or its state when it has ended.

        Raises:
            RunExistsError: The run is one of another workflow or with other inputs.
            RunOwnedError: Another executor owns it, and ``wait`` is false.
        """
        if is_new:
            new = self._create(order, run_id, parent)
            return new if is_joined or not new.driver.journal.is_new else await self._recorded(new)
        async with self.lock(run_id):
            active = await self._driven_here(run_id, order)
            if active is not None:
                return active
            new = self._create(order, run_id, parent)
            with contextlib.suppress(RunExistsError):
                return await self._recorded(new) if new.driver.journal.is_new else new
        return await self.go_on(run_id, order, reopen_ended=False, wait=wait)

    async def go_on(
        self, run_id: str, wanted: Order | Plan, *, reopen_ended: bool, wait: bool = True, patience: float | None = None
    ) -> Active | RunState:
        """Go on with a run of a known workflow; see `begin`.

        Args:
            run_id: The run.
            wanted: Its workflow, or what a parent wants of it.
            reopen_ended: Whether a failed or cancelled run is re-opened.
            wait: Whether to wait for another owner.
            patience: Seconds that a timer may be away before the run is let go of again; ``None`` for any.
        """
        try:
            async with self.lock(run_id):
                here = await self._driven_here(run_id, wanted)
                return here or await self._take(run_id, wanted, reopen_ended=reopen_ended, patience=patience)
        except RunOwnedError:
            if not wait:
                raise
        # Those who wait stand in a line of their own: who does not want to wait passes them by.
        async with self.lock(run_id, "waiting"):
            while True:
                with contextlib.suppress(RunOwnedError):
                    return await self.go_on(run_id, wanted, reopen_ended=reopen_ended, wait=False, patience=patience)
                await asyncio.sleep(_POLL_S)
                self.check_open()

    def lock(self, run_id: str, line: str = "taking") -> asyncio.Lock:
        """Return what keeps the callers in this process from taking a run from each other."""
        return self._locks.setdefault((run_id, line), asyncio.Lock())

    async def _driven_here(self, run_id: str, wanted: Order | Plan) -> Active | None:
        """Return the run if it is driven here and is what is wanted; one that is being let go of is waited for."""
        active = self.active.get(run_id)
        if active is not None and active.is_leaving:
            await active.ended()
        active = self.active.get(run_id)
        if active is not None and isinstance(wanted, Order):
            check_same(run_id, active.order, active.driver.state, wanted)
        return active

    async def submit(self, order: Order, run_id: str) -> bool:
        """Record a pending run for any process that serves the store, and return whether it is new."""
        created = self._created(order, run_id)
        now = created.at
        record = RunRecord(run_id, order.plan.workflow, RunStatus.PENDING, 1, now, now, priority=order.priority)
        try:
            await self.store.create(record, [created])
        except RunExistsError:
            _, events = await self.store.read(run_id)
            check_same(run_id, None, fold(events), order)
            return False
        self.observers.tell([created])
        return True

    def _created(self, order: Order, run_id: str) -> Event:
        return Event(run_id, 1, EventKind.RUN_CREATED, None, 0, self.clock.now(), order.to_journal(), order.inputs)

    def _create(self, order: Order, run_id: str, parent: str | None) -> Active:
        self.check_open()
        plan = order.plan
        created = self._created(order, run_id)
        now = created.at
        state = RunState.created(created, shape=plan.shape)
        opening = [created, *reopen(plan, state, now=now, owner=self.owner, epoch=1, graceful=True)]
        self.observers.begin(state, opening)
        place = (run_id, plan.workflow, RunStatus.RUNNING, len(opening), now, now, parent)
        record = RunRecord(*place, priority=order.priority, owner=self.owner, epoch=1)
        return self._drive(order, state, opening, Journal(self.store, record, self.lease, is_new=True))

    async def _take(
        self, run_id: str, wanted: Order | Plan, *, reopen_ended: bool, patience: float | None
    ) -> Active | RunState:
        """Claim a run and drive it, or return the state that it rests in; see `Taking.take`."""
        taken = await self.taking.take(run_id, wanted, reopen_ended=reopen_ended)
        if isinstance(taken, RunState):
            return taken
        state = taken.state
        opening = reopen(
            taken.plan,
            state,
            now=self.clock.now(),
            owner=self.owner,
            epoch=taken.record.epoch,
            graceful=taken.is_graceful,
            asked_by=wanted.asked_by if isinstance(wanted, Order) else None,
        )
        self.observers.begin(state, opening, taken.events)
        order = wanted if isinstance(wanted, Order) else Order(taken.plan, inputs_of(state))
        journal = Journal(self.store, taken.record, self.lease, ignored=taken.late)
        if self._is_closed:
            with contextlib.suppress(StoreError):
                await self._release(journal)
            self.check_open()
        return await self._recorded(self._drive(order, state, opening, journal, patience))

    # -- driving ----------------------------------------------------------------------------------

    def _drive(
        self, order: Order, state: RunState, opening: list[Event], journal: Journal, patience: float | None = None
    ) -> Active:
        driver = Driver(
            plan=order.plan,
            codec=self.codec,
            patience=patience,
            state=state,
            opening=opening,
            journal=journal,
            attempts=self._attempts(order, state, journal),
            limits=self.limits,
            leases=self.leases,
            clock=self.clock,
            observers=self.observers,
            grace=self.grace,
        )
        if not journal.is_new:
            driver.restore_timers()
        active = self.active[state.run_id] = Active(state.run_id, order, driver)
        if journal.record.parent is not None:
            journal.before_end = functools.partial(self._about_to_end, active)
        driver.begin(functools.partial(self._call_driver, active), functools.partial(self._ended, active))
        return active

    def _call_driver(self, active: Active) -> None:
        """Make the task that drives a run from now on."""
        name, context = f"dagflow-run-{active.run_id}", active.driver.context.copy()
        task = asyncio.get_running_loop().create_task(self._run(active), name=name, context=context)
        active.drive(task, self.active)

    async def _recorded(self, active: Active) -> Active:
        """Return a run when it is recorded that it is driven here."""
        try:
            await active.driver.committed.next()
        except asyncio.CancelledError:
            await active.leave()
            raise
        if active.driver.journal.is_new:
            raise active.error or let_go_of(active.run_id)
        return active

    def _attempts(self, order: Order, state: RunState, journal: Journal) -> Attempts:
        return Attempts(
            order.plan,
            state,
            codec=self.codec,
            runners=self.runners,
            resources=self.resources,
            children=self.children,
            meter=self.meter,
            shelf=None if self.spilling is None else self.spilling.shelf(journal.claim, self.meter),
        )

    async def _run(self, active: Active) -> None:
        """Drive a run to its end, and let go of it."""
        driver = active.driver
        try:
            if active.task is None:  # as with calls: it has been begun before it is known
                await asyncio.sleep(0)
            await driver.drive()
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            active.error = let_go_of(active.run_id)
            raise
        except BaseException as exc:  # noqa: BLE001 - of the store or a plug-in; handed to those who wait
            active.error = exc
        finally:
            del self.active[active.run_id]
            self.observers.leave(driver.state, active.error)
            try:
                await self._let_go(active)
            finally:
                active.end()

    def _ended(self, active: Active) -> None:
        """Let go of a run that has ended, and that nobody else has to be told of."""
        del self.active[active.run_id]
        try:
            self.observers.leave(active.driver.state, None)
        finally:
            active.end()

    async def _stand_by(self) -> None:
        """Let go of runs when the loop ends before the executor is closed, unless their own tasks are cancelled."""
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            if not self._is_closed:
                tasks = [(active, active.task) for active in self.active.values()]
                left = [active for active, task in tasks if task is None or not task.cancelling()]
                await asyncio.gather(*(active.leave() for active in left))

    async def _let_go(self, active: Active) -> None:
        driver = active.driver
        try:
            if active.error is None and driver.state.status.is_terminal:
                if (parent := driver.journal.record.parent) is not None:
                    await self.mail.collect(parent)
            else:
                await self._release(driver.journal)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # of the store, as above; the run has come to what it has come to
            facts = {"run_id": active.run_id}
            LOGGER.warning("a run could not be let go of, its lease will lapse", exc_info=True, extra=facts)

    async def wake_parent(self, record: RunRecord) -> None:
        """Tell the run that started this one, which may wait for it without an owner, that it is about to end."""
        if record.parent is None:
            return
        with contextlib.suppress(RunNotFoundError):
            name = child_node_name(record.parent, record.run_id)
            await self.store.send(Message(record.parent, MessageKind.WAKE, name))

    async def _about_to_end(self, active: Active) -> None:
        # After the end would be too late: a crash in between would leave nobody to tell.
        if not active.is_awaited:
            await self.wake_parent(active.driver.journal.record)

    async def _release(self, journal: Journal) -> None:
        if not journal.is_new:
            await self.store.release([journal.claim])

    async def join(self, active: Active) -> RunState:
        """Wait for the end of a run that is driven here.

        A caller that is cancelled stops the run, unless somebody else waits for it or it was started in the background.

        Raises:
            LeaseLostError: Another executor has taken it over.
            StoreError: The store failed.
            ExecutorError: The executor was closed; the run can be resumed.
        """
        active.waiters += 1
        try:
            if not active.has_ended:
                await active.ends.next()
        except asyncio.CancelledError:
            if active.waiters == 1 and not active.background:
                await active.leave()
            raise
        finally:
            active.waiters -= 1
        await self.observers.flush(_FLUSH_S)
        if active.error is not None:
            raise active.error
        state = active.driver.state
        if state.status not in _RESTING:
            raise let_go_of(active.run_id)
        return state

    def check_open(self) -> None:
        """Refuse to go on when the executor has been closed."""
        if self._is_closed:
            raise ExecutorError("the executor is closed: make another one")
