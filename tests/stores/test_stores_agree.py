"""The store in memory and the store in a SQLite file answer every sequence of calls alike."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dagflow._events import Claim, RunQuery, RunStatus
from dagflow.errors import StoreError
from dagflow.stores import MemoryStore, SQLiteStore
from dagflow.testing import FakeClock
from dagflow.testing._store_facts import START, kept, message, record, steps

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dagflow.protocols import ContextStore

    Step = Callable[[ContextStore], Awaitable[Any]]

IDS = st.sampled_from(["a", "b", "c"])
OWNERS = st.sampled_from(["ann", "bob"])
LEASES = st.sampled_from([0.0, 5.0, 60.0])
STATUSES = st.sampled_from(list(RunStatus))
TIMES = st.sampled_from([None, START, START.replace(year=2029)])


@st.composite
def creations(draw: st.DrawFn) -> Step:
    run_id, owner, lease = draw(IDS), draw(st.none() | OWNERS), draw(LEASES)
    version = draw(st.integers(1, 3))
    facts = {"workflow": draw(IDS), "status": draw(STATUSES), "priority": draw(st.integers(0, 2)), "owner": owner}
    run = record(run_id, version, epoch=0 if owner is None else 1, parent=draw(st.none() | IDS), **facts)
    return lambda store: store.create(run, steps(1, version, run_id=run_id), lease=lease)


@st.composite
def appends(draw: st.DrawFn) -> Step:
    run_id, ahead, owner, stale = draw(IDS), draw(st.integers(0, 1)), draw(OWNERS), draw(st.integers(0, 1))
    count, facts = draw(st.integers(1, 3)), dict[str, Any](status=draw(STATUSES), wake_at=draw(TIMES))
    facts.update(received=draw(st.none() | st.integers(0, 3)), release=draw(st.booleans()))

    async def append(store: ContextStore) -> None:
        run, _ = await store.read(run_id)
        claim = Claim(run_id, owner, run.epoch - stale)
        version = run.version + ahead
        events = steps(version + 1, version + count, run_id=run_id)
        await store.append(events, claim=claim, version=version, **facts)

    return append


@st.composite
def claims(draw: st.DrawFn) -> Step:
    run_id, owner, lease, dead = draw(IDS), draw(OWNERS), draw(LEASES), draw(st.none() | OWNERS)
    return lambda store: store.claim(run_id, owner=owner, lease=lease, dead_owner=dead)


@st.composite
def renewals(draw: st.DrawFn) -> Step:
    mine = [Claim(draw(IDS), draw(OWNERS), draw(st.integers(1, 3))) for _ in range(draw(st.integers(0, 3)))]
    lease = draw(LEASES)
    if draw(st.booleans()):
        return lambda store: store.renew(mine, lease=lease)
    return lambda store: store.release(mine)


@st.composite
def messages(draw: st.DrawFn) -> Step:
    sent = message(draw(IDS), key=draw(st.none() | IDS), data=draw(st.none() | st.just({"x": [1]})))
    return lambda store: store.send(sent)


@st.composite
def deletions(draw: st.DrawFn) -> Step:
    run_id = draw(IDS)
    return lambda store: store.delete(run_id)


@st.composite
def questions(draw: st.DrawFn) -> Step:
    run_id, after = draw(IDS), draw(st.integers(0, 4))
    query = RunQuery(
        workflow=draw(st.none() | IDS),
        statuses=draw(st.frozensets(STATUSES, max_size=3)),
        parent=draw(st.none() | IDS),
        limit=draw(st.integers(1, 4)),
        claimable=draw(st.booleans()),
    )
    page = attrs.evolve(query, claimable=False, after=run_id)
    calls: list[Step] = [
        lambda store: store.read(run_id, after=after),
        lambda store: store.find(query),
        lambda store: store.find(page),
        lambda store: store.receive({"a": after, "b": 0, "c": 1}),
    ]
    return draw(st.sampled_from(calls))


STEPS = st.one_of(creations(), appends(), appends(), claims(), renewals(), messages(), deletions(), questions())
PASSING = st.sampled_from([0.0, 0.0, 1.0, 30.0])


async def answer(store: ContextStore, step: Step) -> Any:
    """Return what a store makes of a step: its result, or its error with all facts."""
    try:
        return await step(store)
    except StoreError as error:
        return type(error), attrs.asdict(error) or error.args  # type: ignore[arg-type]


async def everything(store: ContextStore) -> Any:
    """Return all that a store holds."""
    runs = await store.find(RunQuery())
    return [await store.read(run.run_id) for run in runs], await store.receive({"a": 0, "b": 0, "c": 0})


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(st.tuples(PASSING, STEPS), min_size=1, max_size=40))
def test_the_stores_agree_on_everything(script: list[tuple[float, Step]]) -> None:
    async def play(folder: str) -> None:
        clock = FakeClock(START)
        memory = MemoryStore(clock=clock)
        async with SQLiteStore(Path(folder) / "runs.db", clock=clock) as sqlite:
            for seconds, step in script:
                clock.advance(seconds)
                assert await answer(sqlite, step) == await answer(memory, step)
            assert await everything(sqlite) == await everything(memory)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(folder))


async def test_the_answers_that_are_compared_are_not_empty() -> None:
    store = MemoryStore()

    created = await answer(store, lambda one: kept(one, "a"))
    refused = await answer(store, lambda one: kept(one, "a"))

    assert created == (await store.read("a"))[0]
    assert refused[1]["run_id"] == "a"
