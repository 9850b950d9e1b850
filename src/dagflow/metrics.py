"""Metrics for Prometheus: a collector that is an observer, and decorators for an application's own functions.

A collector that is handed to an executor among its ``observers`` is all that is needed: the executor tells it what was
committed, times its store for it, and shows it how things stand every few seconds. No scrape asks a store.
"""

from __future__ import annotations

import os
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from dagflow._events import EventKind
from dagflow._instruments import Instruments, observe_all, render
from dagflow._node import NodeType
from dagflow._readings import (
    amount,
    cpu_seconds,
    memory_bytes_now,
    uptime_s,
    word,
)
from dagflow._records import Records
from dagflow._results import phase_of
from dagflow._state import RunState, apply
from dagflow._tracking import tracked
from dagflow.errors import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from prometheus_client import CollectorRegistry

    from dagflow._events import Event
    from dagflow._metering import Figures
    from dagflow._node import Node
    from dagflow._plan import Plan

__all__ = ["MetricsCollector", "default_collector", "track_node_execution", "track_workflow_execution"]

P = ParamSpec("P")
R = TypeVar("R")

_RUN_ENDS = {
    EventKind.RUN_COMPLETED: "success",
    EventKind.RUN_FAILED: "failure",
    EventKind.RUN_CANCELLED: "cancelled",
}
# A node that was blocked or cancelled was not executed to an end of its own.
_NODE_ENDS = {
    EventKind.NODE_FAILED: "failure",
    EventKind.NODE_SKIPPED: "skipped",
    EventKind.NODE_BLOCKED: "skipped",
    EventKind.NODE_CANCELLED: "skipped",
}
_OPENINGS = frozenset({EventKind.RUN_CREATED, EventKind.RUN_STARTED, EventKind.RUN_RESUMED})
_AFTER_CREATION = 2
_MOST_ENDED = 100
_STARTED, _COMPLETED = EventKind.NODE_STARTED, EventKind.NODE_COMPLETED
_BASE_S = 1.0
_SHORTEST_S = 0.001


