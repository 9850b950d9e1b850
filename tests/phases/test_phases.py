"""Phases: nodes whose work an application's own engine does, with a context that a factory makes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from prometheus_client import CollectorRegistry

from dagflow import ArtifactRef, DAGExecutor, JsonCodec, Node, RetryPolicy, Run, Workflow
from dagflow.errors import ContractError, InputError, QualityGateError, RunFailedError, WorkflowError
from dagflow.metrics import MetricsCollector
from dagflow.phases import (
    SDLC_PHASES,
    PhaseContext,
    PhaseExecutor,
    PhaseResult,
    linear_workflow,
    parallel_workflow,
)
from dagflow.runners import ProcessRunner
from dagflow.testing import Crash, CrashAfter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagflow.protocols import ContextStore

SIX = [
    "requirement_analysis",
    "design",
    "backend_development",
    "frontend_development",
    "testing",
    "review",
]


class Engine:
    """Notes what it is given and answers from a table; anything else is a plain mapping."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.given: dict[str, Any] = {}
        self.threads: set[int] = set()

    def execute_phase(self, phase: str, context: Any) -> Any:
        self.given[phase] = context
        self.threads.add(threading.get_ident())
        return self.answers.get(phase, {"by": phase})


class AsyncEngine(Engine):
    async def execute_phase(self, phase: str, context: Any) -> Any:
        await asyncio.sleep(0)
        return super().execute_phase(phase, context)


async def run(
    workflow: Workflow, inputs: dict[str, Any] | None = None, *, store: str | ContextStore = "memory://", **options: Any
) -> Run:
    async with DAGExecutor(store, **options) as executor:
        return await executor.run(workflow, {"requirement": "a shop"} if inputs is None else inputs)


def test_there_are_six_phases_of_a_software_delivery() -> None:
    assert list(SDLC_PHASES) == SIX


def test_a_linear_workflow_does_one_phase_after_the_other() -> None:
    workflow = linear_workflow("delivery", engine=Engine())

    assert workflow.generations() == [[phase] for phase in SIX]
    assert list(workflow.graph.edges) == list(pairwise(SIX))


def test_a_parallel_workflow_develops_backend_and_frontend_side_by_side() -> None:
    workflow = parallel_workflow("delivery", Engine())

    generations = [sorted(layer) for layer in workflow.generations()]
    assert generations == [[SIX[0]], [SIX[1]], [SIX[2], SIX[3]], [SIX[4]], [SIX[5]]]
    assert workflow.graph.number_of_edges() == 6


@pytest.mark.parametrize("kind", [Engine, AsyncEngine])
@pytest.mark.parametrize("build", [linear_workflow, parallel_workflow])
async def test_an_engine_does_all_phases_and_its_mappings_are_the_outputs(
    kind: type[Engine], build: Callable[..., Workflow]
) -> None:
    engine = kind()

    result = await run(build("delivery", engine=engine))

    assert result.outputs == {phase: {"by": phase} for phase in SIX}
    assert all(type(output) is dict for output in result.outputs.values())


async def test_a_sync_engine_is_called_in_a_thread_and_an_async_one_on_the_loop() -> None:
    sync, on_loop = Engine(), AsyncEngine()

    await run(linear_workflow("a", engine=sync))
    await run(linear_workflow("b", engine=on_loop))

    assert threading.get_ident() not in sync.threads
    assert on_loop.threads == {threading.get_ident()}


async def test_a_sync_engine_may_answer_with_something_to_await() -> None:
    class Late(Engine):
        def execute_phase(self, phase: str, context: Any) -> Any:
            async def later() -> dict[str, str]:
                return {"late": phase}

            return later()

    result = await run(linear_workflow("w", ["design"], Late()))

    assert result.outputs["design"] == {"late": "design"}


