"""The six phases, run as people run them: what they deliver works, and their figures are those of the journal."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dagflow import ArtifactRef, DAGExecutor, Event, EventKind, Run
from dagflow.phases import SDLC_PHASES
from dagflow.stores import SQLiteStore

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sdlc_phases.py"
UNCLEAR = "# A shop\narticle\n    name: text, required\n    price: money\n    colour: hue\n"


def deliver(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


class Figures:
    """The samples of ``metrics.prom``."""

    def __init__(self, out: Path) -> None:
        families = text_string_to_metric_families((out / "metrics.prom").read_text())
        self.samples = [sample for family in families for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())

    def moved(self) -> set[str]:
        """Return the metrics that are not 0 throughout."""
        names = {sample.name for sample in self.samples if sample.value}
        return {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in names}


def journal(out: Path) -> tuple[Run, list[Event]]:
    with DAGExecutor(SQLiteStore(out / "runs.db"), artifacts=out / "artifacts") as executor:
        [summary] = executor.runs()
        return executor.get(summary.run_id), executor.history(summary.run_id)


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("example") / "delivery"
    done = deliver(out)
    assert done.returncode == 0, done.stderr
    return out


def test_the_phases_deliver_what_works(delivered: Path) -> None:
    run, _ = journal(delivered)

    again = subprocess.run(
        [sys.executable, "-m", "unittest", "test_backend"], cwd=delivered, capture_output=True, text=True, check=False
    )

    assert list(run.outputs) == list(SDLC_PHASES) or sorted(run.outputs) == sorted(SDLC_PHASES)
    assert again.returncode == 0, again.stderr
    testing = run.outputs["testing"]
    assert testing["passed"] == testing["ran"] == int(re.findall(r"Ran (\d+)", again.stderr)[0]) > 10
    assert list(json.loads((delivered / "api.json").read_text())) == list(run.outputs["design"]["api_specification"])
    assert '<section data-path="/loans">' in (delivered / "index.html").read_text()
    assert "- not understood: `fine: money`" in (delivered / "review.md").read_text()
    assert 0.9 < run.outputs["review"].quality_score < 1


def test_every_metric_that_the_run_can_move_has_moved(delivered: Path) -> None:
    figures = Figures(delivered)

    assert figures.moved() >= {
        "dag_workflow_executions_total",
        "dag_workflow_execution_duration_seconds",
        "dag_node_executions_total",
        "dag_node_execution_duration_seconds",
        "dag_database_connections",
        "dag_database_pool_size",
        "dag_database_query_duration_seconds",
        "dag_context_store_operations_total",
        "dag_memory_usage_bytes",
        "dag_cpu_usage_percent",
        "dag_health_check_status",
        "dag_quality_score_distribution",
        "dag_artifacts_generated_total",
        "dag_artifact_size_bytes",
        "dag_contract_validations_total",
        "dag_contract_validation_duration_seconds",
        "dag_system_info",
        "dag_journal_size_bytes",
    }
    assert figures.sum("dag_active_workflows") == figures.sum("dag_active_nodes") == 0


def test_the_figures_of_the_run_agree_with_its_journal(delivered: Path) -> None:
    figures, (run, events) = Figures(delivered), journal(delivered)
    refs = [ref for output in run.outputs.values() for ref in output.artifacts.values()]

    assert all(isinstance(ref, ArtifactRef) for ref in refs)
    assert figures.sum("dag_workflow_executions_total", workflow_name="sdlc", status="success") == 1
    assert figures.sum("dag_workflow_execution_duration_seconds_sum") == pytest.approx(
        (run.updated_at - run.created_at).total_seconds()
    )
    for phase in SDLC_PHASES:
        labels = {"node_type": "phase", "phase_name": phase}
        seconds = run.nodes[phase].duration
        assert figures.sum("dag_node_executions_total", **labels) == 1
        assert figures.sum("dag_node_executions_total", status="success", **labels) == 1
        assert figures.sum("dag_node_execution_duration_seconds_sum", **labels) == pytest.approx(seconds)
        score = run.outputs[phase].quality_score
        assert figures.sum("dag_quality_score_distribution_sum", phase_name=phase) == pytest.approx(score)
    assert figures.sum("dag_artifacts_generated_total") == len(refs)
    assert figures.sum("dag_artifact_size_bytes_sum") == sum(ref.size for ref in refs)
    assert figures.sum("dag_contract_validations_total", contract_type="input", status="valid") == 5
    assert figures.sum("dag_contract_validations_total", contract_type="output", status="valid") == 4
    assert figures.sum("dag_contract_validation_duration_seconds_count") == 9
    assert figures.sum("dag_node_retries_total") == sum(event.kind is EventKind.NODE_RETRY for event in events) == 0
    for ref in refs:
        assert (delivered / ref.name).stat().st_size == ref.size


def test_a_delivery_that_is_done_is_not_done_again(delivered: Path) -> None:
    before = journal(delivered)[1]

    again = deliver(delivered)

    assert again.returncode == 0, again.stderr
    assert journal(delivered)[1] == before
    assert ": completed\n" not in again.stdout


def test_a_specification_that_is_not_clear_fails_at_the_gate_and_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "shop.txt").write_text(UNCLEAR)
    out = tmp_path / "shop"

    first = deliver(out, str(tmp_path / "shop.txt"))
    figures, (run, events) = Figures(out), journal(out)
    second = deliver(out, str(tmp_path / "shop.txt"))

    assert (first.returncode, second.returncode) == (1, 1)
    assert "phase 'requirement_analysis' has a quality score of 0.333333, and 0.8 is asked for" in first.stderr
    labels = {"node_type": "phase", "phase_name": "requirement_analysis"}
    kinds = [event.kind for event in events]
    assert figures.sum("dag_node_retries_total", **labels) == kinds.count(EventKind.NODE_RETRY) == 1
    assert figures.sum("dag_node_executions_total", status="failure", **labels) == 1
    assert figures.sum("dag_workflow_executions_total", status="failure") == 1
    assert figures.sum("dag_quality_score_distribution_count", phase_name="requirement_analysis") == 2
    assert run.status == "failed"
    assert [event.kind for event in journal(out)[1]].count(EventKind.RUN_RESUMED) == 1


def test_the_web_app_stays_up_when_it_is_asked_to(tmp_path: Path) -> None:
    command = [sys.executable, "-u", str(EXAMPLE), "--out", str(tmp_path), "--serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            root = served(process)
            ready, metrics, runs = (fetched(f"{root}{path}") for path in ("/health/ready", "/metrics", "/api/runs"))
            process.send_signal(signal.SIGTERM)
            rest, complaints = process.communicate(timeout=60)
        finally:
            process.kill()

    assert json.loads(ready)["healthy"] is True
    assert 'dag_workflow_executions_total{status="success",workflow_name="sdlc"} 1.0' in metrics
    assert '"sdlc"' in runs
    assert "figures in" in rest, complaints
    assert Figures(tmp_path).sum("dag_api_requests_total", status_code="200") == 3


def served(process: subprocess.Popen[str]) -> str:
    """Return the address that an example says it serves."""
    said: list[Any] = []
    for line in process.stdout or ():
        said.append(line)
        if line.startswith("serving "):
            return line.removeprefix("serving ").strip().removesuffix("/metrics")
    raise AssertionError(said)


def fetched(url: str) -> str:
    with urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def test_a_folder_that_cannot_be_written_is_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("a file, and no folder")

    done = deliver(tmp_path / "full")

    assert done.returncode == 2
    assert "nothing can be written to" in done.stderr
    assert "Traceback" not in done.stderr
