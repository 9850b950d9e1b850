"""OpenTelemetry spans: one for each time that a run is driven, and one for each attempt below it.

Spans bear names, numbers and kinds of errors; never inputs, outputs or texts of errors. A run that is gone on with, in
this process or another, links to the span that it had before: where that was stands in the journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import EventKind
from dagflow.errors import MissingExtraError

try:
    from opentelemetry import trace
except ImportError as exc:
    raise MissingExtraError(feature="TracingObserver", extra="otel") from exc

if TYPE_CHECKING:
    from datetime import datetime

    from opentelemetry.trace import Span, TracerProvider

    from dagflow._events import Event
    from dagflow._state import RunState

__all__ = ["TracingObserver"]

_OPENINGS = frozenset({EventKind.RUN_STARTED, EventKind.RUN_RESUMED})
_RUN_ENDS = {
    EventKind.RUN_COMPLETED: "completed",
    EventKind.RUN_FAILED: "failed",
    EventKind.RUN_CANCELLED: "cancelled",
    EventKind.RUN_PAUSED: "paused",
}
_ATTEMPT_ENDS = {
    EventKind.NODE_COMPLETED: "completed",
    EventKind.NODE_FAILED: "failed",
    EventKind.NODE_RETRY: "failed",
    EventKind.NODE_CANCELLED: "cancelled",
    EventKind.NODE_INTERRUPTED: "interrupted",
    EventKind.NODE_WAITING: "waiting",
}


@attrs.define
class _Drive:
    """A run while it is driven: its span, and those of the attempts under way by the names of their nodes."""

    span: Span
    state: RunState | None = None
    attempts: dict[str, Span] = attrs.field(factory=dict)


class TracingObserver:
    """Tells OpenTelemetry what an executor does; pass it in ``observers``.

    Spans are ended in the thread of the observer, so that an exporter that hangs stops no run.

    Args:
        tracer_provider: Makes the tracer; the global one when it is ``None``.

    Raises:
        MissingExtraError: opentelemetry-api is not installed.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("dagflow", tracer_provider=tracer_provider)
        self._begun: dict[str, _Drive] = {}
        self._drives: dict[str, _Drive] = {}

    def begin(self, state: RunState, before: str | None) -> str | None:
        """Start the span of a run that is about to be driven.

        Args:
            state: The run.
            before: What this returned when the run was driven last.

        Returns:
            Where the span is, as a W3C ``traceparent``, for the journal; ``None`` when nobody traces.
        """
        drive = self._drive(state.run_id, state.workflow, before)
        drive.state = state
        where = drive.span.get_span_context()
        if not where.is_valid:
            return None
        traceparent = f"00-{where.trace_id:032x}-{where.span_id:016x}-{where.trace_flags:02x}"
        self._begun[traceparent] = drive
        return traceparent

    def leave(self, state: RunState, error: BaseException | None) -> None:
        """End what is open of a run that is no longer driven here."""
        for where in [where for where, drive in self._begun.items() if drive.state is state]:
            # What was never recorded was no drive; a span that is not ended is never exported.
            del self._begun[where]
        if state.run_id in self._drives:
            kind = None if error is None else type(error).__qualname__
            self._end(self._drives.pop(state.run_id), None, state.status.value, kind)

    def __call__(self, event: Event) -> None:
        """Start and end spans as an event says."""
        if event.kind in _OPENINGS:
            where = (event.data or {}).get("traceparent", "")
            begun = self._begun.pop(where, None)
            self._drives[event.run_id] = self._drive(event.run_id, None, None) if begun is None else begun
        drive = self._drives.get(event.run_id)
        if drive is None:
            return
        if event.kind in _RUN_ENDS:
            del self._drives[event.run_id]
            self._end(drive, event.at, _RUN_ENDS[event.kind], _error_type(event))
        elif event.node is not None:
            self._attempt(drive, event, event.node)

    def _drive(self, run_id: str, workflow: str | None, before: str | None) -> _Drive:
        links = [trace.Link(context)] if (context := _context(before)) is not None else []
        facts = {"dagflow.run_id": run_id, **({} if workflow is None else {"dagflow.workflow": workflow})}
        # A run has a trace of its own, wherever it is started from: it may outlive whoever asked for it by days.
        span = self._tracer.start_span(
            f"run {workflow}" if workflow else "run", context=trace.set_span_in_context(trace.INVALID_SPAN), links=links
        )
        span.set_attributes(facts)
        return _Drive(span)

    def _attempt(self, drive: _Drive, event: Event, node: str) -> None:
        if event.kind is EventKind.NODE_STARTED and event.attempt:
            facts: dict[str, Any] = {
                "dagflow.run_id": event.run_id,
                "dagflow.node": node,
                "dagflow.attempt": event.attempt,
            }
            # The name of a span says what sort of thing it is: the items of a map are one sort.
            drive.attempts[node] = self._tracer.start_span(
                f"node {node.partition('[')[0]}",
                context=trace.set_span_in_context(drive.span),
                attributes=facts,
                start_time=_ns(event.at),
            )
        elif event.kind in _ATTEMPT_ENDS and node in drive.attempts:
            _finish(drive.attempts.pop(node), event.at, _ATTEMPT_ENDS[event.kind], _error_type(event))

    def _end(self, drive: _Drive, at: datetime | None, status: str, error_type: str | None) -> None:
        for span in drive.attempts.values():
            _finish(span, at, "interrupted", None)
        _finish(drive.span, at, status, error_type)


def _finish(span: Span, at: datetime | None, status: str, error_type: str | None) -> None:
    span.set_attribute("dagflow.status", status)
    if error_type is not None:
        span.set_attribute("error.type", error_type)
        span.set_status(trace.Status(trace.StatusCode.ERROR))
    span.end(end_time=None if at is None else _ns(at))


def _error_type(event: Event) -> str | None:
    error = (event.data or {}).get("error")
    return None if error is None else str(error["type"])


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000


def _context(traceparent: str | None) -> trace.SpanContext | None:
    """Return where a span was, or ``None`` when the text does not say."""
    if traceparent is None:
        return None
    try:
        _, trace_id, span_id, flags = traceparent.split("-")
        numbers = int(trace_id, 16), int(span_id, 16), trace.TraceFlags(int(flags, 16))
    except ValueError:
        return None
    return trace.SpanContext(numbers[0], numbers[1], is_remote=True, trace_flags=numbers[2])
