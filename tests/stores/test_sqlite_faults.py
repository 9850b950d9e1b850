"""Whatever fails below a SQLite store, each write is kept once or not at all, and its caller is told which."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dagflow._events import RunQuery, RunRecord, RunStatus
from dagflow.errors import (
    LeaseLostError,
    RunExistsError,
    RunNotFoundError,
    StoreFormatError,
    StoreRefusedError,
    StoreUnavailableError,
)
from dagflow.stores import SQLiteStore, _sqlite_database, _sqlite_file, _sqlite_writer
from dagflow.stores._sqlite_file import FileLock
from dagflow.testing import Crash
from dagflow.testing._store_facts import LONG, claimed, event, kept, message, numbers, payload, steps
from stores.sqlite_faults import Faults, quiet, sqlite_error, writing_elsewhere

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from dagflow._events import Claim

RUNNING = RunStatus.RUNNING
IOERR = sqlite3.SQLITE_IOERR


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture(params=["loop", "thread"])
def committer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let groups be committed on the loop's thread, or by the writer's."""
    monkeypatch.setattr(_sqlite_writer, "_QUICK", 1e9 if request.param == "loop" else 0.0)
    return str(request.param)


@pytest.fixture
async def store(
    path: Path, faults: Faults, committer: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[SQLiteStore]:
    monkeypatch.setattr(_sqlite_database, "_TRIES", (0.0, 0.001, 0.002))
    async with SQLiteStore(path, at=faults, busy_timeout=5) as store:
        yield store


def sound(path: Path) -> bool:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))


# -- a commit whose outcome nobody saw ------------------------------------------------------------


async def create(store: SQLiteStore) -> Any:
    await kept(store, "new", version=3)
    return numbers((await store.read("new"))[1])


async def append(store: SQLiteStore) -> Any:
    claim = (await store.read("run"))[0].claim
    await store.append(steps(2, 4), claim=claim, version=1, status=RunStatus.WAITING)
    return numbers((await store.read("run"))[1])


async def append_and_release(store: SQLiteStore) -> Any:
    claim = (await store.read("run"))[0].claim
    await store.append(steps(2, 4), claim=claim, version=1, status=RunStatus.COMPLETED, release=True)
    return (await store.read("run"))[0].owner, numbers((await store.read("run"))[1])


async def claim(store: SQLiteStore) -> Any:
    record = await store.claim("run", owner="bob", lease=LONG, dead_owner="ann")
    await store.append(steps(2, 2), claim=record.claim, version=1, status=RUNNING)
    return record.owner, (await store.read("run"))[0].epoch == record.epoch


async def renew(store: SQLiteStore) -> Any:
    mine = (await store.read("run"))[0].claim
    return len(await store.renew([mine], lease=LONG))


async def release(store: SQLiteStore) -> Any:
    await store.release([(await store.read("run"))[0].claim])
    return (await store.read("run"))[0].owner


async def send(store: SQLiteStore) -> Any:
    sent = await store.send(message(key="once", payload=payload(b"\x00")))
    return sent.number, await store.receive({"run": 0}) == [sent]


async def delete(store: SQLiteStore) -> Any:
    await store.release([(await store.read("run"))[0].claim])
    await store.delete("run")
    return len(await store.find(RunQuery()))


WRITES: dict[str, tuple[Callable[[SQLiteStore], Awaitable[Any]], Any]] = {
    "create": (create, [1, 2, 3]),
    "append": (append, [1, 2, 3, 4]),
    "append_and_release": (append_and_release, (None, [1, 2, 3, 4])),
    "claim": (claim, ("bob", True)),
    "renew": (renew, 0),
    "release": (release, None),
    "send": (send, (1, True)),
    "delete": (delete, 0),
}

POINTS = ["before BEGIN", "after BEGIN", "before COMMIT", "after COMMIT"]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("write", WRITES)
async def test_a_write_that_breaks_is_kept_exactly_once(
    store: SQLiteStore, path: Path, faults: Faults, write: str, point: str
) -> None:
    await claimed(store)
    call, expected = WRITES[write]
    faults.add(point, IOERR)

    result = await call(store)

    assert result == expected
    assert sound(path)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("times", [1, 2])
