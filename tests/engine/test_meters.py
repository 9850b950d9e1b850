"""Meters: observers that take figures which are no events, reached from within a node."""

from __future__ import annotations

import logging
import pickle
from typing import TYPE_CHECKING

from dagflow import NodeContext, Workflow
from dagflow.protocols import Meter

if TYPE_CHECKING:
    import pytest

    from dagflow import DAGExecutor, Event
    from executors import OpenExecutor


class Notes:
    """An observer that is a meter, and keeps what it is handed."""

    def __init__(self) -> None:
        self.figures: list[tuple[object, ...]] = []

    def __call__(self, event: Event) -> None: ...

    def record_contract_validation(self, contract_type: str, status: bool | str, duration: float) -> None:
        self.figures.append(("contract", contract_type, status, duration))

    def record_quality_score(self, phase_name: str, score: float) -> None:
        self.figures.append(("score", phase_name, score))

    def record_artifact(self, artifact_type: str, size_bytes: int) -> None:
        self.figures.append(("artifact", artifact_type, size_bytes))

    def record_context_store_operation(self, operation: str, status: bool | str) -> None: ...

    def record_database_query(self, query_type: str, duration: float) -> None: ...


class Broken(Notes):
    """A meter that fails."""

    def record_quality_score(self, phase_name: str, score: float) -> None:
        raise RuntimeError("no room for figures")


def measured() -> Workflow:
    workflow = Workflow("measured")

    @workflow.node
    def design(context: NodeContext) -> None:
        assert context._meter is not None
        context._meter.record_quality_score("design", 0.5)
        context._meter.record_artifact("document", 17)
        context._meter.record_contract_validation("output", True, 0.25)

    return workflow


async def test_the_context_of_a_node_reaches_every_meter_among_the_observers(open_executor: OpenExecutor) -> None:
    first, second = Notes(), Notes()
    told: list[Event] = []
    executor = await open_executor(observers=[first, told.append, second])

    await executor.run(measured())

    assert isinstance(first, Meter)
    assert first.figures == [("score", "design", 0.5), ("artifact", "document", 17), ("contract", "output", True, 0.25)]
    assert second.figures == first.figures


async def test_a_meter_that_raises_changes_no_run_and_keeps_no_other_meter_from_its_figures(
    open_executor: OpenExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    other = Notes()
    executor = await open_executor(observers=[Broken(), other])

    with caplog.at_level(logging.ERROR, "dagflow"):
        run = await executor.run(measured())

    assert run.status == "completed"
    assert ("score", "design", 0.5) in other.figures
    assert "no room for figures" in caplog.text


async def context_of_a_node(executor: DAGExecutor) -> NodeContext:
    seen: list[NodeContext] = []
    workflow = Workflow("w")

    @workflow.node
    def look(context: NodeContext) -> None:
        seen.append(context)

    await executor.run(workflow)
    return seen[0]


async def test_without_a_meter_a_context_has_none(open_executor: OpenExecutor) -> None:
    context = await context_of_a_node(await open_executor(observers=[lambda event: None]))

    assert context._meter is None


async def test_a_context_that_travels_to_another_process_leaves_its_meter_behind(open_executor: OpenExecutor) -> None:
    context = await context_of_a_node(await open_executor(observers=[Notes()]))

    copy = pickle.loads(pickle.dumps(context))

    assert context._meter is not None
    assert copy._meter is None
