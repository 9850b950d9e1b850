"""Where a SQLite store may lie, what it makes of files that are there, and of files that go away."""

# ruff: noqa: ASYNC240 - the files of a test are small, and nothing else is on its loop

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dagflow._events import RunQuery
from dagflow.errors import StoreFormatError, StoreRefusedError, StoreURLError
from dagflow.stores import SQLiteStore
from dagflow.stores._sqlite_file import DatabaseFile
from dagflow.stores._sqlite_schema import STEPS, connect, prepare
from dagflow.testing._store_facts import kept, numbers
from stores.sqlite_faults import Faults


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def touch(path: Path | str) -> None:
    """Open a store and close it."""
    async with SQLiteStore(path, busy_timeout=5):
        pass


def pragma(path: Path, name: str) -> object:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]


async def test_describing_a_store_touches_no_file(path: Path) -> None:
    store = SQLiteStore(path)

    assert repr(store) == f"SQLiteStore({str(path)!r})"
    assert store.commits == 0
    assert list(path.parent.iterdir()) == []


async def test_a_closed_store_leaves_its_file_and_its_lock(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await kept(store)

    assert sorted(file.name for file in path.parent.iterdir()) == ["runs.db", "runs.db-lock"]
    assert pragma(path, "integrity_check") == "ok"


async def test_writes_are_synchronised_in_full(path: Path) -> None:
    async with SQLiteStore(path) as store:
        desk = store._opened.database._desk
        assert desk is not None
        settings = {
            name: desk.connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("synchronous", "journal_mode", "foreign_keys", "wal_autocheckpoint", "mmap_size")
        }

    assert settings == {
        "synchronous": 2,
        "journal_mode": "wal",
        "foreign_keys": 1,
        "wal_autocheckpoint": 0,
        "mmap_size": 0,
    }


async def test_the_application_may_add_settings(path: Path) -> None:
    async with SQLiteStore(path, pragmas=["PRAGMA cache_size = 77"]) as store:
        desk = store._opened.database._desk
        assert desk is not None
        assert desk.connection.execute("PRAGMA cache_size").fetchone() == (77,)


async def test_readers_cannot_write(path: Path) -> None:
    async with SQLiteStore(path) as store:
        with pytest.raises(StoreRefusedError):
            await store._opened.reader.call(lambda connection: connection.execute("DELETE FROM runs"))


async def test_what_is_read_together_is_of_one_moment(path: Path) -> None:
    def look_twice(connection: sqlite3.Connection) -> list[int]:
        looks = [connection.execute("SELECT count(*) FROM runs").fetchone()[0]]
        with contextlib.closing(sqlite3.connect(path)) as other:
            other.execute("UPDATE runs SET run_id = 'gone'")
            other.commit()
        return [*looks, connection.execute("SELECT count(*) FROM runs WHERE run_id = 'run'").fetchone()[0]]

    async with SQLiteStore(path) as store:
        await kept(store)

        assert await store._opened.reader.call(look_twice) == [1, 1]


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()

    async with SQLiteStore(path) as store:
        await kept(store)

    assert pragma(path, "user_version") == len(STEPS)


async def test_a_relative_path_is_that_of_the_working_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)

    await touch("runs.db")

    assert path.exists()


async def test_a_store_stays_where_it_was_opened_when_the_process_works_elsewhere(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = path.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(path.parent)
    faults = Faults()
    async with SQLiteStore("runs.db", at=faults) as store:
        await kept(store)
        monkeypatch.chdir(elsewhere)

        await kept(store, "second")
        faults.add("before COMMIT", sqlite3.SQLITE_IOERR)
        await kept(store, "on a new connection")
        found = await store.find(RunQuery())
        figures = await store.measure()

    assert len(found) == 3
    assert figures.address == str(path)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["with space.db", "per%20cent?.db", "läufe#1.db", "100%.db"])
async def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    async with SQLiteStore(tmp_path / name) as store:
        await kept(store)

    assert (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["", ":memory:", "sqlite:///runs.db", "file:runs.db?mode=ro", "nul\x00.db", b""])
def test_what_is_no_path_is_refused_at_once(name: str | bytes) -> None:
    with pytest.raises(StoreURLError):
        SQLiteStore(name)  # type: ignore[arg-type]


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreRefusedError, match=r"no folder .*missing"):
        await touch(tmp_path / "missing" / "runs.db")


async def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreRefusedError, match="it is a folder"):
        await touch(tmp_path)


async def test_a_lock_that_cannot_be_made_is_named(path: Path) -> None:
    path.with_name("runs.db-lock").mkdir()

    with pytest.raises(StoreRefusedError, match=r"lock.*writ"):
        await touch(path)


