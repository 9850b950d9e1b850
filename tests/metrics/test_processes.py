"""Metrics across processes and imports: several processes that gather in a folder, and modules by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from dagflow._instruments import METRICS, Instruments

if TYPE_CHECKING:
    from pathlib import Path

    from dagflow._instruments import Metric


def python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_the_library_does_not_import_prometheus() -> None:
    python("import sys, dagflow.executor; dagflow.DAGExecutor; sys.exit('prometheus_client' in sys.modules)")


def test_without_the_package_the_extra_is_named() -> None:
    python(
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from dagflow.errors import MissingExtraError\n"
        "try: import dagflow.metrics\n"
        "except MissingExtraError as exc: sys.exit('dagflow-sdk[metrics]' not in str(exc))\n"
        "sys.exit('it could be imported')"
    )


def test_the_collector_of_the_process_is_made_when_it_is_first_needed() -> None:
    python(
        "import sys\n"
        "from prometheus_client import REGISTRY, generate_latest\n"
        "from dagflow.metrics import track_workflow_execution\n"
        "tracked = track_workflow_execution('w')(lambda: None)\n"
        "assert b'dag_' not in generate_latest(REGISTRY)\n"
        "tracked()\n"
        "labels = {'workflow_name': 'w', 'status': 'success'}\n"
        "sys.exit(REGISTRY.get_sample_value('dag_workflow_executions_total', labels) != 1)"
    )


def test_a_second_import_counts_together_with_the_first() -> None:
    python(
        "import sys, dagflow.metrics as first\n"
        "first.default_collector().record_artifact('code', 1)\n"
        "for name in [name for name in sys.modules if name.startswith('dagflow')]: del sys.modules[name]\n"
        "import dagflow.metrics as second\n"
        "assert second is not first\n"
        "second.default_collector().record_artifact('code', 1)\n"
        "labels = {'artifact_type': 'code'}\n"
        "found = first.default_collector().registry.get_sample_value('dag_artifacts_generated_total', labels)\n"
        "sys.exit(found != 2)"
    )


_WORKER = """
from dagflow import DAGExecutor, Node, Workflow
from dagflow.metrics import MetricsCollector
collector = MetricsCollector(info={"service": "shop"})
collector.update_health_status("disk", HEALTHY)
with DAGExecutor("memory://", observers=[collector]) as executor:
    executor.run(Workflow("w", [Node("a", lambda: 1), Node("b", lambda: 1)]))
    executor.submit(Workflow("w", [Node("a", lambda: 1)]))
    print(collector.render().decode())
"""


def test_the_metrics_of_several_processes_are_gathered(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def work(healthy: bool) -> str:
        command = [sys.executable, "-c", _WORKER.replace("HEALTHY", str(healthy))]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    work(False)
    text = work(True)

    assert 'dag_workflow_executions_total{status="success",workflow_name="w"} 2.0' in text
    assert 'dag_node_executions_total{node_type="custom",phase_name="",status="success"} 4.0' in text
    assert 'dag_node_execution_duration_seconds_count{node_type="custom",phase_name=""} 4.0' in text
    assert 'dag_system_info{service="shop",version=' in text
    assert "dag_workflow_queue_depth 1.0" in text
    assert 'dag_health_check_status{check_type="disk"} 0.0' in text
    assert "pid=" not in text


_LIVING = """
import sys
from dagflow.metrics import MetricsCollector
collector = MetricsCollector()
collector.record_workflow_start("w")
collector.update_database_metrics(connections=1, pool_size=2)
print("up", flush=True)
sys.stdin.readline()
print(collector.render().decode())
"""


def test_gauges_of_living_processes_are_added_up(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command, pipe = [sys.executable, "-c", _LIVING], subprocess.PIPE
    living = [subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for process in living:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"

    text, _ = living[0].communicate("\n", timeout=60)
    living[1].communicate("\n", timeout=60)

    assert "dag_active_workflows 2.0" in text
    assert "dag_database_connections 2.0" in text
    assert "dag_database_pool_size 4.0" in text


@pytest.mark.parametrize("metric", [m for m in METRICS if m.type == "gauge"], ids=lambda metric: metric.name)
def test_every_gauge_of_several_processes_is_one_figure(metric: Metric) -> None:
    gauge = Instruments(CollectorRegistry(), {})._metrics[metric.name]

    assert gauge._multiprocess_mode in {"livesum", "livemax", "livemin", "livemostrecent"}


_BARE = """
import sys
from pathlib import Path
def read_text(*_): raise FileNotFoundError
Path.read_text = read_text
if sys.argv[1:]: sys.modules["resource"] = None
from dagflow._readings import memory_bytes_now, uptime_s
print(memory_bytes_now(), uptime_s())
"""


def test_where_nobody_tells_the_memory_is_the_most_that_it_has_held() -> None:
    memory, uptime = subprocess.check_output([sys.executable, "-c", _BARE], text=True, timeout=60).split()

    assert 2**20 < float(memory) < 2**32
    assert float(uptime) == 0.001


def test_where_nobody_tells_even_that_the_memory_is_none() -> None:
    command = [sys.executable, "-c", _BARE, "without resource"]

    assert subprocess.check_output(command, text=True, timeout=60).split()[0] == "0.0"
