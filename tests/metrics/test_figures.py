"""The figures of a collector are those of the journals, on every store, whatever becomes of the runs."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from dagflow import DAGExecutor, EventKind, Node, RetryPolicy, Workflow
from dagflow._instruments import observe_all
from dagflow._metering import Figures
from dagflow._observers import Observers
from dagflow.errors import RunCancelledError, RunFailedError
from dagflow.metrics import MetricsCollector
from dagflow.stores import MemoryStore, PostgresStore
from dagflow.testing import Crash, CrashAfter
from executors import fails, until
from proxy import Cut, Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from dagflow import Event
    from dagflow.protocols import ContextStore, RunQuery, RunRecord

_NODE_ENDS = {
    EventKind.NODE_COMPLETED: "success",
    EventKind.NODE_FAILED: "failure",
    EventKind.NODE_SKIPPED: "skipped",
    EventKind.NODE_BLOCKED: "skipped",
    EventKind.NODE_CANCELLED: "skipped",
}
_RUN_ENDS = {
    EventKind.RUN_COMPLETED: "success",
    EventKind.RUN_FAILED: "failure",
    EventKind.RUN_CANCELLED: "cancelled",
}


@pytest.fixture
def collector() -> MetricsCollector:
    return new_collector()


def new_collector() -> MetricsCollector:
    return MetricsCollector(CollectorRegistry(), interval=0.01)


def value(collector: MetricsCollector, name: str, **labels: str) -> float:
    return collector.registry.get_sample_value(name, labels) or 0.0


def samples(collector: MetricsCollector, name: str, label: str) -> dict[str, float]:
    """Return what the samples of a name come to for each value of a label, without those that are 0."""
    sums: Counter[str] = Counter()
    for family in collector.registry.collect():
        for sample in family.samples:
            if sample.name == name:
                sums[sample.labels[label]] += sample.value  # type: ignore[assignment]
    return {key: count for key, count in sums.items() if count}


def counted(events: list[Event], ends: dict[EventKind, str]) -> dict[str, float]:
    return dict(Counter(ends[event.kind] for event in events if event.kind in ends))


def seconds_of_nodes(events: list[Event]) -> float:
    """Return the seconds from the first start of each node to its own end, counted anew after a resume."""
    starts: dict[tuple[str, str | None], float] = {}
    total = 0.0
    for event in events:
        key = (event.run_id, event.node)
        if event.kind in (EventKind.NODE_STARTED, EventKind.NODE_WAITING, EventKind.MAP_EXPANDED):
            starts.setdefault(key, event.at.timestamp())
        elif event.kind in (EventKind.NODE_COMPLETED, EventKind.NODE_FAILED) and key in starts:
            total += event.at.timestamp() - starts.pop(key)
    return total


async def journals(executor: DAGExecutor) -> list[Event]:
    """Return the events of all runs."""
    return [event for run in await executor.runs() for event in await executor.history(run.run_id)]


def inner() -> Workflow:
    workflow = Workflow("inner", [Node("flaky", fails(times=1), retry=RetryPolicy(max_attempts=2, delay=0.0))])
    workflow.map(over={"x": "xs"}, name="m", phase_name="build", type="item")(lambda x: x)
    return workflow


def outer() -> Workflow:
    workflow = Workflow("outer", [Node("never", lambda: 1, when=lambda: False)])
    workflow.subworkflow("child", inner())
    workflow.add(Node("broken", fails(times=9), depends_on=["child"]))
    workflow.add(Node("blocked", lambda broken: broken))
    return workflow


async def test_the_figures_agree_with_the_journals(collector: MetricsCollector, store: ContextStore) -> None:
    waits = Workflow("waits")
    waits.wait_for_signal("word")
    quick = Workflow("quick", [Node("a", lambda: 1)])
    async with DAGExecutor(store, observers=[collector]) as executor:
        with pytest.raises(RunFailedError):
            await executor.run(outer(), {"xs": [1, 2, 3]}, run_id="o")
        with pytest.raises(RunFailedError):
            await executor.resume("o")
        await executor.run(quick)
        await executor.run(waits, run_id="w")
        await executor.cancel("w")
        events = await journals(executor)

    runs = Counter(event.run_id for event in events if event.kind in _RUN_ENDS)
    assert runs["o"] == 2, "it was resumed and failed again"
    assert samples(collector, "dag_workflow_executions_total", "status") == counted(events, _RUN_ENDS)
    assert samples(collector, "dag_node_executions_total", "status") == counted(events, _NODE_ENDS)
    assert samples(collector, "dag_node_retries_total", "node_type") == {"custom": 1}
    assert samples(collector, "dag_workflow_execution_duration_seconds_count", "workflow_name") == {
        "outer": 2,
        "inner": 1,
        "quick": 1,
        "waits": 1,
    }
    seconds = sum(samples(collector, "dag_node_execution_duration_seconds_sum", "node_type").values())
    assert seconds == pytest.approx(seconds_of_nodes(events), abs=1e-5)


async def test_items_of_maps_count_under_the_type_and_phase_of_their_map(collector: MetricsCollector) -> None:
    async with DAGExecutor("memory://", observers=[collector]) as executor:
        await executor.run(inner(), {"xs": [1, 2, 3]})

    labels = {"node_type": "item", "phase_name": "build", "status": "success"}
    assert value(collector, "dag_node_executions_total", **labels) == 4, "the map and its items"
    assert samples(collector, "dag_node_executions_total", "phase_name") == {"build": 4, "": 1}


async def test_a_waiting_node_that_is_cancelled_counts_under_its_type_and_phase(collector: MetricsCollector) -> None:
    workflow = Workflow("w")
    workflow.wait_for_signal("word", type="gate", phase_name="approval")
    async with DAGExecutor("memory://", observers=[collector]) as executor:
        await executor.run(workflow, run_id="r")
        await executor.cancel("r")

    labels = {"node_type": "gate", "phase_name": "approval", "status": "skipped"}
    assert value(collector, "dag_node_executions_total", **labels) == 1
    assert value(collector, "dag_active_workflows") == 0


@pytest.mark.parametrize("change", ["cancel", "pause"])
async def test_a_submitted_run_that_is_cancelled_or_paused_leaves_the_queue_at_once(change: str) -> None:
    collector = MetricsCollector(CollectorRegistry(), interval=3600.0)
    workflow = Workflow("w", [Node("a", lambda: 1)])
    async with DAGExecutor("memory://", observers=[collector]) as executor:
        await executor.submit(workflow, run_id="one")
        await executor.submit(workflow, run_id="two")
        assert value(collector, "dag_workflow_queue_depth") == 2
        await getattr(executor, change)("one")
        assert value(collector, "dag_workflow_queue_depth") == 1
        await executor.run(workflow)
        assert value(collector, "dag_workflow_queue_depth") == 1
        await executor.run(workflow, run_id="two")
        assert value(collector, "dag_workflow_queue_depth") == 0


class Nobody:
    """Counts how many are at it, and never ends."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        await asyncio.Event().wait()


