"""The operations of each store, one after the other: what is shown is the time of 100 of them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

import workloads
from dagflow import EventKind, JsonCodec, RunStatus
from dagflow._events import Event, RunQuery, RunRecord
from dagflow.stores import MemoryStore, SQLiteStore
from dagflow.stores.postgres import PostgresStore

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from dagflow.protocols import ContextStore
    from timing import Timer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = 100
PAYLOAD = JsonCodec().encode({"count": 1, "ok": True})
OPENING = workloads.chain(6).workflow.compile().opening
NUMBERS = itertools.count()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(
    request: pytest.FixtureRequest, loop: asyncio.Runner, tmp_path: Path, benchmark: Any
) -> Iterator[ContextStore]:
    benchmark.group = request.node.originalname
    store = _store(request, tmp_path)
    loop.run(store.open())
    yield store
    loop.run(store.close())


def _store(request: pytest.FixtureRequest, folder: Path) -> ContextStore:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "sqlite":
        return SQLiteStore(folder / "runs.db")
    return PostgresStore(request.getfixturevalue("postgres_dsn"))


def record(number: int, owner: str | None = "bench") -> RunRecord:
    return RunRecord(f"run-{number}", "w", RunStatus.RUNNING, 1, NOW, NOW, owner=owner, epoch=int(owner is not None))


def created(run: RunRecord) -> list[Event]:
    return [Event(run.run_id, 1, EventKind.RUN_CREATED, None, 0, NOW, OPENING, PAYLOAD)]


def pair(run: RunRecord, version: int) -> list[Event]:
    """Return what a node of a chain adds: one completed, the next one started."""
    return [
        Event(run.run_id, version + 1, EventKind.NODE_COMPLETED, "n0", 1, NOW, None, PAYLOAD),
        Event(run.run_id, version + 2, EventKind.NODE_STARTED, "n1", 1, NOW),
    ]


async def new_run(store: ContextStore, owner: str | None = "bench") -> RunRecord:
    run = record(next(NUMBERS), owner)
    return await store.create(run, created(run), lease=30.0)


async def append(store: ContextStore, run: RunRecord, version: int) -> None:
    await store.append(pair(run, version), claim=run.claim, version=version, status=RunStatus.RUNNING)


async def repeat(operation: Callable[[], Awaitable[object]]) -> None:
    for _ in range(TIMES):
        await operation()


def test_create(timer: Timer, store: ContextStore) -> None:
    timer(lambda: repeat(lambda: new_run(store)))


def test_append(timer: Timer, store: ContextStore) -> None:
    run = timer.run(new_run(store))
    versions = itertools.count(1, 2)

    timer(lambda: repeat(lambda: append(store, run, next(versions))))


def test_read_1000_events(timer: Timer, store: ContextStore) -> None:
    run = timer.run(new_run(store))
    for version in range(1, 1001, 2):
        timer.run(append(store, run, version))

    timer(lambda: repeat(lambda: store.read(run.run_id)))


def test_find_100_of_1000_runs(timer: Timer, store: ContextStore) -> None:
    for _ in range(1000):
        timer.run(new_run(store))

    timer(lambda: repeat(lambda: store.find(RunQuery(workflow="w", statuses=frozenset({RunStatus.RUNNING})))))


def test_find_what_may_be_claimed_among_1000_runs(timer: Timer, store: ContextStore) -> None:
    for number in range(1000):
        timer.run(new_run(store, owner=None if number % 10 == 0 else "bench"))

    timer(lambda: repeat(lambda: store.find(RunQuery(workflow="w", claimable=True))))


def test_claim(timer: Timer, store: ContextStore) -> None:
    run = timer.run(new_run(store, owner=None))

    timer(lambda: repeat(lambda: store.claim(run.run_id, owner="bench", lease=30.0)))
