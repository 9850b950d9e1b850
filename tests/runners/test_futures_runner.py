"""Calls by executors of ``concurrent.futures``."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

import pytest

import misbehaving
from dagflow import DAGExecutor, Node, NodeContext, Workflow
from dagflow.errors import ExecutorError, NodeTimeoutError, RunFailedError
from dagflow.protocols import Runner
from dagflow.runners import FuturesRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def processes() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def gate() -> threading.Event:
    """Holds up calls in threads until the test opens it."""
    return threading.Event()


async def call(
    runner: FuturesRunner, function: Callable[..., Any], timeout: float | None = None, /, **arguments: Any
) -> Any:
    return await runner.call(function, arguments, timeout=timeout, node="a")


class TestCalls:
    async def test_a_function_is_called_by_the_executor(self, threads: ThreadPoolExecutor) -> None:
        runner = FuturesRunner(threads)

        assert isinstance(runner, Runner)
        assert await call(runner, misbehaving.add, x=1, y=2) == 3
        assert await call(runner, misbehaving.add, 60.0, x=1, y=2) == 3
        assert (await call(runner, misbehaving.thread_name)).startswith("ThreadPoolExecutor")

    async def test_no_argument_is_taken_for_an_option_of_the_executor(self) -> None:
        class Greedy(Executor):
            def submit(self, fn: Any, /, *args: Any, key: str = "", **kwargs: Any) -> Future[Any]:  # type: ignore[override]
                future: Future[Any] = Future()
                future.set_result(fn(*args, **kwargs))
                return future

        def show(key: str, fn: int) -> tuple[str, int]:
            return key, fn

        assert await call(FuturesRunner(Greedy()), show, key="mine", fn=1) == ("mine", 1)

    async def test_errors_come_through(self, threads: ThreadPoolExecutor) -> None:
        def late() -> None:
            raise TimeoutError("of its own")

        with pytest.raises(ValueError, match="no"):
            await call(FuturesRunner(threads), misbehaving.boom)
        with pytest.raises(TimeoutError, match="of its own"):
            await call(FuturesRunner(threads), late, 60.0)

    async def test_an_async_function_is_refused(self, threads: ThreadPoolExecutor) -> None:
        with pytest.raises(TypeError, match=r"add_slowly.* returned a coroutine: async functions run on the loop"):
            await call(FuturesRunner(threads), misbehaving.add_slowly, x=1, y=2)


class TestTimeout:
    async def test_a_call_that_is_too_slow_is_abandoned(
        self, threads: ThreadPoolExecutor, gate: threading.Event
    ) -> None:
        with pytest.raises(NodeTimeoutError, match="its call cannot be stopped and was abandoned") as caught:
            await call(FuturesRunner(threads), gate.wait, 0.05)
        gate.set()

        assert caught.value.abandoned

    async def test_a_call_that_has_not_begun_is_taken_back(
        self, threads: ThreadPoolExecutor, gate: threading.Event
    ) -> None:
        called = threading.Event()
        threads.submit(gate.wait)

        with pytest.raises(NodeTimeoutError) as caught:
            await call(FuturesRunner(threads), called.set, 0.05)
        gate.set()
        threads.shutdown()

        assert not caught.value.abandoned
        assert not called.is_set()

    async def test_a_call_that_is_cancelled_before_it_began_is_taken_back(
        self, threads: ThreadPoolExecutor, gate: threading.Event
    ) -> None:
        called = threading.Event()
        threads.submit(gate.wait)
        task = asyncio.ensure_future(call(FuturesRunner(threads), called.set))
        await asyncio.sleep(0)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        threads.shutdown()

        assert not called.is_set()


class TestExecutors:
    async def test_a_context_travels_with_what_can(self, processes: ProcessPoolExecutor) -> None:
        nodes = [Node("up", misbehaving.process_id), Node("a", misbehaving.facts, ["up"], runner="pool")]
        async with DAGExecutor(
            "memory://", runners={"pool": FuturesRunner(processes)}, resources={"rate": 1}
        ) as executor:
            run = await executor.run(Workflow("w", nodes))

        assert run.outputs["a"]["outputs"] == {"up": os.getpid()}

    async def test_heartbeats_that_nobody_would_hear_are_refused(self, processes: ProcessPoolExecutor) -> None:
        workflow = Workflow("w", [Node("a", misbehaving.facts, runner="pool", heartbeat_timeout=60)])
        async with DAGExecutor("memory://", runners={"pool": FuturesRunner(processes)}) as executor:
            with pytest.raises(RunFailedError, match="works on the loop, in threads of this process"):
                await executor.run(workflow)

    async def test_heartbeats_from_threads_are_heard(self, threads: ThreadPoolExecutor) -> None:
        def work(context: NodeContext) -> str:
            context.heartbeat()
            return "done"

        workflow = Workflow("w", [Node("a", work, runner="pool", heartbeat_timeout=60)])
        async with DAGExecutor("memory://", runners={"pool": FuturesRunner(threads)}) as executor:
            run = await executor.run(workflow)

        assert run.outputs["a"] == "done"

    async def test_a_pool_that_breaks_is_an_error_like_any_other(self, processes: ProcessPoolExecutor) -> None:
        runner = FuturesRunner(processes)

        for _ in range(2):
            with pytest.raises(BrokenProcessPool):
                await call(runner, misbehaving.exit_at_once, number=3)

    async def test_an_executor_that_was_shut_down_takes_no_calls(self, threads: ThreadPoolExecutor) -> None:
        threads.shutdown()

        with pytest.raises(ExecutorError, match="the executor behind the runner takes no calls: cannot schedule"):
            await call(FuturesRunner(threads), misbehaving.process_id)

    async def test_closing_leaves_the_executor_to_whoever_made_it(self, threads: ThreadPoolExecutor) -> None:
        runner = FuturesRunner(threads)
        await runner.close()

        with pytest.raises(ExecutorError, match="the futures runner is closed"):
            await call(runner, misbehaving.process_id)
        assert threads.submit(misbehaving.process_id).result() == os.getpid()