async def test_a_group_that_breaks_is_kept_exactly_once_and_its_refusals_stand(
    store: SQLiteStore, faults: Faults, point: str, times: int
) -> None:
    claims = [await claimed(store, f"run{number}") for number in range(4)]
    faults.add(point, IOERR, times=times)

    answers = await asyncio.gather(
        *(
            store.append(steps(2, 3, run_id=claim.run_id), claim=claim, version=1, status=RUNNING)
            for claim in (*claims, claims[0])
        ),
        store.delete("nobody"),
        return_exceptions=True,
    )
    journals = [numbers((await store.read(claim.run_id))[1]) for claim in claims]

    assert [type(answer) for answer in answers] == [*[type(None)] * 4, LeaseLostError, RunNotFoundError]
    assert journals == [[1, 2, 3]] * 4


@pytest.mark.parametrize("point", ["after INSERT runs", "before INSERT events", "after UPDATE runs"])
async def test_a_statement_that_breaks_takes_the_group_with_it_and_brings_it_back(
    store: SQLiteStore, faults: Faults, point: str
) -> None:
    old = await claimed(store)
    faults.add(point, IOERR)

    await asyncio.gather(
        store.append(steps(2, 2), claim=old, version=1, status=RUNNING), kept(store, "new"), kept(store, "newer")
    )

    assert numbers((await store.read("run"))[1]) == [1, 2]
    assert len(await store.find(RunQuery())) == 3


async def test_an_outcome_that_stays_unknown_is_said_to_be_unknown(store: SQLiteStore, faults: Faults) -> None:
    claim = await claimed(store)
    faults.add("after COMMIT", IOERR)
    faults.add("before PRAGMA journal_mode", IOERR, times=9)

    with pytest.raises(StoreUnavailableError, match=r"not known whether this write was kept") as failure:
        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)
    faults.clear()

    assert isinstance(failure.value.__cause__, sqlite3.OperationalError)
    assert numbers((await store.read("run"))[1]) == [1, 2]
    await store.append(steps(3, 3), claim=claim, version=2, status=RUNNING)


async def test_a_disk_that_keeps_failing_is_named_and_nothing_is_kept(store: SQLiteStore, faults: Faults) -> None:
    claim = await claimed(store)
    faults.add("before COMMIT", IOERR, times=9)

    with pytest.raises(StoreUnavailableError, match="look at its disk"):
        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)
    faults.clear()
    await store.append(steps(2, 3), claim=claim, version=1, status=RUNNING)

    assert numbers((await store.read("run"))[1]) == [1, 2, 3]


async def test_a_group_that_breaks_while_one_of_its_writes_cannot_be_kept_loses_only_that(
    store: SQLiteStore, faults: Faults
) -> None:
    claim = await claimed(store)
    # A write that is probably alone would not wait for the others.
    await asyncio.gather(kept(store, "a"), kept(store, "b"))

    async def append() -> None:
        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)

    def broken() -> sqlite3.OperationalError:
        for _ in ("bad", "worse"):
            faults.add("after INSERT runs", lambda: sqlite_error(sqlite3.SQLITE_TOOBIG))
        # What was refused by then stays so.
        faults.add("before COMMIT", IOERR)
        return sqlite_error(IOERR)

    faults.add("before COMMIT", broken)
    answers = await asyncio.gather(
        append(),
        kept(store, "bad"),
        kept(store, "worse"),
        kept(store, "good"),
        return_exceptions=True,
    )

    assert [isinstance(answer, StoreRefusedError) for answer in answers] == [False, True, True, False]
    assert sorted(run.run_id for run in await store.find(RunQuery())) == ["a", "b", "good", "run"]


async def test_a_write_that_cannot_be_kept_is_found_out_when_its_group_is_done_again(
    store: SQLiteStore, faults: Faults
) -> None:
    claim = await claimed(store)
    # A write that is probably alone would not wait for the other one.
    await asyncio.gather(kept(store, "a"), kept(store, "b"))
    faults.add("before BEGIN", IOERR)
    faults.add("after INSERT runs", lambda: sqlite_error(sqlite3.SQLITE_TOOBIG))

    async def append() -> None:
        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)

    answers = await asyncio.gather(append(), kept(store, "bad"), return_exceptions=True)

    assert [isinstance(answer, StoreRefusedError) for answer in answers] == [False, True]
    assert numbers((await store.read("run"))[1]) == [1, 2]


