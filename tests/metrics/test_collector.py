"""The collector among the observers of an executor: every figure agrees with the journal."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as OtherCounter
from prometheus_client.parser import text_string_to_metric_families

from dagflow import DAGExecutor, EventKind, Node, NodeContext, NodeType, RetryPolicy, Workflow
from dagflow._instruments import METRICS
from dagflow.errors import RunCancelledError, RunFailedError, StoreUnavailableError
from dagflow.metrics import MetricsCollector
from dagflow.stores import MemoryStore, SQLiteStore
from dagflow.testing import Crash, CrashAfter, FakeClock
from executors import fails

if TYPE_CHECKING:
    from pathlib import Path

    from dagflow import Event
    from dagflow._events import Claim

_ENDS = {
    EventKind.NODE_COMPLETED: "success",
    EventKind.NODE_FAILED: "failure",
    EventKind.NODE_SKIPPED: "skipped",
    EventKind.NODE_BLOCKED: "skipped",
    EventKind.NODE_CANCELLED: "skipped",
}


@pytest.fixture
def collector() -> MetricsCollector:
    return MetricsCollector(CollectorRegistry(), interval=0.02)


def value(collector: MetricsCollector, name: str, **labels: str) -> float:
    found = collector.registry.get_sample_value(name, labels)
    return 0.0 if found is None else found


def total(collector: MetricsCollector, name: str, **labels: str) -> float:
    """Sum all samples of a name that have these labels."""
    samples = [s for family in collector.registry.collect() for s in family.samples if s.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


def eventful() -> Workflow:
    workflow = Workflow("eventful")
    workflow.add(Node("flaky", fails(times=2), retry=RetryPolicy(max_attempts=3, delay=0.0), phase_name="design"))
    workflow.map(over={"x": "xs"}, name="m")(lambda x: x)
    workflow.add(Node("skipped", lambda: 1, when=lambda: False))
    workflow.add(Node("broken", fails(times=9), allow_failure=True, depends_on=["m"]))
    workflow.add(Node("blocked", lambda broken: broken, type=NodeType.PHASE, phase_name="review"))
    return workflow


async def settled(check: Any) -> None:
    """Return when a look of the executor has shown what is expected; the limit of the test ends a wait in vain."""
    while not check():  # noqa: ASYNC110 - a look comes when it comes
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/runs.db"])
async def test_the_counters_agree_with_the_journal(collector: MetricsCollector, url: str, tmp_path: Path) -> None:
    async with DAGExecutor(url.format(tmp_path), observers=[collector]) as executor:
        run = await executor.run(eventful(), {"xs": [1, 2, 3]}, run_id="r")
        events = await executor.history("r")

    ends = Counter(_ENDS[event.kind] for event in events if event.kind in _ENDS)
    assert sum(ends.values()) == len(run.nodes)
    assert {s: total(collector, "dag_node_executions_total", status=s) for s in ends} == ends
    assert total(collector, "dag_node_retries_total") == sum(e.kind == "node_retry" for e in events) == 2
    assert value(collector, "dag_node_retries_total", node_type="custom", phase_name="design") == 2
    assert value(collector, "dag_workflow_executions_total", workflow_name="eventful", status="success") == 1
    spent = sum(node.duration or 0.0 for node in run.nodes.values() if node.started_at)
    assert total(collector, "dag_node_execution_duration_seconds_sum") == pytest.approx(spent)
    assert value(collector, "dag_active_nodes") == value(collector, "dag_active_workflows") == 0


async def test_gauges_move_while_a_run_is_under_way(collector: MetricsCollector, tmp_path: Path) -> None:
    seen: dict[str, float] = {}
    names = ("dag_active_workflows", "dag_active_nodes", "dag_database_connections", "dag_database_pool_size")
    workflow = Workflow("w")

    @workflow.node
    async def look() -> None:
        seen.update({name: value(collector, name) for name in names})

    async with DAGExecutor(SQLiteStore(tmp_path / "runs.db"), observers=[collector]) as executor:
        await executor.run(workflow)

    assert seen == dict(zip(names, (1, 1, 2, 2), strict=True))
    assert value(collector, "dag_database_connections") == 0


async def test_resources_and_the_store_are_measured(collector: MetricsCollector, tmp_path: Path) -> None:
    async with DAGExecutor(f"sqlite:///{tmp_path}/runs.db", observers=[collector]) as executor:
        await executor.run(Workflow("w", [Node("a", lambda: 1)]), run_id="r")
        with pytest.raises(LookupError):
            await executor.get("another")

        assert value(collector, "dag_memory_usage_bytes") > 1_000_000
        assert value(collector, "dag_cpu_usage_percent") > 0
        assert value(collector, "dag_journal_size_bytes") > 0
    assert value(collector, "dag_context_store_operations_total", operation="create", status="success") == 1
    assert value(collector, "dag_context_store_operations_total", operation="read", status="success") == 1
    assert value(collector, "dag_database_query_duration_seconds_count", query_type="create") == 1


async def test_a_store_that_fails_is_counted(collector: MetricsCollector) -> None:
    class Broken(MemoryStore):
        async def find(self, query: Any) -> Any:
            raise StoreUnavailableError("gone", "memory")

    async with DAGExecutor(Broken(), observers=[collector]) as executor:
        with pytest.raises(StoreUnavailableError):
            await executor.runs()

    assert value(collector, "dag_context_store_operations_total", operation="find", status="failure") == 1


async def test_the_depth_of_the_queue_is_that_of_pending_runs(collector: MetricsCollector) -> None:
    workflow = Workflow("w", [Node("a", lambda: 1)])
    store = MemoryStore()
    async with DAGExecutor(store) as other:
        await other.submit(workflow)

    async with DAGExecutor(store, observers=[collector], workflows=[workflow]) as executor:
        assert value(collector, "dag_workflow_queue_depth") == 1
        await executor.submit(workflow, run_id="second")
        assert value(collector, "dag_workflow_queue_depth") == 2
        await executor.run(workflow, run_id="second")
        assert value(collector, "dag_workflow_queue_depth") == 1

    assert value(collector, "dag_workflow_executions_total", workflow_name="w", status="success") == 1


async def test_two_executors_of_one_store_show_its_queue_once(collector: MetricsCollector, tmp_path: Path) -> None:
    workflow = Workflow("w", [Node("a", lambda: 1)])
    url = f"sqlite:///{tmp_path}/runs.db"
    async with DAGExecutor(url, observers=[collector]) as first:
        await first.submit(workflow)
        async with DAGExecutor(url, observers=[collector]):
            assert value(collector, "dag_workflow_queue_depth") == 1
            assert value(collector, "dag_database_connections") == 4

        assert value(collector, "dag_database_connections") == 2


async def test_waiting_reviews_attempts_in_backoff_and_ready_nodes_are_shown(collector: MetricsCollector) -> None:
    workflow = Workflow("w")
    workflow.review("approve")
    slow = Workflow("slow", [Node("flaky", fails(times=1), retry=RetryPolicy(max_attempts=2, delay=60.0))])
    held = asyncio.Event()

    async def hold() -> None:
        await held.wait()

    busy = Workflow("busy", [Node("one", hold), Node("two", hold)])
    async with DAGExecutor("memory://", observers=[collector], max_concurrency=1) as executor:
        await executor.run(workflow, run_id="r")
        await executor.start(slow)
        await settled(lambda: value(collector, "dag_node_attempts_in_backoff") == 1)
        await executor.start(busy)
        await settled(lambda: value(collector, "dag_oldest_ready_node_age_seconds") > 0)
        await settled(lambda: value(collector, "dag_quietest_run_age_seconds") > 0)

        assert value(collector, "dag_runs_waiting_for_review") == 1
        assert value(collector, "dag_oldest_review_age_seconds") > 0

        await executor.decide("r", "approve", approved=True, by="Ada")
        await executor.run(workflow, run_id="r")
        held.set()
        await settled(lambda: value(collector, "dag_runs_waiting_for_review") == 0)


async def test_failed_and_cancelled_runs_count_as_such(collector: MetricsCollector) -> None:
    workflow = Workflow("w", [Node("a", fails(times=1))])
    never = Workflow("never")
    never.wait_for_signal("word")
    async with DAGExecutor("memory://", observers=[collector]) as executor:
        with pytest.raises(RunFailedError):
            await executor.run(workflow, run_id="r")
        await executor.resume("r")
        await executor.run(never, run_id="n")
        await executor.cancel("n")
        with pytest.raises(RunCancelledError):
            await executor.run(never, run_id="n")

    runs = "dag_workflow_executions_total"
    assert value(collector, runs, workflow_name="w", status="failure") == 1
    assert value(collector, runs, workflow_name="w", status="success") == 1
    assert value(collector, runs, workflow_name="never", status="cancelled") == 1
    assert value(collector, "dag_active_workflows") == 0


async def test_after_a_crash_and_a_resume_the_counters_agree_with_the_journal(collector: MetricsCollector) -> None:
    clock, workflow = FakeClock(auto=True), eventful()
    store = MemoryStore(clock=clock)
    inputs = {"xs": [1, 2, 3]}
    with pytest.raises(Crash):
        async with DAGExecutor(CrashAfter(store, 4), observers=[collector], clock=clock, grace=0) as first:
            await first.run(workflow, inputs, run_id="r")
    clock.advance(60)

    async with DAGExecutor(store, observers=[collector], clock=clock) as second:
        run = await second.run(workflow, inputs, run_id="r")
        events = await second.history("r")

    ends = Counter(_ENDS[event.kind] for event in events if event.kind in _ENDS)
    assert sum(ends.values()) == len(run.nodes)
    assert {s: total(collector, "dag_node_executions_total", status=s) for s in ends} == ends
    assert total(collector, "dag_node_retries_total") == sum(e.kind == "node_retry" for e in events)
    assert value(collector, "dag_lease_takeovers_total") == 1
    assert value(collector, "dag_active_nodes") == value(collector, "dag_active_workflows") == 0


async def test_a_lost_lease_is_counted(collector: MetricsCollector) -> None:
    store = MemoryStore()
    claims: list[Claim] = []
    workflow = Workflow("w")

    @workflow.node
    async def robbed(context: NodeContext) -> None:
        if not claims:
            record, _ = await store.read(context.run_id)
            thief = await store.claim(context.run_id, owner="thief", lease=30, dead_owner=record.owner)
            claims.append(thief.claim)

    async with DAGExecutor(store, observers=[collector]) as executor:
        run = asyncio.ensure_future(executor.run(workflow, run_id="r"))
        await settled(lambda: value(collector, "dag_lease_losses_total") == 1)
        await store.release(claims)
        assert (await run).status == "completed"

    assert value(collector, "dag_lease_losses_total") == 1
    assert value(collector, "dag_active_nodes") == value(collector, "dag_active_workflows") == 0


async def test_what_is_written_through_the_context_of_a_node_is_counted(collector: MetricsCollector) -> None:
    workflow = Workflow("w")

    @workflow.node
    def design(context: NodeContext) -> None:
        assert context._meter is not None
        context._meter.record_quality_score("design", 0.75)
        context._meter.record_artifact("document", 17)
        context._meter.record_contract_validation("output", False, 0.25)

    async with DAGExecutor("memory://", observers=[collector]) as executor:
        await executor.run(workflow)

    assert value(collector, "dag_quality_score_distribution_sum", phase_name="design") == 0.75
    assert value(collector, "dag_artifact_size_bytes_sum", artifact_type="document") == 17
    assert value(collector, "dag_contract_validations_total", contract_type="output", status="invalid") == 1


async def test_a_journal_that_is_read_counts_as_the_run_did(collector: MetricsCollector) -> None:
    reader = MetricsCollector(CollectorRegistry())
    async with DAGExecutor("memory://", observers=[collector]) as executor:
        await executor.run(eventful(), {"xs": [1]}, run_id="r")
        for event in await executor.history("r"):
            reader(event)

    for status in ("success", "failure", "skipped"):
        name = "dag_node_executions_total"
        assert total(reader, name, status=status) == total(collector, name, status=status)


async def test_a_clock_that_is_set_back_takes_nothing_from_a_sum(collector: MetricsCollector) -> None:
    clock = FakeClock()

    def set_back() -> None:
        clock.advance(-3600)

    def fail() -> None:
        clock.advance(-3600)
        raise ValueError("no")

    workflow = Workflow("w", [Node("a", set_back), Node("b", fail, "a")])
    async with DAGExecutor("memory://", observers=[collector], clock=clock) as executor:
        with pytest.raises(RunFailedError):
            await executor.run(workflow)

    assert value(collector, "dag_workflow_execution_duration_seconds_sum", workflow_name="w") == 0
    assert total(collector, "dag_node_execution_duration_seconds_sum") == 0
    assert total(collector, "dag_node_execution_duration_seconds_count") == 2


async def test_a_journal_counts_beyond_an_end_after_which_the_run_went_on(collector: MetricsCollector) -> None:
    workflow = Workflow("w", [Node("a", fails(times=1))])
    async with DAGExecutor("memory://") as executor:
        for number in range(150):
            with pytest.raises(RunFailedError):
                await executor.run(Workflow("other", [Node("a", fails(times=1))]), run_id=f"other-{number}")
            for event in await executor.history(f"other-{number}"):
                collector(event)
        with pytest.raises(RunFailedError):
            await executor.run(workflow, run_id="r")
        await executor.resume("r")
        for event in await executor.history("r"):
            collector(event)

    ends = [
        value(collector, "dag_workflow_executions_total", workflow_name="w", status=s) for s in ("failure", "success")
    ]
    assert ends == [1, 1]
    assert len(collector._folded) == 99


async def test_no_label_holds_a_run_id_or_the_index_of_an_item(collector: MetricsCollector) -> None:
    async with DAGExecutor("memory://", observers=[collector]) as executor:
        await executor.run(eventful(), {"xs": list(range(7))}, run_id="run-4711")

    text = collector.render().decode()
    assert "4711" not in text
    assert "m[" not in text


def test_the_values_of_a_label_are_bounded(collector: MetricsCollector) -> None:
    for number in range(1000):
        collector.record_api_request("GET", f"/api/runs/{number}", 200, 0.1)
        collector.record_quality_score(f"phase {number}", 0.5)

    text = collector.render().decode()
    assert text.count("dag_api_requests_total{") == 201
    # A node without a phase has a value of this label as well.
    assert text.count("dag_quality_score_distribution_count{") == 200
    assert 'dag_quality_score_distribution_count{phase_name="other"} 801.0' in text


def test_a_second_collector_on_a_registry_counts_together_with_the_first() -> None:
    registry = CollectorRegistry()
    first = MetricsCollector(registry, {"service": "a"})
    second = MetricsCollector(registry, {"team": "b"})

    first.record_artifact("code", 1)
    second.record_artifact("code", 2)

    assert value(second, "dag_artifacts_generated_total", artifact_type="code") == 2
    assert '{service="a",team="b",version="' in first.render().decode()


def test_a_registry_with_another_metric_of_that_name_is_refused() -> None:
    registry = CollectorRegistry()
    OtherCounter("dag_node_retries", "not ours", registry=registry)

    with pytest.raises(ValueError, match="another metric 'dag_node_retries_total'"):
        MetricsCollector(registry)


@pytest.mark.parametrize(
    ("method", "arguments", "says"),
    [
        ("record_workflow_complete", ("w", "finished", 1.0), "one of success, failure, cancelled"),
        ("record_workflow_complete", ("", "success", 1.0), "must not be empty"),
        ("record_node_complete", ("custom", None, "success", -1.0), "at least 0"),
        ("record_quality_score", ("design", 1.5), "from 0 to 1"),
        ("record_quality_score", ("design", float("nan")), "at least 0"),
        ("record_artifact", ("code", "big"), "must be a number"),
        ("record_api_request", ("GET", "/", 99, 0.1), "100 to 599"),
        ("record_contract_validation", ("input", "good", 0.1), "one of valid, invalid"),
        ("record_context_store_operation", ("read", "ok"), "one of success, failure"),
    ],
)
def test_a_wrong_figure_is_refused(
    collector: MetricsCollector, method: str, arguments: tuple[object, ...], says: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        getattr(collector, method)(*arguments)


def test_every_record_method_moves_its_metrics(collector: MetricsCollector) -> None:
    collector.record_workflow_start("w")
    collector.record_node_start("custom", "design")
    assert value(collector, "dag_active_workflows") == value(collector, "dag_active_nodes") == 1
    collector.record_workflow_complete("w", "success", 1.0)
    collector.record_node_complete("custom", "design", True, 1.0)
    collector.record_api_request("get", "/api/runs/{id}", 404, 0.1)
    collector.record_database_query("select", 0.1)
    collector.record_context_store_operation("read", "success")
    collector.record_contract_validation("input", True, 0.1)
    collector.record_quality_score("design", 1)
    collector.record_artifact("code", 10)
    collector.update_health_status("store", True)
    collector.update_system_resources()
    collector.update_database_metrics(3, 5)
    collector.record_websocket_open()

    assert value(collector, "dag_active_workflows") == value(collector, "dag_active_nodes") == 0
    assert value(collector, "dag_workflow_executions_total", workflow_name="w", status="success") == 1
    labels = {"node_type": "custom", "phase_name": "design", "status": "success"}
    assert value(collector, "dag_node_executions_total", **labels) == 1
    request = {"method": "GET", "endpoint": "/api/runs/{id}", "status_code": "404"}
    assert value(collector, "dag_api_requests_total", **request) == 1
    assert value(collector, "dag_health_check_status", check_type="store") == 1
    assert value(collector, "dag_database_connections") == 3
    assert value(collector, "dag_database_pool_size") == 5
    assert value(collector, "dag_websocket_connections") == 1


def test_a_file_holds_what_is_rendered(collector: MetricsCollector, tmp_path: Path) -> None:
    collector.write(tmp_path / "metrics.prom")

    families = text_string_to_metric_families((tmp_path / "metrics.prom").read_text())
    names = {family.name for family in families}
    assert {metric.name.removesuffix("_total") for metric in METRICS} <= names
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.prom"]


async def test_a_collector_that_raises_changes_no_run(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MetricsCollector):
        def follow(self, events: Any, state: Any, plan: Any) -> None:
            raise RuntimeError("no figures")

        def look(self, executor: object, figures: Any) -> None:
            raise RuntimeError("no look")

        def record_database_query(self, query_type: str, duration: float) -> None:
            raise RuntimeError("no seconds")

    told: list[Event] = []
    with caplog.at_level(logging.ERROR, "dagflow"):
        async with DAGExecutor("memory://", observers=[Broken(CollectorRegistry()), told.append]) as executor:
            run = await executor.run(Workflow("w", [Node("a", lambda: 1)]))

    assert run.status == "completed"
    assert len(told) == run.version
    assert {"no figures", "no look", "no seconds"} <= {str(r.exc_info[1]) for r in caplog.records if r.exc_info}


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_an_interval_that_is_none_is_refused(interval: float) -> None:
    with pytest.raises(ValueError, match="interval must be above 0 seconds"):
        MetricsCollector(CollectorRegistry(), interval=interval)
