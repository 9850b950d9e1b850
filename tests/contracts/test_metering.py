"""The figures of contracts move by themselves, and agree with the journal."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from dagflow import DAGExecutor, Node, Workflow
from dagflow.errors import RunFailedError
from dagflow.metrics import MetricsCollector


async def test_every_check_of_a_run_is_counted_and_timed() -> None:
    nodes = [
        Node("design", lambda: {"api": 1}, output_contract=["api"]),
        Node("build", lambda design: design["api"], input_contract=["design.api"], output_contract=int),
        Node("test", lambda build: [build], output_contract=int),
        Node("plain", lambda: 1),
    ]
    collector = MetricsCollector(CollectorRegistry())

    async with DAGExecutor("memory://", observers=[collector]) as executor:
        with pytest.raises(RunFailedError):
            await executor.run(Workflow("w", nodes), run_id="r")
        broken = [event for event in await executor.history("r") if "contract" in (event.data or {})]

    def value(name: str, **labels: str) -> float | None:
        return collector.registry.get_sample_value(name, labels)

    assert value("dag_contract_validations_total", contract_type="input", status="valid") == 1
    assert value("dag_contract_validations_total", contract_type="output", status="valid") == 2
    assert value("dag_contract_validations_total", contract_type="output", status="invalid") == len(broken) == 1
    assert value("dag_contract_validation_duration_seconds_count", contract_type="output") == 3
    assert value("dag_contract_validation_duration_seconds_count", contract_type="input") == 1
