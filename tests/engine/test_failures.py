"""Failures: what they stop, what they leave, and what is recorded of them."""

from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import Node, Workflow
from dagflow.errors import RunFailedError
from executors import Calls, Held, fails

if TYPE_CHECKING:
    from dagflow import DAGExecutor, Run
    from executors import OpenExecutor


def statuses(run: Run) -> dict[str, str]:
    return {name: node.status.value for name, node in run.nodes.items()}


async def failed(executor: DAGExecutor, workflow: Workflow, inputs: Any = None, **options: Any) -> RunFailedError:
    with pytest.raises(RunFailedError) as caught:
        await executor.run(workflow, inputs, **options)
    return caught.value


class TestDrain:
    async def test_what_runs_may_end_and_is_recorded_and_nothing_new_starts(self, executor: DAGExecutor) -> None:
        held, calls = Held("b"), Calls()

        async def fail() -> None:
            await held.started.wait()
            asyncio.get_running_loop().call_later(0.01, held.gate.set)
            raise ValueError("no")

        workflow = Workflow("w", [Node("a", fail), Node("b", held), Node("b2", calls.of("b2"), ["b"])])
        workflow.add(Node("a2", calls.of("a2"), ["a"]))

        error = await failed(executor, workflow)

        assert statuses(error.run) == {"a": "failed", "a2": "blocked", "b": "completed", "b2": "pending"}
        assert (error.run.outputs, calls) == ({"b": "b"}, {})

    async def test_clean_up_runs_nevertheless(self, executor: DAGExecutor) -> None:
        calls = Calls()
        workflow = Workflow("w", [Node("a", fails(times=9)), Node("never", calls.of("never"), ["a"])])
        workflow.add(Node("tidy", calls.of("tidy"), ["a", "never"], join="all_done"))
        workflow.add(Node("report", lambda tidy=None: "reported", ["never"], join="all_done"))

        error = await failed(executor, workflow)

        assert statuses(error.run) == {
            "a": "failed",
            "never": "blocked",
            "tidy": "completed",
            "report": "completed",
        }
        assert calls == {"tidy": 1}
        assert list(error.failures) == ["a"]

    async def test_clean_up_that_stands_in_line_when_what_it_needs_ends_after_all_runs_once(
        self, open_executor: OpenExecutor
    ) -> None:
        calls, held = Calls(), Held("first")
        workflow = Workflow("w", [Node("a", fails(times=9))])
        workflow.wait_for_signal("s")
        workflow.add(Node("first", held, "s", join="all_done", priority=1))
        workflow.add(Node("second", calls.of("second"), "s", join="all_done"))
        executor = await open_executor(max_concurrency=1)
        handle = await executor.start(workflow, run_id="r")
        await held.started.wait()
        await executor.signal("r", "s")
        async for event in handle.events():
            if event.node == "s" and event.kind == "node_completed":
                held.gate.set()

        with pytest.raises(RunFailedError) as caught:
            await handle.result()

        expected = {"a": "failed", "s": "completed", "first": "completed", "second": "completed"}
        assert (statuses(caught.value.run), calls) == (expected, {"second": 1})

    async def test_clean_up_of_what_never_started_runs_nevertheless(self, executor: DAGExecutor) -> None:
        calls = Calls()
        workflow = Workflow("w", [Node("a", fails(times=9)), Node("b", lambda: 1), Node("c", calls.of("c"), ["b"])])
        workflow.add(Node("tidy", calls.of("tidy"), ["c"], join="all_done"))

        error = await failed(executor, workflow)

        assert error.run.nodes["c"].status in ("pending", "completed")
        assert calls["tidy"] == 1


