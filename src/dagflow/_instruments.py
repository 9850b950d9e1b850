"""Every metric by its name: what it is called, what it means, and how it is made once for each registry.

The only room with prometheus_client.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Any

import attrs

from dagflow.errors import MissingExtraError

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram, Info, generate_latest
    from prometheus_client import Counter as CounterMetric
    from prometheus_client.multiprocess import MultiProcessCollector
except ImportError as exc:
    raise MissingExtraError(feature="MetricsCollector", extra="metrics") from exc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["METRICS", "Instruments", "Metric", "is_multiprocess", "observe_all", "render"]

_QUICK_S = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG_S = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
_BYTES = tuple(float(4**power * 64) for power in range(13))
_SCORES = tuple(tenth / 10 for tenth in range(1, 11))
_OTHER = "other"
_MOST_VALUES = 200
"""How many values a label may have; further ones are counted together as ``other``."""


@attrs.frozen
class Metric:
    """One metric.

    Attributes:
        name: As it is exposed.
        type: ``counter``, ``gauge``, ``histogram`` or ``info``.
        help: What it counts, in which unit.
        labels: Names of its labels.
        buckets: Upper bounds of a histogram.
        together: What the gauges of several processes make, as prometheus_client calls it.
    """

    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    together: str = "livesum"


_NODE = ("node_type", "phase_name")
_COUNTER, _GAUGE, _HISTOGRAM = "counter", "gauge", "histogram"
# What every process sees of one store is the same figure: the newest one counts.
_SHARED = "livemostrecent"

METRICS: tuple[Metric, ...] = (
    Metric("dag_workflow_executions_total", _COUNTER, "Runs that ended.", ("workflow_name", "status")),
    Metric(
        "dag_workflow_execution_duration_seconds",
        _HISTOGRAM,
        "Seconds from the creation of a run to its end.",
        ("workflow_name",),
        _LONG_S,
    ),
    Metric("dag_active_workflows", _GAUGE, "Runs that are driven in this process."),
    Metric(
        "dag_workflow_queue_depth", _GAUGE, "Pending runs that wait to be claimed, 5,000 at the most.", together=_SHARED
    ),
    Metric("dag_node_executions_total", _COUNTER, "Nodes and items of maps that ended.", (*_NODE, "status")),
    Metric(
        "dag_node_execution_duration_seconds",
        _HISTOGRAM,
        "Seconds from the first start of a node to its end.",
        _NODE,
        _LONG_S,
    ),
    Metric("dag_node_retries_total", _COUNTER, "Failed attempts that are followed by another one.", _NODE),
    Metric("dag_active_nodes", _GAUGE, "Calls of nodes that are under way."),
    Metric("dag_database_connections", _GAUGE, "Open connections of the store to its database."),
    Metric("dag_database_pool_size", _GAUGE, "Connections that the store may have."),
    Metric(
        "dag_database_query_duration_seconds",
        _HISTOGRAM,
        "Seconds that a call of the store took.",
        ("query_type",),
        _QUICK_S,
    ),
    Metric("dag_context_store_operations_total", _COUNTER, "Calls of the store.", ("operation", "status")),
    Metric("dag_memory_usage_bytes", _GAUGE, "Bytes of memory that this process holds."),
    Metric("dag_cpu_usage_percent", _GAUGE, "Processor time of this process, in percent of one processor."),
    Metric("dag_api_requests_total", _COUNTER, "Answered requests.", ("method", "endpoint", "status_code")),
    Metric(
        "dag_api_request_duration_seconds",
        _HISTOGRAM,
        "Seconds until a request was answered.",
        ("method", "endpoint"),
        _QUICK_S,
    ),
    Metric("dag_websocket_connections", _GAUGE, "WebSockets that are open."),
    Metric("dag_health_check_status", _GAUGE, "1 when a check is well, else 0.", ("check_type",), together="livemin"),
    Metric("dag_quality_score_distribution", _HISTOGRAM, "Scores of phases, from 0 to 1.", ("phase_name",), _SCORES),
    Metric("dag_artifacts_generated_total", _COUNTER, "Artifacts that were written.", ("artifact_type",)),
    Metric("dag_artifact_size_bytes", _HISTOGRAM, "Bytes of an artifact.", ("artifact_type",), _BYTES),
    Metric("dag_contract_validations_total", _COUNTER, "Checks of contracts.", ("contract_type", "status")),
    Metric(
        "dag_contract_validation_duration_seconds",
        _HISTOGRAM,
        "Seconds that the check of a contract took.",
        ("contract_type",),
        _QUICK_S,
    ),
    Metric("dag_system_info", "info", "The version, and what the application adds.", together="livemostrecent"),
    Metric("dag_context_store_retries_total", _COUNTER, "Times that a store tried again after a fault."),
    Metric("dag_lease_losses_total", _COUNTER, "Runs that another executor took away from this process."),
    Metric("dag_lease_takeovers_total", _COUNTER, "Runs taken over from an owner that was gone."),
    Metric("dag_runs_waiting_for_review", _GAUGE, "Runs that wait for a review.", together=_SHARED),
    Metric("dag_oldest_review_age_seconds", _GAUGE, "Seconds that the oldest review has waited.", together=_SHARED),
    Metric("dag_runs_orphaned", _GAUGE, "Begun runs that could be claimed and that nobody drives.", together=_SHARED),
    Metric(
        "dag_quietest_run_age_seconds",
        _GAUGE,
        "Seconds since the last event of the running run that has been quiet longest.",
        together="livemax",
    ),
    Metric(
        "dag_oldest_ready_node_age_seconds",
        _GAUGE,
        "Seconds that the node has waited for a slot which is ready longest.",
        together="livemax",
    ),
    Metric("dag_node_attempts_in_backoff", _GAUGE, "Nodes that wait for their next attempt."),
    Metric("dag_journal_size_bytes", _GAUGE, "Bytes that the runs take in the store.", together=_SHARED),
    Metric("dag_observer_events_dropped_total", _COUNTER, "Events dropped for observers that were too slow."),
)


class Instruments:
    """The metrics of one registry; those that are registered already are used again.

    Args:
        registry: Where they are registered; prometheus_client's own when it is ``None``.
        info: Facts of the application for ``dag_system_info``.

    Raises:
        ValueError: The registry has another metric of the same name, or a fact has no name of a label.
    """

    def __init__(self, registry: CollectorRegistry | None, info: Mapping[str, str]) -> None:
        self.registry = REGISTRY if registry is None else registry
        self._values: dict[str, set[str]] = {}
        self._metrics = {metric.name: self._made(metric, info) for metric in METRICS}
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Return a metric without labels."""
        return self._metrics[name]

    def child(self, name: str, *values: str) -> Any:
        """Return the metric with these values of its labels, in their order."""
        found = self._children.get((name, values))
        if found is None:
            labels = next(metric.labels for metric in METRICS if metric.name == name)
            bounded = [self._bounded(label, value) for label, value in zip(labels, values, strict=True)]
            found = self._metrics[name].labels(*bounded)
            # What is not kept apart must not be remembered apart either.
            if _OTHER not in bounded:
                self._children[name, values] = found
        return found

    def _bounded(self, label: str, value: str) -> str:
        known = self._values.setdefault(label, set())
        if value not in known and len(known) >= _MOST_VALUES:
            return _OTHER
        known.add(value)
        return value

    def _made(self, metric: Metric, info: Mapping[str, str]) -> Any:
        if metric.type == "info":
            return self._info(metric, info)
        # There is no public way to ask a registry for what it has; a second registration only says that it is there.
        found: Any = self.registry._names_to_collectors.get(metric.name)  # noqa: SLF001
        if found is None:
            return _new(metric, self.registry)
        if not isinstance(found, _CLASSES[metric.type]) or tuple(found._labelnames) != metric.labels:  # noqa: SLF001
            raise ValueError(f"the registry has another metric {metric.name!r}: give the collector one of its own")
        return found

    def _info(self, metric: Metric, info: Mapping[str, str]) -> Any:
        found: Any = self.registry._names_to_collectors.get(metric.name)  # noqa: SLF001 - as above
        if is_multiprocess():
            # An Info does not reach the other processes.
            if found is None:
                found = Gauge(
                    metric.name, metric.help, sorted(info), registry=self.registry, multiprocess_mode="livemostrecent"
                )
            if set(found._labelnames) == set(info):  # noqa: SLF001 - as above
                found.labels(**info).set(1)
            return found
        if found is None:
            found = Info(metric.name.removesuffix("_info"), metric.help, registry=self.registry)
        found.info({**found._value, **info})  # noqa: SLF001 - as above
        return found


