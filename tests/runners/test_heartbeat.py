"""Attempts that say that they are alive, on the loop and in threads."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor, Node, NodeContext, Workflow
from dagflow.errors import ExecutorError, NodeTimeoutError, RunFailedError, WorkflowError
from dagflow.runners._heartbeat import Beating, Pulse, call_watched
from dagflow.runners.local import LoopRunner

if TYPE_CHECKING:
    from collections.abc import Callable

SHORT = 0.05
LONG = 1.0


async def run(function: Callable[..., Any], limit: float, **options: Any) -> Any:
    workflow = Workflow("w", [Node("work", function, heartbeat_timeout=limit, **options)])
    async with DAGExecutor("memory://", grace=0.2) as executor:
        return (await executor.run(workflow)).outputs["work"]


async def failure(function: Callable[..., Any], limit: float, **options: Any) -> BaseException:
    with pytest.raises(RunFailedError) as caught:
        await run(function, limit, **options)
    cause = caught.value.__cause__
    assert cause is not None
    return cause


@pytest.fixture
def gate() -> threading.Event:
    """Holds up calls in threads until the test opens it."""
    return threading.Event()


class TestSilence:
    async def test_a_silent_attempt_on_the_loop_is_cancelled(self) -> None:
        cancelled = asyncio.Event()

        async def hang(context: NodeContext) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        error = await failure(hang, SHORT)

        assert isinstance(error, NodeTimeoutError)
        assert (error.node, error.timeout, error.abandoned) == ("work", SHORT, False)
        assert str(error) == "node 'work' gave no sign of life for 0.05 seconds"
        assert cancelled.is_set()

    async def test_a_silent_attempt_in_a_thread_is_abandoned(self, gate: threading.Event) -> None:
        def hang(context: NodeContext) -> None:
            gate.wait()

        abandoned = await failure(hang, SHORT)
        gate.set()

        assert isinstance(abandoned, NodeTimeoutError)
        assert abandoned.abandoned

    async def test_one_heartbeat_is_not_enough(self) -> None:
        async def stop(context: NodeContext) -> None:
            context.heartbeat()
            await asyncio.Event().wait()

        assert isinstance(await failure(stop, SHORT), NodeTimeoutError)

    async def test_a_silent_attempt_is_tried_again(self) -> None:
        attempts = []

        async def hang_once(context: NodeContext) -> str:
            attempts.append(context.attempt)
            if context.attempt == 1:
                await asyncio.Event().wait()
            return "done"

        assert await run(hang_once, SHORT, retry=2) == "done"
        assert attempts == [1, 2]

    async def test_what_an_attempt_does_with_its_cancellation_does_not_save_it(self) -> None:
        async def stubborn(context: NodeContext) -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "late"
            return "never"

        assert isinstance(await failure(stubborn, SHORT), NodeTimeoutError)


class TestSignsOfLife:
    async def test_an_attempt_on_the_loop_that_beats_may_go_on(self) -> None:
        async def work(context: NodeContext) -> str:
            end = time.monotonic() + 1.2 * LONG
            while time.monotonic() < end:
                await asyncio.sleep(0.02)
                context.heartbeat()
            return "done"

        assert await run(work, LONG) == "done"

    async def test_an_attempt_in_a_thread_that_beats_may_go_on(self, gate: threading.Event) -> None:
        def work(context: NodeContext) -> str:
            end = time.monotonic() + 1.2 * LONG
            while time.monotonic() < end:
                gate.wait(0.02)
                context.heartbeat()
            return "done"

        assert await run(work, LONG) == "done"

    async def test_an_attempt_that_ends_in_time_need_not_beat(self) -> None:
        async def work(context: NodeContext) -> str:
            return context.node

        assert await run(work, LONG) == "work"

    async def test_waiting_for_a_thread_is_no_silence(self, gate: threading.Event) -> None:
        begun: list[str] = []

        async def enter(function: Beating, arguments: Any, *, timeout: float | None, node: str) -> Any:
            await asyncio.sleep(4 * SHORT)
            begun.append(node)
            return function(**arguments)

        assert await call_watched(enter, SHORT, lambda: "done", {}, timeout=None, node="a") == "done"
        assert begun == ["a"]

    async def test_a_heartbeat_costs_nothing_where_nobody_listens(self) -> None:
        async def work(context: NodeContext) -> str:
            context.heartbeat()
            return "done"

        async with DAGExecutor("memory://") as executor:
            run = await executor.run(Workflow("w", [Node("work", work)]))

        assert run.outputs["work"] == "done"

    def test_a_sign_of_life_puts_the_end_off(self) -> None:
        pulse = Pulse(10.0)
        assert pulse.left_s() == 10.0

        pulse.beaten_at = time.monotonic() - 20.0
        assert pulse.left_s() <= 0

        pulse.beat()
        assert pulse.left_s() > 0


class TestWatching:
    async def test_the_errors_of_the_function_come_through(self) -> None:
        async def fail(context: NodeContext) -> None:
            raise ValueError("no")

        assert isinstance(await failure(fail, LONG), ValueError)

    async def test_the_timeout_of_the_attempt_counts_as_well(self) -> None:
        async def hang(context: NodeContext) -> None:
            await asyncio.Event().wait()

        error = await failure(hang, 60.0, timeout=SHORT)

        assert str(error) == "node 'work' took longer than 0.05 seconds"

    async def test_who_cancels_the_attempt_cancels_the_call(self) -> None:
        ended = asyncio.Event()
        begun = asyncio.Event()

        async def hang() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        task = asyncio.ensure_future(call_watched(LoopRunner().call, 60.0, hang, {}, timeout=None, node="a"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert ended.is_set()


class TestDefinition:
    def test_a_node_without_a_context_could_not_beat(self) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1, heartbeat_timeout=5)])

        with pytest.raises(WorkflowError, match="node 'a': heartbeat_timeout= needs a parameter annotated NodeContext"):
            workflow.validate()

    @pytest.mark.parametrize("limit", [0, -1, float("nan"), "5"])
    def test_the_limit_is_a_number_of_seconds_above_0(self, limit: Any) -> None:
        with pytest.raises(WorkflowError, match="heartbeat_timeout= is in seconds and must be above 0"):
            Node("a", lambda: 1, heartbeat_timeout=limit)

    def test_a_call_whose_beats_nobody_would_hear_is_refused(self) -> None:
        with pytest.raises(ExecutorError, match="in threads of this process, and in ProcessRunner"):
            pickle.dumps(Beating(print, Pulse(1.0)))
