"""Sub-workflows whose run is leased to an owner of which nobody here can know whether it is gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from dagflow import DAGExecutor, EventKind, Node, Workflow
from dagflow.errors import RunOwnedError
from dagflow.testing import Crash, CrashAfter
from executors import Calls, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dagflow import Run
    from dagflow.protocols import ContextStore
    from dagflow.testing import FakeClock
    from executors import OpenExecutor

LEASE = 30.0


def nested(inner: Workflow, depth: int) -> Workflow:
    """Return a workflow whose node ``child`` is a workflow, and so on, down to a certain one."""
    for level in range(depth):
        outer = Workflow(f"outer {level}")
        outer.subworkflow("child", inner)
        inner = outer
    return inner


def asked(executor: DAGExecutor, workflow: Workflow, how: str) -> asyncio.Task[Run]:
    """Ask for the run ``r`` to go on, in one of the two ways."""
    return asyncio.create_task(executor.run(workflow, run_id="r") if how == "run" else executor.resume("r"))


async def claimed(store: ContextStore, run_id: str, executor: DAGExecutor) -> None:
    """Return when an executor owns a run."""

    async def is_claimed() -> bool:
        return (await store.read(run_id))[0].owner == executor._engine.owner

    await asyncio.wait_for(until(is_claimed), 10)


@pytest.mark.parametrize("how", ["run", "resume"])
@pytest.mark.parametrize("depth", [1, 2])
async def test_a_parent_that_waits_for_a_run_goes_on_when_the_lease_of_its_dead_owner_has_lapsed(
    store: ContextStore, open_executor: OpenExecutor, lapse: Callable[[], Awaitable[None]], depth: int, how: str
) -> None:
    inner = Workflow("inner")
    inner.wait_for_signal("paid")
    inner.add(Node("more", lambda paid: paid + 1, ["paid"]))
    workflow, child = nested(inner, depth), "r" + "/child" * depth
    executor = await open_executor(workflow)
    assert (await executor.run(workflow, run_id="r")).status == "waiting"
    await executor.signal(child, "paid", 4)
    # Somebody took the run up because of the signal, and has died.
    await store.claim(child, owner="on another machine", lease=LEASE)

    waiter = asked(executor, workflow, how)
    await claimed(store, "r", executor)
    await asyncio.sleep(0.02)
    assert not waiter.done()
    await lapse()

    run = await asyncio.wait_for(waiter, 10)
    assert run.status == "completed"
    assert (await executor.get(child)).outputs == {"paid": 4, "more": 5}


@pytest.mark.parametrize("how", ["run", "resume"])
async def test_a_parent_whose_owner_has_died_goes_on_when_the_lease_of_the_other_run_has_lapsed_too(
    store: ContextStore,
    open_executor: OpenExecutor,
    clock: FakeClock,
    lapse: Callable[[], Awaitable[None]],
    how: str,
) -> None:
    calls = Calls()
    workflow = nested(Workflow("inner", [Node("a", calls.of("a", 1)), Node("b", calls.of("b", 2), ["a"])]), 1)
    async with DAGExecutor(CrashAfter(store, 3), clock=clock, lease=LEASE, grace=0.2) as dying:
        dying._engine.owner = "on another machine"
        with pytest.raises(Crash):
            await dying.run(workflow, run_id="r")
    await lapse()
    record, _ = await store.read("r/child")
    assert await store.renew([record.claim], lease=LEASE) == []
    executor = await open_executor(workflow)

    waiter = asked(executor, workflow, how)
    await claimed(store, "r", executor)
    await asyncio.sleep(0.02)
    assert not waiter.done()
    assert calls["a"] == 1
    await lapse()

    assert (await asyncio.wait_for(waiter, 10)).outputs == {"child": {"a": 1, "b": 2}}
    assert calls["a"] == 1


async def test_a_parent_that_waits_for_a_lease_holds_no_slot(
    store: ContextStore, open_executor: OpenExecutor, lapse: Callable[[], Awaitable[None]]
) -> None:
    inner = Workflow("inner")
    inner.wait_for_signal("paid")
    workflow = nested(inner, 1)
    executor = await open_executor(workflow, max_concurrency=1)
    assert (await executor.run(workflow, run_id="r")).status == "waiting"
    await executor.signal("r/child", "paid", 4)
    await store.claim("r/child", owner="on another machine", lease=LEASE)
    waiter = asked(executor, workflow, "resume")
    await claimed(store, "r", executor)

    other = Workflow("other", [Node("a", lambda: 1)])
    assert (await asyncio.wait_for(executor.run(other), 10)).outputs == {"a": 1}

    assert not waiter.done()
    await lapse()
    assert (await asyncio.wait_for(waiter, 10)).outputs == {"child": {"paid": 4}}


async def test_who_does_not_want_to_wait_does_not_stand_in_line_behind_those_who_do(
    store: ContextStore, open_executor: OpenExecutor, lapse: Callable[[], Awaitable[None]]
) -> None:
    workflow = Workflow("w")
    workflow.wait_for_signal("paid")
    executor = await open_executor(workflow)
    await executor.run(workflow, run_id="r")
    await executor.signal("r", "paid", 4)
    await store.claim("r", owner="on another machine", lease=LEASE)
    waiters = [asked(executor, workflow, how) for how in ("run", "resume")]
    await asyncio.sleep(0.02)

    with pytest.raises(RunOwnedError):
        await asyncio.wait_for(executor.resume("r", wait=False), 10)
    with pytest.raises(RunOwnedError):
        await asyncio.wait_for(executor.run(workflow, run_id="r", wait=False), 10)
    with pytest.raises(RunOwnedError):
        await asyncio.wait_for(executor.go_on("r"), 10)

    await lapse()
    for waiter in waiters:
        assert (await asyncio.wait_for(waiter, 10)).outputs == {"paid": 4}
    kinds = [event.kind for event in await executor.history("r")]
    assert kinds.count(EventKind.RUN_RESUMED) == 1
