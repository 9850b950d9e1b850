"""Laws of runs, for workflows of every shape: a crash at any commit changes nothing about how a run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from dagflow._events import EventKind
from dagflow.errors import RunFailedError
from dagflow.testing import workflows
from worlds import QUICKLY, Life, World, compare

if TYPE_CHECKING:
    from dagflow import Workflow

GENERATED = workflows(uses=("slot",))


@given(workflow=GENERATED, most=st.none() | st.integers(1, 3))
@settings(QUICKLY, max_examples=60)
async def test_how_many_calls_run_at_a_time_does_not_change_the_result(workflow: Workflow, most: int | None) -> None:
    world, one_by_one = World(workflow, max_concurrency=most), World(workflow, max_concurrency=1)

    await world.settle()
    await one_by_one.settle()

    world.check()
    compare(world, one_by_one)


@given(workflow=GENERATED, acknowledged=st.booleans())
@settings(QUICKLY, max_examples=30)
async def test_a_crash_at_each_commit_in_turn_does_not_change_the_result(
    workflow: Workflow, acknowledged: bool
) -> None:
    undisturbed = World(workflow)
    await undisturbed.settle()
    for writes in range(300):
        world = World(workflow)
        if await world.live(Life(writes, acknowledged=acknowledged)) is not None:
            break

        await world.settle()

        world.check()
        compare(world, undisturbed)
    else:
        raise AssertionError("it never ends")


@given(workflow=GENERATED)
@settings(QUICKLY, max_examples=60)
async def test_a_failed_run_that_is_resumed_keeps_what_completed(workflow: Workflow) -> None:
    world = World(workflow)
    first = await world.settle()
    if first.status != "failed":
        return
    before = len(world.journals()["r"])
    async with world.process() as executor:
        try:
            again = await executor.resume("r")
        except RunFailedError as exc:
            again = exc.run

    world.check()
    completed = {name for name, node in first.nodes.items() if node.status == "completed"}
    assert {name: again.nodes[name].output for name in completed} == {n: first.nodes[n].output for n in completed}
    restarted = {e.node for e in world.journals()["r"][before:] if e.kind is EventKind.NODE_STARTED}
    # A map that failed goes on with the items that are left, so the item that completed is not started again.
    assert not restarted & completed
