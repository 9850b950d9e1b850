"""Writes to a SQLite file share transactions, come to their end, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import attrs
import pytest

from dagflow._answers import Answer
from dagflow._events import RunQuery, RunStatus
from dagflow.errors import LeaseLostError, StoreRefusedError
from dagflow.stores import SQLiteStore, _sqlite_writer
from dagflow.stores._sqlite_calls import Call
from dagflow.stores._sqlite_writes import Delete
from dagflow.testing._store_facts import LONG, claimed, event, kept, message, numbers, record, steps
from stores.sqlite_faults import Faults, Gate, quiet, sqlite_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from dagflow._events import Claim
    from dagflow.stores._sqlite_writes import Write

RUNNING = RunStatus.RUNNING


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture(params=["loop", "thread"])
def committer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let groups be committed on the loop's thread, or by the writer's."""
    monkeypatch.setattr(_sqlite_writer, "_QUICK", 1e9 if request.param == "loop" else 0.0)
    return str(request.param)


@pytest.fixture
def by_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_writer, "_QUICK", 0.0)


def threads_of(path: Path) -> list[threading.Thread]:
    """Return the threads of the stores of a file."""
    return [thread for thread in threading.enumerate() if str(path) in thread.name]


async def grow(store: SQLiteStore, claim: Claim, count: int) -> None:
    for version in range(1, count + 1):
        events = steps(version + 1, version + 1, run_id=claim.run_id)
        await store.append(events, claim=claim, version=version, status=RUNNING)


@pytest.mark.usefixtures("committer")
async def test_a_chain_of_appends_is_one_commit_each(path: Path) -> None:
    async with SQLiteStore(path) as store:
        claim = await claimed(store)
        before = store.commits

        await grow(store, claim, 20)

        assert store.commits - before == 20


@pytest.mark.usefixtures("committer")
async def test_an_append_can_be_a_task_that_is_cancelled_and_comes_to_its_end(path: Path) -> None:
    async with SQLiteStore(path) as store:
        claim = await claimed(store)
        task = asyncio.create_task(store.append(steps(2, 2), claim=claim, version=1, status=RUNNING))
        lost = asyncio.create_task(store.append(steps(8, 8), claim=claim, version=7, status=RUNNING))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task, lost])

        assert isinstance(lost.exception(), LeaseLostError)
        assert numbers((await store.read("run"))[1]) == [1, 2]


@pytest.mark.usefixtures("committer")
async def test_an_append_tells_one_caller_where_it_is_answered(path: Path) -> None:
    told: list[tuple[object, object]] = []
    async with SQLiteStore(path) as store:
        claim = await claimed(store)
        kept_one = store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)
        refused = store.append(steps(8, 8), claim=claim, version=7, status=RUNNING)
        assert isinstance(kept_one, Answer)
        assert isinstance(refused, Answer)
        kept_one.then(lambda *answer: told.append(answer))
        refused.then(lambda *answer: told.append(answer))
        with pytest.raises(LeaseLostError) as caught:
            await refused
        await kept_one

    assert sorted(told, key=lambda answer: answer[0] is refused) == [(kept_one, None), (refused, caught.value)]


@pytest.mark.parametrize("runs", [3, 40])
@pytest.mark.usefixtures("committer")
async def test_what_one_turn_of_the_loop_asks_for_is_one_commit(path: Path, runs: int) -> None:
    async with SQLiteStore(path) as store:
        await asyncio.gather(*(kept(store, f"run{number}") for number in range(runs)))

        assert store.commits == 1
        assert len(await store.find(RunQuery())) == runs


