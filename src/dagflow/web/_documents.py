"""What the app says of workflows, runs and events, as plain JSON.

Values that were kept are shown as the JSON that is kept: tags stay tags, and no object is made of them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from dagflow._events import NodeStatus
from dagflow._pictures import to_mermaid
from dagflow._redacting import unsecret
from dagflow._state import fold

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from dagflow._events import ErrorInfo, Event, Payload
    from dagflow._model import Workflow
    from dagflow._run import RunSummary
    from dagflow._state import NodeState

__all__ = [
    "Json",
    "event_document",
    "fitting",
    "json_text",
    "run_document",
    "summary_document",
    "value_document",
    "workflow_document",
]

_MOST_BYTES = 1024 * 1024
_MOST_PAGE_BYTES = 8 * _MOST_BYTES


def json_text(document: Any) -> str:
    """Return a document as JSON that can be sent, whatever its texts hold."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half a surrogate pair is no character, and may be kept all the same.
        return json.dumps(document, allow_nan=False, separators=(",", ":"))
    return text


class Json(JSONResponse):
    """An answer of JSON."""

    def render(self, content: Any) -> bytes:
        """Return the bytes of a document."""
        return json_text(content).encode()


def fitting(events: Sequence[Event]) -> Sequence[Event]:
    """Return the first events, at least one, whose values are not too large for a page together."""
    room = _MOST_PAGE_BYTES
    for count, event in enumerate(events):
        # A value that is left out takes no room.
        size = len(event.payload.data) if event.payload is not None else 0
        room -= size if size <= _MOST_BYTES else 0
        if room < 0:
            return events[:count]
    return events


def value_document(payload: Payload | None, most: int = _MOST_BYTES) -> Any:
    """Return what is kept of a value: its JSON, or the text of what another codec wrote.

    Args:
        payload: The value.
        most: Bytes; a larger value is left out, and its size is told instead.
    """
    if payload is None:
        return None
    if len(payload.data) > most:
        return {"omitted_bytes": len(payload.data), "codec": payload.codec}
    text = payload.data.decode("utf-8", "replace")
    if payload.codec != "json":
        return {"codec": payload.codec, "text": text}
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"codec": payload.codec, "text": text}


def event_document(event: Event) -> dict[str, Any]:
    """Return an event."""
    return {
        "run_id": event.run_id,
        "version": event.version,
        "kind": event.kind.value,
        "node": event.node,
        "attempt": event.attempt,
        "at": event.at.isoformat(),
        "data": _data(event.data) if event.data is not None else None,
        "value": value_document(event.payload),
    }


def summary_document(summary: RunSummary) -> dict[str, Any]:
    """Return what a list says of a run."""
    return {
        "run_id": summary.run_id,
        "workflow": summary.workflow,
        "status": summary.status.value,
        "version": summary.version,
        "created_at": summary.created_at.isoformat(),
        "updated_at": summary.updated_at.isoformat(),
        "owner": summary.owner,
        "parent": summary.parent,
    }


def run_document(events: Sequence[Event]) -> dict[str, Any]:
    """Return a run from its journal."""
    state = fold(events)
    completed = [node for node in state.nodes if node.status is NodeStatus.COMPLETED]
    most = _room_each([payload for node in completed for payload in _payloads(node)])
    return {
        "run_id": state.run_id,
        "workflow": state.workflow,
        "status": state.status.value,
        "version": state.version,
        "created_at": state.created_at.isoformat(),
        "updated_at": state.updated_at.isoformat(),
        "error": _error(state.error),
        "inputs": value_document(state.inputs),
        "outputs": {node.name: _output(node, most) for node in completed},
        "nodes": {node.name: _node(node) for node in state.by_name.values()},
        "mermaid": to_mermaid(state.shape, {node.name: node.status for node in state.nodes}),
    }


def workflow_document(workflow: Workflow) -> dict[str, Any]:
    """Return a workflow with its graph."""
    plan = workflow.compile()
    names = plan.shape.names
    edges = [
        {"from": names[source], "to": names[target]}
        for target, sources in enumerate(plan.shape.predecessors)
        for source in sources
    ]
    nodes = [
        {"name": planned.node.name, "kind": planned.node.kind, "phase_name": planned.node.phase_name}
        for planned in plan.nodes
    ]
    inputs = [{"name": name, "required": not optional} for name, optional in plan.inputs.items()]
    graph = {"nodes": nodes, "edges": edges}
    return {"name": workflow.name, "inputs": inputs, **graph, "graph": graph, "mermaid": workflow.to_mermaid()}


def _node(node: NodeState) -> dict[str, Any]:
    return {
        "status": node.status.value,
        "attempts": node.attempts,
        "waits_for": node.waits_for,
        "error": _error(node.error),
        "reason": node.reason,
        "started_at": _time(node.started_at),
        "ended_at": _time(node.ended_at),
        "due_at": _time(node.due_at),
    }


def _output(node: NodeState, most: int) -> Any:
    if node.items is None:
        return value_document(node.output, most)
    return [
        value_document(item.output, most) if item.error is None else {"error": _error(item.error)}
        for item in node.items
    ]


def _payloads(node: NodeState) -> list[Payload | None]:
    return [node.output] if node.items is None else [item.output for item in node.items]


def _room_each(payloads: Sequence[Payload | None]) -> int:
    """Return the bytes that a value may have: all of them together fit in a page."""
    total = sum(len(payload.data) for payload in payloads if payload is not None)
    return _MOST_BYTES if total <= _MOST_PAGE_BYTES else _MOST_PAGE_BYTES // len(payloads)


def _error(error: ErrorInfo | None) -> dict[str, str] | None:
    if error is None:
        return None
    return _unsecret({"type": error.type, "message": error.message, "traceback": error.traceback})


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    error = data.get("error")
    return {**data, "error": _unsecret(error)} if isinstance(error, dict) else dict(data)


def _unsecret(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return an error without the passwords that its message and its traceback may bear."""
    return {name: unsecret(text) if isinstance(text, str) else text for name, text in error.items()}


def _time(at: datetime | None) -> str | None:
    return at.isoformat() if at is not None else None