class MetricsCollector(Records):
    """Counts runs, nodes and all that is around them, under the names that dashboards know.

    As one of the ``observers`` of an executor it moves by itself. An application may call the ``record_`` methods for
    what it does beside that. Every method may be called from any thread and returns at once.

    Example:
        >>> from dagflow import DAGExecutor, Workflow
        >>> from prometheus_client import CollectorRegistry
        >>> collector = MetricsCollector(CollectorRegistry())
        >>> workflow = Workflow("greeting")
        >>> @workflow.node
        ... def greet() -> str:
        ...     return "Hello"
        >>> with DAGExecutor("memory://", observers=[collector]) as executor:
        ...     run = executor.run(workflow)
        >>> labels = {"workflow_name": "greeting", "status": "success"}
        >>> collector.registry.get_sample_value("dag_workflow_executions_total", labels)
        1.0

    Args:
        registry: Where the metrics are registered, prometheus_client's own when it is ``None``. Several collectors
            may share one: they count together.
        info: What the application adds to ``dag_system_info``, besides ``version``.
        interval: Seconds between two looks of the executor at its store.

    Raises:
        MissingExtraError: prometheus_client is not installed.
        ValueError: The registry has other metrics of these names, or the interval is not above 0.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        info: Mapping[str, object] | None = None,
        *,
        interval: float = 5.0,
    ) -> None:
        if not interval > 0:
            raise ValueError(f"interval must be above 0 seconds, not {interval!r}")
        facts = {"version": version("dagflow-sdk"), **{key: str(value) for key, value in (info or {}).items()}}
        self.interval = interval
        super().__init__(Instruments(registry, facts))
        self._plain = _Series(self._instruments, "custom", "")
        self._tables: WeakKeyDictionary[Plan, list[_Series]] = WeakKeyDictionary()
        self._following: dict[int, _Following] = {}
        self._folded: dict[str, RunState] = {}
        self._ended: dict[str, None] = {}
        self._boards: dict[object, Figures] = {}
        self._given: dict[str, float] = {}
        self._shown: set[str] = set()
        self._last: dict[tuple[str, object], float] = {}
        self._queue = 0
        self._lock = threading.Lock()
        self._cpu = (time.monotonic() - uptime_s(), 0.0)

    # -- what is scraped --------------------------------------------------------------------------

    @property
    def registry(self) -> CollectorRegistry:
        """The registry that holds the metrics; in multiprocess mode only `render` gives those of all processes."""
        return self._instruments.registry

    def render(self) -> bytes:
        """Return all metrics of the registry in the text format of Prometheus, as UTF-8."""
        self.update_system_resources()
        return render(self.registry)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write what `render` returns to a file, for the textfile collector of the node exporter; at once or not."""
        target = Path(path)
        half = target.with_name(f"{target.name}.{os.getpid()}.{threading.get_ident()}")
        half.write_bytes(self.render())
        half.replace(target)

    # -- as an observer ---------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        """Count one event of a stream that no executor of this collector tells, such as a journal that is read."""
        if event.kind is EventKind.RUN_CREATED:
            state = self._folded[event.run_id] = RunState.created(event)
        elif event.run_id in self._folded:
            state = self._folded[event.run_id]
            apply(state, event)
        else:
            return
        self._count([event], state, None)
        if event.kind is EventKind.RUN_COMPLETED:
            del self._folded[event.run_id]
        elif event.kind in _RUN_ENDS:
            self._keep_ended(event.run_id)
        elif event.kind is EventKind.RUN_RESUMED:
            self._ended.pop(event.run_id, None)

    def _keep_ended(self, run_id: str) -> None:
        """Keep a run that may be opened again, instead of the one that ended longest ago."""
        self._ended[run_id] = None
        if len(self._ended) > _MOST_ENDED:
            oldest = next(iter(self._ended))
            del self._ended[oldest], self._folded[oldest]

    def follow(self, events: Sequence[Event], state: RunState | None, plan: Plan | None) -> None:
        """Count what an executor has committed.

        Args:
            events: Of one run.
            state: The run with the events taken in; ``None`` for one that was only submitted.
            plan: Its workflow, if it is known.
        """
        first = events[0]
        if state is None or (first.kind is EventKind.RUN_CREATED and len(events) == 1):
            self._queue_moves(1)
            return
        if first.version == _AFTER_CREATION:
            # Whatever comes next, be it that the run is cancelled, takes it out of the queue.
            self._queue_moves(-1)
        if first.kind in _OPENINGS:
            self._following[id(state)] = _Following(state)
            self._instruments["dag_active_workflows"].inc()
        self._show_running(state)
        self._count(events, state, None if plan is None else self._table(plan))

    def leave(self, state: RunState, error: BaseException | None) -> None:
        """Take in that an executor no longer drives a run, and why it gave up."""
        following = self._following.pop(id(state), None)
        if following is not None:
            self._instruments["dag_active_workflows"].dec()
            self._instruments["dag_active_nodes"].dec(following.running)
        if isinstance(error, LeaseLostError):
            self._instruments["dag_lease_losses_total"].inc()

    def _show_running(self, state: RunState) -> None:
        following = self._following.get(id(state))
        if following is not None and state.running != following.running:
            self._instruments["dag_active_nodes"].inc(state.running - following.running)
            following.running = state.running

    def _table(self, plan: Plan) -> list[_Series]:
        table = self._tables.get(plan)
        if table is None:
            made: dict[tuple[str, str], _Series] = {}
            table = self._tables[plan] = []
            for planned in plan.nodes:
                key = _labels(planned.node)
                if key not in made:
                    made[key] = _Series(self._instruments, *key)
                table.append(made[key])
        return table

    def _count(self, events: Sequence[Event], state: RunState, table: list[_Series] | None) -> None:
        by_name, plain = state.by_name, self._plain
        # Completed nodes are most of what there is to count, so they are counted together.
        completed: dict[_Series, list[float]] = {}
        for event in events:
            kind = event.kind
            if kind is _COMPLETED:
                node = by_name[event.node or ""]
                series = plain if table is None else table[node.index]
                if series not in completed:
                    completed[series] = []
                completed[series].append(_seconds(node.started_at or event.at, event.at))
            elif kind is not _STARTED:
                self._count_other(event, state, table)
        for series, seconds in completed.items():
            series.success.inc(len(seconds))
            observe_all(series.duration, seconds)

    def _count_other(self, event: Event, state: RunState, table: list[_Series] | None) -> None:
        kind = event.kind
        if kind in _RUN_ENDS:
            self._instruments.child("dag_workflow_executions_total", state.workflow, _RUN_ENDS[kind]).inc()
            seconds = _seconds(state.created_at, event.at)
            self._instruments.child("dag_workflow_execution_duration_seconds", state.workflow).observe(seconds)
        elif kind is EventKind.RUN_RESUMED:
            if (event.data or {}).get("took_over"):
                self._instruments["dag_lease_takeovers_total"].inc()
        elif kind in _NODE_ENDS or kind is EventKind.NODE_RETRY:
            node = state.by_name[event.node or ""]
            series = self._plain if table is None else table[node.index]
            if kind is EventKind.NODE_RETRY:
                series.retries.inc()
                return
            series.ends[_NODE_ENDS[kind]].inc()
            if kind is EventKind.NODE_FAILED and node.started_at is not None:
                series.duration.observe(_seconds(node.started_at, event.at))

    # -- how things stand -------------------------------------------------------------------------

    def look(self, executor: object, figures: Figures | None) -> None:
        """Take in how things stand with an executor and its store; ``None`` when it has been closed."""
        self.update_system_resources()
        with self._lock:
            # What was looked at last stands last, and so it counts where several have looked at one store.
            self._boards.pop(executor, None)
            if figures is None:
                self._last.pop(("dag_observer_events_dropped_total", executor), None)
            else:
                self._boards[executor] = figures
                self._grow("dag_context_store_retries_total", figures.source, figures.store.retries)
                self._grow("dag_observer_events_dropped_total", executor, figures.dropped)
            self._show()

    def _show(self) -> None:
        """Show what all executors and the application have told, each thing once."""
        merged: dict[str, dict[object, float]] = {name: {} for name in self._shown}
        for executor, figures in self._boards.items():
            for name, (source, value) in figures.gauges(executor).items():
                merged.setdefault(name, {})[source] = value
        for name, value in self._given.items():
            merged.setdefault(name, {})[None] = value
        self._shown |= merged.keys()
        for name, values in merged.items():
            # Of several ages the greatest is asked for.
            join = max if name.endswith("_age_seconds") else sum
            self._instruments[name].set(join([0.0, *values.values()]))
        self._queue = int(sum(merged.get("dag_workflow_queue_depth", {}).values()))

    def _grow(self, name: str, source: object, total: float) -> None:
        """Let a counter follow one that is kept elsewhere and may begin anew."""
        before = self._last.get((name, source), 0)
        if total != before:
            self._instruments[name].inc(total - before if total > before else total)
            self._last[name, source] = total

    def _queue_moves(self, change: int) -> None:
        """Show at once what the next look will find."""
        with self._lock:
            self._queue = max(0, self._queue + change)
            self._instruments["dag_workflow_queue_depth"].set(self._queue)

    # -- figures of the process and of the application -------------------------------------------

    def update_system_resources(self, memory_bytes: float | None = None, cpu_percent: float | None = None) -> None:
        """Show what memory and processor this process uses.

        Args:
            memory_bytes: Bytes of memory; what the system says when it is ``None``.
            cpu_percent: Processor time in percent of one processor; when it is ``None``, what this process has used
                since the last time, a second ago or more.

        Raises:
            ValueError: One of them is negative, infinite or NaN.
        """
        memory = memory_bytes_now() if memory_bytes is None else amount("memory_bytes", memory_bytes)
        percent = self._cpu_percent() if cpu_percent is None else amount("cpu_percent", cpu_percent)
        self._instruments["dag_memory_usage_bytes"].set(memory)
        self._instruments["dag_cpu_usage_percent"].set(percent)

    def _cpu_percent(self) -> float:
        now, used = time.monotonic(), cpu_seconds()
        since, before = self._cpu
        if now - since >= _BASE_S:
            self._cpu = (now, used)
        return max(0.0, used - before) / max(now - since, _SHORTEST_S) * 100

    def update_database_metrics(self, connections: int, pool_size: int) -> None:
        """Show the open connections of the application's own pool, and how many it may have; beside the stores'."""
        figures = {"dag_database_connections": connections, "dag_database_pool_size": pool_size}
        with self._lock:
            self._given = {name: amount(name, value) for name, value in figures.items()}
            self._show()


