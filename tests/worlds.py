"""A world for generated workflows: one store, one clock, and processes that come and go.

Each process is an executor of its own. It may die after any write, and be disturbed while it lives: by answers to what
waits, by a pause, by a cancellation, by its own end. `World.settle` brings the run to its end in peace.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import HealthCheck, Phase, note, settings

from dagflow import DAGExecutor
from dagflow._events import EventKind, NodeStatus
from dagflow._node import ItemError
from dagflow._state import RunState, apply, fold
from dagflow.errors import (
    AlreadyDecidedError,
    DecisionError,
    ExecutorError,
    LeaseLostError,
    RunCancelledError,
    RunFailedError,
    RunNotFoundError,
    RunStateError,
)
from dagflow.stores import MemoryStore
from dagflow.testing import Crash, CrashAfter, FakeClock
from dagflow.testing.strategies import answer
from pure_run import snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dagflow import Event, Explanation, Node, NodeContext, Run, Workflow
    from dagflow._state import NodeState
    from dagflow.protocols import ContextStore

__all__ = ["LEASE", "QUICKLY", "Disturbance", "Life", "World", "compare", "tell"]

LEASE = 30.0
QUICKLY = settings(
    deadline=None,
    phases=[phase for phase in Phase if phase is not Phase.explain],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
PATIENCE = 20.0
"""Real seconds after which a run that should have come to rest hangs."""
ENDED = {"completed", "failed", "skipped", "blocked", "cancelled"}
_TOO_LATE = (AlreadyDecidedError, DecisionError, RunNotFoundError, RunStateError, ExecutorError, LeaseLostError, Crash)


@attrs.frozen
class Disturbance:
    """What happens to a process.

    Attributes:
        turns: How many turns of the loop go by before.
        what: ``answer``, ``explain``, ``pause``, ``cancel`` or ``close``.
        elsewhere: Whether another process does it, beside the one that drives the run.
    """

    turns: int
    what: str
    elsewhere: bool = False


@attrs.frozen
class Life:
    """The life of one process.

    Attributes:
        writes: After how many writes it dies; ``None`` for never.
        acknowledged: Whether it hears of the last of them.
        disturbances: What happens to it, in order.
    """

    writes: int | None = None
    acknowledged: bool = True
    disturbances: tuple[Disturbance, ...] = ()


@attrs.define
class World:
    """Where a workflow is run.

    Attributes:
        workflow: What is run, as ``r``.
        slots: How many calls at a time may use the limit ``slot``.
        max_concurrency: How many calls run at a time.
        calls: The calls of functions: run, node, attempt, and the version of the run then.
    """

    workflow: Workflow
    slots: int = 1
    max_concurrency: int | None = None
    clock: FakeClock = attrs.field(factory=lambda: FakeClock(auto=True))
    store: MemoryStore = attrs.field(init=False)
    calls: list[tuple[str, str, int, int]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.store = MemoryStore(clock=self.clock)

    # -- processes --------------------------------------------------------------------------------

    def process(self, store: ContextStore | None = None) -> DAGExecutor:
        """Return the executor of a new process."""
        return DAGExecutor(
            store or self.store,
            workflows=[self.workflow],
            clock=self.clock,
            lease=LEASE,
            grace=1.0,
            limits={"slot": self.slots},
            max_concurrency=self.max_concurrency,
            resources={"log": self._log},
        )

    async def live(self, life: Life) -> Run | None:
        """Let a process live, and return what the run came to in it; ``None`` when it did not come to rest."""
        store = (
            self.store if life.writes is None else CrashAfter(self.store, life.writes, acknowledged=life.acknowledged)
        )
        asked: asyncio.Task[Run] | None = None
        with suppress(Crash):
            async with self.process(store) as executor:
                asked = asyncio.ensure_future(self._asked(executor))
                for disturbance in life.disturbances:
                    for _ in range(disturbance.turns):
                        await asyncio.sleep(0)
                    if disturbance.what == "close":
                        break
                    await self._disturb(executor, disturbance)
                else:
                    await asyncio.wait([asked], timeout=PATIENCE)
                    assert asked.done(), f"it hangs: {await self.plight(executor)}"
        if asked is None:
            return None
        await asyncio.wait([asked], timeout=PATIENCE)
        if life.writes is not None:
            self.clock.advance(LEASE + 1)
        return self._result(asked)

    async def _asked(self, executor: DAGExecutor) -> Run:
        try:
            row = self.store._rows.get("r")
            if row is not None and row.status == "cancelled":
                return await executor.resume("r")
            return await executor.run(self.workflow, run_id="r")
        except (RunFailedError, RunCancelledError) as exc:
            return exc.run

    def _result(self, asked: asyncio.Task[Run]) -> Run | None:
        # Closing ends the wait for a run as a crash does.
        with suppress(Crash, ExecutorError):
            return asked.result()
        return None

    async def _disturb(self, executor: DAGExecutor, disturbance: Disturbance) -> None:
        if disturbance.elsewhere:
            async with self.process() as other:
                await self._do(other, disturbance.what)
        else:
            await self._do(executor, disturbance.what)

    async def _do(self, executor: DAGExecutor, what: str) -> None:
        with suppress(*_TOO_LATE):
            if what == "answer":
                await self.answer(executor)
            elif what == "explain":
                await self.explain(executor)
            elif what == "pause":
                await executor.pause("r")
            else:
                await executor.cancel("r")

    async def settle(self) -> Run:
        """Bring the run to its end in peace: answer what waits, let time pass, go on."""
        for _ in range(100):
            run = await self.live(Life())
            assert run is not None
            async with self.process() as executor:
                await self.check_explained(executor)
                if run.status in ("completed", "failed"):
                    return run
                if run.status == "waiting" and not await self.answer(executor):
                    self.tick()
        raise AssertionError("it never ends")

    async def answer(self, executor: DAGExecutor) -> int:
        """Answer whatever waits for an answer, and return how many did."""
        count = 0
        for state in self.states():
            for node in state.by_name.values():
                if node.status != "waiting" or node.due_at is not None or node.waits_for not in ("signal", "review"):
                    continue
                count += 1
                value = answer(state.run_id, node.name)
                with suppress(*_TOO_LATE):
                    if node.waits_for == "signal":
                        await executor.signal(state.run_id, node.name, value)
                    else:
                        await executor.decide(state.run_id, node.name, approved=value % 2 == 1, by="somebody")
        return count

    def tick(self) -> None:
        """Let the time come that the first node waits for, or else that in which the lease of a dead owner lapses."""
        due = [node.due_at for state in self.states() for node in state.by_name.values() if node.due_at is not None]
        self.clock.advance(max(0.0, (min(due) - self.clock.now()).total_seconds()) if due else LEASE + 1)

    def _log(self, context: NodeContext) -> None:
        row = self.store._rows[context.run_id]
        self.calls.append((context.run_id, context.node, context.attempt, row.version))

    # -- what is so -------------------------------------------------------------------------------

    def journals(self) -> dict[str, list[Event]]:
        """Return the journals of all runs, by run id."""
        return {run_id: list(row.events) for run_id, row in self.store._rows.items()}

    def states(self) -> list[RunState]:
        """Return all runs."""
        return [fold(journal) for journal in self.journals().values()]

    def definitions(self) -> dict[str, dict[str, Node]]:
        """Return the nodes by name, of each workflow by its name."""
        found: dict[str, dict[str, Node]] = {}
        for workflow in _nested(self.workflow):
            found[workflow.name] = {node.name: node for node in workflow.nodes}
        return found

    def workflow_of(self, run_id: str) -> str:
        """Return the name of the workflow of a run."""
        return self.store._rows[run_id].created.workflow

    def definition(self, state: RunState, name: str) -> Node:
        """Return the definition of a node, or of the map that an item belongs to."""
        return self.definitions()[state.workflow][name.partition("[")[0]]

    async def explain(self, executor: DAGExecutor) -> list[tuple[RunState, NodeState, Explanation]]:
        """Explain every node of every run."""
        return [
            (state, node, await executor.explain(state.run_id, node.name))
            for state in self.states()
            for node in state.by_name.values()
        ]

    async def plight(self, executor: DAGExecutor) -> str:
        """Say where every node is."""
        return "\n".join(explanation.sentence for _, _, explanation in await self.explain(executor))

    # -- laws -------------------------------------------------------------------------------------

    async def check_explained(self, executor: DAGExecutor) -> None:
        """Each node of a run that nobody drives tells truly why it is where it is."""
        for state, node, explanation in await self.explain(executor):
            _check_explanation(state, node, explanation)

    def check(self) -> None:
        """All journals obey the laws, and so do the calls."""
        for journal in self.journals().values():
            check_journal(journal)
            state = fold(journal)
            self._check_order(journal, state)
            self._check_end(state)
        self._check_calls()

    def _check_order(self, journal: list[Event], state: RunState) -> None:
        """Nothing starts before what it depends on has ended, unless it cleans up, and nothing starts twice."""
        ended: dict[str, EventKind] = {}
        running: set[str] = set()
        predecessors = dict(zip(state.shape.names, state.shape.predecessors, strict=True))
        for event in journal:
            name = event.node or ""
            owner = name.partition("[")[0]
            if event.kind is EventKind.NODE_STARTED:
                assert name not in running, f"{name} was started twice"
                if name != owner or state.by_name[name].items is None:
                    running.add(name)
                if self.definition(state, name).join != "all_done":
                    assert ended.keys() >= {state.shape.names[index] for index in predecessors[owner]}
            elif event.kind in (EventKind.NODE_RETRY, EventKind.NODE_INTERRUPTED, EventKind.NODE_WAITING):
                running.discard(name)
            elif event.kind in _ENDS:
                running.discard(name)
                ended[name] = event.kind
            elif event.kind is EventKind.RUN_RESUMED and (event.data or {})["reopened"]:
                ended = {node: kind for node, kind in ended.items() if kind in _KEPT}

    def _check_end(self, state: RunState) -> None:
        """Every node has come to an end with a reason, unless the run drained."""
        if not state.status.is_terminal or state.status == "cancelled":
            return
        nodes = state.by_name.values()
        workflow = next(w for w in _nested(self.workflow) if w.name == state.workflow)
        drained = state.status == "failed" and workflow.on_failure == "drain"
        for node in nodes:
            is_left = node.status == "pending" and (drained or node.map is not None)
            assert node.status in ENDED or is_left, node.name
            assert (node.status == "failed") == (node.error is not None and node.status in ENDED), node.name
            assert (node.reason is not None) == (node.status in ("skipped", "blocked", "cancelled")), node.name
        definitions = self.definitions()[state.workflow]
        fatal = [n.name for n in state.nodes if n.status == "failed" and not definitions[n.name].allow_failure]
        assert (state.status == "failed") == bool(fatal)

    def _check_calls(self) -> None:
        """No call began after its completion was recorded, and none more often than attempts and crashes explain."""
        journals = self.journals()
        for run_id, node, _, version in self.calls:
            recorded = _last(journals[run_id], node, EventKind.NODE_COMPLETED)
            assert version < recorded, f"{node} of {run_id} was called after its end was recorded"
        for (run_id, node), calls in Counter((run_id, node) for run_id, node, _, _ in self.calls).items():
            started = sum(e.kind is EventKind.NODE_STARTED and e.node == node for e in journals[run_id])
            assert calls <= started, f"{node} of {run_id} was called {calls} times and started {started} times"


_ENDS = {
    EventKind.NODE_COMPLETED,
    EventKind.NODE_FAILED,
    EventKind.NODE_SKIPPED,
    EventKind.NODE_BLOCKED,
    EventKind.NODE_CANCELLED,
}


_KEPT = {EventKind.NODE_COMPLETED, EventKind.NODE_SKIPPED}
"""The ends that stand when a run is opened again."""


def _nested(workflow: Workflow) -> Iterator[Workflow]:
    yield workflow
    for node in workflow.nodes:
        if node.child is not None:
            yield from _nested(node.child.workflow)


def _last(journal: Iterable[Event], node: str, kind: EventKind) -> int:
    return max((event.version for event in journal if event.node == node and event.kind is kind), default=1_000_000)


def check_journal(journal: list[Event]) -> None:
    """The journal folds at each version, no move is illegal, and the owners follow each other."""
    assert [event.version for event in journal] == list(range(1, len(journal) + 1))
    state = RunState.created(journal[0])
    epochs = []
    completed: set[str] = set()
    for event in journal[1:]:
        apply(state, event)
        if event.kind in (EventKind.RUN_STARTED, EventKind.RUN_RESUMED):
            epochs.append((event.data or {})["epoch"])
        if event.kind is EventKind.NODE_COMPLETED:
            assert event.node not in completed, f"{event.node} completed twice"
            completed.add(event.node or "")
    assert epochs == sorted(set(epochs))
    assert snapshot(fold(journal)) == snapshot(state)


def _check_explanation(state: RunState, node: NodeState, explanation: Explanation) -> None:
    text = explanation.sentence
    assert explanation.status == node.status
    assert text.startswith(f"node {node.name!r} "), text
    if node.status is NodeStatus.FAILED:
        assert explanation.error is not None, text
        assert str(explanation.error) in text
    elif node.status is NodeStatus.WAITING:
        assert explanation.waits_for, text
        assert explanation.due_at is not None or explanation.waits_for in ("signal", "review", "run"), text
    elif node.status in (NodeStatus.SKIPPED, NodeStatus.BLOCKED):
        assert explanation.reason is not None, text
        assert explanation.reason["reason"] in ("condition", "dependencies"), text
    elif node.status is NodeStatus.CANCELLED:
        assert explanation.reason == {"reason": "run"}, text
    elif node.status is NodeStatus.PENDING and state.status == "waiting":
        # Or it is an item of a map that has failed, while something else waits.
        is_over = "nothing new starts" in text or "ended before it was started" in text
        assert explanation.missing or is_over, f"stuck: {text}"


# -- comparing ------------------------------------------------------------------------------------


def compare(world: World, undisturbed: World) -> None:
    """Runs that were disturbed ended like those that were not."""
    ours, theirs = _results(world), _results(undisturbed)
    assert ours["r"].status == theirs["r"].status
    if any(workflow.on_failure == "drain" for workflow in _nested(world.workflow)) and _failed(ours, theirs):
        # What had started when the first failure came depends on who was quicker.
        return
    assert ours.keys() == theirs.keys()
    for run_id, run in theirs.items():
        assert ours[run_id].status == run.status, run_id
        assert _facts(ours[run_id]) == _facts(run), run_id


def _failed(*worlds: dict[str, Run]) -> bool:
    return any(node.status == "failed" for runs in worlds for run in runs.values() for node in run.nodes.values())


def _results(world: World) -> dict[str, Run]:
    from dagflow._run import Run  # noqa: PLC0415
    from dagflow.serialization import JsonCodec  # noqa: PLC0415

    return {state.run_id: Run.of(state, JsonCodec()) for state in world.states()}


def _facts(run: Run) -> dict[str, Any]:
    return {
        name: (
            node.status.value,
            plain(node.output) if node.status == "completed" else None,
            _told(node.error.type, node.error.message) if node.error and node.status == "failed" else None,
            node.attempts,
            plain_reason(node.reason),
        )
        for name, node in run.nodes.items()
    }


def _told(kind: str, text: str) -> str:
    # Other errors tell of several nodes, in the order in which they failed.
    return text if kind == "ValueError" else kind


def plain(value: Any) -> Any:
    """Return what of a value must not depend on what happened to the run."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key != "at"}
    return (value.key, _told(value.type, value.message)) if isinstance(value, ItemError) else value


def plain_reason(reason: Any) -> Any:
    """Return a reason without the values that a condition saw."""
    return {key: sorted(value) if key == "values" else value for key, value in reason.items()} if reason else None


def tell(whole: Workflow) -> None:
    """Note what is run, should it go wrong."""
    for workflow in _nested(whole):
        note(f"{workflow!r} {workflow.on_failure}")
        for node in workflow.nodes:
            facts = {
                field.name: getattr(node, field.name)
                for field in attrs.fields(type(node))
                if getattr(node, field.name) not in (None, (), {}, field.default)
            }
            note(f"  {facts}")
