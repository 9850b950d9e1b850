"""A run that waits for the run that it has started goes on when that one ends, whatever dies in between."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import product
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from dagflow import DAGExecutor, EventKind, Node, Workflow
from dagflow.errors import RunFailedError, StoreUnavailableError
from dagflow.protocols import RunQuery
from dagflow.stores import MemoryStore
from dagflow.testing import Crash, CrashAfter
from executors import Held, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from dagflow.protocols import ContextStore, Message, RunRecord
    from dagflow.testing import FakeClock
    from executors import OpenExecutor


def paying(*nodes: Node) -> tuple[Workflow, Workflow]:
    """Return a workflow whose node ``child`` is a workflow that waits for a signal, and that workflow."""
    inner = Workflow("inner")
    inner.wait_for_signal("paid")
    for node in nodes:
        inner.add(node)
    outer = Workflow("outer")
    outer.subworkflow("child", inner, output="paid")
    outer.add(Node("ship", lambda child: f"shipped for {child}", ["child"]))
    return outer, inner


@contextlib.asynccontextmanager
async def serving(executor: DAGExecutor) -> AsyncIterator[asyncio.Task[None]]:
    server = asyncio.create_task(executor.serve(poll=0.01))
    async with asyncio.timeout(30):
        yield server
    server.cancel()
    await asyncio.wait([server])


async def has(executor: DAGExecutor, run_id: str, status: str) -> bool:
    return (await executor.get(run_id)).status == status


@pytest.mark.parametrize("death", list(product(range(8), [True, False])))
async def test_a_crash_at_any_write_of_the_run_that_is_waited_for_leaves_nobody_waiting(
    store: ContextStore,
    open_executor: OpenExecutor,
    clock: FakeClock,
    lapse: Callable[[], Awaitable[None]],
    death: tuple[int, bool],
) -> None:
    outer, inner = paying()
    executor = await open_executor(outer, inner)
    assert (await executor.run(outer, run_id="r")).status == "waiting"
    await executor.signal("r/child", "paid", 5)
    writes, acknowledged = death
    dying = CrashAfter(store, writes, acknowledged=acknowledged)
    async with DAGExecutor(dying, clock=clock, workflows=[outer, inner], grace=0.2) as other:
        other._engine.owner = "on another machine"
        with contextlib.suppress(Crash):
            await other.resume("r/child")
    await lapse()

    async with serving(executor):
        await until(lambda: has(executor, "r", "completed"))

    assert (await executor.get("r")).outputs["ship"] == "shipped for 5"
    for run_id, nodes in (("r", ["child", "ship"]), ("r/child", ["paid"])):
        events = await executor.history(run_id)
        assert [event.node for event in events if event.kind is EventKind.NODE_COMPLETED] == nodes


async def test_a_server_that_stops_passes_on_that_a_node_has_to_look_again(
    store: ContextStore, open_executor: OpenExecutor
) -> None:
    held = Held()
    outer, inner = paying()
    outer.add(Node("aside", held))
    executor, other = await open_executor(outer, inner, grace=30), await open_executor(outer, inner)
    async with serving(executor) as server:
        await executor.submit(outer, run_id="r")
        await held.started.wait()
        await until(lambda: has_parked(executor, "child"))

        server.cancel()
        await asyncio.sleep(0)
        await other.signal("r/child", "paid", 5)
        assert (await other.resume("r/child")).status == "completed"
        await executor._engine.mail.collect("r")
        held.gate.set()
        await asyncio.wait([server])

    assert (await other.get("r")).status == "waiting"
    async with serving(other):
        await until(lambda: has(other, "r", "completed"))
    record, _ = await store.read("r")
    assert await store.receive({"r": record.received}) == []


async def has_parked(executor: DAGExecutor, node: str) -> bool:
    return (await executor.get("r")).nodes[node].status == "waiting"


class Failing(MemoryStore):
    """A store that once does not take a message."""

    fails = True

    async def send(self, message: Message) -> Message:
        if self.fails:
            self.fails = False
            raise StoreUnavailableError("it cannot be reached", "the store")
        return await super().send(message)


async def test_a_run_does_not_end_before_its_parent_could_be_told() -> None:
    outer, inner = paying()
    store = Failing()
    store.fails = False
    async with DAGExecutor(store, workflows=[outer, inner]) as executor:
        await executor.run(outer, run_id="r")
        await executor.signal("r/child", "paid", 5)
        store.fails = True

        with pytest.raises(StoreUnavailableError):
            await executor.resume("r/child")

        assert (await executor.get("r/child")).status in {"running", "waiting"}
        async with serving(executor):
            await until(lambda: has(executor, "r", "completed"))


async def test_a_run_whose_parent_was_deleted_ends() -> None:
    outer, inner = paying()
    store = MemoryStore()
    async with DAGExecutor(store, workflows=[outer, inner]) as executor:
        await executor.run(outer, run_id="r")
        await store.delete("r")
        await executor.signal("r/child", "paid", 5)

        assert (await executor.resume("r/child")).status == "completed"


async def test_a_node_that_awaits_its_run_here_is_sent_nothing() -> None:
    outer = Workflow("outer")
    outer.subworkflow("child", Workflow("inner", [Node("a", lambda: 1)]))
    store = MemoryStore()
    async with DAGExecutor(store) as executor:
        await executor.run(outer, run_id="r")

    assert await store.receive({"r": 0}) == []


class Slow(MemoryStore):
    """A store whose claims take their time.

    Attributes:
        asked: Is set when somebody claims.
        gate: Lets the claim go on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.gate = asyncio.Event(), asyncio.Event()

    async def claim(self, run_id: str, *, owner: str, lease: float, dead_owner: str | None = None) -> RunRecord:
        claimed = await super().claim(run_id, owner=owner, lease=lease, dead_owner=dead_owner)
        self.asked.set()
        await self.gate.wait()
        return claimed


