"""The laws of the whole language: whatever is declared, and whatever happens to its run, it ends as it should.

Every example draws a workflow with joins, conditions, maps, sub-workflows, reviews, signals, timers, retries, limits
and calls that may be made only once, runs it in peace, and runs it again through lives that are cut short and
disturbed. At every stop each node has to be explained; at the end every journal has to obey the laws, and to tell the
same story.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagflow import EventKind
from dagflow.testing import workflows
from worlds import QUICKLY, Disturbance, Life, World, compare, tell

if TYPE_CHECKING:
    from dagflow import Workflow

Limits = tuple[int, int | None]

LANGUAGE = workflows(max_nodes=5, uses=("slot",), waits=True)
LIMITS = st.tuples(st.integers(1, 2), st.none() | st.integers(1, 2))
EXAMPLES = settings(QUICKLY, max_examples=400)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def lives(*whats: str, dies: bool) -> st.SearchStrategy[list[Life]]:
    """Draw lives to which these things happen, and that may end with a crash."""
    writes = st.none() | st.integers(0, 12) if dies else st.none()
    disturbance = st.builds(Disturbance, st.integers(0, 15), st.sampled_from(whats), st.booleans())
    disturbances = st.lists(disturbance, max_size=3).map(tuple)
    return st.lists(st.builds(Life, writes, st.booleans(), disturbances), min_size=1, max_size=3)


async def lead(world: World, past: list[Life]) -> None:
    """Lead a run through disturbed lives, and then to its end."""
    for life in past:
        run = await world.live(life)
        async with world.process() as executor:
            await world.check_explained(executor)
        if run is not None and run.status in ("completed", "failed"):
            break
    await world.settle()
    world.check()


async def check_same(workflow: Workflow, limits: Limits, past: list[Life]) -> None:
    """A run that was disturbed ends like one that was not."""
    undisturbed, world = World(workflow), World(workflow, *limits)
    tell(workflow)
    await undisturbed.settle()
    await lead(world, past)
    compare(world, undisturbed)


@given(workflow=LANGUAGE, limits=LIMITS, past=lives("answer", "explain", dies=True))
@EXAMPLES
async def test_crashes_change_nothing(workflow: Workflow, limits: Limits, past: list[Life]) -> None:
    await check_same(workflow, limits, past)


@given(workflow=LANGUAGE, limits=LIMITS, past=lives("answer", "explain", "pause", "close", dies=False))
@EXAMPLES
async def test_pauses_and_restarts_change_nothing(workflow: Workflow, limits: Limits, past: list[Life]) -> None:
    await check_same(workflow, limits, past)


@given(workflow=LANGUAGE, limits=LIMITS, past=lives("answer", "explain", "cancel", dies=False))
@EXAMPLES
async def test_a_cancelled_run_that_is_resumed_ends_as_if_nothing_had_happened(
    workflow: Workflow, limits: Limits, past: list[Life]
) -> None:
    await check_same(workflow, limits, past)


@given(workflow=LANGUAGE, limits=LIMITS, past=lives("answer", "explain", "cancel", "pause", "close", dies=True))
@EXAMPLES
async def test_everything_at_once_changes_nothing(workflow: Workflow, limits: Limits, past: list[Life]) -> None:
    await check_same(workflow, limits, past)


@given(
    workflow=workflows(max_nodes=5, uses=("slot",), waits=True, at_most_once=True),
    limits=LIMITS,
    past=lives("answer", "close", "pause", dies=True),
)
@EXAMPLES
async def test_a_call_in_doubt_is_never_made_again(workflow: Workflow, limits: Limits, past: list[Life]) -> None:
    world = World(workflow, *limits)
    tell(workflow)

    await lead(world, past)

    journals, definitions = world.journals(), world.definitions()
    for run_id, name, attempt, version in world.calls:
        node = definitions[world.workflow_of(run_id)][name.partition("[")[0]]
        before = [event.kind for event in journals[run_id] if event.node == name and event.version <= version]
        last = len(before) - 1 - before[::-1].index(EventKind.NODE_STARTED)
        in_doubt = EventKind.NODE_INTERRUPTED in before[last - 1 : last]
        assert node.effects != "at_most_once" or not in_doubt, f"attempt {attempt} of {name} was called in doubt"
