"""The files to deploy with are readable, and the probes that they name answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import yaml

from dagflow.cli import _find, _parser
from dagflow.web import create_app, lifespan
from pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dagflow import DAGExecutor

DEPLOY = ROOT / "deploy"


def manifests() -> list[dict[str, Any]]:
    return [
        each for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())
    ]


def container() -> dict[str, Any]:
    deployment = next(each for each in manifests() if each["kind"] == "Deployment")
    found: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return found


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DAGExecutor]:
    """The executor of the image, with a store that needs no server."""
    monkeypatch.syspath_prepend(DEPLOY)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'runs.db'}")
    yield _find("app:executor")
    monkeypatch.delitem(sys.modules, "app", raising=False)


async def test_every_probe_of_the_manifests_and_of_compose_answers(deployed: DAGExecutor) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    command = compose["services"]["app"]["healthcheck"]["test"][-1]
    paths = {name: probe["httpGet"]["path"] for name, probe in container().items() if name.endswith("Probe")}
    app = create_app(deployed)
    async with lifespan(app), httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as web:
        codes = {name: (await web.get(path)).status_code for name, path in paths.items()}
        probed = await web.get("/" + command.partition("8000/")[2].partition("'")[0])

    assert codes == {"startupProbe": 200, "livenessProbe": 200, "readinessProbe": 200}
    assert probed.status_code == 200


async def test_the_path_that_prometheus_scrapes_shows_the_metrics_of_the_image(deployed: DAGExecutor) -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    path = config["scrape_configs"][0]["metrics_path"]
    app = create_app(deployed)
    async with lifespan(app), httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as web:
        await web.post("/api/workflows/greeting/runs", json={"inputs": {"name": "Ada"}, "run_id": "r"})
        await web.get("/api/runs/r/events")
        text = (await web.get(path)).text

    assert 'dag_workflow_executions_total{status="success",workflow_name="greeting"} ' in text
    assert 'dag_api_requests_total{endpoint="/api/runs/{run_id}/events",method="GET",status_code="200"}' in text


def test_the_probes_ask_the_port_that_the_image_listens_on() -> None:
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    probes = [probe for name, probe in container().items() if name.endswith("Probe")]
    command = (DEPLOY / "Dockerfile").read_text().partition("CMD ")[2]
    options = _parser().parse_args(yaml.safe_load(command)[3:])

    assert {ports[probe["httpGet"]["port"]] for probe in probes} == {options.port}


def test_what_compose_mounts_and_builds_is_there() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    mounts = [each.partition(":")[0] for service in services.values() for each in service.get("volumes", [])]

    assert set(services) == {"app", "postgres", "prometheus", "grafana"}
    assert [each for each in mounts if each.startswith(".") and not (DEPLOY / each).exists()] == []
    assert {each for each in mounts if not each.startswith(".")} == set(compose["volumes"])
    assert (DEPLOY / services["app"]["build"]["context"] / services["app"]["build"]["dockerfile"]).exists()
    assert (DEPLOY / "prometheus" / "prometheus.yml").exists()


def test_the_application_of_the_image_needs_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEPLOY)
    monkeypatch.delitem(sys.modules, "app", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)

    with pytest.raises(LookupError, match="DATABASE_URL is not set"):
        _find("app:executor")

    monkeypatch.setenv("DATABASE_URL", "sqlite:///runs.db")
    assert set(_find("app:executor").workflows) == {"greeting"}
    monkeypatch.delitem(sys.modules, "app")
