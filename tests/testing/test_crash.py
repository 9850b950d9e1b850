"""Crashes that tests bring about at chosen moments."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import dagflow.testing
from dagflow._events import RunQuery, RunStatus
from dagflow.protocols import ContextStore
from dagflow.stores import MemoryStore, SQLiteStore
from dagflow.testing import ContextStoreSuite, Crash, CrashAfter, CrashPoints
from dagflow.testing._store_facts import LONG, claimed, kept, message, steps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dagflow.protocols import Clock


class TestAStoreThatDoesNotCrash(ContextStoreSuite):
    @pytest.fixture
    async def store(self, clock: Clock) -> AsyncIterator[CrashAfter]:
        async with CrashAfter(MemoryStore(clock=clock), 10**9) as store:
            yield store


async def write(store: ContextStore) -> None:
    """Make six writes of all kinds, and a renewal."""
    claim = await claimed(store)
    await store.append(steps(2, 2), claim=claim, version=1, status=RunStatus.RUNNING)
    await store.renew([claim], lease=LONG)
    await store.send(message())
    await store.release([claim])
    await store.claim("run", owner="bob", lease=0)
    await store.delete("run")


@pytest.mark.parametrize("acknowledged", [True, False])
@pytest.mark.parametrize("writes", range(6))
async def test_a_store_crashes_after_so_many_writes(writes: int, acknowledged: bool) -> None:
    store = CrashAfter(MemoryStore(), writes, acknowledged=acknowledged)

    with pytest.raises(Crash):
        await write(store)

    assert (store.writes, store.is_dead) == (writes, True)


async def test_nothing_crashes_before_it_is_due() -> None:
    store = CrashAfter(MemoryStore(), 6)

    await write(store)

    assert (store.writes, store.is_dead) == (6, False)


@pytest.mark.parametrize(("acknowledged", "heard"), [(True, [1, 2]), (False, [1])])
async def test_the_last_write_is_kept_whether_its_writer_hears_of_it_or_not(
    acknowledged: bool, heard: list[int]
) -> None:
    memory, told = MemoryStore(), []
    store = CrashAfter(memory, 2, acknowledged=acknowledged)

    with contextlib.suppress(Crash):
        for number in (1, 2, 3):
            await kept(store, f"run{number}")
            told.append(number)

    assert told == heard
    assert [run.run_id for run in await memory.find(RunQuery())] == ["run2", "run1"]


async def test_a_dead_store_answers_nothing_but_lets_itself_be_closed() -> None:
    store = CrashAfter(MemoryStore(), 0)
    with pytest.raises(Crash):
        await kept(store)

    calls = [
        store.open(),
        store.read("run"),
        store.find(RunQuery()),
        store.receive({}),
        store.renew([], lease=1),
        store.send(message()),
    ]
    for call in calls:
        with pytest.raises(Crash):
            await call
    await store.close()


async def test_a_write_that_was_under_way_when_the_store_died_is_not_acknowledged() -> None:
    class Slow(MemoryStore):
        async def release(self, claims: object) -> None:
            await asyncio.sleep(0)

    store = CrashAfter(Slow(), 1)

    answers = await asyncio.gather(store.release([]), kept(store), return_exceptions=True)

    assert [type(answer) for answer in answers] == [Crash, Crash]


def test_a_crash_is_not_handled_as_an_error() -> None:
    assert not issubclass(Crash, Exception)
    assert isinstance(CrashAfter(MemoryStore(), 0), ContextStore)


async def test_points_are_counted_and_named(tmp_path: Path) -> None:
    points = CrashPoints()

    async with SQLiteStore(tmp_path / "runs.db", at=points) as store:
        opening = points.count
        await kept(store)

    assert points.names[opening : opening + 12] == [
        "before BEGIN",
        "after BEGIN",
        "before PRAGMA data_version",
        "after PRAGMA data_version",
        "before SELECT",
        "after SELECT",
        "before INSERT runs",
        "after INSERT runs",
        "before INSERT events",
        "after INSERT events",
        "before COMMIT",
        "after COMMIT",
    ]


async def test_a_crash_at_any_point_leaves_the_file_to_others(tmp_path: Path) -> None:
    counted = CrashPoints()
    async with SQLiteStore(tmp_path / "counted.db", at=counted) as store:
        opening = counted.count
        await kept(store)
        points = range(opening + 1, counted.count + 1)

    # It is kept, as by whoever looks into it.
    crashes: list[BaseException] = []
    for point in points:
        path = tmp_path / f"{point}.db"
        async with SQLiteStore(path, at=CrashPoints(raise_at=point)) as store:
            with pytest.raises(Crash) as crash:
                await kept(store)
            crashes.append(crash.value)
            async with SQLiteStore(path, busy_timeout=0.1) as other:
                await kept(other, "another")


async def test_an_error_of_the_test_s_own_is_raised_at_a_point(tmp_path: Path) -> None:
    error = sqlite3.DatabaseError("the disk is on fire")
    points = CrashPoints(raise_at=3, error=error)
    store = SQLiteStore(tmp_path / "runs.db", at=points)

    with pytest.raises(Exception, match="the disk is on fire") as failure:
        await store.open()

    assert failure.value.__cause__ is error


async def test_a_crash_is_raised_at_a_point(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "runs.db", at=CrashPoints(raise_at=1))

    with pytest.raises(Crash, match="at point 1"):
        await store.open()


def test_a_process_is_killed_at_a_point() -> None:
    program = (
        "from dagflow.testing import CrashPoints as C; c = C(kill_at=3)\nfor i in range(5): c(''); print(i, flush=True)"
    )

    process = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)

    assert (process.returncode, process.stdout) == (-9, "0\n1\n")


def test_the_room_for_tests_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = dagflow.testing.nothing
