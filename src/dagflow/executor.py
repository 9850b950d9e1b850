"""The executor: everything that an application does with runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from dagflow._active import Active
from dagflow._admission import Limits
from dagflow._blocking import BlockingExecutor
from dagflow._children import ChildRuns
from dagflow._decisions import Decision
from dagflow._engine import Engine
from dagflow._events import Event, RunQuery, RunStatus
from dagflow._explain import Explanation, explain
from dagflow._handle import RunHandle
from dagflow._holding import holding, written
from dagflow._identity import new_run_id
from dagflow._inputs import encode_inputs
from dagflow._known import KnownWorkflows
from dagflow._measured import measured
from dagflow._metering import Metering, boards_of
from dagflow._meters import meters_of
from dagflow._model import Workflow
from dagflow._names import check_run_id
from dagflow._observers import Observers
from dagflow._options import check_options, check_parts, check_serving, statuses_of
from dagflow._orders import Order, check_priority
from dagflow._outcomes import Outcomes
from dagflow._requests import Requests, Review, assignees_of
from dagflow._resources import Resources
from dagflow._run import Run, RunSummary
from dagflow._scheduler import stopped_by
from dagflow._server import Server, recover
from dagflow._specs import whole
from dagflow._spilling import spilling_of
from dagflow._state import fold
from dagflow.clock import SYSTEM_CLOCK
from dagflow.errors import ExecutorError, RunStateError
from dagflow.runners import LoopRunner, ThreadRunner
from dagflow.runners._main_module import check_not_importing
from dagflow.serialization import JsonCodec
from dagflow.stores import open_store

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from dagflow._observers import Follower
    from dagflow._references import ArtifactRef
    from dagflow.protocols import ArtifactStore, Clock, Codec, ContextStore, Observer, Runner

__all__ = ["DAGExecutor"]


class DAGExecutor:
    """Runs workflows in this process and keeps every finished node before the next one starts.

    ``async with`` gives methods to await, ``with`` gives the same methods as blocking calls. The constructor does no
    I/O.

    Example:
        >>> workflow = Workflow("greeting")
        >>> @workflow.node
        ... def greet(name: str) -> str:
        ...     return f"Hello {name}"
        >>> with DAGExecutor("memory://") as executor:
        ...     run = executor.run(workflow, {"name": "Ada"})
        >>> run.outputs["greet"]
        'Hello Ada'

    Args:
        context_store: Where runs are kept: a URL (``memory://``, ``sqlite:///runs.db``, ``postgresql://...``) or a
            store.
        workflows: Workflows whose runs `resume` and `recover` can go on with; those given to `run` and `start` are
            added, and so are their sub-workflows.
        runners: Further places to call functions in, by the name that nodes give in ``runner=``.
        resources: Values that parameters are bound to by name and that are never stored; or callables without required
            parameters that return a context manager, sync or async, which is entered on first use and left on closing.
        observers: Are called with each event after it was committed.
        codec: Turns values into what is stored; give one that allows your own types.
        clock: Tells the time.
        max_concurrency: How many calls run at a time over all runs, ``None`` for no limit.
        limits: How many calls run at a time that name a limit in ``uses=``, over all runs.
        lease: Seconds after which another executor may take a run over from one that has stopped renewing.
        grace: Seconds that calls may take to end when they are cancelled.
        artifacts: Where artifacts are kept: a path, ``file:///path``, a URL of fsspec, or a store of your own. One
            artifact store serves one context store.
        spill_bytes: Outputs of more encoded bytes are moved to the artifact store; ``None`` to move none.

    Raises:
        ValueError: There is no store, or a number is out of its range.
        TypeError: An option is of another sort than it takes; the text says what to give.
        StoreError: The URL is none that dagflow knows.
        MissingExtraError: The store needs a package that is not installed.
    """

    def __init__(
        self,
        context_store: str | ContextStore,
        *,
        workflows: Iterable[Workflow] = (),
        runners: Mapping[str, Runner] | None = None,
        resources: Mapping[str, Any] | None = None,
        observers: Iterable[Observer] = (),
        codec: Codec | None = None,
        clock: Clock = SYSTEM_CLOCK,
        max_concurrency: int | None = None,
        limits: Mapping[str, int] | None = None,
        lease: float = 30.0,
        grace: float = 5.0,
        artifacts: str | os.PathLike[str] | ArtifactStore | None = None,
        spill_bytes: int | None = None,
    ) -> None:
        # As they were given, for `copy`.
        self._options = {n: given for n, given in locals().items() if n not in ("self", "context_store", "workflows")}
        check_options(
            context_store,
            lists={"workflows": workflows, "observers": observers},
            mappings={"runners": runners, "resources": resources, "limits": limits},
            seconds={"lease": lease, "grace": grace},
        )
        check_parts(codec, clock)
        observers = tuple(observers)
        store = open_store(context_store, clock=clock) if isinstance(context_store, str) else context_store
        self._options.update(context_store=store, observers=observers)
        meter = meters_of(observers)
        spilling = spilling_of(codec, artifacts, spill_bytes)
        self._engine = Engine(
            store=measured(holding(store, spilling), meter),
            codec=spilling or codec or JsonCodec(),
            clock=clock,
            limits=Limits(max_concurrency, limits),
            observers=Observers(observers),
            meter=meter,
            spilling=spilling,
            runners={"loop": LoopRunner(), "thread": ThreadRunner(grace=grace), **(runners or {})},
            resources=Resources(resources or {}),
            lease=lease,
            grace=grace,
        )
        if boards := boards_of(observers):
            self._engine.metering = Metering(
                boards, store=store, clock=clock, observers=self._engine.observers, active=self._engine.active
            )
        self._known = KnownWorkflows(self._engine.runners, self._engine.limits.names())
        self._requests = Requests(self._engine, self._known.by_name.get)
        self._engine.children = ChildRuns(self._engine, self._requests)
        self._outcomes = Outcomes(self._engine, self._known.plan_of)
        self._known.add_all(workflows)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._servers: set[Server] = set()
        self._phase = "new"
        self._blocking: BlockingExecutor | None = None

    # -- opening and closing ----------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the store."""
        check_not_importing()
        if self._phase != "new":
            raise ExecutorError(f"the executor is {self._phase}: an executor is opened once, make another one")
        self._phase = "opening"
        self._loop = asyncio.get_running_loop()
        try:
            await self._engine.open()
            self._phase = "open"
        except BaseException:
            # Nothing has begun: the store may be there at the next try.
            self._phase = "new"
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, frames: TracebackType | None
    ) -> None:
        """Stop what is driven, leave it to be resumed, and let go of everything."""
        if self._phase != "open":
            return
        self._phase = "closed"
        await self._engine.close()

    def __enter__(self) -> BlockingExecutor:
        """Open the store and return the blocking face of this executor."""
        if self._phase != "new":
            raise ExecutorError(f"the executor is {self._phase}: an executor is opened once, make another one")
        self._blocking = BlockingExecutor(self)
        self._blocking.open()
        return self._blocking

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, frames: TracebackType | None
    ) -> None:
        """Stop what is driven, leave it to be resumed, and let go of everything."""
        if self._blocking is not None:
            self._blocking.close()

    @property
    def is_open(self) -> bool:
        """Whether it has been opened and not closed."""
        return self._phase == "open"

    @property
    def is_driving(self) -> bool:
        """Whether it drives any run now."""
        return bool(self._engine.active)

    def copy(self) -> Self:
        """Return an executor that has not been opened, on the same store and with all that this one was given.

        An executor is opened once. Runners of your own are closed with it, and are of no use to a copy then.
        """
        return type(self)(workflows=self.workflows.values(), **self._options)

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """The workflows that it knows, by name."""
        return self._known.by_name

    @property
    def observers(self) -> tuple[Observer, ...]:
        """The observers that it was given."""
        return self._engine.observers.given

    @property
    def lease(self) -> float:
        """Seconds after which another executor may take a run over from this one when it has stopped renewing."""
        return self._engine.lease

    @property
    def lease_age(self) -> float:
        """Seconds since its leases were last renewed, 0 while it drives nothing."""
        return self._engine.leases.age() if self._engine.active else 0.0

    def follow(self, follower: Follower) -> Callable[[], None]:
        """Tell somebody of every commit of this executor, at once and on the loop, until the result is called.

        Unlike an observer a follower is not waited for on closing; it has to return at once.

        Args:
            follower: Has ``follow(events, state, plan)`` and ``leave(state, error)``.
        """
        return self._engine.observers.attach(follower)

    def _check_open(self) -> Engine:
        if self._phase != "open":
            is_closed = self._phase == "closed"
            hint = "make another one" if is_closed else "use it inside 'with' or 'async with'"
            raise ExecutorError(f"the executor is {'closed' if is_closed else 'not open yet'}: {hint}")
        if self._loop is not asyncio.get_running_loop():
            message = "the executor belongs to another event loop: call it from the loop that opened it"
            raise ExecutorError(message)
        return self._engine

    # -- running ----------------------------------------------------------------------------------

    async def run(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        wait: bool = True,
        priority: int = 0,
    ) -> Run:
        """Run a workflow to its end and return the run.

        With the id of a run that exists, of the same workflow and with the same inputs, a completed run is returned
        as it was recorded, a failed or cancelled one raises what it recorded, and any other one goes on.

        Args:
            workflow: What to run.
            inputs: The named values that it takes.
            run_id: Id of the run; made up when it is not given.
            wait: Wait for another executor that owns the run.
            priority: When slots are short, calls of runs of higher priority start first; a run keeps what it was
                given first.

        Raises:
            WorkflowError: The definition is wrong; nothing was recorded.
            InputError: The inputs do not fit; nothing was recorded.
            SerializationError: An input cannot be kept; nothing was recorded.
            RunExistsError: The id belongs to another workflow or other inputs.
            RunOwnedError: Another executor owns the run, and ``wait`` is false.
            RunFailedError: The run failed; its cause is the first failure.
            RunCancelledError: The run was cancelled.
            StoreError: The store failed; the run can be resumed.
        """
        engine, order = self._order(workflow, inputs, run_id, priority)
        is_new = run_id is None
        begun = await engine.begin(order, run_id or new_run_id(), is_new=is_new, wait=wait, is_joined=True)
        return await self._outcomes.of(begun, order.plan)

    async def start(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        priority: int = 0,
    ) -> RunHandle:
        """Start a run in the background, as `run` does; it is recorded when this returns."""
        engine, order = self._order(workflow, inputs, run_id, priority)
        begun = await engine.begin(order, run_id or new_run_id(), is_new=run_id is None, wait=True)
        if isinstance(begun, Active):
            begun.background = True
        return RunHandle(self, self._outcomes, begun.run_id)

    async def resume(self, run_id: str, *, wait: bool = True) -> Run:
        """Go on with a run that is not completed: what failed or was cancelled is tried anew, what completed is kept.

        Args:
            run_id: The run; one that has completed is returned as it was recorded.
            wait: Wait for another executor that owns the run.

        Raises:
            RunNotFoundError: No run has this id.
            UnknownWorkflowError: The executor was not given its workflow.
            WorkflowChangedError: The graph in the code is no longer that of the run.
            RunOwnedError: Another executor owns the run, and ``wait`` is false.
            RunFailedError: The run failed again.
            RunCancelledError: The run was cancelled.
        """
        engine = self._check_open()
        record, _ = await engine.store.read(run_id)
        plan = self._known.plan_of(record.workflow)
        begun = await engine.go_on(run_id, plan, reopen_ended=True, wait=wait)
        return await self._outcomes.of(begun, plan)

    async def go_on(self, run_id: str) -> RunHandle:
        """Go on with a run as `resume` does, in the background; that it goes on is recorded when this returns.

        Raises:
            RunNotFoundError, UnknownWorkflowError, WorkflowChangedError: As for `resume`.
            RunOwnedError: Another executor owns the run.
        """
        engine = self._check_open()
        record, _ = await engine.store.read(run_id)
        begun = await engine.go_on(run_id, self._known.plan_of(record.workflow), reopen_ended=True, wait=False)
        if isinstance(begun, Active):
            begun.background = True
        return RunHandle(self, self._outcomes, run_id)

    async def recover(self) -> list[Run]:
        """Claim and finish every run whose owner is gone, and every run that waits for such a one, and return them.

        Runs under a living lease are left alone. A run that cannot be recovered here, because its workflow is unknown
        or has another graph now, is logged and left as it is.
        """
        engine = self._check_open()
        return await recover(engine, self._known.plans())

    async def submit(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        priority: int = 0,
    ) -> RunHandle:
        """Record a pending run for any process that serves the store; the same id and inputs record it once.

        Args:
            workflow: What to run.
            inputs: The named values that it takes.
            run_id: Id of the run; made up when it is not given.
            priority: Higher is claimed earlier, and its calls start first when slots are short.

        Returns:
            A handle; its ``result`` waits for whoever drives the run.

        Raises:
            WorkflowError, InputError, SerializationError, RunExistsError: As for `run`.
        """
        engine, order = self._order(workflow, inputs, run_id, priority)
        run_id = run_id or new_run_id()
        is_new = await engine.submit(order, run_id)
        self._look_soon()
        return RunHandle(self, self._outcomes, run_id, drives=False, is_new=is_new)

    async def serve(self, *, concurrency: int = 10, poll: float = 1.0) -> None:
        """Claim and drive pending, orphaned, due and signalled runs until this is cancelled.

        Runs of the executor's ``workflows`` are claimed, those of higher priority first, then the oldest. When it is
        cancelled it claims nothing more, lets running nodes end within the executor's ``grace``, and lets go of the
        runs.

        Args:
            concurrency: How many runs are driven at a time.
            poll: Seconds between two looks at the store.

        Raises:
            ValueError: A number is out of its range, or none.
        """
        engine = self._check_open()
        check_serving(concurrency, poll)
        server = Server(engine, self._known.plans, concurrency=concurrency, poll=poll)
        self._servers.add(server)
        try:
            await server.serve()
        finally:
            self._servers.discard(server)

    def _look_soon(self) -> None:
        for server in self._servers:
            server.look_soon()

    def _order(
        self, workflow: Workflow, inputs: Mapping[str, Any] | None, run_id: str | None, priority: int
    ) -> tuple[Engine, Order]:
        """Check everything about a run that can be checked before it is recorded."""
        engine = self._check_open()
        check_priority(priority)
        plan = self._known.add(workflow)
        if run_id is not None:
            check_run_id(run_id, workflow=workflow.name)
        payload = encode_inputs(plan, inputs, resources=engine.resources, codec=engine.codec, run_id=run_id)
        return engine, Order(plan, payload, priority)

    # -- looking ----------------------------------------------------------------------------------

    async def get(self, run_id: str, *, version: int | None = None) -> Run:
        """Return a run as it is now, or as it was at a version.

        Args:
            run_id: The run.
            version: Number of the last event that counts, from 1 to the run's own version; ``None`` for all.

        Raises:
            RunNotFoundError: No run has this id.
            RunStateError: The run has no such version.
        """
        engine = self._check_open()
        record, events = await engine.store.read(run_id)
        if version is not None:
            if type(version) is not int or not 1 <= version <= record.version:
                raise RunStateError(run_id, record.status, f"it has versions 1 to {record.version}, not {version!r}")
            events = events[:version]
        return Run.of(fold(events), engine.codec)

    async def runs(
        self,
        *,
        workflow: str | Workflow | None = None,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[RunSummary]:
        """List runs, newest first.

        Args:
            workflow: Only runs of this workflow.
            status: Only runs of this status, or of any of these; of none for an empty list.
            limit: How many at the most.
            after: Id of the last run of the page before.

        Raises:
            RunNotFoundError: No run has the id ``after``.
            ValueError: There is no such status, or the limit is below 1.
        """
        engine = self._check_open()
        if not whole(limit):
            raise ValueError(f"limit must be a whole number of at least 1, not {limit!r}")
        name = workflow.name if isinstance(workflow, Workflow) else workflow
        statuses = statuses_of(status)
        query = RunQuery(workflow=name, statuses=statuses, after=after, limit=limit)
        found = await engine.store.find(query) if status is None or statuses else []
        return [RunSummary.of(record) for record in found]

    async def explain(self, run_id: str, node: str) -> Explanation:
        """Say why a node is where it is: what it waits for, which condition saw which values, what is due when.

        Limits are known for runs that this executor drives, and that a failure stops a run, for workflows it was given.

        Raises:
            RunNotFoundError: No run has this id.
            RunStateError: The run has no such node.
        """
        engine = self._check_open()
        record, events = await engine.store.read(run_id)
        active, state = engine.active.get(run_id), fold(events)
        limits = active.driver.awaited_limits(node) if active is not None else ()
        workflow = self._known.by_name.get(record.workflow)
        culprit = stopped_by(workflow.compile(), state, node) if workflow is not None else None
        people = assignees_of(events, node)
        return explain(record, state, node, limits=limits, assignees=people, stopped_by=culprit)

    async def history(self, run_id: str, *, after: int = 0) -> list[Event]:
        """Return the events of a run beyond a version.

        Args:
            run_id: The run.
            after: Number of the last event that is known already; 0 for none.

        Raises:
            RunNotFoundError: No run has this id.
            ValueError: The version is below 0.
        """
        engine = self._check_open()
        if after < 0:
            raise ValueError(f"after must be at least 0, not {after!r}")
        _, events = await engine.store.read(run_id, after=after)
        return events

    async def artifacts(self, run_id: str) -> list[ArtifactRef]:
        """List what the completed nodes of a run have written, by node and name; moved outputs are among it.

        Raises:
            RunNotFoundError: No run has this id.
            ExecutorError: The executor has no artifact store.
        """
        engine = self._check_open()
        return await written(engine.store, engine.spilling, run_id)

    # -- asking -----------------------------------------------------------------------------------

    async def signal(self, run_id: str, name: str, value: Any = None) -> None:
        """Send a signal to a run, whoever drives it now or later; it is recorded when this returns.

        Args:
            run_id: The run.
            name: Name of the node that waits for it, or will.
            value: What the node's output is to be.

        Raises:
            RunNotFoundError: No run has this id.
            RunStateError: No node of the run waits for this signal, or the run has ended.
            SerializationError: The value cannot be kept.
        """
        self._check_open()
        await self._requests.signal(run_id, name, value)
        self._look_soon()

    async def decide(
        self, run_id: str, review: str, *, approved: bool, by: str, data: Any = None, comment: str | None = None
    ) -> None:
        """Answer a review; the first answer counts, and it is recorded when this returns.

        Args:
            run_id: The run.
            review: Name of the node.
            approved: The verdict.
            by: Who decides.
            data: What they filled in; has to fit the form of the review when it is approved.
            comment: What they say.

        Raises:
            RunNotFoundError: No run has this id.
            AlreadyDecidedError: Somebody, or the deadline, was first; says who and when.
            UnknownWorkflowError: Its form is a class, and the executor was not given the workflow.
            DecisionError: The run does not wait for it, the person may not decide, or the data does not fit the form.
        """
        engine = self._check_open()
        decision = Decision(review, approved, by, engine.clock.now(), comment, data)
        await self._requests.decide(run_id, decision)
        self._look_soon()

    async def reviews(self, *, assignee: str | None = None, limit: int = 100) -> list[Review]:
        """List the reviews that wait for somebody, those of the newest runs first.

        Args:
            assignee: Only those that this person may decide by name.
            limit: How many at the most.
        """
        self._check_open()
        return await self._requests.reviews(assignee=assignee, limit=limit)

    async def cancel(self, run_id: str) -> None:
        """Ask for a run to be cancelled, whoever drives it; a run that nobody drives is cancelled at once.

        Raises:
            RunNotFoundError: No run has this id.
            RunStateError: The run has completed or failed.
        """
        self._check_open()
        await self._requests.cancel(run_id)

    async def pause(self, run_id: str) -> None:
        """Ask for a run to be paused, whoever drives it: what runs may end, nothing new starts; `resume` goes on.

        Raises:
            RunNotFoundError: No run has this id.
            RunStateError: The run has ended.
        """
        self._check_open()
        await self._requests.pause(run_id)

    async def delete(self, run_id: str) -> None:
        """Forget a run that nobody owns, with its events and messages, and the artifacts that no other run holds.

        The runs that it has started as sub-workflows are forgotten with it.

        Raises:
            RunNotFoundError: No run has this id; artifacts that an interrupted call has left are removed first.
            RunOwnedError: An executor owns it: cancel it first.
        """
        self._check_open()
        await self._requests.delete(run_id)
