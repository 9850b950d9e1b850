"""What a collector is told by those who count for themselves: an application, its web server, nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagflow._readings import amount, fraction, verdict, word

if TYPE_CHECKING:
    from dagflow._instruments import Instruments

__all__ = ["Records"]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "WEBSOCKET"})


class Records:
    """Checks what it is told and counts it.

    Args:
        instruments: The metrics.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments

    def record_workflow_start(self, workflow_name: str) -> None:
        """Count a run that begins; `record_workflow_complete` ends it."""
        word("workflow_name", workflow_name)
        self._instruments["dag_active_workflows"].inc()

    def record_workflow_complete(self, workflow_name: str, status: str | bool, duration: float) -> None:  # noqa: FBT001 - a word, or its truth
        """Count a run that ended.

        Args:
            workflow_name: Name of the workflow.
            status: ``success``, ``failure`` or ``cancelled``; or whether it succeeded.
            duration: Seconds that it took.

        Raises:
            ValueError: There is no such status, or the duration is none.
        """
        name = word("workflow_name", workflow_name)
        status = verdict("status", status, ("success", "failure"), "cancelled")
        seconds = amount("duration", duration)
        self._instruments["dag_active_workflows"].dec()
        self._instruments.child("dag_workflow_executions_total", name, status).inc()
        self._instruments.child("dag_workflow_execution_duration_seconds", name).observe(seconds)

    def record_node_start(self, node_type: str, phase_name: str | None = None) -> None:
        """Count a call that begins; `record_node_complete` ends it."""
        word("node_type", node_type)
        word("phase_name", phase_name or "", empty=True)
        self._instruments["dag_active_nodes"].inc()

    def record_node_complete(
        self,
        node_type: str,
        phase_name: str | None,
        status: str | bool,  # noqa: FBT001 - a word, or its truth
        duration: float,
    ) -> None:
        """Count a node that ended.

        Args:
            node_type: What sort of work it does.
            phase_name: Its phase, if it has one.
            status: ``success``, ``failure``, ``skipped`` or ``cancelled``; or whether it succeeded.
            duration: Seconds that it took.

        Raises:
            ValueError: There is no such status, or the duration is none.
        """
        node = (word("node_type", node_type), word("phase_name", phase_name or "", empty=True))
        status = verdict("status", status, ("success", "failure"), "skipped", "cancelled")
        seconds = amount("duration", duration)
        self._instruments["dag_active_nodes"].dec()
        self._instruments.child("dag_node_executions_total", *node, status).inc()
        self._instruments.child("dag_node_execution_duration_seconds", *node).observe(seconds)

    def record_api_request(self, method: str, endpoint: str, status_code: int | str, duration: float) -> None:
        """Count an answered request.

        Args:
            method: Of HTTP; one that is unknown counts as ``other``.
            endpoint: The route as it is declared, ``/api/runs/{id}``: never a path with an id in it.
            status_code: Of the answer, 100 to 599.
            duration: Seconds until it was answered.

        Raises:
            ValueError: The status code or the duration is none.
        """
        verb = word("method", method).upper()
        verb = verb if verb in _METHODS else "other"
        route, code, seconds = word("endpoint", endpoint), int(status_code), amount("duration", duration)
        if not 100 <= code <= 599:  # noqa: PLR2004 - the range of HTTP
            raise ValueError(f"status_code must be from 100 to 599, not {status_code!r}")
        self._instruments.child("dag_api_requests_total", verb, route, str(code)).inc()
        self._instruments.child("dag_api_request_duration_seconds", verb, route).observe(seconds)

    def record_websocket_open(self) -> None:
        """Count a WebSocket that was opened."""
        self._instruments["dag_websocket_connections"].inc()

    def record_websocket_close(self) -> None:
        """Count a WebSocket that was closed."""
        self._instruments["dag_websocket_connections"].dec()

    def record_database_query(self, query_type: str, duration: float) -> None:
        """Take the seconds that a question to a database took."""
        kind, seconds = word("query_type", query_type), amount("duration", duration)
        self._instruments.child("dag_database_query_duration_seconds", kind).observe(seconds)

    def record_context_store_operation(self, operation: str, status: str | bool) -> None:  # noqa: FBT001 - a word, or its truth
        """Count a call of a store: ``success`` or ``failure``, or whether it succeeded."""
        status = verdict("status", status, ("success", "failure"))
        self._instruments.child("dag_context_store_operations_total", word("operation", operation), status).inc()

    def record_contract_validation(self, contract_type: str, status: str | bool, duration: float = 0.0) -> None:  # noqa: FBT001 - a word, or its truth
        """Count a check of a contract: ``valid`` or ``invalid``, or whether it was valid, and the seconds it took."""
        kind, seconds = word("contract_type", contract_type), amount("duration", duration)
        status = verdict("status", status, ("valid", "invalid"))
        self._instruments.child("dag_contract_validations_total", kind, status).inc()
        self._instruments.child("dag_contract_validation_duration_seconds", kind).observe(seconds)

    def record_quality_score(self, phase_name: str, score: float) -> None:
        """Take the score of a phase, from 0 to 1."""
        phase, value = word("phase_name", phase_name), fraction("score", score)
        self._instruments.child("dag_quality_score_distribution", phase).observe(value)

    def record_artifact(self, artifact_type: str, size_bytes: int) -> None:
        """Count an artifact and its bytes."""
        kind, size = word("artifact_type", artifact_type), amount("size_bytes", size_bytes)
        self._instruments.child("dag_artifacts_generated_total", kind).inc()
        self._instruments.child("dag_artifact_size_bytes", kind).observe(size)

    def update_health_status(self, check_type: str, healthy: bool) -> None:  # noqa: FBT001 - it is the figure
        """Show whether a check is well."""
        self._instruments.child("dag_health_check_status", word("check_type", check_type)).set(bool(healthy))
