"""Limits: how many calls run at a time, over all runs of an executor."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor, Node, RetryPolicy, Workflow
from dagflow.errors import RunFailedError, StoreUnavailableError, WorkflowError
from dagflow.stores import MemoryStore
from executors import Held, fails, until

if TYPE_CHECKING:
    from executors import OpenExecutor


class Meter:
    """Measures how many calls run at a time."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.calls = 0

    async def __call__(self) -> int:
        self.running += 1
        self.calls += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.001)
        self.running -= 1
        return self.calls


class TestMaxConcurrency:
    @pytest.mark.parametrize("most", [1, 3])
    async def test_it_holds_within_a_run(self, open_executor: OpenExecutor, most: int) -> None:
        meter = Meter()
        executor = await open_executor(max_concurrency=most)

        await executor.run(Workflow("w", [Node(f"n{i}", meter) for i in range(12)]))

        assert (meter.most, meter.calls) == (most, 12)

    async def test_it_holds_over_all_runs(self, open_executor: OpenExecutor) -> None:
        meter = Meter()
        executor = await open_executor(max_concurrency=2)
        workflow = Workflow("w", [Node("a", meter), Node("b", meter), Node("c", meter, ["a"])])

        await asyncio.gather(*(executor.run(workflow) for _ in range(10)))

        assert (meter.most, meter.calls) == (2, 30)

    async def test_a_call_that_failed_gives_its_place_back(self, open_executor: OpenExecutor) -> None:
        executor = await open_executor(max_concurrency=1)

        for _ in range(3):
            with pytest.raises(RunFailedError):
                await executor.run(Workflow("w", [Node("a", fails(times=9))]))

        assert (await executor.run(Workflow("w", [Node("a", lambda: 1)]))).status == "completed"

    async def test_a_node_that_is_skipped_or_cannot_start_gives_its_place_back(
        self, open_executor: OpenExecutor
    ) -> None:
        executor = await open_executor(max_concurrency=1)
        workflow = Workflow("w", on_failure="continue")
        workflow.add(Node("skipped", lambda: 1, when=lambda: False))
        workflow.add(Node("stumbles", lambda: 1, when=lambda: 1 / 0, allow_failure=True))
        workflow.map(over={"x": "xs"}, name="no_list", allow_failure=True)(lambda x: x)
        workflow.map(over={"x": "empty"}, name="nothing")(lambda x: x)
        workflow.add(Node("z", lambda: "z"))

        run = await executor.run(workflow, {"xs": 3, "empty": []})

        assert run.outputs == {"nothing": [], "z": "z"}

    async def test_a_call_that_waits_for_its_next_attempt_takes_no_place(self, open_executor: OpenExecutor) -> None:
        executor = await open_executor(max_concurrency=1)
        policy = RetryPolicy(max_attempts=2, delay=1000.0)

        run = await executor.run(Workflow("w", [Node("a", fails(times=1), retry=policy), Node("b", lambda: "b")]))

        assert run.outputs == {"a": "ok", "b": "b"}

    async def test_a_map_and_its_items_do_not_wait_for_each_other(self, open_executor: OpenExecutor) -> None:
        executor = await open_executor(max_concurrency=1)
        workflow = Workflow("w")
        workflow.map(over={"x": "xs"}, name="m", limit=1)(lambda x: x)
        workflow.map(over={"x": "m"}, name="n")(lambda x: x)

        assert (await executor.run(workflow, {"xs": [1, 2, 3]})).outputs["n"] == [1, 2, 3]

    async def test_a_sub_workflow_and_its_nodes_do_not_wait_for_each_other(self, open_executor: OpenExecutor) -> None:
        executor = await open_executor(max_concurrency=1)
        workflow = Workflow("w")
        workflow.subworkflow("one", Workflow("child", [Node("a", lambda: 1)]))
        workflow.subworkflow("two", Workflow("other", [Node("a", lambda: 2)]))

        run = await asyncio.wait_for(executor.run(workflow), 10)

        assert run.outputs == {"one": {"a": 1}, "two": {"a": 2}}

    async def test_cancelled_and_closed_runs_give_their_places_back(self, open_executor: OpenExecutor) -> None:
        held = Held()
        executor = await open_executor(max_concurrency=1)
        waiter = asyncio.create_task(executor.run(Workflow("w", [Node("a", held)])))
        await held.started.wait()
        waiter.cancel()
        await asyncio.wait([waiter])
        handle = await executor.start(Workflow("w", [Node("a", Held())]))
        await handle.cancel()

        run = await asyncio.wait_for(executor.run(Workflow("next", [Node("a", lambda: 1)])), 10)

        assert run.status == "completed"

    async def test_runs_whose_store_failed_give_their_places_back(self) -> None:
        class Hiccup(MemoryStore):
            fails = 0

            async def append(self, *args: Any, **options: Any) -> None:
                if self.fails:
                    self.fails -= 1
                    raise StoreUnavailableError("hiccup")
                await super().append(*args, **options)

        store = Hiccup()
        workflow = Workflow("w", [Node("a", lambda: 1), Node("b", lambda a: 2)])
        async with DAGExecutor(store, max_concurrency=1) as executor:
            for _ in range(3):
                store.fails = 1
                with pytest.raises(StoreUnavailableError, match="hiccup"):
                    await executor.run(workflow)

            assert (await asyncio.wait_for(executor.run(workflow), 10)).status == "completed"