class TestContinue:
    async def test_independent_branches_go_on(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", fails(times=9)), Node("b", lambda: "b")], on_failure="continue")
        workflow.add(Node("a2", lambda a: 1))
        workflow.add(Node("b2", lambda b: b + "2"))

        error = await failed(executor, workflow)

        assert statuses(error.run) == {"a": "failed", "b": "completed", "a2": "blocked", "b2": "completed"}
        assert error.run.nodes["a2"].reason == {
            "reason": "dependencies",
            "join": "all_success",
            "dependencies": {"a": "failed"},
        }

    async def test_all_failures_are_named_and_the_first_is_the_cause(self, executor: DAGExecutor) -> None:
        async def late() -> None:
            await asyncio.sleep(0.01)
            raise KeyError("late")

        async def early() -> None:
            raise LookupError("early")

        workflow = Workflow("w", [Node("late", late), Node("early", early)], on_failure="continue")

        error = await failed(executor, workflow, run_id="r")

        assert list(error.failures) == ["early", "late"]
        assert isinstance(error.__cause__, LookupError)
        assert error.run.error == error.failures["early"]
        assert str(error).startswith("run 'r' failed (early: LookupError: early; late: KeyError: 'late')")


class TestAllowed:
    async def test_the_failure_of_a_node_may_be_allowed(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", fails(times=9), allow_failure=True), Node("b", lambda: "b")])
        workflow.add(Node("c", lambda b=None, a=None: [a, b], join="all_done"))

        run = await executor.run(workflow)

        assert (run.status, run.error) == ("completed", None)
        assert statuses(run) == {"a": "failed", "b": "completed", "c": "completed"}
        assert run.outputs["c"] == [None, "b"]
        assert run.nodes["a"].error is not None

    async def test_what_needs_it_is_blocked_and_the_run_completes(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", fails(times=9), allow_failure=True), Node("b", lambda a: 1)])

        run = await executor.run(workflow)

        assert (run.status, statuses(run)) == ("completed", {"a": "failed", "b": "blocked"})


class TestJoins:
    async def test_the_first_that_succeeds_is_enough_for_one_that_waits_for_any(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", on_failure="continue")
        workflow.add(Node("a", fails(times=9), allow_failure=True))
        workflow.add(Node("b", lambda: "b"))
        workflow.add(Node("c", lambda: "c", when=lambda: False))
        workflow.add(Node("z", lambda a=None, b=None, c=None: [a, b, c], join="any_success"))

        run = await executor.run(workflow)

        assert run.outputs["z"] == [None, "b", None]

    async def test_none_failed_tolerates_what_was_skipped(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda: "a"), Node("b", lambda: "b", when=lambda: False)])
        workflow.add(Node("z", lambda a=None, b=None: [a, b], join="none_failed"))

        assert (await executor.run(workflow)).outputs["z"] == ["a", None]

    @pytest.mark.parametrize("join", ["all_success", "any_success", "none_failed"])
    async def test_a_failure_blocks_all_joins_but_one(self, executor: DAGExecutor, join: Any) -> None:
        workflow = Workflow("w", [Node("a", fails(times=9))], on_failure="continue")
        workflow.add(Node("z", lambda: 1, ["a"], join=join))

        assert statuses((await failed(executor, workflow)).run) == {"a": "failed", "z": "blocked"}

    async def test_any_success_of_skipped_ones_only_is_skipped(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node(n, lambda: 1, when=lambda: False) for n in "ab"])
        workflow.add(Node("z", lambda: 1, ["a", "b"], join="any_success"))

        assert (await executor.run(workflow)).nodes["z"].status == "skipped"


class Hostile(Exception):  # noqa: N818 - it is no error of anybody's
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Exits(Exception):  # noqa: N818 - as above
    def __str__(self) -> str:
        raise SystemExit(3)


def recurse() -> None:
    recurse()


class TestRecorded:
    async def test_type_text_and_traceback_of_an_error_are_recorded(self, executor: DAGExecutor) -> None:
        def outer() -> None:
            inner()

        def inner() -> None:
            raise LookupError("where is it?")

        error = await failed(executor, Workflow("w", [Node("a", outer)]))

        info = error.run.nodes["a"].error
        assert info is not None
        assert (info.type, info.message) == ("LookupError", "where is it?")
        assert "in outer" in info.traceback
        assert "in inner" in info.traceback
        assert info.traceback.rstrip().endswith("LookupError: where is it?")
        assert "/src/dagflow/" not in info.traceback

    async def test_the_cause_of_an_error_is_in_its_traceback(self, executor: DAGExecutor) -> None:
        def function() -> None:
            try:
                fails(times=1, error=KeyError("x"))()
            except KeyError as exc:
                raise ValueError("wrapped") from exc

        error = await failed(executor, Workflow("w", [Node("a", function)]))

        assert "KeyError: 'x'" in error.failures["a"].traceback

    async def test_the_type_of_an_error_has_its_module_unless_it_is_built_in(self, executor: DAGExecutor) -> None:
        error = await failed(executor, Workflow("w", [Node("a", fails(times=1, error=Hostile()))]))

        assert error.failures["a"].type == f"{__name__}.Hostile"

    @pytest.mark.parametrize("kind", [Hostile, Exits])
    async def test_an_error_whose_text_cannot_be_had_is_recorded_without_it(
        self, executor: DAGExecutor, kind: type[Exception]
    ) -> None:
        error = await failed(executor, Workflow("w", [Node("a", fails(times=1, error=kind()))]))

        assert error.failures["a"].message == "(its text cannot be shown)"

    @pytest.mark.parametrize("text", ["", "\x00", "\ud800 lone", "\U0001f600", "x" * 100_000, "a\nb"])
    async def test_any_text_of_an_error_is_recorded(self, executor: DAGExecutor, text: str) -> None:
        await failed(executor, Workflow("w", [Node("a", fails(times=1, error=ValueError(text)))]), run_id="r")

        error = (await executor.get("r")).nodes["a"].error
        assert error is not None
        assert error.message == text or (len(error.message) < len(text) and text.startswith(error.message[:1000]))

    async def test_a_recursion_without_end_fails_its_node(self, executor: DAGExecutor) -> None:
        error = await failed(executor, Workflow("w", [Node("a", recurse), Node("b", lambda: 1)]))

        assert error.failures["a"].type == "RecursionError"

    @pytest.mark.parametrize(
        "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), BaseException("x")]
    )
    async def test_whatever_a_function_raises_fails_its_node_and_nothing_else(
        self, executor: DAGExecutor, error: BaseException
    ) -> None:
        async def on_the_loop() -> None:
            raise error

        workflow = Workflow("w", on_failure="continue")
        workflow.add(Node("thread", fails(times=9, error=error)))
        workflow.add(Node("loop", on_the_loop))
        workflow.add(Node("other", lambda: "fine"))

        caught = await failed(executor, workflow)

        assert caught.run.outputs == {"other": "fine"}
        assert {info.type.rpartition(".")[2] for info in caught.failures.values()} == {type(error).__name__}
        assert (await executor.run(Workflow("next", [Node("a", lambda: 1)]))).status == "completed"

    async def test_a_stop_iteration_fails_its_node(self, executor: DAGExecutor) -> None:
        error = await failed(executor, Workflow("w", [Node("a", fails(times=1, error=StopIteration(1)))]))

        assert "StopIteration" in error.failures["a"].traceback

    async def test_an_exception_group_keeps_all_its_errors(self, executor: DAGExecutor) -> None:
        group = ExceptionGroup("two", [ValueError("one"), KeyError("two")])

        error = await failed(executor, Workflow("w", [Node("a", fails(times=1, error=group))]))

        assert error.failures["a"].type == "ExceptionGroup"
        assert "ValueError: one" in error.failures["a"].traceback
        assert "KeyError: 'two'" in error.failures["a"].traceback

    async def test_of_a_very_long_text_the_beginning_is_recorded(self, executor: DAGExecutor) -> None:
        error = await failed(executor, Workflow("w", [Node("a", fails(times=1, error=ValueError("x" * 1_000_000)))]))

        message = error.failures["a"].message
        assert (message[:3], message[-4:], len(message)) == ("xxx", "x...", 20_003)

    async def test_the_error_of_a_run_survives_pickling(self, executor: DAGExecutor) -> None:
        nodes = [Node("a", lambda: {"rows": [1, 2]}), Node("b", fails(times=1), ["a"])]
        error = await failed(executor, Workflow("w", nodes), run_id="r")

        copy = pickle.loads(pickle.dumps(error))

        assert (str(copy), copy.failures) == (str(error), error.failures)
        assert copy.run.outputs == {"a": {"rows": [1, 2]}}
        assert copy.run.nodes["b"] == error.run.nodes["b"]

    async def test_a_later_process_sees_the_same(self, open_executor: OpenExecutor) -> None:
        error = await failed(await open_executor(), Workflow("w", [Node("a", fails(times=1))]), run_id="r")

        run = await (await open_executor()).get("r")

        assert (run.status, run.error) == ("failed", error.failures["a"])
        assert run.nodes["a"].error == error.failures["a"]
