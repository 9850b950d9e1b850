"""The meters of one executor, called as one: guests that may fail without harm to what they measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagflow._log import LOGGER
from dagflow.protocols import Meter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dagflow.protocols import Observer

__all__ = ["Meters", "meters_of"]


class Meters:
    """Hands every figure to several meters; what one of them raises is logged.

    Args:
        meters: The meters, at least one.
    """

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = tuple(meters)

    def record_contract_validation(self, contract_type: str, status: bool | str, duration: float) -> None:  # noqa: FBT001 - the meter's
        """See `Meter.record_contract_validation`."""
        self._record("record_contract_validation", contract_type, status, duration)

    def record_quality_score(self, phase_name: str, score: float) -> None:
        """See `Meter.record_quality_score`."""
        self._record("record_quality_score", phase_name, score)

    def record_artifact(self, artifact_type: str, size_bytes: int) -> None:
        """See `Meter.record_artifact`."""
        self._record("record_artifact", artifact_type, size_bytes)

    def record_context_store_operation(self, operation: str, status: bool | str) -> None:  # noqa: FBT001 - the meter's
        """See `Meter.record_context_store_operation`."""
        self._record("record_context_store_operation", operation, status)

    def record_database_query(self, query_type: str, duration: float) -> None:
        """See `Meter.record_database_query`."""
        self._record("record_database_query", query_type, duration)

    def _record(self, method: str, *figures: object) -> None:
        for meter in self._meters:
            try:
                getattr(meter, method)(*figures)
            except Exception:  # of the user's meter
                LOGGER.exception("a meter raised, what it measures goes on", extra={"meter": meter, "method": method})


def meters_of(observers: Iterable[Observer]) -> Meters | None:
    """Return the observers that are meters as well, as one meter; ``None`` when there is none."""
    meters = [observer for observer in observers if isinstance(observer, Meter)]
    return Meters(meters) if meters else None
