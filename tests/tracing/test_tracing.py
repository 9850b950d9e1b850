"""Spans of OpenTelemetry: one for each time that a run is driven, one for each attempt, and links across a resume."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dagflow import DAGExecutor, Node, RetryPolicy, Workflow
from dagflow.errors import RunFailedError
from dagflow.stores import MemoryStore
from dagflow.testing import Crash, CrashAfter, FakeClock
from dagflow.tracing import TracingObserver
from executors import fails

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class Traced:
    """A tracer of its own, as each process has one, and the spans that have ended."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        self.memory = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter or self.memory))
        self.observer = TracingObserver(provider)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.memory.get_finished_spans() if span.name == name]


async def test_a_run_and_each_attempt_have_a_span() -> None:
    traced = Traced()
    workflow = Workflow("w", [Node("flaky", fails(times=1), retry=RetryPolicy(max_attempts=2, delay=0.0))])
    workflow.map(over={"x": "xs"}, name="m")(lambda x: x)

    async with DAGExecutor("memory://", observers=[traced.observer]) as executor:
        run = await executor.run(workflow, {"xs": [1, 2]}, run_id="r")

    [of_run] = traced.spans("run w")
    assert dict(of_run.attributes or {}) == {
        "dagflow.run_id": "r",
        "dagflow.workflow": "w",
        "dagflow.status": "completed",
    }
    attempts = [dict(span.attributes or {}) for span in traced.spans("node flaky")]
    assert [(a["dagflow.attempt"], a["dagflow.status"]) for a in attempts] == [(1, "failed"), (2, "completed")]
    assert attempts[0]["error.type"] == "ValueError"
    assert sorted(str((s.attributes or {})["dagflow.node"]) for s in traced.spans("node m")) == ["m[0]", "m[1]"]
    for span in (*traced.spans("node flaky"), *traced.spans("node m")):
        assert span.parent is not None
        assert span.parent.span_id == of_run.context.span_id
    node = run.nodes["m[0]"]
    assert node.started_at is not None
    assert traced.spans("node m")[0].start_time == pytest.approx(node.started_at.timestamp() * 1e9, abs=2000)


async def test_a_span_holds_no_value_and_no_text_of_an_error() -> None:
    traced = Traced()

    def leak(secret: str) -> None:
        raise ValueError(secret)

    async with DAGExecutor("memory://", observers=[traced.observer]) as executor:
        with pytest.raises(RunFailedError):
            await executor.run(Workflow("w", [Node("leak", leak)]), {"secret": "hunter2"})

    [of_run] = traced.spans("run w")
    assert not of_run.status.is_ok
    assert "hunter2" not in "".join(span.to_json() for span in traced.memory.get_finished_spans())


async def test_a_run_that_another_process_goes_on_with_links_to_the_span_before() -> None:
    clock = FakeClock(auto=True)
    store = MemoryStore(clock=clock)
    workflow = Workflow("w", [Node("a", lambda: 1), Node("b", lambda a: a)])
    first, second = Traced(), Traced()
    with pytest.raises(Crash):
        async with DAGExecutor(CrashAfter(store, 2), observers=[first.observer], clock=clock, grace=0) as executor:
            await executor.run(workflow, run_id="r")
    clock.advance(60)

    async with DAGExecutor(store, observers=[second.observer], clock=clock) as executor:
        await executor.run(workflow, run_id="r")

    [before], [after] = first.spans("run w"), second.spans("run w")
    assert [link.context.span_id for link in after.links] == [before.context.span_id]
    assert [link.context.trace_id for link in after.links] == [before.context.trace_id]
    assert after.context.trace_id != before.context.trace_id
    assert (before.attributes or {})["error.type"] == "Crash"


async def test_a_run_that_waits_has_a_span_for_each_time_it_is_driven() -> None:
    traced = Traced()
    workflow = Workflow("w")
    workflow.review("approve")

    async with DAGExecutor("memory://", observers=[traced.observer]) as executor:
        await executor.run(workflow, run_id="r")
        await executor.decide("r", "approve", approved=True, by="Ada")
        await executor.run(workflow, run_id="r")

    waiting, done = traced.spans("run w")
    assert [(s.attributes or {})["dagflow.status"] for s in (waiting, done)] == ["waiting", "completed"]
    assert [link.context.span_id for link in done.links] == [waiting.context.span_id]


async def test_an_exporter_that_hangs_stops_no_run() -> None:
    free = threading.Event()

    class Hanging(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            free.wait()
            return SpanExportResult.SUCCESS

    traced = Traced(Hanging())
    async with DAGExecutor("memory://", observers=[traced.observer]) as executor:
        run = await executor.run(Workflow("w", [Node("a", lambda: 1)]))
        free.set()

    assert run.status == "completed"


async def test_without_a_provider_nothing_is_traced_or_kept() -> None:
    async with DAGExecutor("memory://", observers=[TracingObserver()]) as executor:
        await executor.run(Workflow("w", [Node("a", lambda: 1)]), run_id="r")
        events = await executor.history("r")

    assert not any("traceparent" in (event.data or {}) for event in events)


def test_only_the_api_package_is_imported() -> None:
    code = "import sys, dagflow.tracing; sys.exit('opentelemetry.sdk' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_without_the_package_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from dagflow.errors import MissingExtraError\n"
        "try: import dagflow.tracing\n"
        "except MissingExtraError as exc: sys.exit('dagflow-sdk[otel]' not in str(exc))\n"
        "sys.exit('it could be imported')"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
