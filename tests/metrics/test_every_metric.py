"""Every metric moves in real runs with a collector among the observers and nothing else."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from dagflow import DAGExecutor, Node, NodeContext, RetryPolicy, Workflow
from dagflow._instruments import METRICS
from dagflow.metrics import MetricsCollector
from dagflow.phases import PhaseExecutor, PhaseResult
from dagflow.stores import MemoryStore
from dagflow.testing import Crash, CrashAfter
from dagflow.web import create_app, lifespan
from executors import fails, until

if TYPE_CHECKING:
    from pathlib import Path

    from dagflow.protocols import ContextStore

_OF_A_DATABASE = {"dag_database_connections", "dag_database_pool_size"}
_OF_FAULTS = {
    "dag_context_store_retries_total",
    "dag_lease_losses_total",
    "dag_observer_events_dropped_total",
}
"""Nothing of this happens while all is well."""


class Watched(MetricsCollector):
    """A collector that knows which of its metrics have ever been above 0."""

    def __init__(self) -> None:
        super().__init__(CollectorRegistry(), interval=0.01)
        self.moved: set[str] = set()

    def look(self, executor: object, figures: Any) -> None:
        super().look(executor, figures)
        self.note()

    def note(self) -> None:
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.value > 0 and not sample.name.endswith("_created"):
                    self.moved.add(functools.reduce(str.removesuffix, ("_bucket", "_sum", "_count"), sample.name))


class Engine:
    """Does the work of a phase, and finds it well done."""

    def execute_phase(self, phase: str, _context: object) -> PhaseResult:
        return PhaseResult({"phase": phase}, quality_score=0.5)


def eventful(watched: Watched) -> Workflow:
    """Return a workflow of which some node is tried again, skipped and waited for, and some value is checked."""
    workflow = Workflow("eventful", [Node("design", PhaseExecutor("design", Engine()))])

    @workflow.node(output_contract=int)
    async def count(context: NodeContext) -> int:
        context.artifacts.write("note", b"text", type="text/plain")
        watched.note()
        return 1

    workflow.add(Node("flaky", fails(times=1), retry=RetryPolicy(max_attempts=2, delay=0.0)))
    workflow.add(Node("never", lambda: 1, when=lambda: False))
    workflow.review("approve")
    return workflow


def busy() -> Workflow:
    """Return a workflow that waits for its next attempt, for a slot, and for ever."""
    retry = RetryPolicy(max_attempts=2, delay=600.0, jitter=0.0)
    later = Node("later", fails(times=1), retry=retry, priority=1)
    return Workflow("busy", [later, Node("one", asyncio.Event().wait), Node("two", asyncio.Event().wait)])


async def ask(app: Any, watched: Watched) -> None:
    """Send one request to an app, and open one WebSocket and close it."""
    async with lifespan(app), httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as web:
        assert (await web.get("/health/ready")).status_code == 200
        assert (await web.get("/api/runs")).status_code == 200
    coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {
        "type": "websocket",
        "path": "/ws/runs/eventful",
        "raw_path": b"/ws/runs/eventful",
        "query_string": b"",
        "headers": [],
        "subprotocols": [],
    }
    coming.put_nowait({"type": "websocket.connect"})
    listening = asyncio.ensure_future(app(scope, coming.get, send))
    await until(lambda: "websocket.accept" in sent)
    watched.note()
    coming.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await listening


async def test_every_metric_moves(store: ContextStore, tmp_path: Path) -> None:
    watched = Watched()
    workflow, never_ends = eventful(watched), busy()
    left = Workflow("left", [Node("a", lambda: 1), Node("b", lambda a: a)])
    with pytest.raises(Crash):
        async with DAGExecutor(CrashAfter(store, 2), lease=0.05, grace=0) as dead:
            await dead.run(left)

    options: dict[str, Any] = {"workflows": [left], "artifacts": str(tmp_path), "max_concurrency": 1, "grace": 0}
    async with DAGExecutor(store, observers=[watched], **options) as executor:
        await until(lambda: "dag_runs_orphaned" in watched.moved)
        await executor.recover()
        await executor.submit(left)
        await executor.run(workflow, {"requirement": "a shop"}, run_id="eventful")
        await executor.start(never_ends, run_id="busy")
        expected = {metric.name for metric in METRICS} - _OF_FAULTS
        expected -= _OF_A_DATABASE if isinstance(store, MemoryStore) else set()
        app = create_app(executor, serve=False)
        await until(lambda: "dag_node_attempts_in_backoff" in watched.moved)
        await ask(app, watched)
        await executor.cancel("busy")
        await until(lambda: watched.moved >= expected)

    assert watched.moved == expected
    labels = {"node_type": "phase", "phase_name": "design", "status": "success"}
    assert watched.registry.get_sample_value("dag_node_executions_total", labels) == 1