async def test_a_file_that_is_no_database_is_refused_and_not_touched(path: Path) -> None:
    path.write_bytes(b"these are my notes, and they are dear to me\n" * 40)

    with pytest.raises(StoreFormatError, match=r"no SQLite database.*another path"):
        await touch(path)

    assert path.read_bytes() == b"these are my notes, and they are dear to me\n" * 40


@pytest.mark.parametrize(
    "script",
    ["CREATE TABLE runs (id)", "PRAGMA application_id = 7", "PRAGMA user_version = 1", "CREATE TABLE notes (text)"],
)
async def test_a_database_of_another_program_is_refused_and_not_touched(path: Path, script: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    before = path.read_bytes()

    with pytest.raises(StoreFormatError, match="another program"):
        await touch(path)

    assert path.read_bytes() == before


async def test_a_schema_that_is_newer_than_the_library_is_refused(path: Path) -> None:
    await touch(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")

    with pytest.raises(StoreFormatError, match=r"schema 99.*upgrade dagflow"):
        await touch(path)

    assert pragma(path, "user_version") == 99


async def test_a_schema_that_is_older_than_the_library_is_brought_up_to_date(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await kept(store, version=3)
    file = DatabaseFile(path)
    steps = (*STEPS, ("ALTER TABLE runs ADD COLUMN note TEXT", "PRAGMA user_version = 2"))

    with contextlib.closing(connect(file, create=False)) as connection:
        prepare(connection, file, steps=steps)
        columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]

    assert columns[-1] == "note"
    assert pragma(path, "user_version") == 2


async def test_a_step_that_fails_changes_nothing(path: Path) -> None:
    await touch(path)
    file = DatabaseFile(path)
    steps = (*STEPS, ("ALTER TABLE runs ADD COLUMN note TEXT", "PRAGMA user_version = 2", "CREATE TABLE runs (id)"))

    with contextlib.closing(connect(file, create=False)) as connection, pytest.raises(sqlite3.OperationalError):
        prepare(connection, file, steps=steps)

    assert pragma(path, "user_version") == 1
    async with SQLiteStore(path) as store:
        assert await store.find(RunQuery()) == []


def test_a_file_system_without_shared_memory_is_refused(path: Path) -> None:
    file = DatabaseFile(path)
    connection = sqlite3.connect(":memory:", isolation_level=None)

    with contextlib.closing(connection), pytest.raises(StoreRefusedError, match="local disk"):
        prepare(connection, file)


async def test_a_damaged_file_is_refused(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await kept(store, version=200)
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xa5" * 3996
    path.write_bytes(content)

    with pytest.raises(StoreFormatError, match=r"damaged.*backup"):
        await touch(path)


async def test_damage_that_is_met_later_is_named(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await kept(store, version=500)
    content = bytearray(path.read_bytes())
    content[9 * 4096 :] = b"\xa5" * len(content[9 * 4096 :])
    path.write_bytes(content)

    async with SQLiteStore(path) as store:
        with pytest.raises(StoreFormatError, match="damaged"):
            await store.read("run")


async def test_tables_that_were_changed_by_hand_are_named(path: Path) -> None:
    await touch(path)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE events")

    async with SQLiteStore(path) as store:
        with pytest.raises(StoreFormatError, match="changed by hand"):
            await kept(store)


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE runs SET status = 'dreaming'",
        "UPDATE events SET kind = 'node_dreamt'",
        "UPDATE events SET data = '{'",
        "UPDATE runs SET created_at = 'yesterday'",
    ],
)
async def test_a_row_that_the_library_cannot_read_is_named(path: Path, script: str) -> None:
    async with SQLiteStore(path) as store:
        await kept(store)
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(script)

        with pytest.raises(StoreFormatError, match=r"newer version of dagflow"):
            await store.read("run")


async def test_a_run_whose_row_cannot_be_read_is_not_claimed(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await kept(store)
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE runs SET status = 'dreaming'")

        with pytest.raises(StoreFormatError, match=r"newer version of dagflow"):
            await store.claim("run", owner="me", lease=30)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT owner, epoch FROM runs").fetchone() == (None, 0)


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_file_that_goes_away_is_missed_and_not_made_again(path: Path, suffix: str, how: str) -> None:
    file = Path(f"{path}{suffix}")
    async with SQLiteStore(path) as store:
        await kept(store)
        await store.read("run")
        content = file.read_bytes()
        file.unlink()
        if how == "replaced":
            file.write_bytes(content)

        for call in (kept(store, "second"), store.read("run")):
            with pytest.raises(StoreRefusedError, match="deleted, moved or replaced"):
                await call

        assert file.exists() == (how == "replaced")


async def test_a_first_read_does_not_make_a_missing_file_again(path: Path) -> None:
    async with SQLiteStore(path) as store:
        path.unlink()

        with pytest.raises(StoreRefusedError, match="deleted, moved or replaced"):
            await store.read("run")

        assert not path.exists()


async def test_a_store_on_a_file_that_came_back_can_be_opened_again(path: Path) -> None:
    aside = path.with_suffix(".aside")
    async with SQLiteStore(path) as store:
        await kept(store)
        path.rename(aside)
        with pytest.raises(StoreRefusedError):
            await kept(store, "second")
        aside.rename(path)

        await kept(store, "second")

        assert len(await store.find(RunQuery())) == 2


# All is imported first: the interpreter may lie in a folder that is closed to others.
AS_SOMEBODY_ELSE = """
import asyncio, os, sys, urllib.parse
from dagflow.errors import StoreError
from dagflow.stores import SQLiteStore
from dagflow.testing._store_facts import kept

async def main():
    async with SQLiteStore(sys.argv[1], busy_timeout=1) as store:
        await kept(store, "mine")

if os.getuid() == 0:
    os.setresuid(65534, 65534, 65534)
try:
    asyncio.run(main())
except StoreError as exc:
    print(type(exc).__name__, exc)
"""


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ({".": 0o555, "runs.db": 0o666, "runs.db-lock": 0o666}, "StoreRefusedError"),
        ({".": 0o777, "runs.db": 0o444, "runs.db-lock": 0o666}, "StoreRefusedError"),
        ({".": 0o777, "runs.db": 0o666, "runs.db-lock": 0o444}, "StoreRefusedError"),
        ({".": 0o777, "runs.db": 0o000, "runs.db-lock": 0o666}, "StoreRefusedError"),
        ({".": 0o777, "runs.db": 0o666, "runs.db-lock": 0o666}, ""),
    ],
    ids=["folder", "file", "lock", "closed", "open"],
)
def test_what_cannot_be_written_to_is_named(modes: dict[str, int], expected: str) -> None:
    # The folders of pytest are closed to others.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    asyncio.run(touch(folder / "runs.db"))
    for name, mode in modes.items():
        (folder / name).chmod(mode)

    process = subprocess.run(
        [sys.executable, "-c", AS_SOMEBODY_ELSE, str(folder / "runs.db")], check=True, capture_output=True, text=True
    )

    assert process.stdout.partition(" ")[0].strip() == expected
    assert not expected or "writ" in process.stdout
    folder.chmod(0o777)
    shutil.rmtree(folder)


OPENED_BY_MANY = """
import asyncio, os, sys, time
from dagflow.stores import SQLiteStore
from dagflow.testing._store_facts import kept

async def main(number):
    async with SQLiteStore(sys.argv[1]) as store:
        await kept(store, f"run{number}")

children = []
start = time.monotonic() + 0.1
for number in range(8):
    child = os.fork()
    if not child:
        while time.monotonic() < start:
            pass
        try:
            asyncio.run(main(number))
        except BaseException as exc:
            sys.stderr.write(repr(exc))
            os._exit(1)
        os._exit(0)
    children.append(child)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.parametrize("round_", range(5))
async def test_eight_processes_make_one_store_of_a_new_file(path: Path, round_: int) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", OPENED_BY_MANY, str(path))
    assert await process.wait() == 0

    async with SQLiteStore(path) as store:
        found = await store.find(RunQuery())
        journals = [numbers((await store.read(run.run_id))[1]) for run in found]

    assert sorted(run.run_id for run in found) == [f"run{number}" for number in range(8)]
    assert journals == [[1]] * 8
    assert pragma(path, "integrity_check") == "ok"


async def test_small_outputs_take_less_than_six_hundred_bytes_a_node(path: Path) -> None:
    nodes = 2000
    async with SQLiteStore(path) as store:
        # Two events a node, each with a payload.
        await kept(store, version=2 * nodes)

    assert path.stat().st_size / nodes < 600


async def test_the_points_of_opening_are_named(path: Path) -> None:
    faults = Faults()

    async with SQLiteStore(path, at=faults):
        pass

    for name in (
        "PRAGMA journal_mode",
        "BEGIN",
        "CREATE runs",
        "CREATE messages_by_key",
        "PRAGMA user_version",
        "COMMIT",
    ):
        assert f"before {name}" in faults.passed
        assert f"after {name}" in faults.passed


def test_the_lock_lies_beside_the_file_that_a_link_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "real" / "runs.db")

    asyncio.run(touch(tmp_path / "real" / "runs.db"))
    asyncio.run(touch(link))

    assert sorted(file.name for file in (tmp_path / "real").iterdir()) == ["runs.db", "runs.db-lock"]
    assert not os.path.lexists(tmp_path / "link.db-lock")