async def test_a_claim_that_breaks_is_made_once(store: SQLiteStore, faults: Faults) -> None:
    await kept(store, "run")
    faults.add("after UPDATE runs", IOERR)

    record = await store.claim("run", owner="ann", lease=LONG)

    assert (record.owner, record.epoch) == ("ann", 1)
    assert (await store.read("run"))[0] == record


async def test_runs_that_cannot_be_added_together_are_added_one_by_one(store: SQLiteStore, faults: Faults) -> None:
    await asyncio.gather(kept(store, "a"), kept(store, "b"))
    # The one that is there already is found first when all are added together.
    for _ in ("bad", "worse"):
        faults.add("after INSERT runs", lambda: sqlite_error(sqlite3.SQLITE_TOOBIG))

    names = ["bad", "a", "worse", "good", "better"]
    answers = await asyncio.gather(*(kept(store, name) for name in names), return_exceptions=True)

    outcomes = [StoreRefusedError, RunExistsError, StoreRefusedError, RunRecord, RunRecord]
    assert [type(answer) for answer in answers] == outcomes
    assert sorted(run.run_id for run in await store.find(RunQuery())) == ["a", "b", "better", "good"]


async def test_a_run_that_somebody_else_has_deleted_meanwhile_does_not_speak_for_its_group(
    store: SQLiteStore, path: Path, faults: Faults
) -> None:
    claim = await claimed(store)
    await kept(store, "old")

    def broken() -> sqlite3.OperationalError:
        # Before the transaction is begun again.
        faults.add("before BEGIN", deleted)
        return sqlite_error(IOERR)

    def deleted() -> sqlite3.OperationalError:
        with contextlib.closing(sqlite3.connect(path)) as other, other:
            other.execute("DELETE FROM events WHERE run = 2")
            other.execute("DELETE FROM runs WHERE number = 2")
        return sqlite_error(sqlite3.SQLITE_BUSY)

    async def append() -> None:
        await store.append(steps(2, 3), claim=claim, version=1, status=RUNNING)

    await kept(store, "one more")
    faults.add("before COMMIT", broken)
    await asyncio.gather(kept(store, "alone"), append(), store.delete("old"))

    assert numbers((await store.read("run"))[1]) == [1, 2, 3]
    assert [run.run_id for run in await store.find(RunQuery())] == ["alone", "one more", "run"]


async def test_a_deletion_that_was_kept_does_not_touch_a_later_run_with_the_same_id(
    store: SQLiteStore, path: Path, faults: Faults
) -> None:
    await kept(store, "run")

    def reused() -> sqlite3.OperationalError:
        with contextlib.closing(sqlite3.connect(path)) as other, other:
            number = other.execute(
                "INSERT INTO runs (run_id, workflow, status, created_at, priority, epoch, received)"
                " VALUES ('run', 'new', 'pending', 0, 0, 0, 0)"
            ).lastrowid
            other.execute(
                "INSERT INTO events (run, version, kind, attempt, at) VALUES (?, 1, 'run_created', 0, 0)", (number,)
            )
        return sqlite_error(IOERR)

    faults.add("after COMMIT", reused)
    await store.delete("run")

    assert [run.workflow for run in await store.find(RunQuery())] == ["new"]


async def test_a_write_that_found_room_at_last_is_as_definite_as_its_group(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_writer, "_QUICK", 1e9)
    faults = Faults()

    def spoil() -> sqlite3.OperationalError:
        # The thread gets them all, and its transaction breaks.
        faults.add("before BEGIN", sqlite3.SQLITE_BUSY)
        faults.add("before COMMIT", IOERR)
        return sqlite_error(sqlite3.SQLITE_FULL)

    async with SQLiteStore(path, at=faults) as store:
        await asyncio.gather(kept(store, "first"), kept(store, "second"))
        await quiet(store)
        faults.add("after INSERT runs", spoil)

        await asyncio.gather(kept(store, "third"), kept(store, "fourth"))

        assert len(await store.find(RunQuery())) == 4