def _labels(node: Node) -> tuple[str, str]:
    """Return the type and the phase of a node; one whose function is a `PhaseExecutor` need not be told of either."""
    phase = phase_of(node.function)
    if phase is None:
        return str(node.type), node.phase_name or ""
    return str(NodeType.PHASE if node.type is NodeType.CUSTOM else node.type), node.phase_name or phase


def _seconds(begun: datetime, ended: datetime) -> float:
    """Return the seconds between, 0 when the clock was set back: a sum that falls would pass for a restart."""
    return max(0.0, (ended - begun).total_seconds())


class _Series:
    """The children of one sort of node, looked up once."""

    def __init__(self, instruments: Instruments, node_type: str, phase_name: str) -> None:
        ends = ("success", "failure", "skipped")
        child = instruments.child
        self.ends: dict[str, Any] = {
            end: child("dag_node_executions_total", node_type, phase_name, end) for end in ends
        }
        self.success = self.ends["success"]
        self.duration = child("dag_node_execution_duration_seconds", node_type, phase_name)
        self.retries = child("dag_node_retries_total", node_type, phase_name)


class _Following:
    """A run that is driven here, and how many of its calls have been counted as active."""

    __slots__ = ("running", "state")

    def __init__(self, state: RunState) -> None:
        self.state = state
        self.running = 0


