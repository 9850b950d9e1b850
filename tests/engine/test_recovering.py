"""Taking over runs whose owner is gone: after a crash, and when a lease has lapsed."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor, Node, NodeContext, RetryPolicy, Workflow
from dagflow.errors import InDoubtError, RunCancelledError, RunFailedError, StoreUnavailableError
from dagflow.stores import MemoryStore
from dagflow.testing import Crash, CrashAfter, FakeClock
from executors import Calls, Held, fails, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dagflow._events import RunRecord
    from dagflow.protocols import ContextStore
    from executors import OpenExecutor


async def crash(store: ContextStore, workflow: Workflow, *, writes: int, inputs: Any = None, **options: Any) -> None:
    """Run a workflow in a "process" that dies after some writes."""
    async with DAGExecutor(CrashAfter(store, writes), grace=0.2, lease=30.0, **options) as executor:
        with pytest.raises(Crash):
            await executor.run(workflow, inputs, run_id="r")


class TestCrash:
    async def test_a_run_goes_on_when_the_lease_of_its_owner_has_lapsed(
        self, store: ContextStore, open_executor: OpenExecutor, clock: FakeClock, lapse: Callable[[], Awaitable[None]]
    ) -> None:
        calls = Calls()
        workflow = Workflow("w", [Node("a", calls.of("a", "a")), Node("b", calls.of("b", "b"), ["a"])])
        await crash(store, workflow, writes=2, clock=clock)
        executor = await open_executor(workflow)
        resumed = asyncio.create_task(executor.resume("r"))
        await asyncio.sleep(0.02)
        assert not resumed.done()

        await lapse()

        assert (await resumed).outputs == {"a": "a", "b": "b"}
        assert calls["a"] == 1

    async def test_a_call_that_was_cut_off_is_repeated_with_the_same_key(
        self, store: ContextStore, open_executor: OpenExecutor, clock: FakeClock, lapse: Callable[[], Awaitable[None]]
    ) -> None:
        keys: list[str] = []

        def note(context: NodeContext) -> int:
            keys.append(f"{context.attempt} {context.idempotency_key}")
            return 1

        workflow = Workflow("w", [Node("a", note)])
        await crash(store, workflow, writes=1, clock=clock)
        await lapse()

        run = await (await open_executor(workflow)).resume("r")

        assert (len(keys), len(set(keys))) == (2, 1)
        assert run.nodes["a"].attempts == 1
        kinds = [event.kind.value for event in await (await open_executor()).history("r")]
        assert kinds.count("node_interrupted") == 1

    async def test_a_node_that_takes_its_process_down_again_and_again_fails(
        self, store: ContextStore, open_executor: OpenExecutor, clock: FakeClock, lapse: Callable[[], Awaitable[None]]
    ) -> None:
        calls = Calls()
        workflow = Workflow("w", [Node("a", calls.of("a"), max_interruptions=3, retry=9)])
        for _ in range(3):
            await crash(store, workflow, writes=3 if calls else 1, clock=clock)
            await lapse()

        executor = await open_executor(workflow)
        with pytest.raises(RunFailedError) as caught:
            await executor.resume("r")

        assert caught.value.failures["a"].type == "dagflow.errors.InterruptedTooOftenError"
        assert "interrupted 3 times in mid-attempt" in caught.value.failures["a"].message
        assert calls == {"a": 3}
        assert (await executor.resume("r")).status == "completed"

    async def test_four_attempts_are_four_failures_whatever_is_killed_in_between(
        self, store: ContextStore, open_executor: OpenExecutor, clock: FakeClock, lapse: Callable[[], Awaitable[None]]
    ) -> None:
        calls = Calls()

        async def fail() -> None:
            calls["a"] += 1
            raise ValueError(calls["a"])

        workflow = Workflow("w", [Node("a", fail, retry=RetryPolicy(max_attempts=4, delay=1, jitter=0))])
        # The opening and the start of the attempt are kept; in all lives but the first also that it failed, and so on.
        for writes in (1, 2, 1, 3, 1):
            await crash(store, workflow, writes=writes, clock=clock)
            await lapse()

        executor = await open_executor(workflow)
        with pytest.raises(RunFailedError):
            await executor.resume("r")

        kinds = Counter(event.kind.value for event in await executor.history("r"))
        assert (kinds["node_retry"], kinds["node_failed"], kinds["node_interrupted"] > 0) == (3, 1, True)
        assert calls["a"] <= 4 + kinds["node_interrupted"]
        assert (await executor.get("r")).nodes["a"].attempts == 4

    async def test_every_crash_leaves_a_run_that_ends_as_if_nothing_had_happened(
        self, store: ContextStore, open_executor: OpenExecutor, clock: FakeClock, lapse: Callable[[], Awaitable[None]]
    ) -> None:
        workflow = Workflow("w", [Node("a", fails(times=1), retry=2)])
        workflow.map(over={"x": "xs"}, name="m")(lambda x: x * 2)
        workflow.add(Node("z", lambda a, m: [a, m]))
        writes = 0
        while True:
            died = CrashAfter(store, writes)
            async with DAGExecutor(died, grace=0.2, clock=clock) as executor:
                try:
                    await executor.run(workflow, {"xs": [1, 2]}, run_id=f"r{writes}")
                except Crash:
                    await lapse()
                else:
                    break
            run = await (await open_executor(workflow)).run(workflow, {"xs": [1, 2]}, run_id=f"r{writes}")
            assert run.outputs == {"a": "ok", "m": [2, 4], "z": ["ok", [2, 4]]}
            writes += 1
        assert writes >= 3

    async def test_an_owner_whose_process_is_gone_is_not_waited_for(self, open_executor: OpenExecutor) -> None:
        code = "from dagflow._identity import new_owner; print(new_owner())"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        shown, _ = await process.communicate()
        held = Held()
        workflow = Workflow("w", [Node("a", held)])
        executor = await open_executor(workflow)
        executor._engine.owner = shown.decode().strip()
        await executor.start(workflow, run_id="r")
        await held.started.wait()
        held.gate.set()
        # Its lease has not lapsed, but who holds it was a process of this host that no longer exists.
        other = await open_executor(workflow)

        run = await asyncio.wait_for(other.resume("r", wait=False), 10)

        assert run.status == "completed"


class TestRecover:
    async def test_every_run_without_a_living_owner_is_finished(
        self, store: ContextStore, open_executor: OpenExecutor, clock: FakeClock, lapse: Callable[[], Awaitable[None]]
    ) -> None:
        workflow = Workflow("w", [Node("a", lambda x: x), Node("b", lambda a: a + 1)])
        for number in range(5):
            async with DAGExecutor(CrashAfter(store, 2), clock=clock) as executor:
                with pytest.raises(Crash):
                    await executor.run(workflow, {"x": number}, run_id=f"r{number}")
        await lapse()

        runs = await (await open_executor(workflow)).recover()

        assert {run.run_id: run.outputs["b"] for run in runs} == {f"r{n}": n + 1 for n in range(5)}
        assert await (await open_executor(workflow)).recover() == []

    async def test_runs_under_a_living_lease_are_left_alone(self, open_executor: OpenExecutor) -> None:
        held = Held()
        workflow = Workflow("w", [Node("a", held)])
        await (await open_executor()).start(workflow, run_id="r")

        assert await (await open_executor(workflow)).recover() == []

    async def test_runs_that_were_let_go_of_are_finished_too(self, open_executor: OpenExecutor) -> None:
        held = Held()
        workflow = Workflow("w", [Node("a", held)])
        executor = await open_executor()
        await executor.start(workflow, run_id="r")
        await held.started.wait()
        await executor.__aexit__(None, None, None)
        held.gate.set()

        (run,) = await (await open_executor(workflow)).recover()

        assert run.status == "completed"

    async def test_runs_of_other_workflows_and_runs_that_have_ended_are_left_alone(
        self,
        store: ContextStore,
        open_executor: OpenExecutor,
        clock: FakeClock,
        caplog: pytest.LogCaptureFixture,
        lapse: Callable[[], Awaitable[None]],
    ) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1), Node("b", lambda a: 1)])
        await crash(store, workflow, writes=2, clock=clock)
        await lapse()
        other = Workflow("other", [Node("a", fails(times=9))])
        executor = await open_executor(other)
        with pytest.raises(RunFailedError):
            await executor.run(other, run_id="failed")

        assert await executor.recover() == []
        assert "its workflow is unknown here" in caplog.text
        assert (await executor.get("r")).status == "running"

    async def test_a_run_that_waits_for_one_that_was_left_behind_goes_on_too(
        self, store: ContextStore, open_executor: OpenExecutor, clock: FakeClock, lapse: Callable[[], Awaitable[None]]
    ) -> None:
        inner = Workflow("inner")
        inner.wait_for_signal("paid")
        workflow = Workflow("outer")
        workflow.subworkflow("child", inner, output="paid")
        executor = await open_executor(workflow)
        await executor.run(workflow, run_id="r")
        await executor.signal("r/child", "paid", 5)
        async with DAGExecutor(CrashAfter(store, 2), clock=clock, workflows=[workflow], grace=0.2) as dying:
            dying._engine.owner = "on another machine"
            with pytest.raises(Crash):
                await dying.resume("r/child")
        await lapse()

        runs = await executor.recover()

        assert {run.run_id: run.status for run in runs} == {"r": "completed", "r/child": "completed"}

    async def test_a_run_that_cannot_be_recovered_is_told_and_keeps_no_other_from_it(
        self, open_executor: OpenExecutor, caplog: pytest.LogCaptureFixture
    ) -> None:
        held = Held()
        before, after = Workflow("w", [Node("a", held)]), Workflow("w", [Node("b", lambda: 1)])
        other = Workflow("other", [Node("c", held)])
        first = await open_executor()
        for run_id, workflow in (("changed", before), ("same", other)):
            await first.start(workflow, run_id=run_id)
        await until(lambda: held.calls == 2)
        await first.__aexit__(None, None, None)
        held.gate.set()
        executor = await open_executor(after, other)

        runs = await executor.recover()

        assert [run.run_id for run in runs] == ["same"]
        assert "a run cannot be recovered" in caplog.text
        assert (await executor.get("changed")).status == "running"

    async def test_a_run_that_fails_is_returned_as_it_failed(
        self, store: ContextStore, open_executor: OpenExecutor, clock: FakeClock, lapse: Callable[[], Awaitable[None]]
    ) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1), Node("b", fails(times=9), ["a"])])
        await crash(store, workflow, writes=2, clock=clock)
        await lapse()

        (run,) = await (await open_executor(workflow)).recover()

        assert (run.status, run.nodes["b"].status) == ("failed", "failed")


class TestStaleKnowledge:
    async def test_a_run_that_somebody_finished_meanwhile_is_not_taken_for_what_it_was(self, clock: FakeClock) -> None:
        class Meddled(MemoryStore):
            """Between looking at a run and claiming it, somebody else finishes it."""

            meddle: Callable[[], Awaitable[object]] | None = None

            async def claim(self, *args: Any, **options: Any) -> RunRecord:
                meddle, self.meddle = self.meddle, None
                if meddle is not None:
                    await meddle()
                return await super().claim(*args, **options)

        calls, store = Calls(), Meddled(clock=clock)
        workflow = Workflow("w", [Node("a", calls.of("a")), Node("b", calls.of("b"), ["a"])])
        await crash(store, workflow, writes=2, clock=clock)
        clock.advance(31)
        before = calls["b"]
        async with (
            DAGExecutor(store, workflows=[workflow], clock=clock) as quick,
            DAGExecutor(store, workflows=[workflow], clock=clock) as slow,
        ):
            store.meddle = lambda: quick.resume("r")

            run = await slow.resume("r")

        assert (run.status, calls["b"]) == ("completed", before + 1)


class TestLostLease:
    async def test_an_owner_that_lost_its_lease_writes_nothing_and_waits_for_the_new_one(
        self, store: ContextStore, open_executor: OpenExecutor
    ) -> None:
        held = Held("first")
        workflow = Workflow("w", [Node("a", held)])
        executor = await open_executor(workflow)
        waiter = asyncio.create_task(executor.run(workflow, run_id="r"))
        await held.started.wait()
        record, _ = await store.read("r")
        # The other one thinks that the owner is gone.
        await store.claim("r", owner="other", lease=30.0, dead_owner=record.owner)
        held.gate.set()
        await asyncio.sleep(0.05)
        assert not waiter.done()
        assert (await store.read("r"))[0].version == record.version

        await store.release([(await store.read("r"))[0].claim])

        assert (await asyncio.wait_for(waiter, 10)).outputs == {"a": "first"}
        assert held.calls == 2

    async def test_a_store_that_fails_stops_the_run_which_can_be_resumed(
        self, store: ContextStore, open_executor: OpenExecutor
    ) -> None:
        class Hiccup(CrashAfter):
            async def append(self, *args: Any, **options: Any) -> None:
                if self.writes == 2:
                    self.writes += 1
                    raise StoreUnavailableError("hiccup", "the store")
                await super().append(*args, **options)

        calls = Calls()
        workflow = Workflow("w", [Node("a", calls.of("a")), Node("b", calls.of("b"), ["a"])])
        workflow.add(Node("c", calls.of("c"), ["b"]))
        async with DAGExecutor(Hiccup(store, 1000)) as executor:
            with pytest.raises(StoreUnavailableError, match="the store: hiccup"):
                await executor.run(workflow, run_id="r")

            assert (await executor.resume("r")).status == "completed"
        assert calls["a"] == 1

    async def test_a_store_that_fails_under_a_sub_workflow_fails_no_node(
        self, store: ContextStore, open_executor: OpenExecutor
    ) -> None:
        class Hiccup(CrashAfter):
            async def append(self, *args: Any, **options: Any) -> None:
                if options["claim"].run_id == "r/child" and not self.hiccups:
                    self.hiccups += 1
                    raise StoreUnavailableError("hiccup", "the store")
                await super().append(*args, **options)

            hiccups = 0

        workflow = Workflow("w")
        workflow.subworkflow("child", Workflow("inner", [Node("a", lambda: 1), Node("b", lambda a: a + 1)]))
        async with DAGExecutor(Hiccup(store, 1000)) as executor:
            with pytest.raises(StoreUnavailableError, match="the store: hiccup"):
                await executor.run(workflow, run_id="r")

            assert (await executor.resume("r")).outputs == {"child": {"a": 1, "b": 2}}
            kinds = {event.kind for event in await executor.history("r")}
        assert "node_failed" not in kinds


class TestInDoubt:
    """What became of calls that may be made only once."""

    async def test_a_retry_of_a_sub_workflow_makes_no_call_again_that_is_in_doubt(
        self, store: ContextStore, open_executor: OpenExecutor, clock: FakeClock, lapse: Callable[[], Awaitable[None]]
    ) -> None:
        calls = Calls()
        inner = Workflow("inner", [Node("pay", calls.of("pay"), effects="at_most_once")])
        workflow = Workflow("w")
        workflow.subworkflow("child", inner, retry=3)
        # The runs and the start of the call are kept, and not what came of it.
        await crash(store, workflow, writes=2, clock=clock)
        await lapse()

        with pytest.raises(RunFailedError):
            await (await open_executor(workflow)).run(workflow, run_id="r")

        assert calls == {"pay": 1}

    @pytest.mark.parametrize("is_known", [True, False])
    async def test_a_call_that_was_cancelled_under_way_is_in_doubt_as_well(
        self, open_executor: OpenExecutor, is_known: bool
    ) -> None:
        held = Held()
        options: dict[str, Any] = {"reconcile": lambda context: "paid"} if is_known else {}
        workflow = Workflow("w", [Node("pay", held, effects="at_most_once", **options)])
        executor = await open_executor(workflow)
        handle = await executor.start(workflow, run_id="r")
        await held.started.wait()
        await executor.cancel("r")
        with pytest.raises(RunCancelledError):
            await handle.result()

        if is_known:
            assert (await executor.resume("r")).outputs == {"pay": "paid"}
        else:
            with pytest.raises(RunFailedError) as caught:
                await executor.resume("r")
            assert isinstance(caught.value.__cause__, InDoubtError)

        assert held.calls == 1
