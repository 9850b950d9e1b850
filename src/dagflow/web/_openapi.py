"""The description of the app for programs: OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from dagflow._events import RunStatus

__all__ = ["openapi"]

_TEXT = {"type": "string"}
_RUN_ID = {"name": "run_id", "in": "path", "required": True, "schema": {**_TEXT, "pattern": "^[A-Za-z0-9_.:-]{1,64}$"}}
_NAME = {"name": "name", "in": "path", "required": True, "schema": {**_TEXT, "pattern": "^[A-Za-z0-9_.-]{1,64}$"}}
_VERSION = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_OBJECT = {"type": "object"}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT},
}
_RUN = {
    "type": "object",
    "required": ["run_id", "workflow", "status", "version", "inputs", "outputs", "nodes"],
    "properties": {
        "run_id": _TEXT,
        "workflow": _TEXT,
        "status": {"enum": [status.value for status in RunStatus]},
        "version": {"type": "integer", "minimum": 1},
    },
}
_HEALTH = {"type": "object", "required": ["status"], "properties": {"status": _TEXT, "version": _TEXT}}


def openapi(version: str, *, root: str = "") -> dict[str, Any]:
    """Return the document of an app that is mounted at ``root``."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "dagflow", "version": version, "description": "Durable DAG workflows."},
        "servers": [{"url": root or "/"}],
        "paths": {**_health(), **_workflows(), **_runs(), **_requests()},
        "components": {"schemas": {"Problem": _PROBLEM, "Run": _RUN, "Health": _HEALTH}},
    }


def _json(schema: object, text: str, media_type: str = "application/json") -> dict[str, Any]:
    return {"description": text, "content": {media_type: {"schema": schema}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _operation(
    summary: str, answers: dict[str, Any], *parameters: dict[str, Any], body: dict[str, Any] | None = None
) -> dict[str, Any]:
    problem = _json(_reference("Problem"), "What is wrong", "application/problem+json")
    operation: dict[str, Any] = {"summary": summary, "responses": {**answers, "default": problem}}
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


def _query(name: str, schema: dict[str, Any], *, minimum: int | None = None) -> dict[str, Any]:
    limits = {} if minimum is None else {"minimum": minimum}
    return {"name": name, "in": "query", "required": False, "schema": {**schema, **limits}}


def _health() -> dict[str, Any]:
    well, ill = _json(_reference("Health"), "All is well"), _json(_reference("Health"), "Something is not well")
    answers = {"200": well, "503": ill}
    text = {"200": _json(_TEXT, "The text format of Prometheus", "text/plain")}
    return {
        "/health": {"get": _operation("How everything is", answers)},
        "/health/live": {"get": _operation("Whether the process answers", {"200": well})},
        "/health/ready": {"get": _operation("Whether requests can be answered", answers)},
        "/health/startup": {"get": _operation("Whether the store is open", answers)},
        "/metrics": {"get": _operation("The metrics", text)},
    }


def _workflows() -> dict[str, Any]:
    order = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "inputs": _OBJECT,
            "run_id": {**_TEXT, "pattern": "^[A-Za-z0-9_./:-]{1,255}$"},
            "priority": {"type": "integer", "minimum": -(2**31) + 1, "maximum": 2**31 - 1},
        },
    }
    run = _reference("Run")
    started = {"201": _json(run, "The run was recorded"), "200": _json(run, "It was recorded before")}
    return {
        "/api/workflows": {"get": _operation("List workflows", {"200": _json(_OBJECT, "Workflows")})},
        "/api/workflows/{name}": {"get": _operation("A workflow", {"200": _json(_OBJECT, "Its graph")}, _NAME)},
        "/api/workflows/{name}/runs": {"post": _operation("Start a run", started, _NAME, body=order)},
    }


def _runs() -> dict[str, Any]:
    limit = _query("limit", {"type": "integer", "maximum": 1000}, minimum=1)
    status = _query("status", {"enum": [status.value for status in RunStatus]})
    cursor, after = _query("after", _TEXT), _query("after", _VERSION)
    listing = (_query("workflow", _TEXT), status, limit, cursor)
    stream = {"200": _json(_TEXT, "Events as they come; ids are versions", "text/event-stream")}
    return {
        "/api/runs": {"get": _operation("List runs", {"200": _json(_OBJECT, "A page, newest first")}, *listing)},
        "/api/runs/{run_id}": {"get": _operation("A run", {"200": _json(_reference("Run"), "The run")}, _RUN_ID)},
        "/api/runs/{run_id}/history": {
            "get": _operation("Events of a run", {"200": _json(_OBJECT, "A page")}, _RUN_ID, after, limit)
        },
        "/api/runs/{run_id}/events": {"get": _operation("Follow a run", stream, _RUN_ID, after)},
    }


def _requests() -> dict[str, Any]:
    taken = {"202": _json(_reference("Run"), "It was asked")}
    decision = {
        "type": "object",
        "required": ["approved", "by"],
        "additionalProperties": False,
        "properties": {"approved": {"type": "boolean"}, "by": {**_TEXT, "minLength": 1}, "comment": _TEXT, "data": {}},
    }
    value = {"type": "object", "additionalProperties": False, "properties": {"value": {}}}
    sent, decided = {"202": _json(_OBJECT, "It was recorded")}, {"200": _json(_OBJECT, "It was recorded")}
    run = "/api/runs/{run_id}"
    return {
        f"{run}/resume": {"post": _operation("Go on with a run", taken, _RUN_ID)},
        f"{run}/cancel": {"post": _operation("Cancel a run", taken, _RUN_ID)},
        f"{run}/pause": {"post": _operation("Pause a run", taken, _RUN_ID)},
        f"{run}/signals/{{name}}": {"post": _operation("Send a signal", sent, _RUN_ID, _NAME, body=value)},
        f"{run}/reviews/{{name}}": {"post": _operation("Answer a review", decided, _RUN_ID, _NAME, body=decision)},
    }