async def test_a_phase_knows_the_requirement_and_all_phases_before_it() -> None:
    engine = Engine(
        requirement_analysis={"entities": ["book"]},
        design=PhaseResult({"tables": 1}, {"schema": "schema.sql"}, 0.5, {"api": ["/books"]}),
    )

    await run(parallel_workflow("delivery", engine))

    first, last = engine.given["requirement_analysis"], engine.given["review"]
    assert isinstance(first, PhaseContext)
    assert (first.phase_name, first.requirement, first.inputs) == (
        "requirement_analysis",
        "a shop",
        {"requirement": "a shop"},
    )
    assert (first.outputs, first.artifacts, first.contracts) == ({}, {}, {})
    assert list(last.outputs) == SIX[:5]
    assert last.outputs["design"] == {"tables": 1}
    assert type(last.outputs["design"]) is dict
    assert last.artifacts == {"design": {"schema": "schema.sql"}}
    assert last.contracts == {"design": {"api": ["/books"]}}
    assert last.requirement == "a shop"
    assert sorted(engine.given["testing"].outputs) == sorted(SIX[:4])
    assert sorted(engine.given["frontend_development"].outputs) == sorted(SIX[:2])


async def test_a_phase_in_a_workflow_of_ones_own_sees_nodes_that_are_none() -> None:
    engine = Engine()
    nodes = [
        Node("read", lambda path: {"text": path}),
        Node("design", PhaseExecutor("design", engine), depends_on="read"),
        Node("count", lambda design: [*design]),
        Node("check", PhaseExecutor("testing", engine), depends_on="count"),
    ]

    result = await run(Workflow("w", nodes), {"path": "x"})

    context = engine.given["testing"]
    assert context.requirement is None
    assert context.inputs == {"path": "x"}
    assert context.outputs == {"read": {"text": "x"}, "design": {"by": "design"}, "count": ["by"]}
    assert result.outputs["check"] == {"by": "testing"}


async def test_a_phase_may_change_what_it_is_given_without_another_one_seeing_it() -> None:
    class Careless(Engine):
        def execute_phase(self, phase: str, context: PhaseContext) -> Any:
            for output in context.outputs.values():
                output["by"] = "spoilt"
            self.given[phase] = [output["by"] for output in context.outputs.values()]
            return {"by": phase}

    result = await run(parallel_workflow("delivery", Careless()))

    assert result.outputs == {phase: {"by": phase} for phase in SIX}


# -- the context factory --------------------------------------------------------------------------


@attrs.frozen
class Ours:
    """A context of the application's own."""

    phase: str
    text: str


class Factory:
    def create(self, phase_context: PhaseContext) -> Ours:
        return Ours(phase_context.phase_name, phase_context.requirement)


class AsyncFactory:
    async def create(self, phase_context: PhaseContext) -> Ours:
        return Factory().create(phase_context)


@pytest.mark.parametrize("kind", [Engine, AsyncEngine])
@pytest.mark.parametrize("factory", [Factory(), Factory().create, AsyncFactory(), AsyncFactory().create])
async def test_the_engine_gets_what_the_context_factory_makes(kind: type[Engine], factory: Any) -> None:
    engine = kind()

    await run(linear_workflow("delivery", ["design", "review"], engine, factory))

    assert engine.given == {"design": Ours("design", "a shop"), "review": Ours("review", "a shop")}


async def test_a_factory_that_raises_fails_the_phase() -> None:
    def broken(context: PhaseContext) -> Any:
        raise LookupError("no such team")

    with pytest.raises(RunFailedError, match="no such team"):
        await run(linear_workflow("delivery", ["design"], Engine(), broken))


# -- results --------------------------------------------------------------------------------------


async def test_a_result_is_kept_whole_and_reads_like_its_output(each_store: Callable[[], ContextStore]) -> None:
    answer = PhaseResult({"tables": ["a"]}, {"schema": "s"}, 0.75, {"api": 1})
    workflow = linear_workflow("delivery", ["design"], Engine(design=answer))
    async with DAGExecutor(each_store()) as executor:
        await executor.run(workflow, {"requirement": ""}, run_id="r")
    async with DAGExecutor(each_store()) as executor:
        output = (await executor.get("r")).outputs["design"]

    assert output == answer
    assert output == {"tables": ["a"]}
    assert output["tables"] == ["a"]
    assert list(output) == ["tables"]
    assert (output.artifacts, output.quality_score, output.contracts) == ({"schema": "s"}, 0.75, {"api": 1})