class TestNamedLimits:
    async def test_calls_that_use_a_thing_share_it(self, open_executor: OpenExecutor) -> None:
        gpu, free = Meter(), Meter()
        executor = await open_executor(limits={"gpu": 2})
        workflow = Workflow("w", [Node(f"g{i}", gpu, uses="gpu") for i in range(8)])
        for i in range(8):
            workflow.add(Node(f"f{i}", free))

        await asyncio.gather(*(executor.run(workflow) for _ in range(3)))

        assert gpu.most == 2
        assert free.most > 2

    async def test_two_things_are_taken_together_so_that_nobody_waits_for_ever(
        self, open_executor: OpenExecutor
    ) -> None:
        meter = Meter()
        executor = await open_executor(limits={"a": 1, "b": 1})
        workflow = Workflow("w")
        for i in range(10):
            workflow.add(Node(f"n{i}", meter, uses=["a", "b"] if i % 2 else ["b", "a"]))

        await asyncio.wait_for(executor.run(workflow), 10)

        assert (meter.most, meter.calls) == (1, 10)

    async def test_a_limit_that_the_executor_does_not_know_is_named_before_anything_runs(
        self, open_executor: OpenExecutor
    ) -> None:
        executor = await open_executor(limits={"gpu": 1})

        with pytest.raises(WorkflowError, match=r"uses='gpus' is none .* did you mean 'gpu'") as caught:
            await executor.run(Workflow("w", [Node("a", lambda: 1, uses="gpus")]))

        assert (caught.value.workflow, caught.value.node) == ("w", "a")
        assert await executor.runs() == []

    async def test_a_runner_that_the_executor_does_not_know_is_named_before_anything_runs(
        self, open_executor: OpenExecutor
    ) -> None:
        executor = await open_executor()

        with pytest.raises(WorkflowError, match=r"runner='treads' is none .* did you mean 'thread'"):
            await executor.run(Workflow("w", [Node("a", lambda: 1, runner="treads")]))

        assert await executor.runs() == []


class TestPriority:
    def noting(self, order: list[str], name: str, **options: Any) -> Node:
        async def note() -> None:
            order.append(name)

        return Node(name, note, **options)

    async def test_of_the_nodes_that_wait_the_higher_one_starts_first(self, open_executor: OpenExecutor) -> None:
        order: list[str] = []
        executor = await open_executor(max_concurrency=1)
        workflow = Workflow("w", [self.noting(order, f"p{p}", priority=p) for p in (0, -2, 5, 1)])

        await executor.run(workflow)

        assert order == ["p5", "p1", "p0", "p-2"]

    async def test_it_holds_for_a_named_limit_and_over_all_runs(self, open_executor: OpenExecutor) -> None:
        order: list[str] = []
        held = Held()
        executor = await open_executor(limits={"gpu": 1})
        first = await executor.start(Workflow("first", [Node("held", held, uses="gpu")]))
        await held.started.wait()
        low = await executor.start(Workflow("low", [self.noting(order, "low", uses="gpu")]))
        await executor.run(Workflow("free", [self.noting(order, "free", priority=-9)]))
        high = await executor.start(Workflow("high", [self.noting(order, "high", uses="gpu", priority=1)]))
        held.gate.set()

        for handle in (first, low, high):
            await handle.result()

        assert order == ["free", "high", "low"]

    async def test_a_run_of_higher_priority_comes_first_and_so_do_its_sub_workflows(
        self, open_executor: OpenExecutor
    ) -> None:
        order: list[str] = []
        held = Held()
        executor = await open_executor(max_concurrency=1)
        first = await executor.start(Workflow("first", [Node("held", held)]))
        await held.started.wait()
        low = await executor.start(Workflow("low", [self.noting(order, "low", priority=100)]))
        outer = Workflow("outer")
        outer.subworkflow("inner", Workflow("inner", [self.noting(order, "high")]))
        high = await executor.start(outer, run_id="outer", priority=1)
        await until(lambda: executor._engine.limits._lines[()][1:] != [])
        held.gate.set()

        for handle in (first, low, high):
            await handle.result()

        assert order == ["high", "low"]

    async def test_a_paused_run_holds_up_nobody(self, open_executor: OpenExecutor) -> None:
        order: list[str] = []
        held = Held()
        executor = await open_executor(max_concurrency=1)
        urgent = await executor.start(
            Workflow("urgent", [Node("held", held), self.noting(order, "next")]), run_id="urgent", priority=9
        )
        await held.started.wait()
        low = await executor.start(Workflow("low", [self.noting(order, "low")]))
        await urgent.pause()
        held.gate.set()

        await asyncio.wait_for(low.result(), 10)

        assert (await urgent.result()).status == "paused"
        assert order == ["low"]

    @pytest.mark.parametrize("priority", [1.5, "high", True, 2**31])
    async def test_what_is_no_priority_is_refused_and_nothing_is_recorded(
        self, executor: DAGExecutor, priority: Any
    ) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1)])

        for call in (executor.run, executor.start, executor.submit):
            with pytest.raises(ValueError, match="priority must be a whole number from -2147483647 to 2147483647"):
                await call(workflow, priority=priority)

        assert await executor.runs() == []


@pytest.mark.parametrize(
    "options",
    [
        {"max_concurrency": 0},
        {"limits": {"gpu": 0}},
        {"lease": 0},
        {"lease": -1},
        {"grace": -1},
    ],
)
def test_numbers_out_of_their_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        DAGExecutor("memory://", **options)