async def test_what_comes_in_during_a_commit_is_the_next_commit(path: Path, by_thread: None) -> None:
    gate = Gate("before COMMIT")
    async with SQLiteStore(path, at=gate) as store:
        gate.shut()
        first = asyncio.create_task(kept(store, "first"))
        await asyncio.to_thread(gate.reached.wait)
        others = [asyncio.create_task(kept(store, f"other{number}")) for number in range(30)]
        for _ in range(5):
            await asyncio.sleep(0)
            others.append(asyncio.create_task(kept(store, f"later{len(others)}")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

        gate.open()
        await asyncio.gather(first, *others)

        assert store.commits == 2


async def test_a_group_has_a_limit(path: Path, by_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_writer, "_GROUP", 4)
    gate = Gate("before COMMIT")
    async with SQLiteStore(path, at=gate) as store:
        gate.shut()
        first = asyncio.create_task(kept(store, "first"))
        await asyncio.to_thread(gate.reached.wait)
        others = []
        for number in range(8):
            others.append(asyncio.create_task(kept(store, f"run{number}")))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        gate.open()
        await asyncio.gather(first, *others)

        assert store.commits == 3


async def test_refused_writes_are_no_commit(path: Path, committer: str) -> None:
    async with SQLiteStore(path) as store:
        claim = await claimed(store)
        before = store.commits

        with pytest.raises(LeaseLostError):
            await store.append(steps(2, 2), claim=attrs.evolve(claim, epoch=9), version=1, status=RUNNING)

        assert store.commits == before


async def test_a_quick_disk_is_written_to_on_the_thread_of_the_loop(path: Path) -> None:
    threads = set()
    async with SQLiteStore(path, at=lambda _: threads.add(threading.get_ident())) as store:
        await quiet(store)
        threads.clear()

        await kept(store)

    assert threads == {threading.get_ident()}


async def test_a_write_that_is_probably_alone_does_not_wait_for_the_end_of_the_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_writer, "_QUICK", 1e9)
    turns: list[None] = []
    async with SQLiteStore(path) as store:
        claim = await claimed(store)
        await quiet(store)
        asyncio.get_running_loop().call_soon(turns.append, None)

        await grow(store, claim, 1)

        assert not turns


async def test_a_write_that_was_not_alone_is_followed_by_one_group_for_each_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_writer, "_QUICK", 1e9)
    async with SQLiteStore(path) as store:
        await kept(store, "alone")
        commits = [store.commits]
        for turn in range(3):
            await asyncio.gather(*(kept(store, f"run{turn}{number}") for number in range(9)))
            commits.append(store.commits)

    assert commits == [1, 3, 4, 5]


async def test_a_slow_disk_does_not_keep_the_loop(path: Path) -> None:
    threads = set()
    async with SQLiteStore(path, at=lambda _: threads.add(threading.get_ident())) as store:
        threads.clear()
        store._opened.database.pace = 1.0

        await kept(store)

    assert threads.isdisjoint({threading.get_ident()})


async def test_a_large_write_does_not_keep_the_loop(path: Path) -> None:
    threads = set()
    async with SQLiteStore(path, at=lambda _: threads.add(threading.get_ident())) as store:
        claim = await claimed(store)
        await quiet(store)
        threads.clear()

        await store.append(steps(2, 4000), claim=claim, version=1, status=RUNNING)

    assert threads.isdisjoint({threading.get_ident()})


async def test_a_slow_commit_is_noticed(path: Path) -> None:
    def slow(point: str) -> None:
        if point == "before COMMIT":
            time.sleep(0.02)

    async with SQLiteStore(path, at=slow) as store:
        await kept(store)

        assert store._opened.database.pace > 0.001


async def test_a_claim_of_another_store_on_the_file_can_be_used(path: Path) -> None:
    async with SQLiteStore(path) as store, SQLiteStore(path) as other:
        old = await claimed(store, lease=0)
        await other.delete("run")
        new = await claimed(other, owner="bob")

        await store.append(steps(2, 2), claim=new, version=1, status=RUNNING)
        with pytest.raises(LeaseLostError):
            await store.append(steps(3, 3), claim=old, version=2, status=RUNNING)
        _, events = await other.read("run")

    assert numbers(events) == [1, 2]


@pytest.mark.parametrize("way", ["append", "renew", "release", "end", "claim and end", "delete"])
async def test_a_run_that_is_no_longer_owned_is_forgotten(path: Path, way: str) -> None:
    async with SQLiteStore(path) as store, SQLiteStore(path) as other:
        claim = await claimed(store)
        if way in ("append", "renew"):
            await other.claim("run", owner="bob", lease=LONG, dead_owner=claim.owner)
        if way == "append":
            with pytest.raises(LeaseLostError):
                await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)
        elif way == "renew":
            assert await store.renew([claim], lease=LONG) == [claim]
        elif "end" in way:
            if "claim" in way:
                claim = (await store.claim("run", owner="ann", lease=LONG)).claim
            await store.append(steps(2, 2), claim=claim, version=1, status=RunStatus.COMPLETED, release=True)
        else:
            await store.release([claim])
        if way == "delete":
            await store.delete("run")

        desk = store._opened.database._desk
        assert desk is not None
        assert desk.held == {}