async def test_a_mapping_of_any_sort_and_a_plain_value_are_outputs_too() -> None:
    engine = Engine(design=MappingProxyType({"a": 1}), review="fine")

    result = await run(linear_workflow("delivery", ["design", "testing", "review"], engine))

    assert result.outputs == {"design": {"a": 1}, "testing": {"by": "testing"}, "review": "fine"}


@pytest.mark.parametrize("score", [1.5, -0.1, 87, True, float("nan"), "0.5"])
def test_a_score_that_is_no_fraction_is_refused(score: Any) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        PhaseResult({}, quality_score=score)


def test_artifacts_that_have_no_names_are_kept_in_their_order() -> None:
    assert PhaseResult({}, artifacts=("a", "b")).artifacts == ["a", "b"]
    with pytest.raises(TypeError, match="by name"):
        PhaseResult({}, contracts="api")


# -- the quality gate -----------------------------------------------------------------------------


@pytest.mark.parametrize("build", [linear_workflow, parallel_workflow])
async def test_a_score_below_the_threshold_fails_the_phase(
    build: Callable[..., Workflow], each_store: Callable[[], ContextStore]
) -> None:
    engine = Engine(design=PhaseResult({}, quality_score=0.79))
    workflow = build("delivery", engine=engine, quality_threshold=0.8)

    async with DAGExecutor(each_store()) as executor:
        with pytest.raises(RunFailedError) as caught:
            await executor.run(workflow, {"requirement": "a shop"}, run_id="r")

    error = caught.value.__cause__
    assert isinstance(error, QualityGateError)
    assert (error.phase, error.score, error.threshold) == ("design", 0.79, 0.8)
    assert caught.value.run.nodes["design"].status == "failed"
    assert "review" not in engine.given
    async with DAGExecutor(each_store()) as later:
        recorded = (await later.get("r")).nodes["design"]
    assert recorded == caught.value.run.nodes["design"]
    assert recorded.error is not None
    assert "0.79" in recorded.error.message


@pytest.mark.parametrize("kind", [Engine, AsyncEngine])
async def test_a_score_equal_to_the_threshold_passes_and_so_does_none(kind: type[Engine]) -> None:
    engine = kind(design=PhaseResult({"a": 1}, quality_score=0.8), review=PhaseResult({"b": 1}))

    result = await run(linear_workflow("delivery", engine=engine, quality_threshold=0.8))

    assert result.outputs["design"] == {"a": 1}


async def test_a_low_score_is_followed_by_another_attempt_as_the_policy_says(
    each_store: Callable[[], ContextStore],
) -> None:
    class Better(Engine):
        def execute_phase(self, phase: str, context: PhaseContext) -> Any:
            assert context.node is not None
            return PhaseResult({"draft": context.node.attempt}, quality_score=context.node.attempt / 4)

    phase = PhaseExecutor("review", Better(), quality_threshold=0.75)
    workflow = Workflow("w", [Node("review", phase, retry=RetryPolicy(max_attempts=3, delay=0))])
    collector = MetricsCollector(CollectorRegistry())

    result = await run(workflow, {}, observers=[collector], store=each_store())

    def scores(suffix: str) -> float | None:
        return collector.registry.get_sample_value(f"dag_quality_score_distribution_{suffix}", {"phase_name": "review"})

    assert result.outputs["review"] == {"draft": 3}
    assert (scores("count"), scores("sum")) == (3, 0.25 + 0.5 + 0.75)


async def test_nodes_of_phases_bear_the_labels_of_the_metrics() -> None:
    collector = MetricsCollector(CollectorRegistry())

    await run(linear_workflow("delivery", ["design"], Engine()), observers=[collector])

    labels = {"node_type": "phase", "phase_name": "design", "status": "success"}
    assert collector.registry.get_sample_value("dag_node_executions_total", labels) == 1


# -- contracts and artifacts ----------------------------------------------------------------------


