"""What is shipped for Prometheus and Grafana: valid, right about the names, and scraped by a real server once."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from dagflow._instruments import METRICS
from pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",), "info": ("",)}
NAMES = {metric.name + suffix for metric in METRICS for suffix in _SUFFIXES[metric.type]}
LABELS = {label for metric in METRICS for label in metric.labels}

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="NO promtool: apt-get install prometheus, or the rules are not tested"
)


def expressions() -> list[str]:
    rules = yaml.safe_load((PROMETHEUS / "dagflow-rules.yml").read_text())
    dashboard = json.loads((GRAFANA / "dagflow.json").read_text())
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return alerts + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_and_label_of_a_rule_or_panel_exists(expression: str) -> None:
    assert set(re.findall(r"\bdag_\w+", expression)) <= NAMES
    grouped = {label for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(", ")}
    assert grouped <= LABELS | {"le", "job", "instance"}


def test_the_dashboard_shows_every_metric() -> None:
    shown = set(re.findall(r"\bdag_\w+", (GRAFANA / "dagflow.json").read_text()))

    assert [m.name for m in METRICS if not shown & {m.name + suffix for suffix in _SUFFIXES[m.type]}] == []


@promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "dagflow-rules.yml"),
        ("test", "rules", "dagflow-rules-test.yml"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_every_alert_has_a_unit_test() -> None:
    rules = yaml.safe_load((PROMETHEUS / "dagflow-rules.yml").read_text())
    tests = yaml.safe_load((PROMETHEUS / "dagflow-rules-test.yml").read_text())

    fired = {a["alertname"] for t in tests["tests"] for a in t["alert_rule_test"] if a["exp_alerts"]}
    assert {rule["alert"] for group in rules["groups"] for rule in group["rules"]} == fired


def _free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """Run a server with the shipped configuration that scrapes a target every 200 milliseconds."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    config["rule_files"] = [str(PROMETHEUS / "dagflow-rules.yml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{_free_port()}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
        try:
            yield f"http://{address}"
        finally:
            server.terminate()
            server.wait(timeout=20)


def asked(server: str, path: str) -> Any:
    """Return an answer of the API as soon as there is a result in it; the limit of the test ends a wait in vain."""
    while True:
        try:
            with urllib.request.urlopen(f"{server}/api/v1/{path}", timeout=5) as answer:
                data = json.load(answer)["data"]
        except OSError:
            data = {}
        if data.get("result") or data.get("groups"):
            return data
        time.sleep(0.05)


@contextmanager
def application(folder: Path) -> Iterator[str]:
    """Run the application of the deployment on a SQLite store, and begin one run of it."""
    address = f"127.0.0.1:{_free_port()}"
    environment = {**os.environ, "DATABASE_URL": f"sqlite:///{folder}/runs.db"}
    command = [sys.executable, "-m", "dagflow", "web", "app:executor", "--port", address.rpartition(":")[2]]
    with (folder / "app.log").open("wb") as log:
        app = subprocess.Popen(command, cwd=ROOT / "deploy", env=environment, stdout=log, stderr=log)
        try:
            _begin_run(address)
            yield address
        finally:
            app.terminate()
            app.wait(timeout=20)


def _begin_run(address: str) -> None:
    """Post a run as soon as the application answers; the limit of the test ends a wait in vain."""
    request = urllib.request.Request(
        f"http://{address}/api/workflows/greeting/runs",
        b'{"inputs": {"name": "Ada"}, "run_id": "r"}',
        {"Content-Type": "application/json"},
    )
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
        except OSError:
            time.sleep(0.05)
        else:
            return


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="NO prometheus: apt-get install prometheus")
def test_a_real_prometheus_scrapes_a_real_application(tmp_path: Path) -> None:
    with application(tmp_path) as address, prometheus(tmp_path, address) as server:
        runs = asked(server, "query?query=dag_workflow_executions_total")["result"]
        requests = asked(server, "query?query=dag_api_requests_total")["result"]
        rules = asked(server, "rules")["groups"][0]["rules"]

    assert runs[0]["metric"]["workflow_name"] == "greeting"
    assert runs[0]["value"][1] == "1"
    assert "/api/workflows/{name}/runs" in {one["metric"]["endpoint"] for one in requests}
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