_DEFAULT: list[MetricsCollector] = []
_MAKING = threading.Lock()


def default_collector() -> MetricsCollector:
    """Return the collector of this process on prometheus_client's own registry, made when it is first asked for."""
    with _MAKING:
        if not _DEFAULT:
            _DEFAULT.append(MetricsCollector())
        return _DEFAULT[0]


def track_workflow_execution(
    workflow_name: str, collector: MetricsCollector | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Count the calls of a sync or async function of the application as runs of a workflow.

    A returned `Run` counts by its status (one that still waits is not counted), a mapping by its ``success``, an
    exception as a failure, a cancellation as cancelled. The function keeps its name, signature and docstring.

    Args:
        workflow_name: What its calls are counted as.
        collector: Counts; the process-wide one when it is ``None``.

    Raises:
        TypeError: The function is a generator.
    """
    word("workflow_name", workflow_name)

    def start() -> None:
        (collector or default_collector()).record_workflow_start(workflow_name)

    def end(status: str | None, seconds: float) -> None:
        counter = collector or default_collector()
        if status is None:
            counter._instruments["dag_active_workflows"].dec()  # noqa: SLF001 - of this room
        else:
            counter.record_workflow_complete(workflow_name, status, seconds)

    return tracked(start, end)


def track_node_execution(
    node_type: str, phase_name: str | None = None, collector: MetricsCollector | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Count the calls of a sync or async function of the application as nodes; see `track_workflow_execution`."""
    word("node_type", node_type)
    word("phase_name", phase_name or "", empty=True)

    def start() -> None:
        (collector or default_collector()).record_node_start(node_type, phase_name)

    def end(status: str | None, seconds: float) -> None:
        counter = collector or default_collector()
        if status is None:
            counter._instruments["dag_active_nodes"].dec()  # noqa: SLF001 - of this room
        else:
            counter.record_node_complete(node_type, phase_name, status, seconds)

    return tracked(start, end)