async def test_reads_go_on_while_the_connection_that_writes_cannot_be_made_anew(
    store: SQLiteStore, path: Path, faults: Faults
) -> None:
    await kept(store)
    faults.add("before COMMIT", IOERR)
    faults.add("before PRAGMA journal_mode", IOERR, times=9)
    with pytest.raises(StoreUnavailableError):
        await kept(store, "second")
    # Something takes the place that the log had on the disk.
    path.with_name("other").touch()

    found = [len(await store.find(RunQuery())) for _ in range(3)]
    faults.clear()
    await kept(store, "second")
    found.append(len(await store.find(RunQuery())))

    assert found == [1, 1, 1, 2]


async def test_an_error_that_nobody_thought_of_is_an_answer_too(store: SQLiteStore, faults: Faults) -> None:
    claim = await claimed(store)
    faults.add("before COMMIT", lambda: RuntimeError("who would have thought"), times=9)

    with pytest.raises(StoreUnavailableError, match="who would have thought"):
        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)
    faults.clear()

    await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)


@pytest.mark.parametrize("point", POINTS)
async def test_a_crash_that_a_test_asks_for_reaches_its_callers(store: SQLiteStore, faults: Faults, point: str) -> None:
    claim = await claimed(store)
    faults.add(point, Crash)

    with pytest.raises(Crash):
        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)
    read, events = await store.read("run")
    await store.append(steps(read.version + 1, read.version + 1), claim=claim, version=read.version, status=RUNNING)

    assert numbers(events) == ([1, 2] if point == "after COMMIT" else [1])


async def test_a_crash_while_an_outcome_is_looked_for_reaches_its_callers(store: SQLiteStore, faults: Faults) -> None:
    claim = await claimed(store)
    faults.add("after COMMIT", IOERR)
    faults.add("before SELECT", Crash)

    with pytest.raises(Crash):
        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)

    await store.append(steps(3, 3), claim=claim, version=2, status=RUNNING)


async def test_a_write_that_breaks_when_nobody_is_left_to_settle_it_is_said_to_be_unknown(
    path: Path, faults: Faults
) -> None:
    async with SQLiteStore(path, at=faults) as store:
        await quiet(store)

        def end() -> sqlite3.OperationalError:
            store._opened.writer.stop()
            return sqlite_error(IOERR)

        faults.add("after COMMIT", end)
        with pytest.raises(StoreUnavailableError, match="look at its disk"):
            await kept(store)

    async with store:
        assert len(await store.find(RunQuery())) == 1


@pytest.mark.parametrize("point", POINTS)
def test_ctrl_c_in_mid_write_stops_the_loop_and_the_write_comes_to_its_end(path: Path, point: str) -> None:
    faults = Faults()
    store = SQLiteStore(path, at=faults)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(store.open())
    loop.run_until_complete(kept(store))
    loop.run_until_complete(quiet(store))
    faults.add(point, KeyboardInterrupt)

    task = loop.create_task(kept(store, "second"))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    loop.run_until_complete(task)
    found = loop.run_until_complete(store.find(RunQuery()))
    loop.run_until_complete(store.close())
    loop.close()

    assert [run.run_id for run in found] == ["second", "run"]


async def test_an_opening_that_is_cut_off_anywhere_leaves_the_lock_of_the_file_to_others(path: Path) -> None:
    whole = Faults()
    store = SQLiteStore(path.with_name("whole.db"), at=whole)
    await store.open()
    points = list(dict.fromkeys(whole.passed))
    await store.close()
    for number, point in enumerate(points):
        file = path.with_name(f"{number}.db")
        faults = Faults()
        faults.add(point, lambda: Crash("cut off"))
        with pytest.raises(Crash):
            await SQLiteStore(file, at=faults).open()

        assert f"{file}-lock" not in open_files(), point


def open_files() -> list[str]:
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return found