async def test_most_appends_touch_nothing_but_events(path: Path) -> None:
    async with SQLiteStore(path) as store:
        claim = await claimed(store)
        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING, received=7)
        desk = store._opened.database._desk
        assert desk is not None
        before = desk.connection.total_changes

        await store.append(steps(3, 5), claim=claim, version=2, status=RUNNING, received=7)
        await store.append(steps(6, 6), claim=claim, version=5, status=RUNNING)

        assert desk.connection.total_changes - before == 4
        record, _ = await store.read("run")
    assert (record.version, record.received, record.updated_at) == (6, 7, steps(6, 6)[0].at)


@pytest.mark.usefixtures("committer")
async def test_appends_of_one_run_in_a_group_follow_each_other(path: Path) -> None:
    async with SQLiteStore(path) as store:
        claims = [await claimed(store, f"run{number}") for number in range(3)]
        other, given_up, ended = claims

        async def append(claim: Claim, version: int, status: RunStatus = RUNNING, *, release: bool = False) -> None:
            events = steps(version, version, run_id=claim.run_id)
            await store.append(events, claim=claim, version=version - 1, status=status, release=release)

        answers = await asyncio.gather(
            append(other, 2, RunStatus.COMPLETED, release=True),
            append(given_up, 2, release=True),
            append(given_up, 3),
            append(ended, 2, RunStatus.WAITING),
            append(ended, 3, RunStatus.COMPLETED, release=True),
            return_exceptions=True,
        )
        records = [(await store.read(claim.run_id))[0] for claim in claims]

    assert [type(answer) for answer in answers if answer is not None] == [LeaseLostError]
    assert [(record.status, record.version, record.owner) for record in records] == [
        (RunStatus.COMPLETED, 2, None),
        (RUNNING, 2, None),
        (RunStatus.COMPLETED, 3, None),
    ]


