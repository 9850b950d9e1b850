"""Pausing runs: what runs may end, nothing new starts, and only `resume` or `run` goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from dagflow import DAGExecutor, Node, RetryPolicy, Workflow
from dagflow.errors import RunFailedError, RunStateError
from dagflow.stores import MemoryStore
from dagflow.testing import FakeClock
from executors import Calls, Held, fails, until

if TYPE_CHECKING:
    from executors import OpenExecutor


async def test_what_runs_may_end_and_nothing_new_starts(executor: DAGExecutor) -> None:
    held, calls = Held("a"), Calls()
    workflow = Workflow("w", [Node("a", held), Node("b", calls.of("b"), ["a"])])
    handle = await executor.start(workflow, run_id="r")
    await held.started.wait()

    await handle.pause()
    held.gate.set()
    run = await handle.result()

    assert (run.status, run.nodes["a"].status, run.nodes["b"].status) == ("paused", "completed", "pending")
    assert calls == {}


async def test_asking_for_the_result_of_a_paused_run_does_not_go_on_with_it(executor: DAGExecutor) -> None:
    held, calls = Held("a"), Calls()
    handle = await executor.start(Workflow("w", [Node("a", held), Node("b", calls.of("b"), ["a"])]), run_id="r")
    await held.started.wait()
    await handle.pause()
    held.gate.set()
    await handle.result()

    again = await handle.result()

    assert (again.status, calls) == ("paused", {})


async def test_a_paused_run_goes_on_when_it_is_resumed(executor: DAGExecutor) -> None:
    held, calls = Held("a"), Calls()
    workflow = Workflow("w", [Node("a", held), Node("b", calls.of("b"), ["a"])])
    handle = await executor.start(workflow, run_id="r")
    await held.started.wait()
    await executor.pause("r")
    held.gate.set()
    await handle.result()

    run = await executor.resume("r")

    assert (run.status, held.calls, calls) == ("completed", 1, {"b": 1})


async def test_a_run_of_another_executor_is_paused_by_its_owner(open_executor: OpenExecutor) -> None:
    held = Held("a")
    workflow = Workflow("w", [Node("a", held), Node("b", lambda a: 1)])
    handle = await (await open_executor()).start(workflow, run_id="r")
    await held.started.wait()

    await (await open_executor()).pause("r")
    held.gate.set()
    result = await handle.result()

    # Its owner looks for messages now and then, so the run may have been quicker.
    assert result.status in ("paused", "completed")


async def test_a_run_that_waits_for_its_next_attempt_is_paused(open_executor: OpenExecutor) -> None:
    clock = FakeClock()
    executor = await open_executor(clock=clock)
    policy = RetryPolicy(max_attempts=2, delay=60.0, jitter=0.0)
    workflow = Workflow("w", [Node("a", fails(times=1), retry=policy)])
    handle = await executor.start(workflow, run_id="r")
    await clock.asleep()
    await handle.pause()
    assert (await handle.result()).status == "paused"
    clock.advance(60)

    run = await executor.resume("r")

    assert (run.outputs, run.nodes["a"].attempts) == ({"a": "ok"}, 2)


async def test_a_run_that_has_ended_cannot_be_paused(executor: DAGExecutor) -> None:
    await executor.run(Workflow("w", [Node("a", lambda: 1)]), run_id="done")
    with pytest.raises(RunFailedError):
        await executor.run(Workflow("w", [Node("a", fails(times=1))]), run_id="bad")

    for run_id in ("done", "bad"):
        with pytest.raises(RunStateError, match="there is nothing left to pause"):
            await executor.pause(run_id)


async def test_pausing_again_does_nothing(executor: DAGExecutor) -> None:
    await executor.submit(Workflow("w", [Node("a", lambda: 1)]), run_id="r")
    await executor.pause("r")
    version = (await executor.get("r")).version

    await executor.pause("r")

    assert (await executor.get("r")).version == version


async def test_a_failure_before_the_pause_is_not_lost(executor: DAGExecutor) -> None:
    held = Held("a")
    workflow = Workflow("w", [Node("a", held), Node("bad", fails(times=9)), Node("c", lambda a: 1)])
    handle = await executor.start(workflow, run_id="r")
    await held.started.wait()
    await handle.pause()
    held.gate.set()
    assert (await handle.result()).status == "paused"

    with pytest.raises(RunFailedError) as caught:
        await executor.resume("r")

    assert list(caught.value.failures) == ["bad"]


async def test_a_run_is_paused_by_a_server_that_stops_before_its_call_has_ended(executor: DAGExecutor) -> None:
    held, calls = Held("a"), Calls()
    workflow = Workflow("w", [Node("a", held), Node("b", calls.of("b"), ["a"])])
    serving = asyncio.create_task(executor.serve(poll=0.01))
    await executor.submit(workflow, run_id="r")
    await held.started.wait()
    await executor.pause("r")

    serving.cancel()
    await asyncio.sleep(0)
    held.gate.set()
    await asyncio.wait([serving])

    assert (await executor.get("r")).status == "paused"
    assert calls == {}


async def test_a_pause_outlives_an_owner_that_dies_before_its_call_has_ended() -> None:
    store, held, calls = MemoryStore(), Held("a"), Calls()
    workflow = Workflow("w", [Node("a", held), Node("b", calls.of("b"), ["a"]), Node("c", held_too := Held("c"))])
    async with DAGExecutor(store, grace=0.01) as executor:
        await executor.start(workflow, run_id="r")
        await held.started.wait()
        await held_too.started.wait()
        await executor.pause("r")
        # What ends is written, and the pause is not yet.
        held_too.gate.set()
        await until(lambda: _completed(executor, "c"))
    held.gate.set()

    async with DAGExecutor(store) as executor:
        run = await executor.run(workflow, run_id="r")

    assert (run.status, calls) == ("paused", {})


async def test_a_pause_that_comes_while_a_condition_is_judged_is_read_when_the_run_is_paused() -> None:
    store, asked, gate = MemoryStore(), asyncio.Event(), asyncio.Event()

    async def judge() -> bool:
        asked.set()
        await gate.wait()
        return False

    workflow = Workflow("w", [Node("a", Calls().of("a")), Node("b", Calls().of("b"), ["a"], when=judge)])
    async with DAGExecutor(store) as executor:
        handle = await executor.start(workflow, run_id="r")
        await asked.wait()
        await executor.pause("r")
        gate.set()
        run = await handle.result()

    record, _ = await store.read("r")
    # A server would take it for a run that has been sent something.
    assert (run.status, record.received) == ("paused", 1)


async def _completed(executor: DAGExecutor, node: str) -> bool:
    return (await executor.get("r")).nodes[node].status == "completed"