_CLASSES: dict[str, Any] = {_COUNTER: CounterMetric, _GAUGE: Gauge, _HISTOGRAM: Histogram}


def _new(metric: Metric, registry: CollectorRegistry) -> Any:
    options: dict[str, Any] = {"registry": registry}
    if metric.type == _HISTOGRAM:
        options["buckets"] = metric.buckets
    if metric.type == _GAUGE:
        options["multiprocess_mode"] = metric.together
    return _CLASSES[metric.type](metric.name, metric.help, metric.labels, **options)


def observe_all(histogram: Any, values: Sequence[float]) -> None:
    """Let a histogram observe many values at the price of few: it takes two locks for each that it is told."""
    if len(values) == 1:
        histogram.observe(values[0])
        return
    bounds, buckets = histogram._upper_bounds, histogram._buckets  # noqa: SLF001 - there is no public way
    histogram._sum.inc(sum(values))  # noqa: SLF001 - as above
    for position, count in Counter([bisect_left(bounds, value) for value in values]).items():
        buckets[position].inc(count)


def is_multiprocess() -> bool:
    """Return whether the metrics of several processes are gathered in a folder."""
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


def render(registry: CollectorRegistry) -> bytes:
    """Return everything in the text format, of all processes where several are gathered."""
    if not is_multiprocess():
        return generate_latest(registry)
    gathered = CollectorRegistry()
    MultiProcessCollector(gathered)  # type: ignore[no-untyped-call]
    return generate_latest(gathered)
