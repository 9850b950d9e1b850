"""Why a node of a run is where it is: in data, and in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import NodeStatus, RunStatus
from dagflow._names import near_miss
from dagflow._state import ENDED
from dagflow.errors import RunStateError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from dagflow._events import ErrorInfo, RunRecord
    from dagflow._states import NodeState, RunState

__all__ = ["Explanation", "explain"]


@attrs.frozen
class Explanation:
    """Why a node is where it is.

    Attributes:
        run_id: The run.
        node: The node.
        status: Its status.
        sentence: All of it in one sentence.
        missing: The dependencies that have not ended, with their statuses.
        reason: Why it was skipped, blocked or cancelled, as its event says.
        error: What its last failed attempt raised.
        waits_for: ``retry``, ``timer``, ``signal``, ``review``, ``run`` or ``limit``, while it waits for that.
        due_at: When its time comes, aware UTC.
        attempts: How many attempts have been started.
        owner: The executor that drives the run, ``None`` when nobody does.
        lease_until: When the owner's lease lapses, aware UTC.
    """

    run_id: str
    node: str
    status: NodeStatus
    sentence: str
    missing: Mapping[str, NodeStatus]
    reason: Mapping[str, Any] | None
    error: ErrorInfo | None
    waits_for: str | None
    due_at: datetime | None
    attempts: int
    owner: str | None
    lease_until: datetime | None


def explain(record: RunRecord, state: RunState, name: str, *, stands_in_line: bool) -> Explanation:
    """Explain a node.

    Args:
        record: The record of the run.
        state: The run.
        name: The node.
        stands_in_line: It is ready and waits for a slot of a limit.

    Raises:
        RunStateError: The run has no such node.
    """
    node = state.by_name.get(name)
    if node is None:
        raise RunStateError(state.run_id, state.status, f"it has no node {name!r}{near_miss(name, state.by_name)}")
    sources = [state.nodes[i] for i in state.shape.predecessors[node.index]] if node.map is None else []
    missing = {source.name: source.status for source in sources if source.status not in ENDED}
    waits_for = node.waits_for or ("limit" if stands_in_line else None)
    return Explanation(
        state.run_id,
        name,
        node.status,
        f"node {name!r} {_sentence(record, state, node, missing, waits_for)}",
        missing,
        node.reason,
        node.error,
        waits_for,
        node.due_at,
        node.attempts,
        record.owner,
        record.lease_until,
    )


def _sentence(
    record: RunRecord, state: RunState, node: NodeState, missing: Mapping[str, NodeStatus], waits_for: str | None
) -> str:
    if node.status is NodeStatus.COMPLETED:
        return f"completed after {node.attempts or 1} attempt{'s' if node.attempts > 1 else ''}"
    if node.status is NodeStatus.FAILED:
        return f"failed for good with {node.error}"
    if node.status in (NodeStatus.SKIPPED, NodeStatus.BLOCKED, NodeStatus.CANCELLED):
        return f"is {node.status} because {_cause(node.reason or {})}"
    if node.status is NodeStatus.RUNNING:
        owned = "" if record.owner else ", but nobody drives its run: it is called again when the run is taken up"
        return f"is running attempt {node.attempts}{owned}" if node.items is None else "is running its items"
    if node.status is NodeStatus.WAITING:
        return f"waits for {_awaited(node)}"
    return f"is pending: {_pending(record, state, missing, waits_for)}"


def _cause(reason: Mapping[str, Any]) -> str:
    if reason.get("reason") == "condition":
        values = ", ".join(f"{name}={value}" for name, value in reason["values"].items())
        return f"its condition {reason['condition']}({values}) was false"
    if reason.get("reason") == "dependencies":
        ends = ", ".join(f"{name} is {status}" for name, status in reason["dependencies"].items())
        return f"it needs {reason['join']} of its dependencies, and {ends}"
    return "its run was cancelled"


def _awaited(node: NodeState) -> str:
    what = {
        "retry": f"its attempt {node.attempts + 1}, after attempt {node.attempts} failed with {node.error}",
        "timer": "its time",
        "signal": f"the signal {node.name!r}",
        "review": "a decision about the review",
        "run": "the run that it started, which waits itself",
    }[node.waits_for or "timer"]
    return f"{what}, due at {node.due_at.isoformat()}" if node.due_at else what


def _pending(record: RunRecord, state: RunState, missing: Mapping[str, NodeStatus], waits_for: str | None) -> str:
    if missing:
        ends = ", ".join(f"{name} ({status})" for name, status in missing.items())
        return f"it needs {ends} to end first"
    if waits_for == "limit":
        return "it is ready and waits for a free slot of max_concurrency or one of its limits"
    if state.phase is RunStatus.PENDING:
        return "nobody has taken up its run yet"
    if state.phase is RunStatus.PAUSED:
        return "its run is paused, resume() goes on"
    if state.status.is_terminal:
        return f"its run {state.status} before it was started, resume() goes on"
    return "it is ready to start" if record.owner else "it is ready to start, but nobody drives its run"
