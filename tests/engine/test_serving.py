"""Serving goes on whatever becomes of a single run, or of a single look at the store."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from dagflow import DAGExecutor, Event, EventKind, Node, RunStatus, Workflow
from dagflow.errors import StoreUnavailableError
from dagflow.protocols import Message, MessageKind
from dagflow.stores import MemoryStore
from dagflow.testing import FakeClock
from executors import Calls, Held, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import pytest

    from dagflow._events import RunQuery, RunRecord


class Moody(MemoryStore):
    """A store that fails so many times to find runs, and to append to each of them."""

    def __init__(self, *, finds: int = 0, appends: int = 0) -> None:
        super().__init__()
        self.finds, self.appends = finds, appends

    async def find(self, query: RunQuery) -> list[RunRecord]:
        if query.claimable and self.finds > 0:
            self.finds -= 1
            raise StoreUnavailableError("it cannot be reached", "the store")
        return await super().find(query)

    async def append(self, events: Sequence[Event], **options: Any) -> None:
        if self.appends > 0:
            self.appends -= 1
            raise ZeroDivisionError("a bug of a plug-in")
        await super().append(events, **options)


def answer(result: int = 42) -> Workflow:
    return Workflow("answer", [Node("a", lambda: result)])


@contextlib.asynccontextmanager
async def served(store: MemoryStore, *workflows: Workflow, concurrency: int = 10) -> AsyncIterator[DAGExecutor]:
    async with DAGExecutor(store, workflows=workflows) as executor:
        serving = asyncio.create_task(executor.serve(poll=0.01, concurrency=concurrency))
        async with asyncio.timeout(30):
            yield executor
        serving.cancel()
        await asyncio.wait([serving])


async def test_a_store_that_cannot_be_searched_is_searched_again(caplog: pytest.LogCaptureFixture) -> None:
    async with served(Moody(finds=2), answer()) as executor:
        run = await (await executor.submit(answer())).result()

    assert run.outputs == {"a": 42}
    assert caplog.text.count("the store could not be searched for runs") == 2


async def test_a_run_that_cannot_be_served_is_told_and_the_others_are_served(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    before = Workflow("answer", [Node("b", lambda: 1)])
    async with DAGExecutor(store) as other:
        await other.submit(before, run_id="old")
        await other.submit(answer(), run_id="new")
    async with served(store, answer()) as executor:

        async def has_ended() -> bool:
            return (await executor.get("new")).status == "completed"

        await until(has_ended)
        await until(lambda: "a run could not be served" in caplog.text)
        old = await store.read("old")

    assert old[0].status == "pending"


async def test_a_run_that_is_given_up_is_told_and_taken_up_again(caplog: pytest.LogCaptureFixture) -> None:
    async with served(Moody(appends=1), answer()) as executor:
        await executor.submit(answer(), run_id="r")

        async def has_ended() -> bool:
            return (await executor.get("r")).status == "completed"

        await until(has_ended)

    assert "a run was given up here" in caplog.text


async def test_runs_that_cannot_be_served_take_no_places(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    before = Workflow("answer", [Node("b", lambda: 1)])
    async with DAGExecutor(store) as other:
        for number in range(5):
            await other.submit(before, run_id=f"old-{number}")
        await other.submit(answer(), run_id="new")

    async with served(store, answer(), concurrency=1) as executor:
        await until(lambda: _has_completed(executor, "new"))
        await executor.submit(answer(), run_id="newer")
        await until(lambda: _has_completed(executor, "newer"))

    # Not at each look.
    assert caplog.text.count("a run could not be served") == 5


async def test_a_run_that_could_not_be_served_is_tried_again_when_it_has_changed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, before = MemoryStore(), Workflow("answer", [Node("b", lambda: 1)])
    async with DAGExecutor(store) as other:
        await other.submit(before, run_id="old")

    async with served(store, answer()):
        await until(lambda: "a run could not be served" in caplog.text)
        claimed = await store.claim("old", owner="somebody", lease=30)
        started = Event("old", 2, EventKind.RUN_STARTED, None, 0, claimed.created_at, {}, None)
        await store.append([started], claim=claimed.claim, version=1, status=RunStatus.RUNNING, release=True)
        await until(lambda: caplog.text.count("a run could not be served") == 2)


async def test_a_journal_that_cannot_be_read_stops_no_server(caplog: pytest.LogCaptureFixture) -> None:
    class Torn(MemoryStore):
        async def read(self, run_id: str, *, after: int = 0) -> tuple[RunRecord, list[Event]]:
            record, events = await super().read(run_id, after=after)
            return record, [] if run_id == "torn" else events

    store = Torn()
    async with DAGExecutor(store) as other:
        await other.submit(answer(), run_id="torn")
        await other.submit(answer(), run_id="whole")

    async with served(store, answer(), concurrency=1) as executor:
        await until(lambda: _has_completed(executor, "whole"))

    assert "a run could not be served" in caplog.text


async def test_the_oldest_run_of_the_highest_priority_is_taken_first_whatever_its_workflow() -> None:
    store = MemoryStore()
    order: list[str] = []

    def note(run: str) -> None:
        order.append(run)

    ann, bob = (Workflow(name, [Node("a", note)]) for name in ("ann", "bob"))
    async with DAGExecutor(store) as other:
        for workflow, run_id, priority in [(bob, "1", 0), (ann, "2", 0), (bob, "3", 0), (ann, "4", 0), (bob, "5", 1)]:
            await other.submit(workflow, {"run": run_id}, run_id=run_id, priority=priority)

    async with served(store, ann, bob, concurrency=1):
        await until(lambda: len(order) == 5)

    assert order == ["5", "1", "2", "3", "4"]


class TestPausedRuns:
    """What is sent to a paused run starts nothing."""

    async def test_a_signal_waits_for_the_run_to_be_resumed(self) -> None:
        paid = Workflow("paid")
        paid.wait_for_signal("money")
        async with served(MemoryStore(), paid, answer(), concurrency=1) as executor:
            await executor.submit(paid, run_id="r")
            await until(lambda: _has(executor, "r", "waiting"))
            await executor.pause("r")
            await executor.signal("r", "money", 5)
            await executor.run(answer(), run_id="another")
            await executor.submit(answer(), run_id="another-one")
            await until(lambda: _has_completed(executor, "another-one"))
            assert (await executor.get("r")).status == "paused"

            run = await executor.resume("r")

        assert (run.status, run.outputs) == ("completed", {"money": 5})

    async def test_a_timer_that_is_due_waits_for_the_run_to_be_resumed(self) -> None:
        held = Held()
        workflow = Workflow("w", [Node("a", held)])
        workflow.sleep("nap", 3600)
        store, clock = MemoryStore(), FakeClock()
        async with DAGExecutor(store, clock=clock) as executor:
            handle = await executor.start(workflow, run_id="r")
            await held.started.wait()
            await until(lambda: _has(executor, "r", "waiting", node="nap"))
            await handle.pause()
            held.gate.set()
            assert (await handle.result()).status == "paused"
            clock.advance(7200)

            record, _ = await store.read("r")

        assert record.wake_at is None

    async def test_a_cancellation_that_comes_just_after_the_pause_is_taken_in(self) -> None:
        store, calls = MemoryStore(), Calls()
        workflow = Workflow("w", [Node("a", calls.of("a"))])
        async with DAGExecutor(store) as other:
            await other.submit(workflow, run_id="r")
            await other.pause("r")
            # The run was still owned when it was asked for.
            await store.send(Message("r", MessageKind.CANCEL))

        async with served(store, workflow) as executor:
            await until(lambda: _has(executor, "r", "cancelled"))

        assert calls == {}


async def _has(executor: DAGExecutor, run_id: str, status: str, *, node: str | None = None) -> bool:
    run = await executor.get(run_id)
    return (run.status if node is None else run.nodes[node].status) == status


async def _has_completed(executor: DAGExecutor, run_id: str) -> bool:
    return await _has(executor, run_id, "completed")


async def test_a_server_that_stops_gives_calls_their_grace_time_once() -> None:
    begun, gate, ended = threading.Event(), threading.Event(), asyncio.Event()

    def stuck() -> None:
        begun.set()
        gate.wait()

    async def stubborn() -> None:
        while not ended.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await ended.wait()

    workflow = Workflow("w", [Node("stuck", stuck), Node("stubborn", stubborn)])
    async with DAGExecutor(MemoryStore(), workflows=[workflow], grace=3.0) as executor:
        await executor.submit(workflow, run_id="r")
        serving = asyncio.create_task(executor.serve(poll=0.01))
        await until(begun.is_set)
        loop = asyncio.get_running_loop()
        stopped = loop.time()
        serving.cancel()
        await asyncio.wait([serving])
        assert loop.time() - stopped >= 3.0

        # Neither what waits for the server, nor closing, gives it to them again.
        await executor.__aexit__(None, None, None)
        took = loop.time() - stopped
        gate.set()
        ended.set()
    assert took < 6.0