# -- no room --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("committer")
async def test_a_full_disk_refuses_what_has_no_room_and_keeps_the_rest(path: Path) -> None:
    async with SQLiteStore(path, pragmas=["PRAGMA max_page_count = 40"]) as store:
        small, large = await claimed(store, "small"), await claimed(store, "large")

        answers = await asyncio.gather(
            store.append([event(2, payload=payload(b"x" * 300_000))], claim=large, version=1, status=RUNNING),
            store.append(steps(2, 2, run_id="small"), claim=small, version=1, status=RUNNING),
            return_exceptions=True,
        )
        versions = [(await store.read(run_id))[0].version for run_id in ("large", "small")]

    assert isinstance(answers[0], StoreRefusedError)
    assert "free space" in str(answers[0])
    assert str(path) in str(answers[0])
    assert answers[1] is None
    assert versions == [1, 2]
    assert sound(path)


async def fill(store: SQLiteStore, claim: Claim) -> int:
    """Append until there is no room, and return the last version that was kept."""
    for version in itertools.count(1):
        events = [event(version + 1, payload=payload(b"x" * 9000))]
        try:
            await store.append(events, claim=claim, version=version, status=RUNNING)
        except StoreRefusedError:
            return version
    raise AssertionError


@pytest.mark.usefixtures("committer")
async def test_a_run_goes_on_when_there_is_room_again(path: Path) -> None:
    async with SQLiteStore(path, pragmas=["PRAGMA max_page_count = 40"]) as store:
        claim = await claimed(store)
        version = await fill(store, claim)

    async with SQLiteStore(path) as store:
        await store.append([event(version + 1)], claim=claim, version=version, status=RUNNING)
        read, events = await store.read("run")

    assert numbers(events) == list(range(1, version + 2))
    assert read.version == version + 1
    assert sound(path)


@pytest.mark.parametrize(
    ("code", "text"), [(sqlite3.SQLITE_FULL, "no room"), (sqlite3.SQLITE_READONLY, "cannot be written to")]
)
@pytest.mark.parametrize("point", ["before BEGIN", "before COMMIT"])
async def test_a_commit_that_is_refused_keeps_nothing(
    store: SQLiteStore, faults: Faults, point: str, code: int, text: str
) -> None:
    claims = [await claimed(store, f"run{number}") for number in range(3)]
    faults.add(point, code)

    answers = await asyncio.gather(
        *(store.append(steps(2, 2, run_id=claim.run_id), claim=claim, version=1, status=RUNNING) for claim in claims),
        return_exceptions=True,
    )
    versions = [(await store.read(claim.run_id))[0].version for claim in claims]

    assert all(isinstance(answer, StoreRefusedError) and text in str(answer) for answer in answers)
    assert versions == [1, 1, 1]


# -- in the way -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("committer")
async def test_a_program_that_keeps_the_file_locked_is_waited_for(path: Path) -> None:
    async with SQLiteStore(path) as store:
        with writing_elsewhere(path) as connection:
            threading.Timer(0.1, connection.execute, ["COMMIT"]).start()

            await kept(store)

        assert len(await store.find(RunQuery())) == 1


@pytest.mark.usefixtures("committer")
async def test_a_program_that_never_lets_the_file_go_is_named(path: Path) -> None:
    async with SQLiteStore(path, busy_timeout=0.05) as store:
        with writing_elsewhere(path):
            with pytest.raises(StoreUnavailableError, match="another program has kept it locked"):
                await kept(store)
            found = await store.find(RunQuery())

        await kept(store)

    assert found == []


async def test_a_file_that_is_locked_when_it_is_opened_is_waited_for(path: Path) -> None:
    async with SQLiteStore(path):
        pass
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("BEGIN EXCLUSIVE")

        with pytest.raises(StoreUnavailableError, match="another program has kept it locked"):
            await SQLiteStore(path, busy_timeout=0.05).open()

    async with SQLiteStore(path) as store:
        await kept(store)


async def test_a_file_that_stays_locked_while_an_outcome_is_looked_for_leaves_it_unknown(
    path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_database, "_TRIES", (0.0, 0.0))
    async with SQLiteStore(path, at=faults, busy_timeout=0.02) as store:
        with contextlib.ExitStack() as stack:

            def lock() -> sqlite3.OperationalError:
                stack.enter_context(writing_elsewhere(path))
                return sqlite_error(IOERR)

            faults.add("after COMMIT", lock)
            with pytest.raises(StoreUnavailableError, match="not known"):
                await kept(store)

        assert len(await store.find(RunQuery())) == 1


