"""Attempts that take too long."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

from dagflow import Node, Workflow
from dagflow.errors import NodeTimeoutError, RunFailedError

if TYPE_CHECKING:
    from dagflow import DAGExecutor


async def test_an_async_attempt_is_cancelled(executor: DAGExecutor) -> None:
    cancelled = []

    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(RunFailedError) as caught:
        await executor.run(Workflow("w", [Node("a", hang, timeout=0.01)]))

    assert cancelled == [True]
    cause = caught.value.__cause__
    assert isinstance(cause, NodeTimeoutError)
    assert (cause.node, cause.timeout, cause.abandoned) == ("a", 0.01, False)
    assert caught.value.run.nodes["a"].status == "failed"


@pytest.mark.parametrize("error", [None, ValueError("while cleaning up")])
async def test_what_an_async_attempt_answers_to_its_timeout_comes_too_late(
    executor: DAGExecutor, error: Exception | None
) -> None:
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        if error is not None:
            raise error
        return "late"

    with pytest.raises(RunFailedError) as caught:
        await executor.run(Workflow("w", [Node("a", stubborn, timeout=0.01)]))

    cause = caught.value.__cause__
    assert isinstance(cause, NodeTimeoutError)
    assert cause.__cause__ is error


async def test_an_attempt_in_a_thread_is_abandoned_and_says_so(executor: DAGExecutor) -> None:
    gate, ended = threading.Event(), threading.Event()

    def hang() -> str:
        gate.wait(30)
        ended.set()
        return "late"

    with pytest.raises(RunFailedError, match="cannot be stopped and was abandoned") as caught:
        await executor.run(Workflow("w", [Node("a", hang, timeout=0.01)]), run_id="r")
    gate.set()
    await asyncio.to_thread(ended.wait, 30)

    run = await executor.get("r")
    assert isinstance(caught.value.__cause__, NodeTimeoutError)
    assert (run.version, run.nodes["a"].output) == (caught.value.run.version, None)


async def test_an_attempt_that_took_too_long_is_followed_by_the_next(executor: DAGExecutor) -> None:
    calls = []
    gate = threading.Event()

    def slow_at_first() -> str:
        calls.append(1)
        if len(calls) == 1:
            gate.wait(30)
        return "ok"

    run = await executor.run(Workflow("w", [Node("a", slow_at_first, timeout=0.05, retry=2)]))

    assert (run.outputs, run.nodes["a"].attempts) == ({"a": "ok"}, 2)
    gate.set()


async def test_an_attempt_in_time_is_not_disturbed(executor: DAGExecutor) -> None:
    async def quick() -> str:
        await asyncio.sleep(0)
        return "loop"

    run = await executor.run(Workflow("w", [Node("a", quick, timeout=60), Node("b", lambda: "thread", timeout=60)]))

    assert run.outputs == {"a": "loop", "b": "thread"}


async def test_a_timeout_error_of_the_functions_own_is_an_error_like_any_other(executor: DAGExecutor) -> None:
    async def function() -> None:
        raise TimeoutError("of the database")

    with pytest.raises(RunFailedError, match="TimeoutError: of the database") as caught:
        await executor.run(Workflow("w", [Node("a", function, timeout=60)]))

    assert not isinstance(caught.value.__cause__, NodeTimeoutError)


async def test_an_item_has_the_timeout_for_itself(executor: DAGExecutor) -> None:
    workflow = Workflow("w", on_failure="continue")

    @workflow.map(over={"x": "xs"}, timeout=0.05, on_error="collect")
    async def wait(x: bool) -> str:
        if x:
            await asyncio.Event().wait()
        return "ok"

    run = await executor.run(workflow, {"xs": [False, True, False]})

    first, second, third = run.outputs["wait"]
    assert (first, third) == ("ok", "ok")
    assert second.type == "dagflow.errors.NodeTimeoutError"
    assert "'wait[1]' took longer than 0.05 seconds" in second.message