def held(nobody: Nobody) -> Workflow:
    return Workflow("held", [Node("one", nobody.__call__), Node("two", nobody.__call__)])


def is_idle(collector: MetricsCollector) -> bool:
    return value(collector, "dag_active_workflows") == value(collector, "dag_active_nodes") == 0


async def test_nothing_is_active_after_a_cancellation(collector: MetricsCollector, store: ContextStore) -> None:
    nobody = Nobody()
    async with DAGExecutor(store, observers=[collector]) as executor:
        handle = await executor.start(held(nobody))
        await until(lambda: nobody.calls == 2)
        assert value(collector, "dag_active_nodes") == 2
        await executor.cancel(handle.run_id)
        with pytest.raises(RunCancelledError):
            await handle.result()

        assert is_idle(collector)
    assert value(collector, "dag_workflow_executions_total", workflow_name="held", status="cancelled") == 1


async def test_nothing_is_active_after_the_executor_was_closed(collector: MetricsCollector) -> None:
    nobody = Nobody()
    async with DAGExecutor("memory://", observers=[collector], grace=0) as executor:
        await executor.start(held(nobody))
        await until(lambda: nobody.calls == 2)

    assert is_idle(collector)
    assert samples(collector, "dag_workflow_executions_total", "status") == {}, "it can be resumed"


@pytest.mark.parametrize("writes", range(1, 7))
async def test_nothing_is_active_after_the_store_has_failed(collector: MetricsCollector, writes: int) -> None:
    async with DAGExecutor(CrashAfter(MemoryStore(), writes), observers=[collector], grace=0) as executor:
        with pytest.raises(Crash):
            await executor.run(outer(), {"xs": [1]})

    assert is_idle(collector)


async def test_collectors_and_executors_do_not_clash(collector: MetricsCollector, store: ContextStore) -> None:
    other, workflow = new_collector(), Workflow("w", [Node("a", lambda: 1)])
    async with (
        DAGExecutor(store, observers=[collector, other]) as first,
        DAGExecutor(store, observers=[collector]) as second,
    ):
        await asyncio.gather(first.run(workflow), first.run(workflow), second.run(workflow))

    success = {"workflow_name": "w", "status": "success"}
    assert value(collector, "dag_workflow_executions_total", **success) == 3
    assert value(other, "dag_workflow_executions_total", **success) == 2
    assert is_idle(collector)
    assert is_idle(other)


