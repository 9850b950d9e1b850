"""However the writer of a SQLite store is cut off, whoever waits for it is told, and the file is let go of."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import logging
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dagflow._events import RunQuery, RunRecord
from dagflow.errors import StoreUnavailableError
from dagflow.stores import SQLiteStore, _sqlite_writer
from dagflow.stores._sqlite_file import FileLock
from dagflow.testing._store_facts import kept
from stores.ctrl_c import CtrlC, run_to_its_end
from stores.sqlite_faults import Faults, quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOMS = ("_sqlite_writer.py", "_sqlite_database.py", "_sqlite_file.py", "_sqlite_calls.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@contextlib.contextmanager
def filtered(work: Callable[[], None]) -> Iterator[None]:
    """Let an application do something whenever the library logs."""

    def look(_: logging.LogRecord) -> bool:
        work()
        return True

    logger = logging.getLogger("dagflow")
    logger.addFilter(look)
    try:
        yield
    finally:
        logger.removeFilter(look)


def fail() -> None:
    raise ZeroDivisionError


# -- the thread of the writer ---------------------------------------------------------------------


async def test_an_application_whose_log_raises_does_not_stop_the_writer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_writer, "_LOG_BYTES", 0)
    faults = Faults()
    faults.add("before PRAGMA wal_checkpoint", sqlite3.SQLITE_IOERR)
    with filtered(fail):
        async with SQLiteStore(path, at=faults) as store:
            store._opened.database.pace = 1.0
            await kept(store)

            await kept(store, "second")

            assert len(await store.find(RunQuery())) == 2
    assert "before PRAGMA wal_checkpoint" in faults.passed


async def test_whoever_waits_for_a_thread_that_ends_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_writer, "_IDLE", 0.01)
    reached, go = threading.Event(), threading.Event()

    def end() -> None:
        reached.set()
        go.wait(60)
        raise SystemExit

    faults = Faults()
    faults.add("before PRAGMA wal_checkpoint", sqlite3.SQLITE_IOERR)
    store = SQLiteStore(path, at=faults)
    with filtered(end):
        await store.open()
        await kept(store)
        await asyncio.to_thread(reached.wait)
        await quiet(store)
        faults.add("before COMMIT", sqlite3.SQLITE_IOERR)
        calls: list[asyncio.Task[Any]] = [asyncio.create_task(kept(store, "broken"))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        store._opened.database.pace = 1.0
        calls += [asyncio.create_task(store.open()), asyncio.create_task(kept(store, "waiting"))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        go.set()
        answers = await asyncio.gather(*calls, kept(store, "late"), return_exceptions=True)
        await store.close()

    assert [type(answer) for answer in answers] == [StoreUnavailableError] * 4
    assert all("close the store and open it again" in str(answer) for answer in answers)
    async with store:
        assert [run.run_id for run in await store.find(RunQuery())] == ["run"]


# -- the lock of the file -------------------------------------------------------------------------


def refuse(*_: object) -> None:
    raise OSError(37, "No locks available")


def test_a_lock_that_cannot_be_given_back_is_an_error_and_stays_usable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FileLock.of(f"{path}-lock")
    assert lock.acquire(0)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "lockf", refuse)
        with pytest.raises(OSError, match="No locks"):
            lock.release()

    assert lock.acquire(0)
    lock.release()
    lock.leave()


async def test_a_file_whose_lock_cannot_be_had_is_let_go_of_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SQLiteStore(path)
    await store.open()
    await kept(store)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "lockf", refuse)

        await store.close()

    assert not [file for file in open_files() if file.startswith(str(path))]
    async with store:
        assert len(await store.find(RunQuery())) == 1


def open_files() -> list[str]:
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return found


# -- Ctrl-C ---------------------------------------------------------------------------------------


async def together(store: SQLiteStore, name: str, count: int) -> list[object]:
    calls = (kept(store, f"{name}{number}") for number in range(count))
    return [*await asyncio.gather(*calls, return_exceptions=True)]


def interrupted(path: Path, ctrl_c: CtrlC, *, runs: int) -> None:
    """Interrupt a loop that writes, run it to its end, and check that everyone has an answer."""
    store = SQLiteStore(path, busy_timeout=2)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        loop.run_until_complete(store.open())
        for name in ("first", "second"):
            loop.run_until_complete(together(store, name, runs))
        loop.run_until_complete(quiet(store))
        task = loop.create_task(together(store, "run", runs))
        ctrl_c.interrupt(loop, task)

        assert run_to_its_end(loop, task)
        assert all(isinstance(answer, RunRecord | KeyboardInterrupt) for answer in task.result())
        loop.run_until_complete(kept(store, "after"))
        found = [run.run_id for run in loop.run_until_complete(store.find(RunQuery()))]
        loop.run_until_complete(store.close())
    assert found[0] == "after"


@pytest.mark.parametrize("runs", [1, 2])
def test_ctrl_c_anywhere_in_the_writer_leaves_nobody_without_an_answer(
    path: Path, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    monkeypatch.setattr(_sqlite_writer, "_QUICK", 1e9)
    for number in itertools.count(1):
        ctrl_c = CtrlC(number, *ROOMS)
        interrupted(path.with_name(f"{number}.db"), ctrl_c, runs=runs)
        if not ctrl_c.came:
            break

    assert number > 20
