"""Running a workflow from its first node to its last."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import Node, NodeContext, Workflow
from dagflow._driver import Driver
from dagflow._state import RunState
from executors import Calls

if TYPE_CHECKING:
    from dagflow import DAGExecutor
    from executors import OpenExecutor


class TestOrder:
    async def test_outputs_go_where_parameters_name_them(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w")

        @workflow.node
        def numbers(count: int) -> list[int]:
            return list(range(count))

        @workflow.node
        async def total(numbers: list[int]) -> int:
            return sum(numbers)

        @workflow.node(bind={"value": "total"})
        def doubled(value: int, factor: int = 2) -> int:
            return value * factor

        run = await executor.run(workflow, {"count": 4})

        assert (run.status, run.workflow) == ("completed", "w")
        assert run.outputs == {"numbers": [0, 1, 2, 3], "total": 6, "doubled": 12}
        assert run.inputs == {"count": 4}
        assert {node.attempts for node in run.nodes.values()} == {1}

    async def test_a_node_starts_when_its_own_dependencies_are_done(self, executor: DAGExecutor) -> None:
        second_branch_done = asyncio.Event()

        async def slow() -> None:
            await asyncio.wait_for(second_branch_done.wait(), 10)

        async def fast2(fast: None) -> None:
            second_branch_done.set()

        nodes = [Node("slow", slow), Node("fast", lambda: None), Node("fast2", fast2), Node("end", lambda slow: None)]

        assert (await executor.run(Workflow("w", nodes))).status == "completed"

    async def test_the_fast_branch_of_a_diamond_does_not_wait_for_the_slow_one(self, executor: DAGExecutor) -> None:
        fast_branch_done = asyncio.Event()

        async def slow(root: str) -> str:
            await fast_branch_done.wait()
            return f"slow after {root}"

        async def later(fast: str) -> str:
            fast_branch_done.set()
            return f"{fast}, and more"

        nodes = [Node("root", lambda: "root"), Node("slow", slow), Node("fast", lambda root: f"fast after {root}")]
        workflow = Workflow("w", [*nodes, Node("later", later), Node("end", lambda slow, later: [slow, later])])

        run = await executor.run(workflow)

        assert run.outputs["end"] == ["slow after root", "fast after root, and more"]

    async def test_independent_nodes_run_at_the_same_time(self, executor: DAGExecutor) -> None:
        barrier = threading.Barrier(3, timeout=10)
        workflow = Workflow("w", [Node(name, barrier.wait) for name in "abc"])

        run = await executor.run(workflow)

        assert sorted(run.outputs.values()) == [0, 1, 2]

    async def test_an_arrow_without_data_orders_nodes(self, executor: DAGExecutor) -> None:
        order: list[str] = []
        workflow = Workflow("w")
        workflow.add(Node("second", lambda: order.append("second"), ["first"]))
        workflow.add(Node("first", lambda: order.append("first")))

        await executor.run(workflow)

        assert order == ["first", "second"]

    async def test_a_chain_of_300_nodes_runs_each_once(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("n0", lambda: 0)])
        for number in range(1, 300):
            workflow.add(Node(f"n{number}", lambda x: x + 1, bind={"x": f"n{number - 1}"}))

        run = await executor.run(workflow)

        assert run.outputs["n299"] == 299


class TestFunctions:
    async def test_every_kind_of_callable_can_be_a_node(self, executor: DAGExecutor) -> None:
        class Object:
            def __call__(self, x: int) -> str:
                return f"object {x}"

            def method(self, x: int) -> str:
                return f"method {x}"

        class AsyncObject:
            async def __call__(self, x: int) -> str:
                return f"async object {x}"

        def function(prefix: str, x: int) -> str:
            return f"{prefix} {x}"

        async def coroutine_function(prefix: str, x: int) -> str:
            return f"{prefix} {x}"

        workflow = Workflow(
            "w",
            [
                Node("object", Object()),
                Node("method", Object().method),
                Node("async_object", AsyncObject()),
                Node("partial", functools.partial(function, "partial")),
                Node("async_partial", functools.partial(coroutine_function, "async partial")),
                Node("lambda", lambda x: f"lambda {x}"),
                Node("default", lambda x, y=2: x + y),
            ],
        )

        run = await executor.run(workflow, {"x": 1})

        assert run.outputs == {
            "object": "object 1",
            "method": "method 1",
            "async_object": "async object 1",
            "partial": "partial 1",
            "async_partial": "async partial 1",
            "lambda": "lambda 1",
            "default": 3,
        }

    async def test_async_functions_run_on_the_loop_and_others_in_threads(self, executor: DAGExecutor) -> None:
        here = threading.current_thread()
        seen: dict[str, threading.Thread] = {}

        async def on_the_loop() -> None:
            seen["loop"] = threading.current_thread()

        def in_a_thread() -> None:
            seen["thread"] = threading.current_thread()

        await executor.run(Workflow("w", [Node("a", on_the_loop), Node("b", in_a_thread)]))

        assert seen["loop"] is here
        assert seen["thread"] is not here

    async def test_a_node_may_name_a_runner_of_the_executor(self, open_executor: OpenExecutor) -> None:
        class Here:
            async def call(self, function: Any, arguments: Any, *, timeout: float | None, node: str) -> Any:
                return f"{node} {timeout}: {function(**arguments)}"

            async def close(self) -> None: ...

        executor = await open_executor(runners={"here": Here()})

        run = await executor.run(Workflow("w", [Node("a", lambda: 1, runner="here", timeout=3)]))

        assert run.outputs["a"] == "a 3: 1"

    async def test_a_node_that_returns_nothing_returns_none(self, executor: DAGExecutor) -> None:
        run = await executor.run(Workflow("w", [Node("a", lambda: None), Node("b", lambda a: [a])]))

        assert run.outputs == {"a": None, "b": [None]}


class TestRuns:
    async def test_a_run_without_an_id_gets_one_and_two_runs_are_two(self, executor: DAGExecutor) -> None:
        calls = Calls()
        workflow = Workflow("w", [Node("a", calls.of("a"))])

        first, second = await executor.run(workflow), await executor.run(workflow)

        assert first.run_id != second.run_id
        assert calls == {"a": 2}

    async def test_many_runs_go_on_at_once_in_one_executor(self, executor: DAGExecutor) -> None:
        async def double(x: int) -> int:
            await asyncio.sleep(0)
            return 2 * x

        workflow = Workflow("w", [Node("a", double), Node("b", lambda a: a + 1)])

        runs = await asyncio.gather(*(executor.run(workflow, {"x": x}) for x in range(50)))

        assert [run.outputs["b"] for run in runs] == [2 * x + 1 for x in range(50)]

    async def test_times_are_those_of_the_clock_and_durations_are_not_negative(self, executor: DAGExecutor) -> None:
        run = await executor.run(Workflow("w", [Node("a", lambda: None)]))

        node = run.nodes["a"]
        assert node.started_at is not None
        assert node.ended_at is not None
        assert run.created_at <= node.started_at <= node.ended_at <= run.updated_at
        assert (node.duration or 0.0) >= 0.0

    async def test_the_context_says_which_attempt_of_which_node_it_is(self, executor: DAGExecutor) -> None:
        def about(context: NodeContext) -> list[Any]:
            return [context.run_id, context.workflow, context.node, context.attempt]

        run = await executor.run(Workflow("w", [Node("a", about)]), run_id="r")

        assert run.outputs["a"] == ["r", "w", "a", 1]


@pytest.mark.parametrize("size", [0, 1, 1000])
async def test_outputs_may_have_any_size(executor: DAGExecutor, size: int) -> None:
    run = await executor.run(Workflow("w", [Node("a", lambda: ["x" * 100] * size), Node("b", len_of)]))

    assert run.outputs["b"] == size


def len_of(a: list[str]) -> int:
    return len(a)


async def test_a_run_that_has_ended_is_freed_without_the_help_of_the_collector(executor: DAGExecutor) -> None:
    workflow = Workflow("short")

    @workflow.node
    async def first() -> int:
        return 1

    @workflow.node
    async def second(first: int) -> int:
        return first

    gc.collect()
    gc.disable()
    try:
        await executor.run(workflow, run_id="freed")
        states = [thing for thing in gc.get_objects() if isinstance(thing, RunState) and thing.run_id == "freed"]
        drivers = [thing for thing in gc.get_objects() if isinstance(thing, Driver) and thing.state in states]
    finally:
        gc.enable()

    assert not states
    assert not drivers
