"""Calls in this process: on the event loop and in threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import TYPE_CHECKING, Any

import pytest

from dagflow.errors import ExecutorError, NodeTimeoutError
from dagflow.protocols import Runner
from dagflow.runners import LoopRunner, ThreadRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


async def call(runner: Runner, function: Callable[..., Any], timeout: float | None = None, /, **arguments: Any) -> Any:
    return await runner.call(function, arguments, timeout=timeout, node="a")


@pytest.fixture
async def threads() -> AsyncIterator[ThreadRunner]:
    runner = ThreadRunner()
    yield runner
    await runner.close()


@pytest.fixture
def gate() -> threading.Event:
    """Holds up calls in threads until the test opens it."""
    return threading.Event()


@pytest.mark.parametrize("runner", [LoopRunner(), ThreadRunner()])
def test_both_are_runners(runner: object) -> None:
    assert isinstance(runner, Runner)


class TestLoopRunner:
    async def test_a_function_is_awaited_with_its_arguments(self) -> None:
        async def add(x: int, y: int) -> int:
            await asyncio.sleep(0)
            return x + y

        assert await call(LoopRunner(), add, x=1, y=2) == 3
        assert await call(LoopRunner(), add, 5.0, x=1, y=2) == 3

    async def test_a_call_that_is_too_slow_is_cancelled(self) -> None:
        cancelled = asyncio.Event()

        async def hang() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

        with pytest.raises(NodeTimeoutError) as caught:
            await call(LoopRunner(), hang, 0.01)

        assert (caught.value.node, caught.value.timeout, caught.value.abandoned) == ("a", 0.01, False)
        assert cancelled.is_set()

    @pytest.mark.parametrize("timeout", [None, 5.0])
    async def test_a_function_that_is_not_async_is_refused_with_a_way_out(self, timeout: float | None) -> None:
        with pytest.raises(TypeError, match="is no async function: leave runner='loop' away"):
            await call(LoopRunner(), lambda: 1, timeout)

        assert await call(LoopRunner(), lambda: asyncio.sleep(0, "awaited"), timeout) == "awaited"

    async def test_a_timeout_of_the_functions_own_is_an_error_like_any_other(self) -> None:
        async def function() -> None:
            raise TimeoutError("of my own")

        with pytest.raises(TimeoutError, match="of my own") as caught:
            await call(LoopRunner(), function, 60.0)

        assert not isinstance(caught.value, NodeTimeoutError)

    async def test_closing_again_does_nothing(self) -> None:
        runner = LoopRunner()
        await runner.close()
        await runner.close()


class TestThreadRunner:
    async def test_a_function_is_called_in_a_daemon_thread_with_its_arguments(self, threads: ThreadRunner) -> None:
        def where(x: int) -> tuple[int, bool, bool]:
            return x, threading.current_thread().daemon, threading.current_thread() is threading.main_thread()

        assert await call(threads, where, x=1) == (1, True, False)
        assert await call(threads, where, 5.0, x=1) == (1, True, False)

    async def test_what_the_function_raises_is_raised(self, threads: ThreadRunner) -> None:
        def function() -> None:
            raise KeyError("x")

        with pytest.raises(KeyError):
            await call(threads, function)

    @pytest.mark.parametrize("error", [StopIteration(3), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
    async def test_errors_that_would_stop_a_thread_or_a_coroutine_come_back_too(
        self, threads: ThreadRunner, error: BaseException
    ) -> None:
        def function() -> None:
            raise error

        with pytest.raises((type(error), RuntimeError)) as caught:
            await call(threads, function)

        assert error in (caught.value, caught.value.__cause__)
        assert await call(threads, lambda: "alive") == "alive"

    async def test_a_cancellation_that_the_function_raises_is_an_error_of_its_own(self, threads: ThreadRunner) -> None:
        def function() -> None:
            raise asyncio.CancelledError

        with pytest.raises(asyncio.CancelledError):
            await call(threads, function)

        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()

    async def test_context_variables_are_those_of_the_caller(self, threads: ThreadRunner) -> None:
        variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")
        variable.set("here")

        assert await call(threads, variable.get) == "here"

    async def test_a_coroutine_that_comes_back_is_refused_with_a_way_out(self, threads: ThreadRunner) -> None:
        async def function() -> None: ...

        with pytest.raises(TypeError, match="returned a coroutine: declare it with 'async def'"):
            await call(threads, lambda: function())  # noqa: PLW0108 - as users write it

    async def test_a_call_that_is_too_slow_is_abandoned_and_its_result_goes_nowhere(
        self, threads: ThreadRunner, gate: threading.Event
    ) -> None:
        ended = threading.Event()

        def hang() -> str:
            gate.wait(30)
            ended.set()
            return "late"

        with pytest.raises(NodeTimeoutError, match="its call cannot be stopped and was abandoned") as caught:
            await call(threads, hang, 0.01)

        assert caught.value.abandoned
        gate.set()
        assert ended.wait(30)

    async def test_abandoned_calls_take_no_place(self, gate: threading.Event) -> None:
        runner = ThreadRunner(max_threads=1)
        for _ in range(3):
            with pytest.raises(NodeTimeoutError):
                await call(runner, lambda: gate.wait(30), 0.01)

        assert await call(runner, lambda: "next") == "next"
        gate.set()
        await runner.close()

    @pytest.mark.parametrize("timeout", [0.01, None])
    async def test_a_call_in_line_gets_the_place_of_one_that_is_abandoned(
        self, gate: threading.Event, timeout: float | None
    ) -> None:
        runner, started = ThreadRunner(max_threads=1), threading.Event()

        def hang() -> None:
            started.set()
            gate.wait(30)

        hung = asyncio.create_task(call(runner, hang, timeout))
        next_one = asyncio.create_task(call(runner, lambda: "called"))
        await asyncio.to_thread(started.wait, 30)
        if timeout is None:
            hung.cancel()
        await asyncio.wait([hung])

        assert await asyncio.wait_for(next_one, 30) == "called"
        gate.set()
        await runner.close()

    async def test_a_timeout_counts_from_the_moment_a_thread_takes_the_call(self, gate: threading.Event) -> None:
        runner = ThreadRunner(max_threads=1)
        first = asyncio.create_task(call(runner, lambda: gate.wait(30)))
        second = asyncio.create_task(call(runner, lambda: "in time", 5.0))
        await asyncio.sleep(0.05)

        gate.set()

        assert await second == "in time"
        assert await first
        await runner.close()

    async def test_no_more_calls_run_at_a_time_than_it_was_told(self) -> None:
        runner = ThreadRunner(max_threads=3)
        lock, running, most = threading.Lock(), 0, 0

        def function() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            threading.Event().wait(0.001)
            with lock:
                running -= 1

        await asyncio.gather(*(call(runner, function) for _ in range(50)))

        assert 1 <= most <= 3
        await runner.close()

    async def test_calls_that_wait_for_each_other_run_at_the_same_time(self, threads: ThreadRunner) -> None:
        barrier = threading.Barrier(4, timeout=30)

        assert sorted(await asyncio.gather(*(call(threads, barrier.wait) for _ in range(4)))) == [0, 1, 2, 3]

    async def test_idle_threads_are_used_again(self, threads: ThreadRunner) -> None:
        idents = set()
        for _ in range(20):
            idents.add(await call(threads, threading.get_ident))
            while not threads._free:  # noqa: ASYNC110 - the thread says so when it has told the outcome
                await asyncio.sleep(0)

        assert len(idents) == 1

    async def test_a_call_that_is_cancelled_before_a_thread_took_it_is_never_made(self, gate: threading.Event) -> None:
        runner = ThreadRunner(max_threads=1)
        made: list[str] = []
        first = asyncio.create_task(call(runner, lambda: gate.wait(30)))
        second = asyncio.create_task(call(runner, lambda: made.append("second")))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second

        gate.set()
        await first

        assert await call(runner, lambda: "third") == "third"
        assert made == []
        await runner.close()

    async def test_a_call_that_is_cancelled_in_the_middle_is_abandoned(
        self, threads: ThreadRunner, gate: threading.Event
    ) -> None:
        started = threading.Event()

        def hang() -> None:
            started.set()
            gate.wait(30)

        task = asyncio.create_task(call(threads, hang))
        await asyncio.to_thread(started.wait, 30)

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()

    async def test_closing_lets_threads_end_and_takes_no_more_calls(self) -> None:
        runner = ThreadRunner()
        thread = await call(runner, threading.current_thread)

        await runner.close()
        await runner.close()

        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive()
        with pytest.raises(ExecutorError, match="the thread runner is closed"):
            await call(runner, lambda: None)

    async def test_closing_does_not_wait_for_a_call_that_hangs(self, gate: threading.Event) -> None:
        runner = ThreadRunner()
        with pytest.raises(NodeTimeoutError):
            await call(runner, lambda: gate.wait(30), 0.01)

        await asyncio.wait_for(runner.close(), timeout=5)
        gate.set()

    def test_a_result_for_a_loop_that_is_closed_goes_nowhere(self, gate: threading.Event) -> None:
        runner = ThreadRunner()
        ended = threading.Event()
        seen: list[threading.Thread] = []

        def hang() -> None:
            seen.append(threading.current_thread())
            gate.wait(30)
            ended.set()

        async def abandon() -> None:
            with pytest.raises(NodeTimeoutError):
                await call(runner, hang, 0.01)

        asyncio.run(abandon())
        gate.set()

        assert ended.wait(30)
        seen[0].join(30)
        assert not seen[0].is_alive()

    @pytest.mark.parametrize("threads", [0, -1])
    def test_fewer_than_one_thread_is_refused(self, threads: int) -> None:
        with pytest.raises(ValueError, match="max_threads must be at least 1"):
            ThreadRunner(max_threads=threads)
