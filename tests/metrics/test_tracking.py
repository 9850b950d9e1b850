"""Decorators that count the calls of an application's own functions."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from dagflow import DAGExecutor, Node, Workflow
from dagflow.metrics import MetricsCollector, default_collector, track_node_execution, track_workflow_execution

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def collector() -> MetricsCollector:
    return MetricsCollector(CollectorRegistry())


def runs(collector: MetricsCollector, status: str) -> float:
    labels = {"workflow_name": "w", "status": status}
    return collector.registry.get_sample_value("dag_workflow_executions_total", labels) or 0.0


def nodes(collector: MetricsCollector, status: str) -> float:
    labels = {"node_type": "custom", "phase_name": "design", "status": status}
    return collector.registry.get_sample_value("dag_node_executions_total", labels) or 0.0


def active(collector: MetricsCollector) -> float | None:
    return collector.registry.get_sample_value("dag_active_workflows")


def test_a_function_keeps_its_name_signature_and_docstring(collector: MetricsCollector) -> None:
    def add(a: int, *, b: int = 2) -> int:
        """Add."""
        return a + b

    for decorate in (track_workflow_execution("w", collector), track_node_execution("custom", "design", collector)):
        tracked = decorate(add)

        assert (tracked.__name__, tracked.__doc__) == ("add", "Add.")
        assert inspect.signature(tracked) == inspect.signature(add)
        assert tracked(1) == 3


async def test_an_async_function_stays_one(collector: MetricsCollector) -> None:
    @track_workflow_execution("w", collector)
    async def work() -> int:
        assert active(collector) == 1
        return 1

    assert inspect.iscoroutinefunction(work)
    assert await work() == 1
    assert runs(collector, "success") == 1
    assert active(collector) == 0


def test_an_exception_passes_through_and_counts_as_a_failure(collector: MetricsCollector) -> None:
    error = RuntimeError("no")

    @track_workflow_execution("w", collector)
    @track_node_execution("custom", "design", collector)
    def work() -> None:
        raise error

    with pytest.raises(RuntimeError) as raised:
        work()

    assert raised.value is error
    assert runs(collector, "failure") == nodes(collector, "failure") == 1
    assert active(collector) == 0


async def test_a_cancellation_counts_as_cancelled(collector: MetricsCollector) -> None:
    @track_workflow_execution("w", collector)
    @track_node_execution("custom", "design", collector)
    async def work() -> None:
        await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert runs(collector, "cancelled") == nodes(collector, "cancelled") == 1
    assert active(collector) == 0


@pytest.mark.parametrize(
    ("result", "status"),
    [({"success": True}, "success"), ({"success": False}, "failure"), ({"rows": 3}, "success"), (None, "success")],
)
def test_a_mapping_is_judged_by_its_success(collector: MetricsCollector, result: Any, status: str) -> None:
    assert track_workflow_execution("w", collector)(lambda: result)() is result

    assert runs(collector, status) == 1


def test_a_returned_run_is_judged_by_its_status(collector: MetricsCollector) -> None:
    waits, quick = Workflow("waits"), Workflow("quick", [Node("a", lambda: 1)])
    waits.wait_for_signal("word")

    @track_workflow_execution("w", collector)
    def work(workflow: Workflow, run_id: str) -> object:
        return executor.get(executor.run(workflow, run_id=run_id).run_id)

    with DAGExecutor("memory://") as executor:
        work(quick, "q")
        work(waits, "r")
        assert (runs(collector, "success"), active(collector)) == (1, 0)

        executor.cancel("r")
        track_workflow_execution("w", collector)(executor.get)("r")

    assert runs(collector, "cancelled") == 1


def test_a_generator_is_refused(collector: MetricsCollector) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    for generator in (numbers, functools.partial(numbers)):
        with pytest.raises(TypeError, match="is a generator: decorate the function that consumes it"):
            track_workflow_execution("w", collector)(generator)


def test_bad_labels_are_refused_before_anything_is_called() -> None:
    with pytest.raises(ValueError, match="workflow_name must not be empty"):
        track_workflow_execution("")
    with pytest.raises(TypeError, match="node_type must be text"):
        track_node_execution(3)  # type: ignore[arg-type]


def test_without_a_collector_there_is_one_for_the_process() -> None:
    @track_workflow_execution("w")
    def work() -> None: ...

    before = runs(default_collector(), "success")
    work()

    assert default_collector() is default_collector()
    assert runs(default_collector(), "success") == before + 1