async def test_a_file_that_was_copied_table_by_table_numbers_its_runs_on(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await kept(store, "old")
    with contextlib.closing(sqlite3.connect(path)) as copy, copy:
        copy.execute("DELETE FROM sqlite_sequence")

    async with SQLiteStore(path) as store:
        await kept(store, "new")
        assert [run.run_id for run in await store.find(RunQuery())] == ["new", "old"]


async def test_a_group_is_written_together_although_another_store_writes_as_well(path: Path) -> None:
    points: list[str] = []
    async with SQLiteStore(path, at=points.append) as store, SQLiteStore(path) as other:
        claims = await asyncio.gather(*(claimed(store, f"run{number}") for number in range(5)))
        await kept(other, "another")
        points.clear()
        await asyncio.gather(
            *(
                store.append(steps(2, 2, run_id=claim.run_id), claim=claim, version=1, status=RUNNING)
                for claim in claims
            )
        )

    assert points.count("before INSERT events") == 1


async def test_stores_on_the_file_number_their_runs_together(path: Path) -> None:
    async with SQLiteStore(path) as store, SQLiteStore(path) as other:
        for number in range(6):
            await kept((store, other)[number % 2], f"run{number}")

        assert [run.run_id for run in await store.find(RunQuery())] == [f"run{number}" for number in range(5, -1, -1)]


async def test_what_another_store_on_the_file_has_written_is_seen_by_the_next_group(path: Path) -> None:
    async with SQLiteStore(path) as store, SQLiteStore(path) as other:
        claims = [await claimed(store, f"run{number}") for number in range(3)]
        taken, lost = claims[0], claims[1]
        bob = (await other.claim(taken.run_id, owner="bob", lease=LONG, dead_owner=taken.owner)).claim
        await other.append(steps(2, 2, run_id=taken.run_id), claim=bob, version=1, status=RUNNING)
        # The same claim, as a process might have it that was thought to be dead.
        await other.append(steps(2, 2, run_id=lost.run_id), claim=lost, version=1, status=RUNNING)

        answers = await asyncio.gather(
            *(
                store.append(steps(2, 2, run_id=claim.run_id), claim=claim, version=1, status=RUNNING)
                for claim in claims
            ),
            return_exceptions=True,
        )
        versions = [(await store.read(claim.run_id))[0].version for claim in claims]

    assert [type(answer) for answer in answers] == [LeaseLostError, LeaseLostError, type(None)]
    assert versions == [2, 2, 2]


BAD = {
    "text": [event(2), event(3, node="a lone surrogate \udcff")],
    "number": [attrs.evolve(event(2), attempt=2**63), event(3)],
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.usefixtures("committer")
async def test_a_write_that_cannot_be_kept_is_refused_alone(path: Path, bad: str) -> None:
    async with SQLiteStore(path) as store:
        claims = [await claimed(store, f"run{number}") for number in range(4)]
        writes = [steps(2, 3, run_id=claim.run_id) for claim in claims]
        writes[1] = BAD[bad]

        answers = await asyncio.gather(
            *(
                store.append(events, claim=claim, version=1, status=RUNNING)
                for events, claim in zip(writes, claims, strict=True)
            ),
            return_exceptions=True,
        )
        versions = [(await store.read(claim.run_id))[0].version for claim in claims]

    assert [type(answer) for answer in answers] == [type(None), StoreRefusedError, type(None), type(None)]
    assert versions == [3, 1, 3, 3]


@pytest.mark.usefixtures("committer")
async def test_a_value_that_is_too_large_for_sqlite_is_refused_alone(path: Path) -> None:
    faults = Faults()
    async with SQLiteStore(path, at=faults) as store:
        first, second = await claimed(store, "first"), await claimed(store, "second")
        # Once with the whole group, and once again by itself.
        faults.add("before INSERT events", sqlite3.SQLITE_TOOBIG, times=2)

        answers = await asyncio.gather(grow(store, first, 1), grow(store, second, 1), return_exceptions=True)

        assert isinstance(answers[0], StoreRefusedError)
        assert "larger than SQLite can keep" in str(answers[0])
        assert answers[1] is None
        assert (await store.read("first"))[0].version == 1


@pytest.mark.usefixtures("committer")
async def test_events_whose_numbers_are_not_theirs_are_refused_alone(path: Path) -> None:
    async with SQLiteStore(path) as store:
        claim = await claimed(store)

        with pytest.raises(Exception, match="UNIQUE"):
            await store.append([event(3), event(3)], claim=claim, version=1, status=RUNNING)
        with pytest.raises(Exception, match="NOT NULL"):
            await store.create(record("other", workflow=None), steps(1, 1, run_id="other"))
        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)
        read, events = await store.read("run")

    assert (read.version, numbers(events)) == (2, [1, 2])


async def test_data_that_is_no_json_is_the_caller_s_mistake(path: Path) -> None:
    async with SQLiteStore(path) as store:
        with pytest.raises(TypeError):
            await store.create(record(), [event(1, data={"x": object()})])
        with pytest.raises(ValueError, match="JSON"):
            await store.create(record(), [event(1, data={"x": float("nan")})])

        assert await store.find(RunQuery()) == []


# -- cancellation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cancels", [1, 2, 5])
@pytest.mark.parametrize("point", ["after BEGIN", "before INSERT events", "before COMMIT", "after COMMIT"])
async def test_a_caller_that_is_cancelled_in_mid_write_learns_of_it_when_the_write_has_ended(
    path: Path, by_thread: None, point: str, cancels: int
) -> None:
    gate = Gate(point)
    async with SQLiteStore(path, at=gate) as store:
        claim = await claimed(store)
        gate.shut()
        task = asyncio.create_task(store.append(steps(2, 9), claim=claim, version=1, status=RUNNING))
        await asyncio.to_thread(gate.reached.wait)

        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0.005)
        ended_early = task.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        read, _ = await store.read("run")

    assert not ended_early
    assert read.version == 9


async def test_a_timeout_around_a_write_waits_for_the_write(path: Path, by_thread: None) -> None:
    gate = Gate("before COMMIT")
    async with SQLiteStore(path, at=gate) as store:
        gate.shut()
        asyncio.get_running_loop().call_later(0.05, gate.open)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await kept(store)

        assert len(await store.find(RunQuery())) == 1


