"""Going on with runs: after a failure, a cancellation, a crash, and with other code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagflow import Node, RetryPolicy, Workflow
from dagflow.errors import (
    NodeError,
    RunCancelledError,
    RunFailedError,
    UnknownWorkflowError,
    WorkflowChangedError,
)
from executors import Calls, Held, fails

if TYPE_CHECKING:
    from executors import OpenExecutor


class TestFailedRuns:
    async def test_what_failed_gets_fresh_attempts_and_what_completed_is_kept(
        self, open_executor: OpenExecutor
    ) -> None:
        calls = Calls()
        policy = RetryPolicy(max_attempts=2, jitter=0.0)
        workflow = Workflow("w", [Node("a", calls.of("a")), Node("b", fails(times=3), ["a"], retry=policy)])
        workflow.add(Node("c", lambda b: f"after {b}"))
        with pytest.raises(RunFailedError) as caught:
            await (await open_executor()).run(workflow, run_id="r")
        assert caught.value.run.nodes["b"].attempts == 2

        run = await (await open_executor(workflow)).resume("r")

        assert run.outputs == {"a": None, "b": "ok", "c": "after ok"}
        assert (run.nodes["b"].attempts, run.nodes["b"].error, run.error) == (2, None, None)
        assert calls == {"a": 1}

    async def test_a_run_may_fail_again(self, open_executor: OpenExecutor) -> None:
        workflow = Workflow("w", [Node("a", fails(times=2))])
        executor = await open_executor()
        with pytest.raises(RunFailedError, match="1 more"):
            await executor.run(workflow, run_id="r")

        with pytest.raises(RunFailedError, match="0 more"):
            await executor.resume("r")

        assert (await executor.resume("r")).outputs == {"a": "ok"}

    async def test_a_completed_run_is_returned(self, open_executor: OpenExecutor) -> None:
        calls = Calls()
        workflow = Workflow("w", [Node("a", calls.of("a", 1))])
        executor = await open_executor()
        first = await executor.run(workflow, run_id="r")

        again = await executor.resume("r")

        assert (again.version, again.outputs, calls) == (first.version, {"a": 1}, {"a": 1})

    async def test_branches_that_drained_are_taken_up(self, open_executor: OpenExecutor) -> None:
        calls = Calls()
        workflow = Workflow("w", [Node("bad", fails(times=1)), *(Node(n, calls.of(n, n)) for n in "abc")])
        workflow.add(Node("d", lambda a, b, c, bad: a + b + c + bad))
        executor = await open_executor(max_concurrency=1)
        with pytest.raises(RunFailedError) as caught:
            await executor.run(workflow, run_id="r")
        assert {caught.value.run.nodes[n].status.value for n in "abc"} == {"pending"}

        run = await executor.resume("r")

        assert run.outputs["d"] == "abcok"
        assert calls == {"a": 1, "b": 1, "c": 1}

    async def test_it_is_an_event_that_a_run_is_opened_again(self, open_executor: OpenExecutor) -> None:
        workflow = Workflow("w", [Node("a", fails(times=1))])
        executor = await open_executor()
        with pytest.raises(RunFailedError):
            await executor.run(workflow, run_id="r")
        await executor.resume("r")

        kinds = [event.kind.value for event in await executor.history("r")]

        assert kinds[-5:] == ["run_failed", "run_resumed", "node_started", "node_completed", "run_completed"]

    async def test_a_map_goes_on_with_its_items(self, open_executor: OpenExecutor) -> None:
        calls = Calls()
        broken = True

        def count(page: str) -> int:
            calls[page] += 1
            if broken and page == "b":
                raise ValueError(page)
            return len(page)

        workflow = Workflow("w", on_failure="continue")
        workflow.map(over={"page": "pages"})(count)
        workflow.add(Node("total", lambda count: sum(count)))  # noqa: PLW0108 - bound by its name
        executor = await open_executor()
        with pytest.raises(RunFailedError):
            await executor.run(workflow, {"pages": ["a", "b", "c"]}, run_id="r")
        broken = False

        run = await executor.resume("r")

        assert run.outputs == {"count": [1, 1, 1], "total": 3}
        assert calls == {"a": 1, "b": 2, "c": 1}

    async def test_the_errors_that_a_completed_map_collected_are_kept(self, open_executor: OpenExecutor) -> None:
        workflow = Workflow("w", inputs=("xs",))
        workflow.map(over={"x": "xs"}, name="m", on_error="collect")(lambda x: 1 // x)
        workflow.add(Node("b", fails(times=1), ["m"]))
        executor = await open_executor()
        with pytest.raises(RunFailedError) as caught:
            await executor.run(workflow, {"xs": [1, 0]}, run_id="r")

        run = await executor.resume("r")

        assert run.outputs["m"] == caught.value.run.outputs["m"]
        assert (run.outputs["m"][1].type, run.nodes["m[1]"].status) == ("ZeroDivisionError", "failed")


class TestCancelledRuns:
    async def test_what_was_cancelled_is_called_anew(self, open_executor: OpenExecutor) -> None:
        calls, held = Calls(), Held("b")
        workflow = Workflow("w", [Node("a", calls.of("a", "a")), Node("b", held, ["a"])])
        executor = await open_executor()
        handle = await executor.start(workflow, run_id="r")
        await held.started.wait()
        await handle.cancel()
        with pytest.raises(RunCancelledError):
            await handle.result()
        held.gate.set()

        run = await executor.resume("r")

        assert (run.status, run.outputs) == ("completed", {"a": "a", "b": "b"})
        assert (run.nodes["b"].attempts, run.nodes["b"].reason) == (1, None)
        assert (calls, held.calls) == ({"a": 1}, 2)


class TestOtherProcesses:
    async def test_a_later_process_knows_type_text_and_traceback_of_the_first_failure(
        self, open_executor: OpenExecutor
    ) -> None:
        workflow = Workflow("w", [Node("a", fails(times=9, error=KeyError("x")))])
        with pytest.raises(RunFailedError) as here:
            await (await open_executor()).run(workflow, run_id="r")
        with pytest.raises(RunFailedError) as later:
            await (await open_executor()).run(workflow, run_id="r")

        assert isinstance(here.value.__cause__, KeyError)
        cause = later.value.__cause__
        assert isinstance(cause, NodeError)
        assert (cause.node, cause.error.type, cause.error.message) == ("a", "KeyError", "'x'")
        assert "in function" in cause.error.traceback
        assert cause.error.traceback.strip() in str(cause)

    async def test_an_executor_that_was_not_given_the_workflow_says_so(self, open_executor: OpenExecutor) -> None:
        with pytest.raises(RunFailedError):
            await (await open_executor()).run(Workflow("w", [Node("a", fails(times=1))]), run_id="r")

        with pytest.raises(UnknownWorkflowError, match=r"pass it in DAGExecutor\(..., workflows=\[...\]\)"):
            await (await open_executor()).resume("r")


class TestChangedCode:
    async def test_another_graph_is_refused_with_what_has_changed(self, open_executor: OpenExecutor) -> None:
        nodes = [Node("a", fails(times=1)), Node("b", lambda a: None), Node("c", lambda: None)]
        with pytest.raises(RunFailedError):
            await (await open_executor()).run(Workflow("w", nodes), run_id="r")
        changed = Workflow("w", [Node("a", lambda: None), Node("b", lambda: None), Node("d", lambda: None)])

        with pytest.raises(WorkflowChangedError) as caught:
            await (await open_executor(changed)).resume("r")

        error = caught.value
        assert (error.run_id, error.added, error.removed, error.rewired) == ("r", ("d",), ("c",), ("b",))
        assert "resume it with the code that started it, or start a new run" in str(error)

    async def test_a_node_of_another_kind_is_another_graph(self, open_executor: OpenExecutor) -> None:
        workflow = Workflow("w", [Node("a", fails(times=1)), Node("b", lambda: None, ["a"])])
        with pytest.raises(RunFailedError):
            await (await open_executor()).run(workflow, run_id="r")
        changed = Workflow("w", [Node("a", lambda: None)])
        changed.sleep("b", 1, depends_on="a")

        with pytest.raises(WorkflowChangedError, match="rewired: b"):
            await (await open_executor(changed)).resume("r")

    async def test_another_function_is_the_same_graph(self, open_executor: OpenExecutor) -> None:
        with pytest.raises(RunFailedError):
            await (await open_executor()).run(Workflow("w", [Node("a", fails(times=9))]), run_id="r")

        run = await (await open_executor(Workflow("w", [Node("a", lambda: "mended")]))).resume("r")

        assert run.outputs == {"a": "mended"}

    async def test_nodes_that_changed_their_places_in_the_code_are_still_the_same_nodes(
        self, open_executor: OpenExecutor
    ) -> None:
        broken = True

        def gate() -> None:
            if broken:
                raise ValueError("not yet")

        a = Node("a", lambda gate: "of a")
        b = Node("b", lambda gate: "of b", allow_failure=True)
        with pytest.raises(RunFailedError):
            await (await open_executor()).run(Workflow("w", [Node("gate", gate), a, b]), run_id="r")
        broken = False

        other = await open_executor(Workflow("w", [b, a, Node("gate", gate)]))
        run = await other.resume("r")

        assert run.outputs == {"gate": None, "a": "of a", "b": "of b"}

    async def test_a_failed_run_is_raised_although_its_graph_has_changed(self, open_executor: OpenExecutor) -> None:
        nodes = [Node("a", fails(times=9)), Node("b", lambda: None, allow_failure=True)]
        executor = await open_executor()
        handle = await executor.start(Workflow("w", nodes), run_id="r")
        with pytest.raises(RunFailedError):
            await handle.result()
        # The executor has got to know another workflow of this name since.
        await executor.run(Workflow("w", [Node("z", lambda: None)]), run_id="other")

        with pytest.raises(RunFailedError) as caught:
            await handle.result()

        assert list(caught.value.failures) == ["a"]


class TestReadyBesideWaiting:
    async def test_a_run_that_waits_for_one_thing_goes_on_with_another(self, open_executor: OpenExecutor) -> None:
        held = Held()
        workflow = Workflow("w", [Node("b", lambda: "b")])
        workflow.wait_for_signal("paid")
        executor = await open_executor(max_concurrency=1)
        await executor.start(Workflow("other", [Node("held", held)]), run_id="other")
        await held.started.wait()
        await executor.start(workflow, run_id="r")
        assert (await executor.get("r")).status == "running"
        await executor.__aexit__(None, None, None)

        run = await (await open_executor(workflow)).resume("r")

        assert (run.status, run.outputs) == ("waiting", {"b": "b"})
