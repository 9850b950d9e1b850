"""Answers to reviews: who may give which, and the message that carries one.

A decision is made unique when it is sent: its key names the request that it answers, and a store keeps no two messages
of one run with the same key. So the first one counts, its sender knows at once, and a deadline is just one more sender.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import EventKind, Message, MessageKind, NodeStatus
from dagflow._names import near_miss
from dagflow._schemas import BadSchemaError, compile_schema
from dagflow.errors import AlreadyDecidedError, DecisionError, UnknownWorkflowError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from dagflow._events import Event
    from dagflow._node import ReviewSpec
    from dagflow._state import RunState
    from dagflow.protocols import Codec

__all__ = ["Decision", "already", "check_decision", "decided_before", "decision_message", "missed"]


@attrs.frozen
class Decision:
    """What somebody decided about a review.

    Attributes:
        review: The review.
        approved: The verdict.
        by: Who decided, ``None`` for the deadline.
        at: When, aware UTC.
        comment: What they said.
        data: What they filled in.
    """

    review: str
    approved: bool
    by: str | None
    at: datetime
    comment: str | None = None
    data: Any = None


def decision_message(run_id: str, requested: int, decision: Decision, codec: Codec) -> Message:
    """Return the message that answers a review.

    Args:
        run_id: The run.
        requested: Number of the event that asked for the review.
        decision: What was decided.
        codec: Encodes what the review gives to those that wait for it.

    Raises:
        SerializationError: The data cannot be kept.
    """
    facts = {
        "approved": decision.approved,
        "by": decision.by,
        "at": decision.at.isoformat(),
        "comment": decision.comment,
        "requested": requested,
    }
    output = {
        "approved": decision.approved,
        "by": decision.by,
        "at": decision.at,
        "comment": decision.comment,
        "data": decision.data,
    }
    return Message(
        run_id,
        MessageKind.DECISION,
        decision.review,
        codec.encode(output),
        facts,
        f"review:{decision.review}:{requested}",
    )


def check_decision(state: RunState, spec: ReviewSpec | None, decision: Decision, request: Mapping[str, Any]) -> int:
    """Return the number of the request that a decision answers.

    Args:
        state: The run.
        spec: The definition of the review, when its workflow is known here.
        decision: What somebody wants to decide.
        request: What the journal says of the last request: who may decide, and the form.

    Raises:
        DecisionError: The run does not wait for it, the person may not decide, or the data is not what the form asks
            for.
        UnknownWorkflowError: The form is a class, and the workflow that has it is not known here.
    """
    node = state.by_name.get(decision.review)
    reviews = [state.shape.names[i] for i, kind in state.shape.kinds.items() if kind == "review"]
    if node is None or decision.review not in reviews:
        reason = f"it is no review of this run{near_miss(decision.review, reviews)}"
        raise DecisionError(state.run_id, decision.review, reason)
    fault = _verdict_fault(decision, request.get("assignees", ()))
    if fault is None and node.status is not NodeStatus.WAITING:
        fault = f"it is {node.status}, so there is nothing to decide"
    if fault is None and decision.approved:
        reason = _form_fault(_form(state, spec, request), decision.data)
        fault = f"the data does not fit its form: {reason}" if reason else None
    if fault is not None:
        raise DecisionError(state.run_id, decision.review, fault)
    return node.requested


def _verdict_fault(decision: Decision, assignees: Iterable[str]) -> str | None:
    people = list(assignees)
    if type(decision.approved) is not bool:
        return f"approved= must be True or False, not {decision.approved!r}"
    if not isinstance(decision.by, str) or not decision.by:
        return f"by= must name who decides, not {decision.by!r}"
    if people and decision.by not in people:
        return f"{decision.by!r} may not decide it, only {', '.join(people)}"
    return None


def _form(state: RunState, spec: ReviewSpec | None, request: Mapping[str, Any]) -> Mapping[str, Any] | type | None:
    """Return the form of a review: that of the code, or, where the workflow is not known, that of the journal."""
    if spec is not None:
        return spec.form
    if "form_class" in request:
        raise UnknownWorkflowError("", state.workflow)
    schema: Mapping[str, Any] | None = request.get("form")
    return schema


def missed(state: RunState, decision: Decision, on_deadline: object) -> Exception | None:
    """Return the error for a decision that comes after the deadline of its review."""
    node = state.by_name.get(decision.review)
    if node is None or node.waits_for != "review" or node.due_at is None or node.due_at > decision.at:
        return None
    if on_deadline == "fail":
        return DecisionError(state.run_id, decision.review, f"its deadline passed at {node.due_at.isoformat()}")
    return AlreadyDecidedError(state.run_id, decision.review, None, node.due_at, on_deadline == "approve")


def decided_before(state: RunState, events: Iterable[Event], review: str) -> AlreadyDecidedError | None:
    """Return the error that tells who decided a review, when it is decided already."""
    node = state.by_name.get(review)
    if node is None or node.status is NodeStatus.WAITING or node.decision is None:
        return None
    event = next(e for e in reversed(list(events)) if e.kind is EventKind.REVIEW_DECIDED and e.node == review)
    return already(state.run_id, review, event.data or {}, event.at)


def already(run_id: str, review: str, facts: Mapping[str, Any], at: datetime | None) -> AlreadyDecidedError:
    """Return the error from the facts of the first decision."""
    return AlreadyDecidedError(run_id, review, facts.get("by"), at, bool(facts.get("approved")))


def _form_fault(form: Mapping[str, Any] | type | None, data: Any) -> str:
    """Return what is wrong with the data, ``""`` when nothing is."""
    if form is None:
        return ""
    if isinstance(form, Mapping):
        return _schema_fault(form, data)
    if isinstance(data, form):
        return ""
    if not isinstance(data, Mapping):
        return f"it asks for the fields of {form.__name__}, not for {type(data).__name__}"
    try:
        form(**data)
    except Exception as exc:  # noqa: BLE001 - the user's class and its validators
        # Validators of attrs hand over more than the sentence.
        text = exc.args[0] if exc.args and isinstance(exc.args[0], str) else str(exc)
        return text or type(exc).__name__
    return ""


def _schema_fault(schema: Mapping[str, Any], data: Any) -> str:
    try:
        fault = compile_schema(schema, "a form that is a JSON Schema")(data)
    except BadSchemaError as exc:
        return f"the form is no JSON Schema: {exc}"
    return "" if fault is None else f"{fault[0]}: {fault[1]}"
