"""Stores that answer nobody and hang up on nobody: whoever wants to end ends, and nothing is lost."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import Counter
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor, Node, Workflow
from dagflow.errors import ExecutorError, StoreError, StoreUnavailableError
from dagflow.stores import SQLiteStore
from dagflow.stores.postgres import PostgresStore
from stores.test_postgres_faults import append, journal, started, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from dagflow.protocols import ContextStore
    from postgres_server import OwnServer

GRACE = 0.5
LIMIT = GRACE + 1.0 + 1.0
"""What is promised, and a second for a machine that has other things to do."""


class Place:
    """A store that can be made silent."""

    def __init__(self, make: Callable[[], ContextStore], silent: Callable[[], AbstractContextManager[None]]) -> None:
        self.make = make
        self.silent = silent


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "postgres":
        server: OwnServer = request.getfixturevalue("own_postgres_server")
        return Place(lambda: PostgresStore(server.dsn), server.silent)

    @contextmanager
    def locked() -> Iterator[None]:
        with closing(sqlite3.connect(tmp_path / "runs.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")

    return Place(lambda: SQLiteStore(tmp_path / "runs.db"), locked)


class Calls:
    """Functions of nodes, which count their calls."""

    def __init__(self) -> None:
        self.of: Counter[str] = Counter()
        self.let_go = threading.Event()
        self.may_end = asyncio.Event()

    def are_made(self, what: str) -> bool:
        """Return whether those of `begin` are under way."""
        return what == "nothing" or (self.of["step"] > 5 and (what != "stubborn" or self.of["stubborn"] == 2))

    def workflow(self) -> Workflow:
        """A chain that writes all the time."""

        async def step() -> int:
            self.of["step"] += 1
            await asyncio.sleep(0.02)
            return 1

        names = [f"n{number}" for number in range(25)]
        return Workflow("steps", [Node(name, step, names[max(i - 1, 0) : i]) for i, name in enumerate(names)])

    def stubborn(self) -> Workflow:
        """Calls that do not end when they are cancelled."""

        async def on_the_loop() -> int:
            self.of["stubborn"] += 1
            while not self.may_end.is_set():
                try:
                    await self.may_end.wait()
                except asyncio.CancelledError:
                    continue
            return 1

        def in_a_thread() -> int:
            self.of["stubborn"] += 1
            self.let_go.wait()
            return 1

        return Workflow("stubborn", [Node("loop", on_the_loop), Node("thread", in_a_thread)])


async def begin(executor: DAGExecutor, calls: Calls, what: str) -> asyncio.Task[None] | None:
    """Let the executor do something, and return what serves."""
    if what == "stubborn":
        await executor.start(calls.stubborn(), run_id="stubborn")
    if what in ("runs", "stubborn"):
        for number in range(3):
            await executor.start(calls.workflow(), run_id=f"r{number}")
    if what == "serving":
        for number in range(3):
            await executor.submit(calls.workflow(), run_id=f"r{number}")
    return asyncio.create_task(executor.serve(poll=0.05)) if what == "serving" else None


@pytest.mark.parametrize("what", ["nothing", "runs", "serving", "stubborn"])
async def test_an_executor_is_closed_a_second_after_its_grace_time(place: Place, what: str) -> None:
    calls = Calls()
    workflows = [calls.workflow(), calls.stubborn()]
    executor = DAGExecutor(place.make(), workflows=workflows, lease=1.0, grace=GRACE)
    loop = asyncio.get_running_loop()
    await executor.__aenter__()
    serving = await begin(executor, calls, what)
    while not calls.are_made(what):  # noqa: ASYNC110 - they tell nobody
        await asyncio.sleep(0.01)
    with place.silent():
        # Something is under way by now, or waits for the end of what is.
        await asyncio.sleep(0.2)

        begun = loop.time()
        if serving is not None:
            serving.cancel()
            await asyncio.wait([serving])
        await executor.__aexit__(None, None, None)

        assert loop.time() - begun < LIMIT
        calls.may_end.set()
        calls.let_go.set()
    async with DAGExecutor(place.make(), workflows=workflows) as other:
        runs = await asyncio.gather(*(other.resume(run.run_id) for run in await other.runs()))
        assert all(set(run.outputs.values()) == {1} for run in runs)


async def test_who_starts_a_run_in_silence_is_told_when_the_executor_is_closed(place: Place) -> None:
    calls = Calls()
    async with DAGExecutor(place.make(), grace=GRACE) as executor:
        with place.silent():
            starting = asyncio.create_task(executor.start(calls.workflow(), run_id="r"))
            await asyncio.sleep(0.2)
            begun = asyncio.get_running_loop().time()
            await executor.__aexit__(None, None, None)
            assert asyncio.get_running_loop().time() - begun < LIMIT
            with pytest.raises((StoreError, ExecutorError)):
                await starting
    async with DAGExecutor(place.make()) as other:
        assert set((await other.run(calls.workflow(), run_id="r")).outputs.values()) == {1}


# -- PostgreSQL ------------------------------------------------------------------------------------


async def alone(store: PostgresStore) -> list[asyncio.Task[Any]]:
    claim = await started(store, "r")
    await append(store, claim, 1)
    await append(store, claim, 2)
    return [asyncio.create_task(append(store, claim, 3))]


async def together(store: PostgresStore) -> list[asyncio.Task[Any]]:
    claims = [await started(store, run_id) for run_id in ("r", "s")]
    return [asyncio.create_task(append(store, claim, version)) for version in (1, 2) for claim in claims]


async def claiming(store: PostgresStore) -> list[asyncio.Task[Any]]:
    await started(store, "r")
    return [asyncio.create_task(store.claim("r", owner="o", lease=1.0))]


async def reading(store: PostgresStore) -> list[asyncio.Task[Any]]:
    await started(store, "r")
    # More than there are connections: some wait for one, some for a new one to be made.
    return [asyncio.create_task(store.read("r")) for _ in range(7)]


@pytest.mark.parametrize("work", [alone, together, claiming, reading])
async def test_closing_that_is_cut_off_cuts_off_what_is_under_way(own_postgres_server: OwnServer, work: Any) -> None:
    store = PostgresStore(own_postgres_server.dsn)
    await store.open()
    under_way = await work(store)
    with own_postgres_server.silent():
        # None of them has begun before.
        await asyncio.sleep(0.1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await store.close()

        assert all(task.done() for task in under_way)
        ends = await asyncio.gather(*under_way, return_exceptions=True)
    assert {type(end) for end in ends} <= {StoreUnavailableError, type(None)}
    async with PostgresStore(own_postgres_server.dsn) as other:
        events = await journal(other, "r")
    assert events == whole("r", len(events))


async def test_closing_gives_what_is_under_way_five_seconds(own_postgres_server: OwnServer) -> None:
    store = PostgresStore(own_postgres_server.dsn)
    await store.open()
    under_way = [*await together(store), *(asyncio.create_task(store.read("r")) for _ in range(2))]
    begun = asyncio.get_running_loop().time()
    with own_postgres_server.silent():
        await asyncio.sleep(0)
        await store.close()
        took = asyncio.get_running_loop().time() - begun

    assert 4.9 < took < 7.0
    ends = await asyncio.gather(*under_way, return_exceptions=True)
    assert {type(end) for end in ends} == {StoreUnavailableError}


async def test_who_no_longer_asks_does_not_wait_for_the_server_to_notice(own_postgres_server: OwnServer) -> None:
    async with PostgresStore(own_postgres_server.dsn) as store:
        await started(store, "r")
        with own_postgres_server.silent():
            reading = asyncio.create_task(store.read("r"))
            await asyncio.sleep(0.1)
            reading.cancel()
            await asyncio.wait([reading], timeout=1.0)
            assert reading.cancelled()
        assert await journal(store, "r") == whole("r", 1)