async def test_the_contracts_of_phases_see_their_outputs() -> None:
    engine = Engine(design=PhaseResult({"api_specification": {"paths": []}}, quality_score=1.0))
    workflow = parallel_workflow(
        "delivery",
        engine,
        output_contracts={"design": dict[str, dict[str, Any]], "testing": {"type": "object", "required": ["by"]}},
        input_contracts={"testing": ["design.api_specification.paths", "requirement"]},
    )

    assert (await run(workflow)).status == "completed"

    engine.answers["design"] = PhaseResult({"api_specification": {}})
    with pytest.raises(RunFailedError) as caught:
        await run(workflow)
    error = caught.value.__cause__
    assert isinstance(error, ContractError)
    assert (error.node, error.direction, error.path) == ("testing", "input", "$.design.api_specification.paths")


@pytest.mark.parametrize("kind", [Engine, AsyncEngine])
async def test_artifacts_that_are_files_go_to_the_artifact_store(
    kind: type[Engine], tmp_path: Path, each_store: Callable[[], ContextStore]
) -> None:
    (tmp_path / "report.md").write_text("# Report\n")
    answer = PhaseResult({}, {"api.json": b"{}", "report": tmp_path / "report.md", "link": "https://example.org"})
    engine = kind(design=answer)
    collector = MetricsCollector(CollectorRegistry())
    workflow = linear_workflow("delivery", ["design", "review"], engine)

    async with DAGExecutor(each_store(), artifacts=tmp_path / "kept", observers=[collector]) as executor:
        result = await executor.run(workflow, {"requirement": ""}, run_id="r")
        listed = executor.artifacts("r")
        refs = await listed if asyncio.iscoroutine(listed) else listed

    artifacts = result.outputs["design"].artifacts
    assert isinstance(artifacts["api.json"], ArtifactRef)
    assert (artifacts["api.json"].type, artifacts["api.json"].size) == ("application/json", 2)
    assert artifacts["report"].name == "report.md"
    assert artifacts["link"] == "https://example.org"
    assert len(refs) == 2
    assert engine.given["review"].artifacts == {"design": artifacts}
    labels = {"artifact_type": "application/json"}
    assert collector.registry.get_sample_value("dag_artifacts_generated_total", labels) == 1


async def test_without_an_artifact_store_files_stay_what_they_are() -> None:
    result = await run(linear_workflow("w", ["design"], Engine(design=PhaseResult({}, {"api": b"{}"}))))

    assert result.outputs["design"].artifacts == {"api": b"{}"}


async def test_an_engine_writes_its_own_artifacts_through_its_node(tmp_path: Path) -> None:
    class Writing(Engine):
        def execute_phase(self, phase: str, context: PhaseContext) -> Any:
            assert context.node is not None
            return PhaseResult({}, {"text": context.node.artifacts.write("a.txt", "text", metadata={"by": phase})})

    result = await run(linear_workflow("w", ["design"], Writing()), artifacts=tmp_path / "kept")

    assert result.outputs["design"].artifacts["text"].metadata == {"by": "design"}


async def test_a_phase_is_given_the_outputs_that_were_moved_to_the_artifact_store(
    tmp_path: Path, each_store: Callable[[], ContextStore]
) -> None:
    engine = Engine(design=PhaseResult({"tables": [1]}, contracts={"api": 1}))
    workflow = linear_workflow("delivery", engine=engine)

    await run(workflow, artifacts=tmp_path / "kept", spill_bytes=0, store=each_store())

    assert engine.given["review"].outputs["design"] == {"tables": [1]}
    assert engine.given["review"].contracts == {"design": {"api": 1}}


class Marked:
    """An engine that can travel to another process."""

    def execute_phase(self, phase: str, context: PhaseContext) -> PhaseResult:
        return PhaseResult({"process": os.getpid(), "before": list(context.outputs)}, quality_score=0.5)


async def test_phases_in_processes_know_and_count_what_others_do(tmp_path: Path) -> None:
    collector = MetricsCollector(CollectorRegistry())
    workflow = linear_workflow("delivery", ["design", "testing", "review"], Marked(), runner="process")

    result = await run(workflow, runners={"process": ProcessRunner(max_processes=1)}, observers=[collector])

    assert result.outputs["review"]["process"] != os.getpid()
    assert result.outputs["review"]["before"] == ["design", "testing"]
    score = collector.registry.get_sample_value("dag_quality_score_distribution_sum", {"phase_name": "review"})
    assert score == 0.5


