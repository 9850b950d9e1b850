"""Laws of runs, for workflows of every shape: a crash at any commit changes nothing about how a run ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import given, note, settings
from hypothesis import strategies as st

from dagflow import DAGExecutor
from dagflow._events import EventKind
from dagflow._state import RunState, apply, fold
from dagflow.errors import RunFailedError
from dagflow.stores import MemoryStore
from dagflow.testing import Crash, CrashAfter, FakeClock, workflows
from pure_run import snapshot

if TYPE_CHECKING:
    from dagflow import Event, NodeContext, NodeRun, Run, Workflow
    from dagflow.protocols import ContextStore

ENDED = {"completed", "failed", "skipped", "blocked", "cancelled"}
LEASE = 30.0


@attrs.define
class World:
    """A store, a clock, and what the nodes themselves say about their calls."""

    workflow: Workflow
    max_concurrency: int | None = None
    clock: FakeClock = attrs.field(factory=lambda: FakeClock(auto=True))
    store: MemoryStore = attrs.field(init=False)
    calls: list[tuple[str, int, int]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.store = MemoryStore(clock=self.clock)
        for node in self.workflow.nodes:
            note(repr(node))

    async def run(self, store: ContextStore | None = None) -> Run:
        """Run the workflow in one "process", and return it however it ended."""
        options: dict[str, Any] = {
            "clock": self.clock,
            "lease": LEASE,
            "limits": {"slot": 1},
            "max_concurrency": self.max_concurrency,
            "resources": {"log": self.log},
        }
        async with DAGExecutor(store or self.store, **options) as executor:
            try:
                return await asyncio.wait_for(executor.run(self.workflow, run_id="r"), 20)
            except RunFailedError as exc:
                return exc.run

    async def crash(self, writes: int, *, acknowledged: bool) -> Run | None:
        """Run the workflow in a "process" that dies after some writes; ``None`` when it did."""
        try:
            return await self.run(CrashAfter(self.store, writes, acknowledged=acknowledged))
        except Crash:
            self.clock.advance(LEASE + 1)
            return None

    def log(self, context: NodeContext) -> None:
        self.calls.append((context.node, context.attempt, self.version))

    @property
    def version(self) -> int:
        row = self.store._rows.get("r")
        return 0 if row is None else row.version

    @property
    def journal(self) -> list[Event]:
        return list(self.store._rows["r"].events)


def node_facts(node: NodeRun) -> tuple[Any, ...]:
    """What of a node must not depend on crashes."""
    error = (node.error.type, node.error.message) if node.error else None
    return node.status.value, node.output if node.error is None else None, error, node.attempts, node.reason


def check_end(run: Run, workflow: Workflow) -> None:
    """Every node has come to an end with a reason, unless the run drained."""
    drained = run.status == "failed" and workflow.on_failure == "drain"
    for node in run.nodes.values():
        assert node.status in ENDED or (drained and node.status == "pending") or "[" in node.name, node
        assert (node.status == "failed") == (node.error is not None), node
        assert (node.reason is not None) == (node.status in ("skipped", "blocked")), node
    fatal = {node.name for node in workflow.nodes if not node.allow_failure and run.nodes[node.name].status == "failed"}
    assert (run.status == "failed") == bool(fatal)


def check_journal(journal: list[Event]) -> None:
    """The journal folds at each version, and the fold does not depend on where it began."""
    assert [event.version for event in journal] == list(range(1, len(journal) + 1))
    state = RunState.created(journal[0])
    for event in journal[1:]:
        apply(state, event)
        assert state.version == event.version
    middle = len(journal) // 2
    assert snapshot(fold(journal)) == snapshot(state)
    assert fold(journal[: middle + 1]).version == middle + 1


def check_order(journal: list[Event], workflow: Workflow) -> None:
    """Nothing starts before what it depends on has ended, unless it cleans up; and nothing starts twice at a time."""
    ended: set[str] = set()
    running: set[str] = set()
    joins = {node.name: node.join for node in workflow.nodes}
    graph = workflow.graph
    for event in journal:
        name = event.node or ""
        owner = name.partition("[")[0]
        if event.kind is EventKind.NODE_STARTED:
            assert name not in running
            running.add(name)
            if joins[owner] != "all_done":
                assert ended.issuperset(graph.predecessors(owner))
        elif event.kind in (EventKind.NODE_RETRY, EventKind.NODE_INTERRUPTED):
            running.discard(name)
        elif event.kind in (EventKind.NODE_COMPLETED, EventKind.NODE_FAILED, EventKind.NODE_SKIPPED):
            running.discard(name)
            ended.add(name)
        elif event.kind is EventKind.NODE_BLOCKED:
            ended.add(name)


def check_calls(world: World) -> None:
    """No call began after its completion was recorded, and none more often than attempts and crashes explain."""
    recorded = {
        event.node: event.version
        for event in world.journal
        if event.kind in (EventKind.NODE_COMPLETED, EventKind.NODE_FAILED)
    }
    for node, _, version in world.calls:
        assert version < recorded.get(node, version + 1), f"{node} was called after its end was recorded"
    interrupted = Counter(event.node for event in world.journal if event.kind is EventKind.NODE_INTERRUPTED)
    for node, calls in Counter(node for node, _, _ in world.calls).items():
        starts = sum(1 for e in world.journal if e.kind is EventKind.NODE_STARTED and e.node == node)
        assert calls <= starts
        retry = next(n.retry for n in world.workflow.nodes if n.name == node.partition("[")[0])
        assert starts <= retry.max_attempts + interrupted[node]


def compare(run: Run, undisturbed: Run, workflow: Workflow) -> None:
    """A run that was disturbed ends like one that was not."""
    assert run.status == undisturbed.status
    if run.status == "failed" and workflow.on_failure == "drain":
        # What had started when the first failure came depends on who was quicker.
        return
    # The same goes for the items of a map that stopped with its first failure.
    stopped = {
        node.name
        for node in workflow.nodes
        if node.map is not None and workflow.on_failure == "drain" and run.nodes[node.name].status == "failed"
    }
    assert facts_without(run, stopped) == facts_without(undisturbed, stopped)
    assert {name: run.nodes[name].status for name in stopped} == {
        name: undisturbed.nodes[name].status for name in stopped
    }


def facts_without(run: Run, maps: set[str]) -> dict[str, tuple[Any, ...]]:
    nodes = run.nodes.items()
    return {name: node_facts(node) for name, node in nodes if name.partition("[")[0] not in maps}


GENERATED = workflows(uses=("slot",))
CONCURRENCY = st.none() | st.integers(1, 3)


@given(workflow=GENERATED, most=CONCURRENCY)
@settings(max_examples=60, deadline=None)
async def test_a_run_ends_and_every_node_says_why(workflow: Workflow, most: int | None) -> None:
    world = World(workflow, most)

    run = await world.run()

    check_end(run, workflow)
    check_journal(world.journal)
    check_order(world.journal, workflow)
    check_calls(world)


@given(workflow=GENERATED, most=CONCURRENCY)
@settings(max_examples=30, deadline=None)
async def test_how_many_calls_run_at_a_time_does_not_change_the_result(workflow: Workflow, most: int | None) -> None:
    compare(await World(workflow, most).run(), await World(workflow, 1).run(), workflow)


@given(workflow=GENERATED, crashes=st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
async def test_crashes_do_not_change_the_result(workflow: Workflow, crashes: list[tuple[int, bool]]) -> None:
    undisturbed = await World(workflow).run()
    world = World(workflow)
    run: Run | None = None
    for writes, acknowledged in crashes:
        run = await world.crash(writes, acknowledged=acknowledged)
        if run is not None:
            break

    run = run or await world.run()

    compare(run, undisturbed, workflow)
    check_end(run, workflow)
    check_journal(world.journal)
    check_order(world.journal, workflow)
    check_calls(world)


@given(workflow=GENERATED, data=st.data())
@settings(max_examples=30, deadline=None)
async def test_a_crash_at_each_commit_in_turn_does_not_change_the_result(
    workflow: Workflow, data: st.DataObject
) -> None:
    undisturbed = await World(workflow).run()
    acknowledged = data.draw(st.booleans())
    for writes in range(200):
        world = World(workflow)
        if await world.crash(writes, acknowledged=acknowledged) is not None:
            break

        run = await world.run()

        compare(run, undisturbed, workflow)
        check_calls(world)
    else:
        raise AssertionError("it never ends")


@given(workflow=GENERATED)
@settings(max_examples=30, deadline=None)
async def test_a_failed_run_that_is_resumed_keeps_what_completed(workflow: Workflow) -> None:
    world = World(workflow)
    first = await world.run()
    if first.status != "failed":
        return
    before = len(world.journal)
    async with DAGExecutor(
        world.store, workflows=[workflow], clock=world.clock, limits={"slot": 1}, resources={"log": world.log}
    ) as executor:
        try:
            again = await asyncio.wait_for(executor.resume("r"), 20)
        except RunFailedError as exc:
            again = exc.run

    check_end(again, workflow)
    check_journal(world.journal)
    for name, node in first.nodes.items():
        if node.status == "completed":
            assert again.nodes[name].output == node.output
    restarted = {event.node for event in world.journal[before:] if event.kind is EventKind.NODE_STARTED}
    completed = {name for name, node in first.nodes.items() if node.status == "completed"}
    assert not restarted & completed
