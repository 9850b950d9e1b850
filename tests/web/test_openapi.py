"""The description says what the app does: schemathesis asks the app about every operation."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from dagflow import DAGExecutor, Workflow
from dagflow.web import create_app
from dagflow.web._openapi import openapi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the package and what it imports
    import schemathesis
    from starlette.testclient import TestClient

if TYPE_CHECKING:
    from collections.abc import Iterator

# Streams of runs that exist end with their runs; a generated id names none.
schema = schemathesis.openapi.from_dict(openapi("1"))


def example() -> Workflow:
    workflow = Workflow("example")
    workflow.wait_for_signal("go")
    return workflow


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = create_app(DAGExecutor("memory://", workflows=[example()]))
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(TestClient(app, base_url="http://app"))


@schema.parametrize()
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(case: Any, client: TestClient) -> None:
    asked = case.as_transport_kwargs(base_url="http://app")
    sent = {name: asked[name] for name in ("method", "url", "params", "headers", "json") if name in asked}
    response = client.request(**sent, content=asked.get("data"))

    assert response.status_code < 500 or case.path == "/health/ready"
    kind = response.headers["content-type"].partition(";")[0]
    described = case.operation.definition.raw["responses"]
    expected = described.get(str(response.status_code), described["default"])
    assert kind in expected["content"]
    if response.status_code >= 400:
        assert set(response.json()) == {"type", "title", "status", "detail"}
        assert response.json()["status"] == response.status_code


def test_every_route_is_described_and_nothing_else() -> None:
    app = create_app(DAGExecutor("memory://"))
    methods = [(route, getattr(route, "methods", None) or ()) for route in app.routes]
    found = {(m.lower(), r.path.replace(":path}", "}")) for r, ms in methods for m in ms if m != "HEAD"}  # type: ignore[attr-defined]
    described = {(method, path) for path, item in openapi("1")["paths"].items() for method in item}

    assert found - {("get", "/openapi.json")} == described