# -- resuming -------------------------------------------------------------------------------------


async def test_a_phase_that_is_run_again_later_is_given_what_the_first_process_recorded(
    each_store: Callable[[], ContextStore],
) -> None:
    broken, mended = Engine(testing=PhaseResult({}, quality_score=0.1)), Engine()
    broken.answers["design"] = PhaseResult({"a": 1}, {"x": "y"}, 1.0, {"api": [1]})
    async with DAGExecutor(each_store()) as executor:
        workflow = parallel_workflow("delivery", broken, quality_threshold=0.5)
        with pytest.raises(RunFailedError):
            await executor.run(workflow, {"requirement": "a shop"}, run_id="r")
    workflow = parallel_workflow("delivery", mended, quality_threshold=0.5)
    async with DAGExecutor(each_store(), workflows=[workflow]) as executor:
        result = await executor.resume("r")

    assert result.status == "completed"
    assert sorted(mended.given) == ["review", "testing"]
    assert mended.given["testing"].artifacts == {"design": {"x": "y"}}
    assert mended.given["testing"].contracts == {"design": {"api": [1]}}


class Counting:
    """An engine whose every result tells what it was given."""

    def execute_phase(self, phase: str, context: PhaseContext) -> PhaseResult:
        seen = {name: output["number"] for name, output in context.outputs.items()}
        return PhaseResult({"number": len(seen), "seen": seen}, {"a": phase}, 0.5, {"c": list(context.contracts)})


@pytest.mark.parametrize("writes", range(8))
async def test_a_crash_changes_nothing_of_what_phases_make(writes: int, each_store: Callable[[], ContextStore]) -> None:
    workflow = parallel_workflow("delivery", Counting(), input_contracts={"review": ["design.number"]})
    undisturbed = await run(workflow, {"requirement": ""})
    store = each_store()
    with contextlib.suppress(Crash):
        async with DAGExecutor(CrashAfter(store, writes), lease=0.2) as executor:
            await executor.run(workflow, {"requirement": ""}, run_id="r")

    async with DAGExecutor(store, lease=0.2) as executor:
        result = await executor.run(workflow, {"requirement": ""}, run_id="r")

    assert result.outputs == undisturbed.outputs
    assert result.outputs["review"].contracts == {"c": SIX[:5]}


# -- bad input ------------------------------------------------------------------------------------


async def test_a_run_without_a_requirement_is_an_input_error() -> None:
    with pytest.raises(InputError, match="requirement"):
        await run(linear_workflow("delivery", engine=Engine()), {})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: linear_workflow("w"), "needs a method execute_phase"),
        (lambda: parallel_workflow("w", object()), "needs a method execute_phase"),
        (lambda: linear_workflow("w", ["a", "a"], Engine()), "names a phase twice"),
        (lambda: linear_workflow("w", ["requirement"], Engine()), "is the input of the run"),
        (lambda: linear_workflow("w", engine=Engine(), context_factory=7), "a callable or has a method create"),
        (lambda: linear_workflow("w", engine=Engine(), quality_threshold=80), "a fraction from 0 to 1"),
        (lambda: linear_workflow("w", engine=Engine(), output_contracts={"desing": dict}), "none of its phases"),
        (lambda: PhaseExecutor("", Engine()), "phase_name must be text"),
        (lambda: linear_workflow("w", [], Engine()).validate(), "no nodes"),
    ],
)
def test_what_cannot_be_a_phase_is_refused_before_anything_runs(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(WorkflowError, match=reason):
        make()


def test_phases_import_nothing_but_dagflow() -> None:
    code = (
        "import sys; before = set(sys.modules); import dagflow.phases\n"
        "print(sorted({m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )

    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert shown.stdout.strip() in ("['attr', 'attrs', 'dagflow']", "['attr', 'dagflow']")


def test_a_result_survives_the_codec() -> None:
    codec = JsonCodec()
    result = PhaseResult([1, 2], ["a"], 1, None)

    assert codec.decode(codec.encode(result)) == result
    assert result.quality_score == 1.0
    assert bool(PhaseResult({})) is False