async def test_a_refusal_of_a_caller_that_was_cancelled_is_not_reported_as_never_retrieved(
    path: Path, by_thread: None, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate("before COMMIT")
    async with SQLiteStore(path, at=gate) as store:
        await kept(store)
        gate.shut()
        task = asyncio.create_task(kept(store))
        await asyncio.to_thread(gate.reached.wait)

        task.cancel()
        await asyncio.sleep(0)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert caplog.records == []


# -- opening and closing --------------------------------------------------------------------------


async def test_a_store_is_used_between_opening_and_closing_only(path: Path) -> None:
    store = SQLiteStore(path)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: kept(store),
        lambda: store.read("run"),
        lambda: store.find(RunQuery()),
        lambda: store.receive({"run": 0}),
        lambda: store.send(message()),
        lambda: store.delete("run"),
        lambda: store.claim("run", owner="ann", lease=LONG),
    ]

    for call in calls:
        with pytest.raises(StoreRefusedError, match=r"not open: await open\(\)"):
            await call()
    async with store:
        await kept(store)
    for call in calls:
        with pytest.raises(StoreRefusedError, match=r"not open: await open\(\)"):
            await call()
    await store.close()


async def test_closing_finishes_what_has_been_asked_for(path: Path, committer: str) -> None:
    store = SQLiteStore(path)
    await store.open()
    tasks = [asyncio.create_task(kept(store, f"run{number}")) for number in range(30)]
    await asyncio.sleep(0)

    await store.close()
    await asyncio.gather(*tasks)

    async with store:
        assert len(await store.find(RunQuery(limit=100))) == 30
    assert store.commits == 1


async def test_closing_finishes_what_the_thread_has_got(path: Path, by_thread: None) -> None:
    gate = Gate("before COMMIT")
    store = SQLiteStore(path, at=gate)
    await store.open()
    gate.shut()
    tasks = [asyncio.create_task(kept(store, "first"))]
    await asyncio.to_thread(gate.reached.wait)
    tasks += [asyncio.create_task(kept(store, f"run{number}")) for number in range(5)]
    await asyncio.sleep(0)

    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0.01)
    gate.open()
    await closing
    await asyncio.gather(*tasks)

    async with store:
        assert len(await store.find(RunQuery())) == 6


async def test_closing_that_is_cancelled_comes_to_its_end(path: Path, by_thread: None) -> None:
    gate = Gate("before COMMIT")
    store = SQLiteStore(path, at=gate)
    await store.open()
    gate.shut()
    write = asyncio.create_task(kept(store))
    await asyncio.to_thread(gate.reached.wait)

    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0.01)
    closing.cancel()
    await asyncio.sleep(0.01)
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await write

    assert not threads_of(path)
    assert not path.with_name("runs.db-wal").exists()


async def test_opening_that_is_cancelled_leaves_nothing_open(path: Path) -> None:
    gate = Gate("before COMMIT")
    gate.shut()
    store = SQLiteStore(path, at=gate)
    opening = asyncio.create_task(store.open())
    await asyncio.to_thread(gate.reached.wait)

    opening.cancel()
    await asyncio.sleep(0)
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await opening

    assert not threads_of(path)
    async with store:
        await kept(store)


async def test_writes_to_a_store_that_cannot_be_opened_are_told_why(path: Path) -> None:
    reached, go = threading.Event(), threading.Event()

    def at(point: str) -> None:
        if point == "before PRAGMA journal_mode":
            reached.set()
            go.wait(60)
            raise sqlite_error(sqlite3.SQLITE_CANTOPEN)

    store = SQLiteStore(path, at=at)
    calls = [asyncio.create_task(call) for call in (store.open(), kept(store), store.open())]
    await asyncio.to_thread(reached.wait)
    go.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(answer) for answer in answers] == [StoreRefusedError] * 3
    assert all("cannot be written to" in str(answer) for answer in answers)


