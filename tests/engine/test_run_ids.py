"""Starting a run by its id again, in every status; and ids that belong to something else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import Node, Workflow
from dagflow.errors import (
    InputError,
    NodeError,
    RunCancelledError,
    RunExistsError,
    RunFailedError,
    RunNotFoundError,
    RunOwnedError,
)
from executors import Calls, fails

if TYPE_CHECKING:
    from dagflow import DAGExecutor
    from executors import OpenExecutor


class TestStartedAgain:
    async def test_a_completed_run_is_returned_as_it_was_recorded(self, open_executor: OpenExecutor) -> None:
        calls = Calls()
        workflow = Workflow("w", [Node("a", calls.of("a", 1)), Node("b", lambda a, x: a + x)])
        first = await (await open_executor()).run(workflow, {"x": 1}, run_id="r")

        again = await (await open_executor()).run(workflow, {"x": 1}, run_id="r")

        assert (again.outputs, again.version, again.status) == (first.outputs, first.version, "completed")
        assert calls == {"a": 1}

    async def test_a_failed_run_raises_what_it_recorded_and_names_resume(self, open_executor: OpenExecutor) -> None:
        calls = Calls()
        workflow = Workflow("w", [Node("a", calls.of("a")), Node("b", fails(times=9), ["a"])])
        with pytest.raises(RunFailedError) as first:
            await (await open_executor()).run(workflow, run_id="r")

        with pytest.raises(RunFailedError, match=r"resume\('r'\) goes on with it") as again:
            await (await open_executor()).run(workflow, run_id="r")

        assert again.value.failures == first.value.failures
        assert again.value.run.version == first.value.run.version
        assert isinstance(again.value.__cause__, NodeError)
        assert calls == {"a": 1}

    async def test_a_cancelled_run_raises_and_names_resume(self, open_executor: OpenExecutor) -> None:
        async def hang() -> None:
            await asyncio.Event().wait()

        workflow = Workflow("w", [Node("a", hang)])
        executor = await open_executor()
        handle = await executor.start(workflow, run_id="r")
        await handle.cancel()
        with pytest.raises(RunCancelledError):
            await handle.result()

        with pytest.raises(RunCancelledError, match=r"resume\('r'\) goes on with it") as again:
            await executor.run(workflow, run_id="r")

        assert again.value.run.status == "cancelled"

    async def test_a_run_that_was_let_go_of_goes_on(self, open_executor: OpenExecutor) -> None:
        calls, hanging = Calls(), True

        async def hang() -> str:
            calls["b"] += 1
            if hanging:
                await asyncio.Event().wait()
            return "b"

        workflow = Workflow("w", [Node("a", calls.of("a")), Node("b", hang, ["a"])])
        executor = await open_executor()
        handle = await executor.start(workflow, run_id="r")
        async for event in handle.events():
            if event.node == "b":
                break
        await executor.__aexit__(None, None, None)
        hanging = False

        run = await (await open_executor()).run(workflow, run_id="r")

        assert (run.outputs, calls) == ({"a": None, "b": "b"}, {"a": 1, "b": 2})
        assert run.nodes["b"].attempts == 1

    async def test_a_pending_run_is_started(self, open_executor: OpenExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1)])
        executor = await open_executor()
        await executor.submit(workflow, run_id="r")
        assert (await executor.get("r")).status == "pending"

        assert (await executor.run(workflow, run_id="r")).status == "completed"

    async def test_a_paused_run_goes_on(self, open_executor: OpenExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1)])
        executor = await open_executor()
        await executor.submit(workflow, run_id="r")
        await executor.pause("r")

        assert (await executor.run(workflow, run_id="r")).status == "completed"

    async def test_a_run_that_waits_for_the_outside_world_is_returned_as_it_waits(
        self, open_executor: OpenExecutor
    ) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1)])
        workflow.wait_for_signal("paid", depends_on="a")
        executor = await open_executor()

        first = await executor.run(workflow, run_id="r")
        again = await executor.run(workflow, run_id="r")

        assert (first.status, again.status, again.version) == ("waiting", "waiting", first.version)
        await executor.signal("r", "paid", 5)
        assert (await executor.run(workflow, run_id="r")).outputs == {"a": 1, "paid": 5}

    async def test_two_callers_of_one_run_share_it(self, executor: DAGExecutor) -> None:
        calls = Calls()

        async def slow() -> str:
            calls["a"] += 1
            await asyncio.sleep(0.01)
            return "a"

        workflow = Workflow("w", [Node("a", slow)])

        runs = await asyncio.gather(*(executor.run(workflow, run_id="r") for _ in range(20)))

        assert {run.outputs["a"] for run in runs} == {"a"}
        assert calls == {"a": 1}

    async def test_two_executors_that_start_one_run_make_one_run(self, open_executor: OpenExecutor) -> None:
        calls = Calls()

        async def slow() -> str:
            calls["a"] += 1
            await asyncio.sleep(0.01)
            return "a"

        workflow = Workflow("w", [Node("a", slow)])
        executors = [await open_executor() for _ in range(4)]

        runs = await asyncio.gather(*(executor.run(workflow, run_id="r") for executor in executors))

        assert {run.outputs["a"] for run in runs} == {"a"}
        assert calls == {"a": 1}

    async def test_a_handle_of_a_run_that_has_ended_gives_its_result(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1)])
        await executor.run(workflow, run_id="r")

        handle = await executor.start(workflow, run_id="r")

        assert handle.run_id == "r"
        assert (await handle.result()).outputs == {"a": 1}
        assert repr(handle) == "<RunHandle 'r'>"


class TestOwned:
    async def test_a_run_of_another_owner_is_waited_for(self, open_executor: OpenExecutor) -> None:
        calls = Calls()
        gate = asyncio.Event()

        async def slow() -> str:
            calls["a"] += 1
            await gate.wait()
            return "a"

        workflow = Workflow("w", [Node("a", slow)])
        await (await open_executor()).start(workflow, run_id="r")
        waiter = asyncio.create_task((await open_executor()).run(workflow, run_id="r"))
        await asyncio.sleep(0.02)
        assert not waiter.done()

        gate.set()

        assert (await waiter).outputs == {"a": "a"}
        assert calls == {"a": 1}

    async def test_a_caller_that_does_not_wait_is_told_who_owns_the_run(self, open_executor: OpenExecutor) -> None:
        async def hang() -> None:
            await asyncio.Event().wait()

        workflow = Workflow("w", [Node("a", hang)])
        await (await open_executor()).start(workflow, run_id="r")
        other = await open_executor(workflow)

        with pytest.raises(RunOwnedError) as caught:
            await other.run(workflow, run_id="r", wait=False)
        with pytest.raises(RunOwnedError):
            await other.resume("r", wait=False)

        assert caught.value.run_id == "r"
        assert caught.value.lease_until is not None


class TestExists:
    @pytest.mark.parametrize(
        ("inputs", "others"),
        [
            ({"x": 1}, {"x": 2}),
            ({"x": 1}, {"x": True}),
            ({"x": 1}, {"x": 1.0}),
            ({"x": 0.0}, {"x": -0.0}),
            ({"x": "1"}, {"x": 1}),
            ({"x": [1]}, {"x": (1,)}),
            ({"x": {"a": 1}}, {"x": {"a": None}}),
            ({"x": None}, {}),
        ],
    )
    async def test_a_run_with_other_inputs_is_another_run(
        self, executor: DAGExecutor, inputs: dict[str, Any], others: dict[str, Any]
    ) -> None:
        workflow = Workflow("w", [Node("a", lambda x=None: None)])
        run = await executor.run(workflow, inputs, run_id="r")

        with pytest.raises(RunExistsError, match="'r' exists already: it was started with other inputs") as caught:
            await executor.run(workflow, others, run_id="r")

        assert caught.value.run_id == "r"
        assert (await executor.get("r")).version == run.version

    async def test_the_order_of_the_inputs_does_not_matter(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda x, y: x - y)])
        await executor.run(workflow, {"x": 1, "y": 2}, run_id="r")

        assert (await executor.run(workflow, {"y": 2, "x": 1}, run_id="r")).outputs == {"a": -1}

    async def test_an_id_of_another_workflow_is_taken(self, executor: DAGExecutor) -> None:
        await executor.run(Workflow("w", [Node("a", lambda: None)]), run_id="r")

        with pytest.raises(RunExistsError, match="it is a run of workflow 'w', not of 'other'"):
            await executor.run(Workflow("other", [Node("a", lambda: None)]), run_id="r")

    async def test_an_id_of_another_graph_is_taken(self, executor: DAGExecutor) -> None:
        nodes = [Node("a", lambda: None), Node("b", lambda a: None), Node("c", lambda: None)]
        await executor.run(Workflow("w", nodes), run_id="r")
        changed = [Node("a", lambda: None), Node("b", lambda: None), Node("d", lambda: None)]

        with pytest.raises(RunExistsError, match="added: d; removed: c; rewired: b"):
            await executor.run(Workflow("w", changed), run_id="r")

    async def test_an_id_is_taken_while_its_run_goes_on_too(self, executor: DAGExecutor) -> None:
        async def hang(x: int) -> None:
            await asyncio.Event().wait()

        workflow = Workflow("w", [Node("a", hang)])
        await executor.start(workflow, {"x": 1}, run_id="r")

        with pytest.raises(RunExistsError, match="other inputs"):
            await executor.run(workflow, {"x": 2}, run_id="r")
        with pytest.raises(RunExistsError, match="not of 'other'"):
            await executor.run(Workflow("other", [Node("a", hang)]), {"x": 1}, run_id="r")
        assert (await executor.get("r")).status == "running"

    @pytest.mark.parametrize("run_id", ["", "x" * 256, "a\nb", "a b", "\x1b[0m", "é", 7])
    async def test_an_id_that_no_run_can_have_is_refused_and_nothing_is_recorded(
        self, executor: DAGExecutor, run_id: Any
    ) -> None:
        workflow = Workflow("w", [Node("a", lambda: None)])

        for call in (executor.run, executor.start, executor.submit):
            with pytest.raises(InputError, match="no run id"):
                await call(workflow, run_id=run_id)

        assert await executor.runs() == []

    async def test_the_longest_id_and_a_path_are_ids(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda: None)])

        for run_id in ("x" * 255, "2030-01-01T00:00/a.b_c"):
            assert (await executor.run(workflow, run_id=run_id)).run_id == run_id

    async def test_a_run_that_nobody_knows_is_not_found(self, executor: DAGExecutor) -> None:
        for call in (
            executor.get,
            executor.resume,
            executor.history,
            executor.cancel,
            executor.pause,
            executor.delete,
        ):
            with pytest.raises(RunNotFoundError, match="no run 'nobody'"):
                await call("nobody")
