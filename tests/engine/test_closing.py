"""Closing an executor in the middle of runs, and using one that is not open."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor, Node, Workflow
from dagflow.errors import ExecutorError, StoreUnavailableError
from dagflow.stores import MemoryStore
from executors import Calls, Held

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagflow.protocols import ContextStore
    from executors import OpenExecutor

WORKFLOW = Workflow("w", [Node("a", lambda: 1)])


async def close(executor: DAGExecutor) -> None:
    await executor.__aexit__(None, None, None)


class TestInTheMiddle:
    async def test_what_runs_is_stopped_and_nothing_is_recorded_for_it(self, open_executor: OpenExecutor) -> None:
        held, calls = Held(), Calls()
        workflow = Workflow("w", [Node("a", calls.of("a")), Node("b", held, ["a"]), Node("c", lambda b: 1)])
        executor = await open_executor()
        await executor.start(workflow, run_id="r")
        await held.started.wait()
        before = (await executor.get("r")).version

        await close(executor)

        other = await open_executor(workflow)
        run = await other.get("r")
        assert (run.version, run.status, run.nodes["b"].status) == (before, "running", "running")
        assert [summary.owner for summary in await other.runs()] == [None]

    async def test_a_condition_that_is_cut_off_is_asked_again(self, open_executor: OpenExecutor) -> None:
        held = Held(result=True)
        workflow = Workflow("w", [Node("a", lambda: 1), Node("b", lambda a: a, when=held)])
        executor = await open_executor()
        await executor.start(workflow, run_id="r")
        await held.started.wait()

        await close(executor)

        held.gate.set()
        run = await (await open_executor(workflow)).resume("r")
        assert (run.status, run.outputs, held.calls) == ("completed", {"a": 1, "b": 1}, 2)

    async def test_a_condition_that_answers_its_cancellation_decides_nothing(self, open_executor: OpenExecutor) -> None:
        held = Held(result=True)

        async def is_wanted() -> bool:
            try:
                return bool(await held())
            except asyncio.CancelledError:
                return False

        workflow = Workflow("w", [Node("a", lambda: 1), Node("b", lambda a: a, when=is_wanted)])
        executor = await open_executor()
        await executor.start(workflow, run_id="r")
        await held.started.wait()

        await close(executor)

        held.gate.set()
        assert (await (await open_executor(workflow)).resume("r")).outputs == {"a": 1, "b": 1}

    async def test_a_condition_that_ignores_its_cancellation_is_abandoned_after_the_grace_time(
        self, open_executor: OpenExecutor
    ) -> None:
        held, gate = Held(result=True), asyncio.Event()

        async def is_wanted() -> bool:
            with suppress(asyncio.CancelledError):
                return bool(await held())
            await gate.wait()
            return False

        workflow = Workflow("w", [Node("a", lambda: 1), Node("b", lambda a: a, when=is_wanted)])
        executor = await open_executor(grace=0.01)
        await executor.start(workflow, run_id="r")
        await held.started.wait()

        await asyncio.wait_for(close(executor), 10)

        held.gate.set()
        assert (await (await open_executor(workflow)).resume("r")).outputs == {"a": 1, "b": 1}
        gate.set()

    @pytest.mark.parametrize("turns", range(16))
    async def test_a_sub_workflow_that_is_just_being_started_does_not_fail(
        self, open_executor: OpenExecutor, turns: int
    ) -> None:
        inner = Workflow("inner", [Node("a", lambda: 1)])
        workflow = Workflow("w")
        workflow.subworkflow("child", inner)
        executor = await open_executor()
        await executor.start(workflow, run_id="r")
        for _ in range(turns):
            await asyncio.sleep(0)

        await close(executor)

        run = await (await open_executor(workflow)).resume("r")
        assert run.outputs == {"child": {"a": 1}}
        kinds = [event.kind for event in await (await open_executor()).history("r")]
        assert "node_failed" not in kinds

    async def test_the_run_is_resumed_at_once_and_closing_counts_as_no_interruption(
        self, open_executor: OpenExecutor
    ) -> None:
        held = Held()
        workflow = Workflow("w", [Node("a", held, max_interruptions=1)])
        for _ in range(3):
            executor = await open_executor(workflow)
            await executor.start(workflow, run_id="r")
            await held.started.wait()
            held.started.clear()
            await close(executor)
        held.gate.set()
        executor = await open_executor(workflow)

        run = await executor.resume("r")

        assert (run.status, run.nodes["a"].attempts, held.calls) == ("completed", 1, 4)
        assert "node_failed" not in {event.kind.value for event in await executor.history("r")}

    async def test_those_who_wait_are_told_and_told_to_resume(self, open_executor: OpenExecutor) -> None:
        held = Held()
        executor = await open_executor()
        handle = await executor.start(Workflow("w", [Node("a", held)]), run_id="r")
        waiters = [asyncio.create_task(handle.result()) for _ in range(2)]
        await held.started.wait()

        await close(executor)

        for waiter in waiters:
            with pytest.raises(ExecutorError, match=r"'r' was let go of before its end: resume\(\) goes on with it"):
                await waiter

    async def test_a_caller_that_waits_for_another_owner_is_told(self, open_executor: OpenExecutor) -> None:
        held = Held()
        workflow = Workflow("w", [Node("a", held)])
        owner, other = await open_executor(), await open_executor()
        await owner.start(workflow, run_id="r")
        await held.started.wait()
        waiter = asyncio.create_task(other.run(workflow, run_id="r"))
        await asyncio.sleep(0.01)

        await close(other)

        with pytest.raises(ExecutorError, match="the executor is closed: make another one"):
            await asyncio.wait_for(waiter, 10)
        assert (await owner.get("r")).status == "running"

    @pytest.mark.parametrize("turns", range(10))
    async def test_a_run_that_is_just_being_started_is_let_go_of(self, open_executor: OpenExecutor, turns: int) -> None:
        held = Held()
        workflow = Workflow("w", [Node("a", held)])
        executor = await open_executor()
        starting = asyncio.create_task(executor.start(workflow, run_id="r"))
        for _ in range(turns):
            await asyncio.sleep(0)

        await close(executor)

        await asyncio.wait([starting], timeout=10)
        assert starting.done()
        if starting.exception() is not None:
            assert isinstance(starting.exception(), ExecutorError | StoreUnavailableError)
        assert not any(task.get_name().startswith("dagflow-run") for task in asyncio.all_tasks())
        held.gate.set()
        assert (await (await open_executor()).run(workflow, run_id="r", wait=False)).status == "completed"

    async def test_a_call_in_a_thread_is_abandoned(self, open_executor: OpenExecutor) -> None:
        started, gate = threading.Event(), threading.Event()

        def hang() -> None:
            started.set()
            gate.wait(30)

        executor = await open_executor()
        await executor.start(Workflow("w", [Node("a", hang)]), run_id="r")
        await asyncio.to_thread(started.wait, 30)

        await asyncio.wait_for(close(executor), 10)

        gate.set()

    async def test_a_call_in_a_thread_has_the_grace_time_to_end(self, open_executor: OpenExecutor) -> None:
        started, gate, ended = threading.Event(), threading.Event(), threading.Event()

        def slow() -> None:
            started.set()
            gate.wait(30)
            ended.set()

        executor = await open_executor(grace=30.0)
        await executor.start(Workflow("w", [Node("a", slow)]), run_id="r")
        await asyncio.to_thread(started.wait, 30)

        closing = asyncio.create_task(close(executor))
        done, _ = await asyncio.wait([closing], timeout=0.3)
        gate.set()
        await closing

        assert not done
        assert ended.is_set()
        assert (await (await open_executor()).get("r")).nodes["a"].status == "running"

    async def test_closing_holds_up_no_longer_than_the_grace_time(self, open_executor: OpenExecutor) -> None:
        started, gate = asyncio.Event(), asyncio.Event()

        async def stubborn() -> None:
            started.set()
            while not gate.is_set():
                try:
                    await gate.wait()
                except asyncio.CancelledError:
                    continue

        executor = await open_executor(grace=0.01)
        await executor.start(Workflow("w", [Node("a", stubborn)]), run_id="r")
        await started.wait()

        await asyncio.wait_for(close(executor), 10)

        gate.set()
        await asyncio.sleep(0)

    async def test_a_condition_that_hangs_does_not_hold_up_the_end(self, open_executor: OpenExecutor) -> None:
        asked = asyncio.Event()

        async def hang() -> bool:
            asked.set()
            await asyncio.Event().wait()
            return True

        executor = await open_executor()
        starting = asyncio.create_task(executor.start(Workflow("w", [Node("a", lambda: 1, when=hang)]), run_id="r"))
        await asked.wait()

        await asyncio.wait_for(close(executor), 10)

        await asyncio.wait([starting], timeout=10)
        assert starting.done()
        starting.exception()

    async def test_what_ended_just_before_is_recorded(self, open_executor: OpenExecutor) -> None:
        held, calls = Held(), Calls()
        workflow = Workflow("w", [Node("a", held), Node("b", calls.of("b"), ["a"])])
        executor = await open_executor()
        await executor.start(workflow, run_id="r")
        await held.started.wait()
        held.gate.set()
        await close(executor)

        run = await (await open_executor(workflow)).resume("r")

        assert (run.status, held.calls, calls) == ("completed", 1, {"b": 1})


class TestMisuse:
    async def test_an_executor_is_opened_once(self) -> None:
        executor = DAGExecutor("memory://")
        async with executor:
            with pytest.raises(ExecutorError, match="is open: an executor is opened once, make another one"):
                await executor.__aenter__()
            with pytest.raises(ExecutorError, match="is open"):
                executor.__enter__()
        with pytest.raises(ExecutorError, match="is closed: an executor is opened once, make another one"):
            async with executor:
                pass

    async def test_a_copy_is_opened_on_the_same_store_with_all_that_the_executor_was_given(self) -> None:
        seen: list[str] = []
        executor = DAGExecutor(
            "memory://", workflows=[WORKFLOW], observers=(o for o in [lambda e: seen.append(e.kind)])
        )
        async with executor:
            assert not executor.is_driving
            await executor.run(WORKFLOW, run_id="r")
        before = len(seen)

        async with executor.copy() as copy:
            again = await copy.get("r")
            await copy.run(copy.workflows["w"])

        assert again.status == "completed"
        assert len(seen) == 2 * before

    async def test_closing_again_does_nothing(self) -> None:
        executor = DAGExecutor("memory://")
        async with executor:
            pass
        await close(executor)

    @pytest.mark.parametrize(
        "call",
        [
            lambda e: e.run(WORKFLOW),
            lambda e: e.start(WORKFLOW),
            lambda e: e.submit(WORKFLOW),
            lambda e: e.serve(),
            lambda e: e.resume("r"),
            lambda e: e.recover(),
            lambda e: e.signal("r", "s"),
            lambda e: e.decide("r", "s", approved=True, by="ada"),
            lambda e: e.reviews(),
            lambda e: e.cancel("r"),
            lambda e: e.pause("r"),
            lambda e: e.get("r"),
            lambda e: e.runs(),
            lambda e: e.history("r"),
            lambda e: e.delete("r"),
        ],
    )
    async def test_every_method_of_an_executor_that_is_not_open_says_what_to_do(
        self, call: Callable[[DAGExecutor], Any]
    ) -> None:
        executor = DAGExecutor("memory://")
        with pytest.raises(ExecutorError, match="not open yet: use it inside 'with' or 'async with'"):
            await call(executor)
        async with executor:
            pass
        with pytest.raises(ExecutorError, match="the executor is closed: make another one"):
            await call(executor)

    async def test_the_handle_of_a_closed_executor_says_so(self) -> None:
        async with DAGExecutor("memory://", grace=0.1) as executor:
            handle = await executor.start(Workflow("w", [Node("a", Held())]))

        for call in (handle.result, handle.cancel, handle.pause):
            with pytest.raises(ExecutorError, match="closed"):
                await call()
        with pytest.raises(ExecutorError, match="closed"):
            await anext(handle.events())

    def test_an_executor_belongs_to_the_loop_that_opened_it(self) -> None:
        executor = DAGExecutor("memory://")
        asyncio.run(executor.__aenter__())

        async def elsewhere() -> None:
            await executor.run(WORKFLOW)

        with pytest.raises(ExecutorError, match="belongs to another event loop: call it from the loop that opened it"):
            asyncio.run(elsewhere())

    async def test_a_store_that_cannot_be_opened_stops_the_start_and_leaves_nothing(self) -> None:
        class Broken(MemoryStore):
            async def open(self) -> None:
                raise StoreUnavailableError("no route", "here")

        executor = DAGExecutor(Broken())
        before = len(asyncio.all_tasks())

        with pytest.raises(StoreUnavailableError, match="no route"):
            await executor.__aenter__()

        assert len(asyncio.all_tasks()) == before
        with pytest.raises(ExecutorError):
            await executor.run(WORKFLOW)

    async def test_two_executors_share_a_store_and_each_lets_go_of_its_own_runs(self, store: ContextStore) -> None:
        held = Held()
        workflow = Workflow("w", [Node("a", held)])
        async with DAGExecutor(store, grace=0.1) as one:
            async with DAGExecutor(store, grace=0.1) as other:
                await other.start(workflow, run_id="other")
                await one.start(workflow, run_id="one")
                await held.started.wait()

            assert [(s.run_id, s.owner is None) for s in await one.runs()] == [("one", False), ("other", True)]


async def test_closing_that_is_cut_off_closes_the_store_all_the_same() -> None:
    class Counting(MemoryStore):
        closed = 0

        async def close(self) -> None:
            self.closed += 1
            await super().close()

    async def hold() -> None:
        while not may_end.is_set():
            try:
                await may_end.wait()
            except asyncio.CancelledError:
                continue

    may_end, store = asyncio.Event(), Counting()
    executor = DAGExecutor(store, grace=60.0)
    await executor.__aenter__()
    await executor.start(Workflow("w", [Node("a", hold)]))
    closing = asyncio.create_task(executor.__aexit__(None, None, None))
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    may_end.set()

    assert closing.cancelled()
    assert store.closed == 1


@pytest.mark.parametrize("ask", ["run", "start"])
async def test_whoever_waits_is_told_when_somebody_cancels_a_run_that_has_not_begun(ask: str) -> None:
    workflow = Workflow("w", [Node("a", lambda: 1)])
    async with DAGExecutor(MemoryStore()) as executor:
        asking = asyncio.create_task(getattr(executor, ask)(workflow))
        driving: list[asyncio.Task[object]] = []
        while not driving:
            await asyncio.sleep(0)
            driving = [task for task in asyncio.all_tasks() if task.get_name().startswith("dagflow-run-")]
        driving[0].cancel()

        done, _ = await asyncio.wait([asking], timeout=20)
        assert done == {asking}
        with pytest.raises(ExecutorError, match="let go of"):
            await asking
        assert not executor.is_driving