async def test_whoever_comes_when_a_store_has_just_been_closed_is_told(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await kept(store)
        session = store._opened

    with pytest.raises(StoreRefusedError, match="not open"):
        await session.writer.write(Delete("run"))
    with pytest.raises(StoreRefusedError, match="not open"):
        await session.writer.opened()
    with pytest.raises(StoreRefusedError, match="not open"):
        await session.reader.call(lambda connection: connection)
    await session.close()


async def test_a_group_that_meets_a_closed_database_is_told(path: Path) -> None:
    async with SQLiteStore(path) as store:
        database = store._opened.database
    call: Call[Write] = Call(Delete("run"), asyncio.get_running_loop())

    database.commit([call], patience=1)

    assert isinstance(call.error, StoreRefusedError)


async def test_a_store_is_closed_by_the_last_of_those_that_opened_it(path: Path) -> None:
    store = SQLiteStore(path)
    async with store:
        async with store:
            await kept(store)
        await kept(store, "second")

    with pytest.raises(StoreRefusedError):
        await kept(store, "third")


async def test_a_store_may_be_opened_again_while_it_is_being_closed(path: Path) -> None:
    store = SQLiteStore(path)
    await store.open()
    await kept(store)

    await asyncio.gather(store.close(), store.open())
    found = await store.find(RunQuery())
    await store.close()

    assert len(found) == 1
    assert store.commits == 1


def test_loops_of_several_threads_may_share_a_store(path: Path) -> None:
    store = SQLiteStore(path)
    results = []

    async def use(number: int) -> None:
        async with store:
            claim = await claimed(store, f"run{number}")
            await grow(store, claim, 15)
            results.append((await store.read(f"run{number}"))[0].version)

    threads = [threading.Thread(target=asyncio.run, args=(use(number),)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [16] * 6
    assert store._session is None


def test_writes_of_a_loop_that_was_closed_are_kept_and_harm_nobody(path: Path) -> None:
    store = SQLiteStore(path)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(store.open())
        # Its turn never ends, because the loop stops in it.
        write = kept(store)
        loop.call_soon(loop.stop)
        task = loop.create_task(write)
        loop.run_forever()
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    async def finish() -> int:
        await store.close()
        async with store:
            return len(await store.find(RunQuery()))

    assert asyncio.run(finish()) == 1


def test_an_answer_to_a_loop_that_was_closed_is_dropped(path: Path, by_thread: None) -> None:
    gate = Gate("before COMMIT")
    store = SQLiteStore(path, at=gate)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(store.open())
        gate.shut()
        task = loop.create_task(kept(store))
        loop.run_until_complete(asyncio.sleep(0))
        loop.run_until_complete(asyncio.sleep(0))
        gate.reached.wait()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    gate.open()

    async def finish() -> int:
        async with store:
            found = await store.find(RunQuery())
        await store.close()
        return len(found)

    assert asyncio.run(finish()) == 1


FORGETS = """
import asyncio, sys
from dagflow.stores import SQLiteStore
from dagflow.testing._store_facts import kept

store = SQLiteStore(sys.argv[1])

async def main():
    await store.open()
    await kept(store)
    await store.read("run")

asyncio.run(main())
print("done", flush=True)
"""


def test_a_store_that_was_not_closed_does_not_keep_the_interpreter(path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-X", "dev", "-c", FORGETS, str(path)], check=True, capture_output=True, text=True, timeout=60
    )

    assert process.stdout == "done\n"


async def test_a_store_that_was_not_closed_warns_and_lets_its_threads_end(path: Path) -> None:
    store: SQLiteStore | None = SQLiteStore(path)
    assert store is not None
    await store.open()
    await kept(store)
    threads = threads_of(path)

    with pytest.warns(ResourceWarning, match="was not closed"):
        store = None
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)

    assert len(threads) == 2
    assert not any(thread.is_alive() for thread in threads)


FORKS = """
import asyncio, os, sys
from dagflow._events import RunQuery
from dagflow.errors import StoreRefusedError
from dagflow.stores import SQLiteStore
from dagflow.testing._store_facts import kept

path = sys.argv[1]

async def refused(call):
    try:
        await call
    except StoreRefusedError as exc:
        return str(exc)
    return "not refused"

async def child(store):
    print(await refused(kept(store, "child")))
    print(await refused(store.find(RunQuery())))
    await store.close()
    print(await refused(SQLiteStore(path).open()))
    async with SQLiteStore(path + "2") as own:
        await kept(own, "child")
        print(len(await own.find(RunQuery())))
    sys.stdout.flush()

async def main():
    async with SQLiteStore(path) as store:
        await kept(store)
        pid = os.fork()
        if not pid:
            try:
                asyncio._set_running_loop(None)
                asyncio.run(child(store))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        await kept(store, "parent")
        print(len(await store.find(RunQuery())))

asyncio.run(main())
"""


def test_a_forked_child_is_refused_and_may_use_another_file(path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", FORKS, str(path)], check=True, capture_output=True, text=True, timeout=60
    )

    lines = process.stdout.splitlines()
    assert "before this process was forked" in lines[0]
    assert "before this process was forked" in lines[1]
    assert "when this process was forked" in lines[2]
    assert lines[3:] == ["1", "2"]


async def test_a_process_that_took_over_a_store_by_forking_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SQLiteStore(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)

            with pytest.raises(StoreRefusedError, match="before this process was forked"):
                await kept(store)
            with pytest.raises(StoreRefusedError, match="when this process was forked"):
                await SQLiteStore(path).open()
            await store.close()

        await kept(store)


async def test_a_read_while_a_store_is_being_opened_is_refused(path: Path) -> None:
    gate = Gate("before COMMIT")
    gate.shut()
    store = SQLiteStore(path, at=gate)
    opening = asyncio.create_task(store.open())
    await asyncio.to_thread(gate.reached.wait)

    with pytest.raises(StoreRefusedError, match="not open"):
        await store.find(RunQuery())
    gate.open()
    await opening

    assert await store.find(RunQuery()) == []
    await store.close()


# -- the log --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("committer")
async def test_the_log_is_copied_back_when_it_has_become_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_writer, "_LOG_BYTES", 50_000)
    monkeypatch.setattr(_sqlite_writer, "_IDLE", 60.0)
    faults = Faults()
    async with SQLiteStore(path, at=faults) as store:
        claim = await claimed(store)

        await grow(store, claim, 30)
        # What comes after it is done after it.
        await store.open()
        await store.close()

        assert "after PRAGMA wal_checkpoint" in faults.passed


@pytest.mark.usefixtures("committer")
async def test_the_log_is_copied_back_when_nobody_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_writer, "_IDLE", 0.01)
    copied = asyncio.Event()
    loop = asyncio.get_running_loop()

    def at(point: str) -> None:
        if point == "after PRAGMA wal_checkpoint":
            loop.call_soon_threadsafe(copied.set)

    async with SQLiteStore(path, at=at) as store:
        await kept(store)
        await asyncio.wait_for(copied.wait(), timeout=20)


