"""A process that is killed anywhere in a write leaves a file that is sound and holds all that was acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dagflow._events import RunQuery
from dagflow.errors import RunNotFoundError
from dagflow.stores import SQLiteStore
from dagflow.testing._store_facts import kept, numbers

if TYPE_CHECKING:
    from pathlib import Path

KILLED = -9

# One process forks a child for each point, so that a hundred of them start in the time of one. A child writes every
# acknowledgement to a file of its own before it goes on.
SWEEP = """
import asyncio, os, sys
from dagflow._events import RunStatus
from dagflow.stores import SQLiteStore
from dagflow.testing import CrashPoints
from dagflow.testing._store_facts import LONG, claimed, message, steps

async def write(store, acknowledge):
    claim = await claimed(store, "run")
    acknowledge("created")
    for version in (1, 3):
        events = steps(version + 1, version + 2)
        await store.append(events, claim=claim, version=version, status=RunStatus.RUNNING)
        acknowledge(f"version {version + 2}")
    await store.send(message("run", key="k"))
    acknowledge("sent")
    await store.renew([claim], lease=LONG)
    await store.release([claim])
    acknowledge("released")
    await claimed(store, "gone", lease=0)
    acknowledge("gone created")
    await store.delete("gone")
    acknowledge("deleted")

async def child(folder, kill_at):
    acks = os.open(f"{folder}/acks", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    points = CrashPoints(kill_at=kill_at)
    async with SQLiteStore(f"{folder}/runs.db", at=points) as store:
        await write(store, lambda ack: os.write(acks, f"{ack}\\n".encode()))

for line in sys.stdin:
    folder, kill_at = line.split()
    pid = os.fork()
    if not pid:
        try:
            asyncio.run(child(folder, int(kill_at)))
        except BaseException as exc:
            sys.stderr.write(f"{exc!r}\\n")
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def sound(path: Path) -> bool:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))


async def look(path: Path, acks: list[str]) -> None:
    """Hold what the file says against what was acknowledged, and go on with it."""
    async with SQLiteStore(path) as store:
        ids = {run.run_id for run in await store.find(RunQuery())}
        assert ids <= {"run", "gone"}
        if "created" in acks:
            read, events = await store.read("run")
            last = max((int(ack.split()[1]) for ack in acks if ack.startswith("version")), default=1)
            assert read.version in (last, last + 2)
            assert numbers(events) == list(range(1, read.version + 1))
            assert "sent" not in acks or len(await store.receive({"run": 0})) == 1
            assert "released" not in acks or read.owner is None
        if "deleted" in acks:
            with pytest.raises(RunNotFoundError):
                await store.read("gone")
            assert await store.receive({"gone": 0}) == []
        await kept(store, "next")


@pytest.mark.timeout(300)
def test_a_kill_at_any_statement_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged, point, code = set(), 0, KILLED
    with subprocess.Popen(
        [sys.executable, "-c", SWEEP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while code == KILLED:
            point += 1
            folder = tmp_path / str(point)
            folder.mkdir()
            process.stdin.write(f"{folder} {point}\n")
            process.stdin.flush()
            code = int(process.stdout.readline())
            acks = (folder / "acks").read_text().splitlines()
            asyncio.run(look(folder / "runs.db", acks))
            assert sound(folder / "runs.db")
            acknowledged.add(len(acks))
        process.stdin.close()

    assert code == 0
    assert point > 100
    assert acknowledged == set(range(8))


APPENDS = """
import asyncio, os, sys
from dagflow._events import RunStatus
from dagflow.stores import SQLiteStore
from dagflow.testing._store_facts import claimed, steps

async def grow(store, run_id):
    claim = await claimed(store, run_id)
    for version in range(1, 61):
        events = steps(version + 1, version + 1, run_id=run_id)
        await store.append(events, claim=claim, version=version, status=RunStatus.RUNNING)

async def main(path, name):
    async with SQLiteStore(path) as store:
        await asyncio.gather(*(grow(store, f"{name}{number}") for number in range(3)))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.timeout(300)
async def test_processes_that_write_to_one_file_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    writers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", APPENDS, os.fspath(path), name) for name in "abcd"
    ]

    codes = [await writer.wait() for writer in writers]

    assert codes == [0, 0, 0, 0]
    assert sound(path)
    async with SQLiteStore(path) as store:
        for name in "abcd":
            for number in range(3):
                read, events = await store.read(f"{name}{number}")
                assert (read.version, numbers(events)) == (61, list(range(1, 62)))
