"""Observers of an executor: told after the commit, in the order of the journal, and unable to harm a run."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from dagflow import DAGExecutor, Node, Workflow
from dagflow.errors import RunFailedError
from dagflow.stores import MemoryStore
from executors import Held, fails

if TYPE_CHECKING:
    from dagflow import Event
    from dagflow.protocols import ContextStore
    from dagflow.testing import FakeClock
    from executors import OpenExecutor


def workflow() -> Workflow:
    workflow = Workflow("w", [Node("a", fails(times=1), retry=2), Node("skipped", lambda: 1, when=lambda: False)])
    workflow.map(over={"x": "xs"}, name="m")(lambda x: x)
    workflow.add(Node("z", lambda a, m: [a, m]))
    return workflow


async def test_an_observer_is_told_the_journal(open_executor: OpenExecutor) -> None:
    told: list[Event] = []
    executor = await open_executor(observers=[told.append])

    await executor.run(workflow(), {"xs": [1, 2, 3]}, run_id="r")
    await executor.__aexit__(None, None, None)

    assert told == await (await open_executor()).history("r")


async def test_run_returns_when_quick_observers_have_been_told(open_executor: OpenExecutor) -> None:
    told: list[Event] = []

    async def note(event: Event) -> None:
        await asyncio.sleep(0)
        told.append(event)

    executor = await open_executor(observers=[note])

    run = await executor.run(workflow(), {"xs": [1]}, run_id="r")

    assert told[-1].kind == "run_completed"
    assert [event.version for event in told] == list(range(1, run.version + 1))


async def test_an_event_is_told_after_it_was_committed(store: ContextStore, open_executor: OpenExecutor) -> None:
    early: list[Event] = []

    async def check(event: Event) -> None:
        record, _ = await store.read(event.run_id, after=event.version - 1)
        if record.version < event.version:
            early.append(event)

    executor = await open_executor(observers=[check])
    await asyncio.gather(*(executor.run(workflow(), {"xs": [1, 2]}) for _ in range(5)))
    await executor.__aexit__(None, None, None)

    assert early == []


async def test_the_events_of_many_runs_come_in_the_order_of_each_journal(open_executor: OpenExecutor) -> None:
    told: dict[str, list[int]] = {}

    def note(event: Event) -> None:
        told.setdefault(event.run_id, []).append(event.version)

    executor = await open_executor(observers=[note])
    await asyncio.gather(*(executor.run(workflow(), {"xs": [1, 2]}) for _ in range(10)))
    await executor.__aexit__(None, None, None)

    assert len(told) == 10
    assert all(versions == list(range(1, len(versions) + 1)) for versions in told.values())


async def test_observers_that_raise_change_no_run(open_executor: OpenExecutor) -> None:
    def stumble(event: Event) -> None:
        raise ValueError(event.kind)

    async def stumble_on_the_loop(event: Event) -> None:
        raise SystemError(event.kind)

    def leave(event: Event) -> None:
        raise SystemExit(1)

    executor = await open_executor(observers=[stumble, stumble_on_the_loop, leave])

    run = await executor.run(workflow(), {"xs": [1]})

    assert run.outputs == {"a": "ok", "m": [1], "z": ["ok", [1]]}


class Rude:
    """Raises whenever it is told that a run is no longer driven here, and counts what it is told."""

    def __init__(self) -> None:
        self.told: Counter[str] = Counter()

    def leave(self, state: object, error: BaseException | None) -> None:
        self.refuse("leave")

    def refuse(self, what: str) -> NoReturn:
        self.told[what] += 1
        raise LookupError(what)


class RudeTracer(Rude):
    def __call__(self, event: Event) -> None:
        self.refuse("event")

    def begin(self, state: object, before: str | None) -> str | None:
        self.refuse("begin")


class RudeFollower(Rude):
    def follow(self, events: object, state: object, plan: object) -> None:
        self.refuse("follow")


async def test_those_that_trace_or_follow_and_raise_change_no_run(open_executor: OpenExecutor) -> None:
    tracer, follower = RudeTracer(), RudeFollower()
    executor = await open_executor(observers=[tracer])
    executor.follow(follower)

    run = await executor.run(workflow(), {"xs": [1]})

    assert run.outputs == {"a": "ok", "m": [1], "z": ["ok", [1]]}
    assert (tracer.told["begin"], tracer.told["leave"], follower.told["leave"]) == (1, 1, 1)
    assert follower.told["follow"] > 1


async def test_a_tracer_is_told_of_the_end_of_a_run_before_whoever_waits_for_it(open_executor: OpenExecutor) -> None:
    class Slow:
        left = 0

        def __call__(self, event: Event) -> None: ...

        def begin(self, state: object, before: object) -> None: ...

        def leave(self, state: object, error: object) -> None:
            time.sleep(0.02)
            self.left += 1

    tracer = Slow()
    executor = await open_executor(observers=[tracer])
    await executor.run(workflow(), {"xs": []})

    assert tracer.left == 1


async def test_observers_that_hang_change_no_run(clock: FakeClock) -> None:
    gate = threading.Event()

    def hang(event: Event) -> None:
        gate.wait(30)

    async def hang_on_the_loop(event: Event) -> None:
        await asyncio.Event().wait()

    told: list[Event] = []
    async with DAGExecutor(MemoryStore(), observers=[hang, hang_on_the_loop, told.append], clock=clock) as executor:
        run = await asyncio.wait_for(executor.run(workflow(), {"xs": [1]}), 10)
        gate.set()

    assert run.status == "completed"
    assert len(told) == run.version


async def test_an_observer_may_use_the_executor(open_executor: OpenExecutor) -> None:
    seen: list[str] = []

    async def look(event: Event) -> None:
        if event.kind == "run_completed":
            seen.append((await executor.get(event.run_id)).status)

    executor = await open_executor(observers=[look])
    await executor.run(workflow(), {"xs": []})

    assert seen == ["completed"]


async def test_requests_to_runs_without_an_owner_are_told_too(open_executor: OpenExecutor) -> None:
    told: list[Any] = []
    executor = await open_executor(observers=[lambda event: told.append((event.kind.value, event.version))])
    await executor.submit(Workflow("w", [Node("a", lambda: 1)]), run_id="r")
    await executor.pause("r")
    await executor.cancel("r")
    await executor.__aexit__(None, None, None)

    assert told == [("run_created", 1), ("run_paused", 2), ("run_cancelled", 3)]


async def test_what_is_pending_is_told_before_the_executor_has_closed(clock: FakeClock) -> None:
    told: list[int] = []
    gate = threading.Event()

    def slow(event: Event) -> None:
        gate.wait(30)
        told.append(event.version)

    async with DAGExecutor(MemoryStore(), observers=[slow], clock=clock) as executor:
        run = await executor.run(workflow(), {"xs": [1]})
        assert told == []
        gate.set()

    assert told == list(range(1, run.version + 1))


async def test_a_failed_run_is_told_to_its_end(open_executor: OpenExecutor) -> None:
    told: list[str] = []
    executor = await open_executor(observers=[lambda event: told.append(event.kind.value)])

    with pytest.raises(RunFailedError):
        await executor.run(Workflow("w", [Node("a", fails(times=1))]))

    assert told == ["run_created", "run_started", "node_started", "node_failed", "run_failed"]


class TestHandles:
    async def test_a_handle_yields_the_events_as_they_are_committed(self, open_executor: OpenExecutor) -> None:
        held = Held()
        executor = await open_executor()
        handle = await executor.start(Workflow("w", [Node("a", lambda: 1), Node("b", held, ["a"])]), run_id="r")
        kinds = []
        async for event in handle.events():
            kinds.append(event.kind.value)
            if event.node == "b" and event.kind == "node_started":
                held.gate.set()

        assert kinds == [
            "run_created",
            "run_started",
            "node_started",
            "node_completed",
            "node_started",
            "node_completed",
            "run_completed",
        ]
        assert [e async for e in handle.events()] == await executor.history("r")
        assert [e.version async for e in handle.events(after=5)] == [6, 7]

    async def test_the_events_end_when_the_run_is_let_go_of(self, open_executor: OpenExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1)])
        workflow.wait_for_signal("paid", depends_on="a")
        executor = await open_executor()
        handle = await executor.start(workflow)

        kinds = [event.kind.value async for event in handle.events()]

        assert kinds[-1] == "node_waiting"
