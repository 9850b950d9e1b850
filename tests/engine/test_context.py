"""What a node may know besides its arguments: its context and the resources of the executor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import Node, NodeContext, Workflow
from dagflow.errors import InputError, RunFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from dagflow import DAGExecutor
    from executors import OpenExecutor


class TestContext:
    async def test_a_node_sees_its_run_itself_and_what_is_upstream(self, executor: DAGExecutor) -> None:
        seen: list[NodeContext] = []

        def note(context: NodeContext, a: int) -> None:
            seen.append(context)

        workflow = Workflow("w", [Node("a", lambda: 1), Node("b", lambda: 2, when=lambda: False)])
        workflow.add(Node("other", lambda: 3))
        workflow.add(Node("c", note))
        run = await executor.run(workflow, run_id="r")

        (context,) = seen
        assert (context.run_id, context.workflow, context.node, context.attempt) == ("r", "w", "c", 1)
        assert dict(context.outputs) == {"a": 1}
        assert dict(context.inputs) == {}
        assert run.status == "completed"

    async def test_inputs_and_config_are_those_of_the_run_and_the_node(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", inputs=["note"])

        @workflow.node(config={"size": 3})
        def a(context: NodeContext) -> list[Any]:
            return [dict(context.inputs), dict(context.config)]

        assert (await executor.run(workflow, {"note": "n"})).outputs["a"] == [{"note": "n"}, {"size": 3}]

    async def test_outputs_are_those_of_the_dependencies_that_completed(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1), Node("b", lambda: 2, when=lambda: False)])

        @workflow.node(depends_on=["a", "b"], join="all_done")
        def c(context: NodeContext) -> dict[str, Any]:
            return dict(context.outputs)

        assert (await executor.run(workflow)).outputs["c"] == {"a": 1}

    async def test_the_key_for_the_outside_world_is_that_of_the_node_in_the_run(self, executor: DAGExecutor) -> None:
        def key(context: NodeContext) -> str:
            return context.idempotency_key

        workflow = Workflow("w", [Node("a", key), Node("b", key)])
        first, second = await executor.run(workflow, run_id="1"), await executor.run(workflow, run_id="2")

        assert len({*first.outputs.values(), *second.outputs.values()}) == 4

    async def test_the_logger_knows_the_run_and_the_node(
        self, executor: DAGExecutor, caplog: pytest.LogCaptureFixture
    ) -> None:
        def log(context: NodeContext) -> None:
            context.logger.warning("hello")

        await executor.run(Workflow("w", [Node("a", log)]), run_id="r")

        (record,) = (r for r in caplog.records if r.message == "hello")
        assert (record.name, record.levelno) == ("dagflow.node", logging.WARNING)
        assert (record.run_id, record.node, record.attempt) == ("r", "a", 1)  # type: ignore[attr-defined]


class TestResources:
    async def test_a_parameter_takes_a_resource_by_its_name(self, open_executor: OpenExecutor) -> None:
        pool = object()
        executor = await open_executor(resources={"pool": pool})

        run = await executor.run(Workflow("w", [Node("a", lambda pool: id(pool))]))  # noqa: PLW0108 - by name

        assert run.outputs["a"] == id(pool)
        assert dict(run.inputs) == {}

    async def test_an_input_comes_before_a_resource(self, open_executor: OpenExecutor) -> None:
        executor = await open_executor(resources={"pool": "resource"})
        workflow = Workflow("w", [Node("a", lambda pool: pool)])

        assert (await executor.run(workflow, {"pool": "input"})).outputs == {"a": "input"}
        assert (await executor.run(workflow)).outputs == {"a": "resource"}

    async def test_a_resource_stands_in_the_context_too(self, open_executor: OpenExecutor) -> None:
        executor = await open_executor(resources={"pool": 7})

        def function(context: NodeContext) -> Any:
            return context.resources["pool"]

        assert (await executor.run(Workflow("w", [Node("a", function)]))).outputs == {"a": 7}

    async def test_a_resource_that_is_missing_is_a_missing_input(self, executor: DAGExecutor) -> None:
        with pytest.raises(InputError, match="missing inputs: 'pool'"):
            await executor.run(Workflow("w", [Node("a", lambda pool: 1)]))

    async def test_contexts_are_entered_on_first_use_and_left_at_the_end(self, open_executor: OpenExecutor) -> None:
        log: list[str] = []

        @contextlib.contextmanager
        def sync() -> Iterator[str]:
            log.append("enter sync")
            yield "sync"
            log.append("leave sync")

        @contextlib.asynccontextmanager
        async def on_the_loop() -> AsyncIterator[str]:
            log.append("enter async")
            yield "async"
            log.append("leave async")

        @contextlib.contextmanager
        def unused() -> Iterator[None]:
            log.append("enter unused")
            yield

        executor = await open_executor(resources={"one": sync, "two": on_the_loop, "three": unused})
        assert log == []

        run = await executor.run(Workflow("w", [Node("a", lambda one: one), Node("b", lambda two, a: a + two)]))
        await executor.run(Workflow("w", [Node("a", lambda one: one)]))

        assert run.outputs == {"a": "sync", "b": "syncasync"}
        assert log == ["enter sync", "enter async"]
        await executor.__aexit__(None, None, None)
        assert log == ["enter sync", "enter async", "leave async", "leave sync"]

    async def test_two_nodes_that_need_a_context_at_a_time_enter_it_once(self, open_executor: OpenExecutor) -> None:
        log: list[str] = []

        @contextlib.asynccontextmanager
        async def slow() -> AsyncIterator[str]:
            log.append("enter")
            for _ in range(5):
                await asyncio.sleep(0)
            yield "pool"

        executor = await open_executor(resources={"pool": slow})

        run = await executor.run(Workflow("w", [Node("a", lambda pool: pool), Node("b", lambda pool: pool)]))

        assert run.outputs == {"a": "pool", "b": "pool"}
        assert log == ["enter"]

    async def test_callables_that_make_no_context_are_resources_as_they_are(self, open_executor: OpenExecutor) -> None:
        class Needs:
            def __init__(self, size: int) -> None:
                self.size = size

        executor = await open_executor(resources={"five": lambda: 5, "kind": Needs, "largest": max})
        nodes = [
            Node("a", lambda five: five()),
            Node("b", lambda kind: kind(7).size),
            Node("c", lambda largest: largest(1, 2)),
        ]

        assert (await executor.run(Workflow("w", nodes))).outputs == {"a": 5, "b": 7, "c": 2}

    async def test_a_coroutine_function_is_a_resource_as_it_is(self, open_executor: OpenExecutor) -> None:
        async def fetch() -> str:
            return "fetched"

        async def use(fetch: Callable[[], Awaitable[str]]) -> str:
            return await fetch()

        executor = await open_executor(resources={"fetch": fetch})

        assert (await executor.run(Workflow("w", [Node("a", use)]))).outputs == {"a": "fetched"}

    async def test_a_resource_that_cannot_be_opened_fails_the_node(self, open_executor: OpenExecutor) -> None:
        @contextlib.contextmanager
        def broken() -> Iterator[None]:
            raise OSError("no route")
            yield

        executor = await open_executor(resources={"pool": broken})

        with pytest.raises(RunFailedError, match="OSError: no route"):
            await executor.run(Workflow("w", [Node("a", lambda pool: 1)]))
