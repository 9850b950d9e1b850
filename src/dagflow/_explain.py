"""Why a node of a run is where it is: in data, and in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import NodeStatus, RunStatus
from dagflow._names import near_miss
from dagflow._state import ENDED
from dagflow._states import child_run_id
from dagflow.errors import RunStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
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
        limits: The limits of which it waits for a slot: ``max_concurrency``, names of ``limits=``, and ``limit``, that
            of its map.
        assignees: Who may decide the review that it waits for; everybody when there is none.
        child_run_id: The run that it has started and waits for.
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
    limits: tuple[str, ...]
    assignees: tuple[str, ...]
    child_run_id: str | None
    due_at: datetime | None
    attempts: int
    owner: str | None
    lease_until: datetime | None


def explain(
    record: RunRecord,
    state: RunState,
    name: str,
    *,
    limits: tuple[str, ...] = (),
    assignees: Iterable[str] = (),
    stopped_by: str | None = None,
) -> Explanation:
    """Explain a node.

    Args:
        record: The record of the run.
        state: The run.
        name: The node.
        limits: It is ready and waits for a slot of these.
        assignees: Who may decide it, when it is a review.
        stopped_by: A failed node, when that failure has decided that nothing new starts.

    Raises:
        RunStateError: The run has no such node.
    """
    node = state.by_name.get(name)
    if node is None:
        raise RunStateError(state.run_id, state.status, f"it has no node {name!r}{near_miss(name, state.by_name)}")
    sources = [state.nodes[i] for i in state.shape.predecessors[node.index]] if node.map is None else []
    explanation = Explanation(
        state.run_id,
        name,
        node.status,
        "",
        {source.name: source.status for source in sources if source.status not in ENDED},
        node.reason,
        node.error,
        node.waits_for or ("limit" if limits else None),
        limits,
        tuple(assignees) if node.waits_for == "review" else (),
        child_run_id(state.run_id, node) if node.waits_for == "run" else None,
        node.due_at,
        node.attempts,
        record.owner,
        record.lease_until,
    )
    sentence = _sentence(state, node, explanation, stopped_by=stopped_by)
    return attrs.evolve(explanation, sentence=f"node {name!r} {sentence}")


def _sentence(state: RunState, node: NodeState, facts: Explanation, *, stopped_by: str | None) -> str:
    if node.status is NodeStatus.COMPLETED:
        return f"completed after {node.attempts or 1} attempt{'s' if node.attempts > 1 else ''}"
    if node.status is NodeStatus.FAILED:
        return f"failed for good with {node.error}"
    if node.status in (NodeStatus.SKIPPED, NodeStatus.BLOCKED, NodeStatus.CANCELLED):
        return f"is {node.status} because {_cause(node.reason or {})}"
    if node.status is NodeStatus.RUNNING:
        return _running(node, facts)
    if node.status is NodeStatus.WAITING:
        return f"waits for {_awaited(node, facts)}"
    return f"is pending: {_pending(state, node, facts, stopped_by=stopped_by)}"


def _cause(reason: Mapping[str, Any]) -> str:
    if reason.get("reason") == "condition":
        values = ", ".join(f"{name}={value}" for name, value in reason["values"].items())
        return f"its condition {reason['condition']}({values}) was false"
    if reason.get("reason") == "dependencies":
        ends = ", ".join(f"{name} is {status}" for name, status in reason["dependencies"].items())
        return f"it needs {reason['join']} of its dependencies, and {ends}"
    return "its run was cancelled"


def _running(node: NodeState, facts: Explanation) -> str:
    if node.items is not None:
        ended = len(node.items) - node.open_items
        return f"is running its items: {ended} of {len(node.items)} have ended, {node.failed_items} of them failed"
    if facts.owner is None:
        return f"is running attempt {node.attempts}, but nobody drives its run: resume() calls it again"
    return f"is running attempt {node.attempts}, called by {_owner(facts)}"


def _awaited(node: NodeState, facts: Explanation) -> str:
    what = {
        "retry": f"its attempt {node.attempts + 1}, after attempt {node.attempts} failed with {node.error}",
        "timer": "its time",
        "signal": f"the signal {node.name!r}",
        "review": f"a decision of {' or '.join(facts.assignees) or 'anybody'}",
        "run": f"the run {facts.child_run_id!r} that it started, which waits itself",
    }[node.waits_for or "timer"]
    return f"{what}, due at {node.due_at.isoformat()}" if node.due_at else what


def _pending(state: RunState, node: NodeState, facts: Explanation, *, stopped_by: str | None) -> str:
    if node.map is not None and node.map.status in ENDED:
        return f"its map {node.map.name!r} ended before it was started"
    if facts.missing:
        ends = ", ".join(f"{name} ({status})" for name, status in facts.missing.items())
        return f"it needs {ends} to end first"
    if state.phase is not RunStatus.RUNNING:
        return _RUNS[state.phase]
    if stopped_by is not None:
        whole = "map" if node.map is not None and stopped_by.startswith(f"{node.map.name}[") else "run"
        return f"nothing new starts in its {whole} since {stopped_by!r} failed"
    if facts.limits:
        return f"it is ready and waits for a free slot of {' and '.join(facts.limits)}"
    return f"it is ready to start by {_owner(facts)}" if facts.owner else "it is ready, but nobody drives its run"


_RUNS = {
    RunStatus.PENDING: "nobody has taken up its run yet",
    RunStatus.PAUSED: "its run is paused, resume() goes on",
    RunStatus.FAILED: "its run failed before it was started, resume() goes on",
    RunStatus.CANCELLED: "its run was cancelled before it was started, resume() goes on",
}
"""Why a node of a run that does not go on is pending; no node of a completed run is."""


def _owner(facts: Explanation) -> str:
    until = f", whose lease lapses at {facts.lease_until.isoformat()}" if facts.lease_until else ""
    return f"the owner {facts.owner!r}{until}"