async def test_another_store_of_the_process_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_writer, "_QUICK", 1e9)
    async with SQLiteStore(path, busy_timeout=0.05) as store, SQLiteStore(path) as other:
        lock = other._opened.database._lock
        assert lock.acquire(1)
        try:
            with pytest.raises(StoreUnavailableError, match="locked"):
                await kept(store)
            with pytest.raises(StoreUnavailableError, match="locked"):
                await SQLiteStore(path, busy_timeout=0.01).open()
        finally:
            lock.release()

        await kept(store)


async def test_a_store_is_closed_even_when_its_file_stays_locked(path: Path) -> None:
    store = SQLiteStore(path, busy_timeout=0.01)
    await store.open()
    await kept(store)
    lock = FileLock.of(f"{path}-lock")
    assert lock.acquire(1)

    await store.close()
    lock.release()
    lock.leave()

    async with store:
        assert len(await store.find(RunQuery())) == 1


# -- the lock of the file -------------------------------------------------------------------------


LOCKS = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1] + "-lock", os.O_RDWR | os.O_CREAT)
fcntl.lockf(descriptor, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def lock_held_elsewhere(path: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock of the file in another process; what is yielded lets it go."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCKS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        yield process.stdin.close


def test_a_process_that_writes_keeps_others_waiting(path: Path) -> None:
    lock = FileLock.of(f"{path}-lock")
    with lock_held_elsewhere(path) as let_go:
        refused = lock.acquire(0), lock.acquire(0.03)
        threading.Timer(0.05, let_go).start()
        got = lock.acquire(30)
        lock.release()
    lock.leave()

    assert (refused, got) == ((False, False), True)


def test_a_thread_that_writes_keeps_others_waiting(path: Path) -> None:
    lock = FileLock.of(f"{path}-lock")
    assert lock.acquire(0)
    # Longer than it takes to see whether there is still time.
    threading.Timer(0.2, lock.release).start()
    got = lock.acquire(30)
    lock.release()
    lock.leave()

    assert got


def test_who_has_no_more_time_waits_for_no_thread_and_no_process(path: Path) -> None:
    lock = FileLock.of(f"{path}-lock")
    with lock_held_elsewhere(path):
        refused = [lock.acquire(30, lambda: True)]
    assert lock.acquire(30, lambda: True)
    refused.append(lock.acquire(30, lambda: True))
    lock.release()
    lock.leave()

    assert refused == [False, False]


def test_a_lock_that_the_system_refuses_is_an_error_and_stays_usable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FileLock.of(f"{path}-lock")

    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "lockf", refuse)
        with pytest.raises(OSError, match="No locks"):
            lock.acquire(1)

    assert lock.acquire(1)
    lock.release()
    lock.leave()


@pytest.mark.parametrize("absent", ["fcntl", "bug"])
async def test_without_locks_of_the_system_stores_of_one_process_still_take_turns(
    path: Path, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    if absent == "fcntl":
        monkeypatch.setattr(_sqlite_file, "fcntl", None)
    else:
        monkeypatch.setattr(_sqlite_file, "_SAFE_VERSION", (3, 0, 0))

    async with SQLiteStore(path) as store, SQLiteStore(path) as other:
        await asyncio.gather(*(kept(one, f"{name}{i}") for i in range(9) for name, one in (("a", store), ("b", other))))
        found = await store.find(RunQuery())

    assert len(found) == 18
    assert not path.with_name("runs.db-lock").exists()


# -- reading --------------------------------------------------------------------------------------


async def test_a_read_is_tried_again_on_a_new_connection(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await kept(store)
        await store.read("run")
        tries = []

        def work(connection: sqlite3.Connection) -> int:
            tries.append(connection)
            if len(tries) == 1:
                raise sqlite_error(IOERR)
            return 7

        assert await store._opened.reader.call(work) == 7

    assert tries[0] is not tries[1]


async def test_a_read_that_keeps_failing_is_an_error(path: Path) -> None:
    def work(_: sqlite3.Connection) -> None:
        raise sqlite_error(sqlite3.SQLITE_CORRUPT)

    async with SQLiteStore(path) as store:
        with pytest.raises(StoreFormatError, match="damaged"):
            await store._opened.reader.call(work)

        assert await store.find(RunQuery()) == []