@pytest.mark.parametrize("ask", ["resume", "cancel"])
async def test_a_claim_whose_caller_is_cancelled_is_given_up(ask: str) -> None:
    workflow, store = Workflow("w", [Node("a", lambda: 1)]), Slow()
    async with DAGExecutor(store, workflows=[workflow]) as executor:
        await executor.submit(workflow, run_id="r")
        asking = asyncio.create_task(getattr(executor, ask)("r"))
        await store.asked.wait()

        asking.cancel()
        await asyncio.sleep(0)
        # The claim may have been kept, and is waited for whoever is impatient.
        asking.cancel()
        await asyncio.sleep(0)
        store.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await asking

        assert [run.run_id for run in await store.find(RunQuery(claimable=True))] == ["r"]


async def test_who_is_cancelled_does_not_wait_for_a_store_that_does_not_answer() -> None:
    workflow, store = Workflow("w", [Node("a", lambda: 1)]), Slow()
    async with DAGExecutor(store, workflows=[workflow]) as executor:
        await executor.submit(workflow, run_id="r")
        asking = asyncio.create_task(executor.resume("r"))
        await store.asked.wait()

        asking.cancel()

        done, _ = await asyncio.wait([asking], timeout=20)
        assert done == {asking}
        assert await store.find(RunQuery(claimable=True)) == []

        # It is given up all the same, as soon as there is an answer.
        store.gate.set()
        async with asyncio.timeout(20):
            while not await store.find(RunQuery(claimable=True)):  # noqa: ASYNC110 - the store tells nobody
                await asyncio.sleep(0)


async def test_a_run_that_was_written_to_before_it_was_claimed_is_read_again() -> None:
    class Busy(MemoryStore):
        """A store in which somebody else changes a run just before it is claimed."""

        was_changed = False

        async def claim(self, run_id: str, *, owner: str, lease: float, dead_owner: str | None = None) -> RunRecord:
            if not self.was_changed:
                self.was_changed = True
                async with DAGExecutor(self, workflows=[workflow]) as other:
                    await other.pause(run_id)
            return await super().claim(run_id, owner=owner, lease=lease, dead_owner=dead_owner)

    workflow, store = Workflow("w", [Node("a", lambda: 1)]), Busy()
    async with DAGExecutor(store, workflows=[workflow]) as executor:
        await executor.submit(workflow, run_id="r")

        await executor.cancel("r")

        assert [event.kind for event in await executor.history("r")][1:] == [
            EventKind.RUN_PAUSED,
            EventKind.RUN_CANCELLED,
        ]


async def test_whoever_cancels_again_reaches_the_runs_that_the_run_has_started() -> None:
    class Dying(MemoryStore):
        """A store that dies with the second end that it is asked to write."""

        ends = 0

        async def append(self, events: Sequence[Any], **options: Any) -> None:
            self.ends += 1
            if self.ends == 2:
                raise StoreUnavailableError("it cannot be reached", "the store")
            await super().append(events, **options)

    outer, inner = paying()
    quiet, store = MemoryStore(), Dying()
    async with DAGExecutor(quiet, workflows=[outer, inner]) as executor:
        await executor.run(outer, run_id="r")
    for run_id in ("r", "r/child"):
        record, events = await quiet.read(run_id)
        await store.create(attrs.evolve(record, owner=None), events)
    async with DAGExecutor(store, workflows=[outer, inner]) as executor:
        with pytest.raises(StoreUnavailableError):
            await executor.cancel("r")

        await executor.cancel("r")

        assert {run.run_id: run.status for run in await executor.runs()} == {"r": "cancelled", "r/child": "cancelled"}


async def test_a_key_of_an_item_may_be_any_text_and_makes_no_run_the_child_of_another_one() -> None:
    leaf = Workflow("leaf")
    leaf.wait_for_signal("go")
    inner = Workflow("inner")
    inner.add(Node("a", lambda key: key))
    inner.subworkflow("c", leaf, output="go")
    outer = Workflow("outer")
    outer.subworkflow("b", inner, over={"key": "keys"}, key=str, output="c")
    keys = ["x", "x/c", "x:2fc", ":", "New York, ü", "a[0]"]
    parts = ["x", "x:2fc", "x:3a2fc", ":3a", "New:20York:2c:20:c3:bc", "a:5b0:5d"]
    async with DAGExecutor(MemoryStore(), workflows=[outer]) as executor:
        run = await executor.run(outer, {"keys": keys}, run_id="r")
        ids = [f"r/b/{part}/c" for part in parts]
        assert sorted(run.run_id for run in await executor.runs(workflow="leaf")) == sorted(ids)

        async with serving(executor):
            for run_id in ids:
                await executor.signal(run_id, "go", run_id)
            await until(lambda: has(executor, "r", "completed"))
        assert run.status == "waiting"
        assert (await executor.get("r")).outputs["b"] == ids


async def test_a_key_that_no_run_id_has_room_for_is_refused_before_any_run_is_started() -> None:
    outer = Workflow("outer")
    outer.subworkflow("b", Workflow("inner", [Node("a", lambda key: key)]), over={"key": "keys"}, key=str)
    async with DAGExecutor(MemoryStore()) as executor:
        with pytest.raises(RunFailedError, match="more than 255 characters: let key= return a shorter one"):
            await executor.run(outer, {"keys": ["a", "ü" * 128]}, run_id="r")
        assert [run.run_id for run in await executor.runs()] == ["r"]
