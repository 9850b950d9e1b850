"""The description says what the app does: schemathesis asks the app about every operation."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, settings

from dagflow import DAGExecutor, Workflow
from dagflow.web import create_app
from dagflow.web._openapi import openapi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the package and what it imports
    import schemathesis

if TYPE_CHECKING:
    from dagflow.web import WebApp


def example() -> WebApp:
    workflow = Workflow("example")
    workflow.wait_for_signal("go")
    return create_app(DAGExecutor("memory://", workflows=[workflow]))


# Streams of runs that exist end with their runs; a generated id names none.
schema = schemathesis.openapi.from_asgi("/openapi.json", example())


@schema.parametrize()
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_as_described(case: Any) -> None:
    # Statuses, media types, schemas, what has to be accepted and what refused: all that schemathesis can check.
    response = case.call_and_validate()

    if response.status_code >= 400 and "/health" not in case.path:
        problem = response.json()
        assert set(problem) == {"type", "title", "status", "detail"}
        assert problem["status"] == response.status_code


def test_every_route_is_described_and_nothing_else() -> None:
    methods = [(route, getattr(route, "methods", None) or ()) for route in example().routes]
    found = {(m.lower(), r.path.replace(":path}", "}")) for r, ms in methods for m in ms if m != "HEAD"}  # type: ignore[attr-defined]
    described = {(method, path) for path, item in openapi("1")["paths"].items() for method in item}

    assert found - {("get", "/openapi.json")} == described


def test_the_description_names_the_place_where_the_app_is_mounted() -> None:
    assert openapi("1")["servers"] == [{"url": "/"}]
    assert openapi("1", root="/dag")["servers"] == [{"url": "/dag"}]
