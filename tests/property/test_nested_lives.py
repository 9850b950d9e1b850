"""Runs inside runs that wait for people, while servers come, go and die: whoever serves at last ends them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from dagflow import DAGExecutor, EventKind, Node, Workflow
from dagflow.errors import DagflowError, RunExistsError, RunNotFoundError
from dagflow.stores import MemoryStore
from dagflow.testing import Crash, CrashAfter, FakeClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LEASE = 30.0

ACTIONS = [
    *("run r", "resume r", "resume child", "cancel r", "cancel child", "pause r", "pause child", "answer", "recover"),
    *("serve", "serve no more", "close", "crash", "crash child", "wait", "leave"),
]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 1), st.integers(0, 20)), max_size=14)


async def slowly() -> int:
    for _ in range(3):
        await asyncio.sleep(0)
    return 1


def nested(depth: int) -> Workflow:
    """Return a workflow that waits for a signal, so many runs below the one that is started."""
    workflow = Workflow("level 0", [Node("work", slowly)])
    workflow.wait_for_signal("paid")
    workflow.add(Node("after", lambda paid: paid, ["paid"]))
    for level in range(depth):
        outer = Workflow(f"level {level + 1}", [Node("aside", slowly)])
        outer.subworkflow("child", workflow)
        outer.add(Node("ship", lambda child: 1, ["child"]))
        workflow = outer
    return workflow


@attrs.define
class Life:
    """Executors of one store, of which some serve, and all that is asked of them."""

    depth: int
    workflow: Workflow = attrs.field(init=False)
    clock: FakeClock = attrs.field(factory=lambda: FakeClock(auto=True))
    store: MemoryStore = attrs.field(init=False)
    executors: dict[int, DAGExecutor] = attrs.field(factory=dict)
    servers: dict[int, asyncio.Task[Any]] = attrs.field(factory=dict)
    asked: list[asyncio.Task[Any]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.workflow, self.store = nested(self.depth), MemoryStore(clock=self.clock)

    @property
    def run_ids(self) -> list[str]:
        return ["r" + "/child" * level for level in range(self.depth + 1)]

    def opened(self, store: Any) -> DAGExecutor:
        executor = DAGExecutor(store, workflows=[self.workflow], clock=self.clock, lease=LEASE, grace=0.02)
        # As if each were on a machine of its own: nobody can know that another one is gone.
        executor._engine.owner = f"machine {id(executor)}"
        return executor

    async def executor(self, number: int) -> DAGExecutor:
        if number not in self.executors:
            self.executors[number] = await self.opened(self.store).__aenter__()
        return self.executors[number]

    def ask(self, ask: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> None:
        self.asked.append(asyncio.ensure_future(safely(ask, *arguments, **options)))

    async def step(self, action: str, number: int) -> None:
        executor = await self.executor(number)
        verb, _, of = action.partition(" ")
        if action == "close":
            await self.close(number)
        elif action == "run r":
            self.ask(executor.run, self.workflow, run_id="r")
        elif verb in ("resume", "cancel", "pause"):
            self.ask(getattr(executor, verb), self.run_ids[-1] if of == "child" else "r")
        elif action == "recover":
            self.ask(executor.recover)
        elif action == "answer":
            await self.answer(executor)
        elif verb == "crash":
            await self.crash(self.run_ids[-1] if of else "r", writes=number + 2)
        elif action == "wait":
            self.clock.advance(LEASE + 1)
        elif action == "leave":
            for asked in self.asked[-1:]:
                asked.cancel()
        else:
            await self.serve(number, begins=action == "serve")

    async def serve(self, number: int, *, begins: bool) -> None:
        """Let an executor serve, or serve no more."""
        if begins and number not in self.servers:
            executor = await self.executor(number)
            self.servers[number] = asyncio.ensure_future(safely(executor.serve, poll=0.003))
        elif not begins and number in self.servers:
            self.servers.pop(number).cancel()

    async def close(self, number: int) -> None:
        await self.serve(number, begins=False)
        await asyncio.wait_for(self.executors.pop(number).__aexit__(None, None, None), 20)

    async def answer(self, executor: DAGExecutor) -> None:
        """Pay, where somebody waits for it."""
        with contextlib.suppress(DagflowError):
            if (await executor.get(self.run_ids[-1])).nodes["paid"].status == "waiting":
                await executor.signal(self.run_ids[-1], "paid", 5)

    async def crash(self, run_id: str, *, writes: int) -> None:
        """Let another "process" take part that dies after a few writes."""
        with contextlib.suppress(Crash):
            async with self.opened(CrashAfter(self.store, writes)) as executor:
                asked = asyncio.ensure_future(safely(executor.resume, run_id))
                await asyncio.wait([asked], timeout=0.02)
                asked.cancel()
                await asyncio.wait([asked], timeout=20)

    async def end(self) -> None:
        """Close everything; all that was asked for comes to an end."""
        for number in list(self.executors):
            await self.close(number)
        if self.asked:
            _, late = await asyncio.wait(self.asked, timeout=20)
            assert not late, "it hangs"
        self.clock.advance(LEASE + 1)

    async def finish(self) -> None:
        """Let a new server bring the run to its end, and resume what somebody has stopped."""
        executor = await self.executor(2)
        with contextlib.suppress(RunExistsError):
            await executor.submit(self.workflow, run_id="r")
        await self.serve(2, begins=True)
        async with asyncio.timeout(20):
            while (await executor.get("r")).status != "completed":
                for run_id in self.run_ids:
                    with contextlib.suppress(RunNotFoundError):
                        is_child, status = run_id != "r", (await executor.get(run_id)).status
                        if status == "paused" or (status in ("cancelled", "failed") and not is_child):
                            await safely(executor.resume, run_id)
                await self.answer(executor)
                await asyncio.sleep(0.003)


async def safely(ask: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> None:
    """Ask, and wait for the answer; a refusal is one as well."""
    with contextlib.suppress(DagflowError, Crash):
        await ask(*arguments, **options)


@given(depth=st.integers(1, 2), steps=STEPS)
@settings(max_examples=60, deadline=None)
async def test_whatever_is_done_to_runs_inside_runs_a_server_ends_them(
    depth: int, steps: list[tuple[str, int, int]]
) -> None:
    life = Life(depth)
    for action, number, turns in steps:
        await life.step(action, number)
        for _ in range(turns):
            await asyncio.sleep(0)
    await life.end()

    await life.finish()

    await life.end()
    for row in life.store._rows.values():
        completed = [event.node for event in row.events if event.kind is EventKind.NODE_COMPLETED]
        assert len(completed) == len(set(completed))
