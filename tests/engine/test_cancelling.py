"""Cancelling runs, and cancelling those who wait for them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor, Event, EventKind, Node, RetryPolicy, Workflow
from dagflow._events import Message, MessageKind
from dagflow.errors import RunCancelledError, RunFailedError, RunStateError, StoreUnavailableError
from dagflow.stores import MemoryStore
from dagflow.testing import Crash, CrashAfter
from executors import Held, fails, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dagflow.protocols import ContextStore
    from dagflow.testing import FakeClock
    from executors import OpenExecutor


def held_workflow(held: Held) -> Workflow:
    return Workflow("w", [Node("a", lambda: 1), Node("b", held, ["a"]), Node("c", lambda b: None)])


class TestCancel:
    async def test_what_runs_is_cancelled_and_what_completed_is_kept(self, executor: DAGExecutor) -> None:
        held = Held()
        handle = await executor.start(held_workflow(held), run_id="r")
        await held.started.wait()

        await executor.cancel("r")
        with pytest.raises(RunCancelledError) as caught:
            await handle.result()

        run = caught.value.run
        assert {name: node.status.value for name, node in run.nodes.items()} == {
            "a": "completed",
            "b": "cancelled",
            "c": "pending",
        }
        assert (run.status, run.outputs) == ("cancelled", {"a": 1})

    async def test_a_run_of_another_executor_is_cancelled_by_its_owner(self, open_executor: OpenExecutor) -> None:
        held = Held()
        handle = await (await open_executor()).start(held_workflow(held), run_id="r")
        await held.started.wait()

        await (await open_executor()).cancel("r")

        with pytest.raises(RunCancelledError):
            await handle.result()

    async def test_a_run_that_nobody_owns_is_cancelled_at_once(self, open_executor: OpenExecutor) -> None:
        held = Held()
        executor = await open_executor()
        await executor.start(held_workflow(held), run_id="r")
        await held.started.wait()
        await executor.__aexit__(None, None, None)
        other = await open_executor()

        await other.cancel("r")

        run = await other.get("r")
        assert (run.status, run.nodes["b"].status) == ("cancelled", "cancelled")

    @pytest.mark.parametrize("paused", [False, True])
    async def test_a_run_that_has_not_started_is_cancelled_at_once(self, executor: DAGExecutor, paused: bool) -> None:
        handle = await executor.submit(Workflow("w", [Node("a", lambda: 1)]), run_id="r")
        if paused:
            await executor.pause("r")

        await executor.cancel("r")

        assert (await executor.get("r")).status == "cancelled"
        with pytest.raises(RunCancelledError):
            await handle.result()

    async def test_cancelling_again_does_nothing(self, executor: DAGExecutor) -> None:
        await executor.submit(Workflow("w", [Node("a", lambda: 1)]), run_id="r")
        await executor.cancel("r")
        version = (await executor.get("r")).version

        await executor.cancel("r")

        assert (await executor.get("r")).version == version

    async def test_a_run_that_has_completed_or_failed_cannot_be_cancelled(self, executor: DAGExecutor) -> None:
        await executor.run(Workflow("w", [Node("a", lambda: 1)]), run_id="done")
        with pytest.raises(RunFailedError):
            await executor.run(Workflow("w", [Node("a", fails(times=1))]), run_id="bad")

        with pytest.raises(RunStateError, match="run 'done' is completed: there is nothing left to cancel"):
            await executor.cancel("done")
        with pytest.raises(RunStateError, match="run 'bad' is failed: there is nothing left to cancel"):
            await executor.cancel("bad")

    async def test_a_run_that_waits_for_its_next_attempt_is_cancelled(self, open_executor: OpenExecutor) -> None:
        from dagflow.testing import FakeClock  # noqa: PLC0415 - one that stands still

        executor = await open_executor(clock=FakeClock())
        policy = RetryPolicy(max_attempts=2, delay=60)
        handle = await executor.start(Workflow("w", [Node("a", fails(times=1), retry=policy)]), run_id="r")
        async for event in handle.events():
            if event.kind == "node_retry":
                break

        await handle.cancel()

        with pytest.raises(RunCancelledError) as caught:
            await handle.result()
        assert caught.value.run.nodes["a"].status == "cancelled"

    async def test_the_result_of_a_call_that_could_not_be_stopped_goes_nowhere(self, executor: DAGExecutor) -> None:
        started, gate, ended = threading.Event(), threading.Event(), threading.Event()

        def hang() -> str:
            started.set()
            gate.wait(30)
            ended.set()
            return "late"

        handle = await executor.start(Workflow("w", [Node("a", hang)]), run_id="r")
        await asyncio.to_thread(started.wait, 30)
        await handle.cancel()
        with pytest.raises(RunCancelledError):
            await handle.result()
        version = (await executor.get("r")).version
        gate.set()
        await asyncio.to_thread(ended.wait, 30)

        run = await executor.get("r")

        assert (run.version, run.nodes["a"].status, run.nodes["a"].output) == (version, "cancelled", None)

    async def test_a_call_that_answers_its_cancellation_with_another_error_is_cancelled(
        self, executor: DAGExecutor
    ) -> None:
        started = asyncio.Event()

        async def stubborn() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise ValueError("while tidying up") from None

        handle = await executor.start(Workflow("w", [Node("a", stubborn)]), run_id="r")
        await started.wait()
        await handle.cancel()

        with pytest.raises(RunCancelledError) as caught:
            await handle.result()

        assert caught.value.run.nodes["a"].status == "cancelled"

    async def test_a_call_that_ignores_its_cancellation_is_abandoned(self, executor: DAGExecutor) -> None:
        started, gate = asyncio.Event(), asyncio.Event()

        async def stubborn() -> None:
            started.set()
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue

        handle = await executor.start(Workflow("w", [Node("a", stubborn)]), run_id="r")
        await started.wait()
        await handle.cancel()

        with pytest.raises(RunCancelledError):
            await handle.result()
        gate.set()
        await asyncio.sleep(0)


class TestWaiters:
    async def test_the_run_of_its_only_waiter_stops_with_it_and_can_be_resumed(
        self, open_executor: OpenExecutor
    ) -> None:
        held = Held()
        workflow = held_workflow(held)
        executor = await open_executor()
        waiter = asyncio.create_task(executor.run(workflow, run_id="r"))
        await held.started.wait()

        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

        assert (await executor.get("r")).status == "running"
        held.gate.set()
        run = await (await open_executor(workflow)).resume("r")
        assert (run.status, held.calls, run.nodes["b"].attempts) == ("completed", 2, 1)

    @pytest.mark.parametrize("turns", range(12))
    async def test_a_caller_that_is_cancelled_early_leaves_nothing_running(
        self, open_executor: OpenExecutor, turns: int
    ) -> None:
        held = Held()
        executor = await open_executor()
        waiter = asyncio.create_task(executor.run(Workflow("w", [Node("a", held)]), run_id="r"))
        for _ in range(turns):
            await asyncio.sleep(0)

        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

        assert not any((task.get_name() or "").startswith("dagflow-run") for task in asyncio.all_tasks())
        held.gate.set()
        assert (await executor.run(Workflow("w", [Node("a", held)]), run_id="r")).status == "completed"

    async def test_a_waiter_that_goes_away_does_not_harm_the_others(self, executor: DAGExecutor) -> None:
        held = Held("b")
        workflow = held_workflow(held)
        waiters = [asyncio.create_task(executor.run(workflow, run_id="r")) for _ in range(5)]
        await held.started.wait()

        for waiter in waiters[:4]:
            waiter.cancel()
        await asyncio.wait(waiters[:4])
        held.gate.set()

        assert (await waiters[4]).outputs["b"] == "b"
        assert held.calls == 1

    async def test_a_run_in_the_background_goes_on_when_its_waiter_goes_away(self, executor: DAGExecutor) -> None:
        held = Held("b")
        handle = await executor.start(held_workflow(held), run_id="r")
        waiter = asyncio.create_task(handle.result())
        await held.started.wait()

        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        held.gate.set()

        assert (await handle.result()).outputs["b"] == "b"
        assert held.calls == 1

    async def test_a_caller_that_is_cancelled_twice_still_leaves_a_run_that_can_be_resumed(
        self, executor: DAGExecutor
    ) -> None:
        held = Held()
        waiter = asyncio.create_task(executor.run(held_workflow(held), run_id="r"))
        await held.started.wait()

        waiter.cancel()
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        held.gate.set()

        assert (await executor.resume("r")).status == "completed"

    async def test_many_callers_come_and_go_and_the_run_is_driven_once(self, executor: DAGExecutor) -> None:
        held = Held("b")
        workflow = held_workflow(held)
        waiters: list[asyncio.Task[object]] = []
        for number in range(60):
            waiters.append(asyncio.create_task(executor.run(workflow, run_id="r")))
            await asyncio.sleep(0)
            if number % 3 == 0:
                waiters[number // 2].cancel()
        await held.started.wait()
        held.gate.set()

        results = await asyncio.gather(*waiters, return_exceptions=True)

        assert any(not isinstance(result, BaseException) for result in results)
        assert all(isinstance(r, asyncio.CancelledError) for r in results if isinstance(r, BaseException))
        started = [e for e in await executor.history("r") if e.kind == "node_started" and e.node == "b"]
        assert len({event.attempt for event in started}) == 1


class TestLateRequests:
    @pytest.mark.parametrize("kind", [MessageKind.CANCEL, MessageKind.PAUSE])
    async def test_a_request_that_came_too_late_does_not_reach_the_run_that_is_opened_again(
        self, store: ContextStore, executor: DAGExecutor, kind: MessageKind
    ) -> None:
        workflow = Workflow("w", [Node("a", fails(times=1))])
        with pytest.raises(RunFailedError):
            await executor.run(workflow, run_id="r")
        await store.send(Message("r", kind))

        run = await executor.resume("r")

        assert (run.status, run.outputs) == ("completed", {"a": "ok"})

    async def test_a_second_request_to_pause_does_not_pause_the_run_that_is_resumed(
        self, store: ContextStore, executor: DAGExecutor
    ) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1)])
        await executor.submit(workflow, run_id="r")
        await executor.pause("r")
        await store.send(Message("r", MessageKind.PAUSE))

        assert (await executor.run(workflow, run_id="r")).status == "completed"

    async def test_a_request_to_a_run_that_was_cut_off_reaches_its_next_owner(
        self, open_executor: OpenExecutor
    ) -> None:
        held = Held()
        workflow = Workflow("w", [Node("a", held), Node("b", lambda a: 1)])
        executor = await open_executor(workflow)
        await executor.start(workflow, run_id="r")
        await held.started.wait()
        await executor.__aexit__(None, None, None)
        other = await open_executor(workflow)
        await other.pause("r")

        assert (await other.run(workflow, run_id="r")).status == "paused"

    async def test_a_sub_workflow_that_a_crash_left_behind_is_cancelled_and_resumed_with_its_parent(
        self, store: ContextStore, clock: FakeClock, open_executor: OpenExecutor, lapse: Callable[[], Awaitable[None]]
    ) -> None:
        held = Held()
        workflow = Workflow("w")
        workflow.subworkflow("child", Workflow("inner", [Node("a", held)]))
        with suppress(Crash):
            async with DAGExecutor(CrashAfter(store, 2), clock=clock, grace=0.2) as dying:
                await dying.start(workflow, run_id="r")
                await held.started.wait()
                await dying.cancel("r")
        await lapse()
        await store.send(Message("r", MessageKind.CANCEL))
        executor = await open_executor(workflow)

        with pytest.raises(RunCancelledError):
            await executor.resume("r")

        assert (await executor.get("r/child")).status == "cancelled"
        held.gate.set()
        assert (await executor.resume("r")).status == "completed"

    @pytest.mark.parametrize("turns", range(0, 30, 3))
    async def test_cancelling_a_run_that_is_just_being_resumed_cancels_it(
        self, open_executor: OpenExecutor, turns: int
    ) -> None:
        held = Held()
        workflow = Workflow("w", [Node("a", held)])
        executor = await open_executor(workflow)
        await executor.start(workflow, run_id="r")
        await held.started.wait()
        await executor.__aexit__(None, None, None)
        other = await open_executor(workflow)
        resumed = asyncio.create_task(other.resume("r"))
        for _ in range(turns):
            await asyncio.sleep(0)

        await other.cancel("r")
        held.gate.set()

        await asyncio.wait([resumed])
        # The one that came last counts: the run was cancelled, or it was cancelled first and then opened again.
        assert resumed.exception() is None or isinstance(resumed.exception(), RunCancelledError)
        assert (await other.get("r")).status == ("completed" if resumed.exception() is None else "cancelled")


async def test_callers_that_change_one_run_at_the_same_time_do_not_take_it_from_each_other() -> None:
    inner = Workflow("inner")
    inner.wait_for_signal("paid")
    workflow = Workflow("w")
    workflow.subworkflow("child", inner)
    for later in range(20):
        async with DAGExecutor(MemoryStore(), workflows=[workflow]) as executor:
            await executor.run(workflow, run_id="r")
            asked = [asyncio.ensure_future(executor.cancel("r"))]
            for _ in range(later):
                await asyncio.sleep(0)
            asked += [asyncio.ensure_future(executor.cancel(run_id)) for run_id in ("r/child", "r", "r/child")]

            await asyncio.wait_for(asyncio.gather(*asked), 10)

            assert {run.status for run in await executor.runs()} == {"cancelled"}


async def test_a_run_that_could_not_be_changed_is_let_go_of() -> None:
    class Moody(MemoryStore):
        async def append(self, events: Sequence[Event], **options: Any) -> None:
            if events[-1].kind is EventKind.RUN_CANCELLED:
                raise StoreUnavailableError("it cannot be reached", "the store")
            await super().append(events, **options)

    workflow, store = Workflow("w", [Node("a", lambda: 1)]), Moody()
    async with DAGExecutor(store) as executor:
        await executor.submit(workflow, run_id="r")

        with pytest.raises(StoreUnavailableError):
            await executor.cancel("r")

        assert (await executor.runs())[0].owner is None


@pytest.mark.parametrize("many", [False, True])
async def test_the_nodes_of_sub_workflows_that_are_cancelled_with_their_run_have_not_failed(
    executor: DAGExecutor, many: bool
) -> None:
    held = Held()
    workflow = Workflow("w", on_failure="continue")
    inner = Workflow("inner", [Node("a", held)])
    if many:
        inner = Workflow("inner", [Node("a", held), Node("b", lambda a, x: x)])
        workflow.subworkflow("child", inner, over={"x": "xs"})
    else:
        workflow.subworkflow("child", inner)
    workflow.add(Node("after", lambda child: 1, ["child"]))
    handle = await executor.start(workflow, {"xs": [1, 2]} if many else None, run_id="r")
    await until(lambda: held.calls == 1 + many)

    await executor.cancel("r")
    with pytest.raises(RunCancelledError):
        await handle.result()

    nodes = dict((await executor.get("r")).nodes)
    assert nodes.pop("after").status == "pending"
    assert {node.status.value for node in nodes.values()} == {"cancelled"}
    held.gate.set()
    assert (await executor.resume("r")).status == "completed"
