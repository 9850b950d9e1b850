"""Bad input: each is an error with a name and a way out, and nothing that was recorded is lost."""

from __future__ import annotations

import asyncio
import builtins
import math
import re
import sys
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor, Node, Workflow
from dagflow.errors import (
    CycleError,
    DagflowError,
    ExecutorError,
    InputError,
    MissingExtraError,
    RunExistsError,
    RunFailedError,
    SerializationError,
    StoreError,
    WorkflowError,
)
from dagflow.runners import ProcessRunner
from dagflow.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable


def node(name: str, *depends_on: str) -> Node:
    return Node(name, lambda: None, depends_on)


def takes(*names: str) -> Workflow:
    namespace: dict[str, Any] = {}
    exec(f"def function({', '.join(names)}): return 1", namespace)
    return Workflow("w", [Node("a", namespace["function"])])


def over(function: Callable[..., Any], **options: Any) -> Workflow:
    workflow = Workflow("w")
    workflow.map(over={"x": "xs"}, name="m", **options)(function)
    return workflow


GOOD = Workflow("good", [Node("a", lambda x: x)])

REFUSED: dict[str, tuple[Workflow, Any, str | None, type[DagflowError], str]] = {
    "a cycle": (
        Workflow("w", [node("a", "b"), node("b", "a")]),
        None,
        None,
        CycleError,
        "the nodes wait for each other in a circle: ",
    ),
    "a duplicate name": (
        Workflow("w", [node("a"), node("a")]),
        None,
        None,
        WorkflowError,
        "workflow 'w', node 'a': its name is taken by another node: names are unique in a workflow, set name=",
    ),
    "an unknown dependency": (
        Workflow("w", [node("extract"), node("load", "extrakt")]),
        None,
        None,
        WorkflowError,
        "node 'load': it depends on 'extrakt', which is no node of this workflow, did you mean 'extract'?",
    ),
    "a parameter that is bound twice": (
        over(lambda x: x, bind={"x": "other"}),
        {"xs": [], "other": 1},
        None,
        WorkflowError,
        "node 'm': parameter 'x' is bound twice, by bind= and by over=",
    ),
    "a function with *args": (
        Workflow("w", [Node("a", lambda *args: args)]),
        None,
        None,
        WorkflowError,
        "node 'a': parameter '*args' cannot be bound by name: give each parameter a name of its own",
    ),
    "a missing input": (takes("site"), None, None, InputError, "workflow 'w': missing inputs: 'site'"),
    "an input that nothing takes": (
        takes("site"),
        {"site": 1, "sites": 2},
        None,
        InputError,
        "workflow 'w': inputs that nothing takes: 'sites', did you mean 'site'?",
    ),
    "an input named like a node": (
        takes(),
        {"a": 1},
        None,
        InputError,
        "inputs that nothing takes: 'a', which is the name of a node",
    ),
    "inputs that are no dictionary": (takes("site"), ["site"], None, InputError, "inputs are a dictionary by name"),
    "an input that cannot be encoded": (
        takes("site"),
        {"site": [1, object()]},
        None,
        SerializationError,
        "value at $.site[1] of type object",
    ),
    "an empty run id": (takes(), None, "", InputError, "'' is no run id: use 1 to 255 letters"),
    "a run id that is too long": (takes(), None, "x" * 256, InputError, "is no run id: use 1 to 255 letters"),
    "a run id with control characters": (takes(), None, "a\x1b[2Jb", InputError, r"'a\x1b[2Jb' is no run id"),
    "a run id of another workflow": (
        takes(),
        None,
        "before",
        RunExistsError,
        "run 'before' exists already: it is a run of workflow 'good', not of 'w'",
    ),
    "a run id of other inputs": (
        GOOD,
        {"x": 2},
        "before",
        RunExistsError,
        "it was started with other inputs: choose another run_id, or pass the same inputs",
    ),
    "an empty workflow": (Workflow("w"), None, None, WorkflowError, "it has no nodes: decorate a function"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_wrong_before_a_run_is_refused_and_nothing_is_recorded(executor: DAGExecutor, case: str) -> None:
    workflow, inputs, run_id, error, message = REFUSED[case]
    before = await executor.run(GOOD, {"x": 1}, run_id="before")

    for call in (executor.run, executor.start, executor.submit):
        with pytest.raises(error) as caught:
            await call(workflow, inputs, run_id=run_id)
        assert type(caught.value) is error
        assert message in str(caught.value)

    (summary,) = await executor.runs()
    assert (summary.run_id, summary.version) == ("before", before.version)
    assert (await executor.get("before")).outputs == {"a": 1}


def exits() -> None:
    sys.exit(3)


def stumbles() -> bool:
    raise ValueError("cannot say")


def gives() -> Any:
    yield 1


FAILED: dict[str, tuple[Workflow, Any, str, str]] = {
    "a map over no list": (over(lambda x: x), {"xs": "abc"}, "m", "over='xs' gave 'abc' of type str: return a list"),
    "a condition that raises": (
        Workflow("w", [Node("a", lambda: 1, when=stumbles)]),
        None,
        "a",
        "ValueError: cannot say",
    ),
    "a node that raises BaseException": (
        Workflow("w", [Node("a", lambda: (_ for _ in ()).throw(BaseException("bare")))]),
        None,
        "a",
        "BaseException: bare",
    ),
    "a node that calls sys.exit": (Workflow("w", [Node("a", exits)]), None, "a", "SystemExit: 3"),
    "a node that returns a generator": (
        Workflow("w", [Node("a", gives)]),
        None,
        "a",
        "a generator can be read only once: return list(...) of it",
    ),
}


@pytest.mark.parametrize("case", FAILED)
async def test_what_goes_wrong_in_a_run_fails_its_node_and_keeps_the_rest(executor: DAGExecutor, case: str) -> None:
    workflow, inputs, name, message = FAILED[case]
    kept = Workflow(workflow.name, [Node("kept", lambda: "kept"), *workflow.nodes], on_failure="continue")

    with pytest.raises(RunFailedError) as caught:
        await executor.run(kept, inputs, run_id="r")

    assert message in str(caught.value)
    assert str(caught.value).endswith("resume('r') goes on with it")
    run = await executor.get("r")
    assert (run.status, run.nodes[name].status, run.outputs) == ("failed", "failed", {"kept": "kept"})


# -- stores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "options", "error", "text"),
    [
        (5, {}, TypeError, "5 is no store: pass a URL such as 'sqlite:///runs.db'"),
        (PurePosixPath("a/runs.db"), {}, TypeError, "pass 'sqlite:///a/runs.db', or SQLiteStore('a/runs.db')"),
        ("memory://", {"workflows": GOOD}, TypeError, "write workflows=[...]"),
        (
            "memory://",
            {"workflows": [GOOD, takes("x"), takes("y")]},
            WorkflowError,
            "another workflow in workflows= has",
        ),
        ("memory://", {"observers": print}, TypeError, "write observers=[...]"),
        (
            "memory://",
            {"observers": ["print"]},
            TypeError,
            "an observer is a callable that takes one event, not 'print'",
        ),
        ("memory://", {"limits": ["web"]}, TypeError, "limits= takes a dictionary by name, not ['web']"),
        ("memory://", {"resources": [1]}, TypeError, "resources= takes a dictionary by name, not [1]"),
        ("memory://", {"runners": 3}, TypeError, "runners= takes a dictionary by name, not 3"),
        ("memory://", {"codec": 5}, TypeError, "codec= takes a Codec, such as JsonCodec(), not 5"),
        ("memory://", {"clock": 5}, TypeError, "clock= takes a Clock, such as FakeClock of dagflow.testing, not 5"),
        ("memory://", {"runners": {"p": ProcessRunner}}, TypeError, "pass an object such as ProcessRunner()"),
        ("memory://", {"runners": {"p": "process"}}, TypeError, "runners['p'] is no runner: 'process'"),
        ("memory://", {"lease": 0}, ValueError, "lease is in seconds and must be above 0, not 0"),
        ("memory://", {"lease": "30"}, ValueError, "lease is in seconds and must be above 0, not '30'"),
        (
            "memory://",
            {"lease": math.inf},
            ValueError,
            "lease is in seconds and must be below a hundred years, not inf",
        ),
        ("memory://", {"grace": -1}, ValueError, "grace is in seconds and must be at least 0, not -1"),
    ],
)
def test_what_no_executor_can_be_made_of_is_refused_where_it_is_given(
    store: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=re.escape(text)):
        DAGExecutor(store, **options)


def test_no_store_is_refused_and_says_why() -> None:
    with pytest.raises(ValueError, match=r"a store is required, .* cannot be resumed: pass 'sqlite:///runs.db'"):
        DAGExecutor(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["redis://here", "runs.db", "", "sqlite://runs.db", "mongodb://user:secret@host/db"])
def test_a_url_of_an_unknown_kind_names_those_that_are_known(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        DAGExecutor(url)

    assert "sqlite:///" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_store_whose_package_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("psycopg", "dagflow.stores.postgres"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("dagflow.stores._postgres")]:
        monkeypatch.delitem(sys.modules, name)
    found = builtins.__import__

    def without_psycopg(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0].startswith("psycopg"):
            raise ImportError(name)
        return found(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_psycopg)

    with pytest.raises(MissingExtraError, match=r"pip install 'dagflow-sdk\[postgres\]'"):
        DAGExecutor("postgresql://localhost/runs")


# -- executors ------------------------------------------------------------------------------------


async def test_a_closed_executor_says_so_and_what_it_recorded_is_there() -> None:
    store = MemoryStore()
    async with DAGExecutor(store) as executor:
        await executor.run(GOOD, {"x": 1}, run_id="r")

    with pytest.raises(ExecutorError, match="the executor is closed: make another one"):
        await executor.get("r")
    async with DAGExecutor(store) as another:
        assert (await another.get("r")).outputs == {"a": 1}


async def test_an_executor_that_is_opened_twice_says_so_and_stays_open() -> None:
    async with DAGExecutor("memory://") as executor:
        with pytest.raises(ExecutorError, match="an executor is opened once, make another one"):
            await executor.__aenter__()

        assert (await executor.run(GOOD, {"x": 1})).outputs == {"a": 1}


def test_a_blocking_method_on_the_executors_own_loop_says_so_and_the_run_goes_on() -> None:
    with DAGExecutor("memory://") as executor:
        complaints: list[str] = []

        async def careless() -> str:
            try:
                executor.run(GOOD, {"x": 1})
            except ExecutorError as exc:
                complaints.append(str(exc))
            return "went on"

        run = executor.run(Workflow("w", [Node("a", careless)]))

    assert run.outputs == {"a": "went on"}
    assert complaints == ["a blocking call on the executor's own event loop would wait for itself: make the node sync"]


async def test_what_is_no_workflow_is_refused(executor: DAGExecutor) -> None:
    with pytest.raises(WorkflowError, match="'w' is no Workflow: pass the object, not its name"):
        await executor.run("w")  # type: ignore[arg-type]


async def test_many_bad_runs_at_once_harm_no_good_one(executor: DAGExecutor) -> None:
    bad = [executor.run(workflow, inputs, run_id=run_id) for workflow, inputs, run_id, _, _ in REFUSED.values()]
    good = [executor.run(GOOD, {"x": x}) for x in range(5)]

    results = await asyncio.gather(*good, *bad, return_exceptions=True)

    assert [run.outputs["a"] for run in results[:5] if not isinstance(run, BaseException)] == [0, 1, 2, 3, 4]