async def test_the_log_is_left_alone_while_writes_come_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_writer, "_IDLE", 0.002)
    # The last write is always one of this moment.
    monkeypatch.setattr(_sqlite_writer, "time", SimpleNamespace(monotonic=lambda: 0.0))
    faults = Faults()
    async with SQLiteStore(path, at=faults) as store:
        await kept(store)
        await asyncio.sleep(0.05)

        assert "before PRAGMA wal_checkpoint" not in faults.passed


async def test_a_log_that_cannot_be_copied_back_is_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_sqlite_writer, "_LOG_BYTES", 0)
    faults = Faults()
    faults.add("before PRAGMA wal_checkpoint", sqlite3.SQLITE_IOERR)
    async with SQLiteStore(path, at=faults) as store:
        store._opened.database.pace = 1.0
        await kept(store)
        await store.open()
        await store.close()

        await kept(store, "second")
        assert len(await store.find(RunQuery())) == 2

    assert [entry.message for entry in caplog.records] == ["a store's log could not be copied back"]


async def test_a_crash_while_the_log_is_copied_back_stops_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_writer, "_LOG_BYTES", 0)
    faults = Faults()
    faults.add("before PRAGMA wal_checkpoint", KeyboardInterrupt)
    async with SQLiteStore(path, at=faults) as store:
        store._opened.database.pace = 1.0
        await kept(store)

        await kept(store, "second")

        assert len(await store.find(RunQuery())) == 2


async def test_the_log_is_left_to_whoever_writes(path: Path) -> None:
    faults = Faults()
    async with SQLiteStore(path, busy_timeout=0.01, at=faults) as store:
        await kept(store)
        session = store._opened
        lock = session.database._lock
        assert lock.acquire(1)
        try:
            session.database.checkpoint(patience=0)
            # Beside a write of another connection it could damage the file.
            assert "before PRAGMA wal_checkpoint" not in faults.passed
        finally:
            lock.release()

        await kept(store, "second")
        assert len(await store.find(RunQuery())) == 2


async def test_appends_are_durable_before_they_are_acknowledged(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await kept(store)

        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM events").fetchone() == (1,)