def test_the_greatest_age_of_several_stores_is_shown_and_the_sum_of_their_queues(collector: MetricsCollector) -> None:
    for executor, age in (("one", 5.0), ("two", 7.0)):
        collector.look(executor, Figures(source=executor, review_s=age, pending=3))

    assert value(collector, "dag_oldest_review_age_seconds") == 7
    assert value(collector, "dag_workflow_queue_depth") == 6


def test_of_two_looks_at_one_store_the_newer_one_counts(collector: MetricsCollector) -> None:
    for executor, pending in (("one", 1), ("two", 2), ("one", 3)):
        collector.look(executor, Figures(source="store", pending=pending))

    assert value(collector, "dag_workflow_queue_depth") == 3


async def test_times_that_a_store_tries_again_are_counted(collector: MetricsCollector, postgres_dsn: str) -> None:
    async with (
        Proxy(postgres_dsn) as proxy,
        DAGExecutor(PostgresStore(proxy.dsn, patience=20.0), observers=[collector]) as executor,
    ):
        proxy.cut_once(Cut.BEFORE, 1)
        await executor.run(Workflow("w", [Node("a", lambda: 1), Node("b", lambda a: a)]))

    assert proxy.cuts == 1
    assert value(collector, "dag_context_store_retries_total") >= 1


async def test_dropped_events_are_counted_however_short_the_executor_lived(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = MetricsCollector(CollectorRegistry(), interval=3600.0)
    monkeypatch.setattr("dagflow.executor.Observers", functools.partial(Observers, capacity=1))
    told: list[Event] = []
    async with DAGExecutor("memory://", observers=[collector, told.append]) as executor:
        run = await executor.run(Workflow("w", [Node("a", lambda: 1)]))

    assert 0 < len(told) < run.version
    assert value(collector, "dag_observer_events_dropped_total") == run.version - len(told)


async def test_a_collector_keeps_nothing_of_executors_that_are_closed(collector: MetricsCollector) -> None:
    for _ in range(3):
        async with DAGExecutor("memory://", observers=[collector, lambda _: None]) as executor:
            await executor.run(Workflow("w", [Node("a", lambda: 1)]))

    assert not collector._boards
    assert not collector._last
    assert not collector._following


def test_a_blocking_executor_moves_the_metrics_too(collector: MetricsCollector, tmp_path: Path) -> None:
    with DAGExecutor(f"sqlite:///{tmp_path}/runs.db", observers=[collector]) as executor:
        executor.run(Workflow("w", [Node("a", lambda: 1)]))
        assert value(collector, "dag_database_connections") == 2

    assert value(collector, "dag_workflow_executions_total", workflow_name="w", status="success") == 1


@given(values=st.lists(st.floats(0, 100_000), min_size=1))
def test_many_values_at_a_time_are_observed_as_one_by_one(values: list[float]) -> None:
    registry = CollectorRegistry()
    together, apart = (Histogram(name, "", registry=registry) for name in ("together", "apart"))

    observe_all(together, values)
    for one in values:
        apart.observe(one)

    [first], [second] = together.collect(), apart.collect()
    for mine, theirs in zip(first.samples, second.samples, strict=True):
        assert mine.labels == theirs.labels
        if not mine.name.endswith("_created"):
            assert mine.value == pytest.approx(theirs.value)


async def test_opening_that_is_cut_off_while_the_collector_looks_leaves_nothing_open(
    collector: MetricsCollector,
) -> None:
    class Slow(MemoryStore):
        """A store that is asked for what waits in it, and does not answer."""

        def __init__(self) -> None:
            super().__init__()
            self.asked, self.users = asyncio.Event(), 0

        async def open(self) -> None:
            self.users += 1
            await super().open()

        async def close(self) -> None:
            self.users -= 1
            await super().close()

        async def find(self, query: RunQuery) -> list[RunRecord]:
            self.asked.set()
            await asyncio.Event().wait()
            return await super().find(query)

    store, tasks = Slow(), asyncio.all_tasks()
    opening = asyncio.create_task(DAGExecutor(store, observers=[collector]).__aenter__())
    await store.asked.wait()

    opening.cancel()
    await asyncio.wait([opening])

    assert (store.users, asyncio.all_tasks() - tasks) == (0, set())
