"""Runs that are started, stopped, paused, cancelled, resumed and orphaned in any order still obey the law."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import given, note, settings
from hypothesis import strategies as st

from dagflow import DAGExecutor
from dagflow._events import EventKind
from dagflow._state import RunState, apply
from dagflow.errors import (
    ExecutorError,
    RunCancelledError,
    RunFailedError,
    RunNotFoundError,
    RunOwnedError,
    RunStateError,
)
from dagflow.stores import MemoryStore
from dagflow.testing import Crash, CrashAfter, FakeClock, workflows

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from dagflow import Event, NodeContext, Workflow

LEASE = 30.0
EXPECTED = (ExecutorError, RunCancelledError, RunFailedError, RunNotFoundError, RunOwnedError, RunStateError, Crash)

ACTIONS = ["run", "resume", "cancel", "pause", "close", "crash", "recover", "wait", "leave", "get"]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1), st.integers(0, 8)), max_size=14)


@attrs.define
class Life:
    """Two executors of one store, and all that is asked of them."""

    workflow: Workflow
    clock: FakeClock = attrs.field(factory=lambda: FakeClock(auto=True))
    store: MemoryStore = attrs.field(init=False)
    executors: dict[int, DAGExecutor] = attrs.field(factory=dict)
    asked: list[asyncio.Task[Any]] = attrs.field(factory=list)
    calls: list[tuple[str, str, int]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.store = MemoryStore(clock=self.clock)

    async def executor(self, number: int) -> DAGExecutor:
        if number not in self.executors:
            self.executors[number] = await self.opened(self.store).__aenter__()
        return self.executors[number]

    def opened(self, store: Any) -> DAGExecutor:
        return DAGExecutor(
            store,
            workflows=[self.workflow],
            clock=self.clock,
            lease=LEASE,
            grace=0.05,
            limits={"slot": 1},
            resources={"log": self.log},
        )

    def log(self, context: NodeContext) -> None:
        row = self.store._rows[context.run_id]
        self.calls.append((context.run_id, context.node, row.version))

    def ask(self, question: Awaitable[Any]) -> None:
        self.asked.append(asyncio.ensure_future(question))

    async def step(self, action: str, number: int) -> None:
        executor = await self.executor(number)
        if action == "run":
            self.ask(executor.run(self.workflow, run_id="r"))
        elif action in ("resume", "cancel", "pause", "get"):
            self.ask(getattr(executor, action)("r"))
        elif action == "recover":
            self.ask(executor.recover())
        elif action == "close":
            await self.close(number)
        elif action == "crash":
            await self.crash()
        elif action == "wait":
            self.clock.advance(LEASE + 1)
        elif self.asked:
            self.asked[-1].cancel()

    async def close(self, number: int) -> None:
        executor = self.executors.pop(number, None)
        if executor is not None:
            await asyncio.wait_for(executor.__aexit__(None, None, None), 20)

    async def crash(self) -> None:
        """Let a third "process" take part that dies after two writes."""
        async with self.opened(CrashAfter(self.store, 2)) as executor:
            done, pending = await asyncio.wait([asyncio.ensure_future(executor.resume("r"))], timeout=0.02)
        for task in pending:
            await asyncio.wait([task], timeout=20)
        for task in (*done, *pending):
            check(task)

    async def end(self) -> None:
        """Close everything, and let the run end at last."""
        await asyncio.sleep(0.001)
        for number in list(self.executors):
            await self.close(number)
        if self.asked:
            await asyncio.wait(self.asked, timeout=20)
        for task in self.asked:
            check(task)
        self.clock.advance(LEASE + 1)


def check(task: asyncio.Task[Any]) -> None:
    assert task.done(), "it hangs"
    if not task.cancelled() and task.exception() is not None:
        assert isinstance(task.exception(), EXPECTED), repr(task.exception())


def check_journal(journal: list[Event], calls: list[tuple[str, int]]) -> None:
    """The journal folds, its owners follow each other, and nothing is called again that is recorded and stands."""
    assert [event.version for event in journal] == list(range(1, len(journal) + 1))
    state = RunState.created(journal[0])
    epochs = []
    completed: dict[str, int] = {}
    for event in journal[1:]:
        apply(state, event)
        if event.kind in (EventKind.RUN_STARTED, EventKind.RUN_RESUMED):
            epochs.append((event.data or {})["epoch"])
        if event.kind is EventKind.NODE_COMPLETED:
            assert event.node not in completed
            completed[event.node or ""] = event.version
    assert epochs == sorted(set(epochs))
    for node, version in calls:
        assert version < completed.get(node, version + 1), f"{node} was called after it had completed"


@given(workflow=workflows(max_nodes=5, uses=("slot",)), steps=STEPS)
@settings(max_examples=60, deadline=None)
async def test_whatever_is_done_to_a_run_it_ends_as_it_should(
    workflow: Workflow, steps: list[tuple[str, int, int]]
) -> None:
    life = Life(workflow)
    for node in workflow.nodes:
        note(repr(node))
    await life.step("run", 0)
    for action, number, turns in steps:
        for _ in range(turns):
            await asyncio.sleep(0)
        await life.step(action, number)
    await life.end()

    async with life.opened(life.store) as executor:
        for _ in range(5):
            try:
                run = await asyncio.wait_for(executor.resume("r"), 20)
            except RunFailedError as exc:
                run = exc.run
                break
            except RunCancelledError:
                continue
            except RunNotFoundError:
                return
            if run.status == "completed":
                break
        else:
            raise AssertionError("it never ends")

    assert run.status in ("completed", "failed")
    for run_id, row in life.store._rows.items():
        check_journal(list(row.events), [(node, version) for run, node, version in life.calls if run == run_id])
