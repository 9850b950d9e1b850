"""A process that is killed anywhere in a write leaves a database that holds all that was acknowledged, once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg
import pytest

from dagflow._events import RunQuery
from dagflow.errors import RunNotFoundError
from dagflow.stores.postgres import PostgresStore
from dagflow.testing._store_facts import kept, numbers

if TYPE_CHECKING:
    from pathlib import Path

KILLED = -9

# One process forks a child for each point, so that many of them start in the time of one. A child writes every
# acknowledgement to a file before it goes on.
SWEEP = """
import asyncio, os, sys
from dagflow._events import RunStatus
from dagflow.stores.postgres import PostgresStore
from dagflow.testing import CrashPoints
from dagflow.testing._store_facts import LONG, claimed, message, steps

async def write(store, acknowledge):
    claim = await claimed(store, "run")
    acknowledge("created")
    for version, last in ((1, 3), (3, 23)):
        await store.append(steps(version + 1, last), claim=claim, version=version, status=RunStatus.RUNNING)
        acknowledge(f"version {last}")
    await store.send(message("run", key="k"))
    acknowledge("sent")
    await store.renew([claim], lease=LONG)
    await store.release([claim])
    acknowledge("released")
    await claimed(store, "gone", lease=0)
    acknowledge("gone created")
    await store.delete("gone")
    acknowledge("deleted")

async def child(dsn, schema, path, kill_at):
    acks = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    async with PostgresStore(dsn, schema=schema, at=CrashPoints(kill_at=kill_at)) as store:
        await write(store, lambda ack: os.write(acks, f"{ack}\\n".encode()))

for line in sys.stdin:
    schema, path, kill_at = line.split()
    pid = os.fork()
    if not pid:
        try:
            asyncio.run(child(sys.argv[1], schema, path, int(kill_at)))
        except BaseException as exc:
            sys.stderr.write(f"{exc!r}\\n")
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


async def look(dsn: str, schema: str, acks: list[str]) -> None:
    """Hold what the database says against what was acknowledged, and go on with it."""
    async with PostgresStore(dsn, schema=schema) as store:
        ids = {run.run_id for run in await store.find(RunQuery())}
        assert ids <= {"run", "gone"}
        if "created" in acks:
            read, events = await store.read("run")
            last = max((int(ack.split()[1]) for ack in acks if ack.startswith("version")), default=1)
            assert read.version in (last, {1: 3, 3: 23}.get(last))
            assert numbers(events) == list(range(1, read.version + 1))
            assert "sent" not in acks or len(await store.receive({"run": 0})) == 1
            assert "released" not in acks or read.owner is None
        if "deleted" in acks:
            with pytest.raises(RunNotFoundError):
                await store.read("gone")
        await kept(store, "next")


def leftovers(dsn: str, schema: str) -> list[tuple[str]]:
    """Return the runs that have events and no record."""
    query = f"SELECT run_id FROM {schema}.events EXCEPT SELECT run_id FROM {schema}.runs"
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.mark.timeout(300)
def test_a_kill_at_any_statement_loses_nothing_that_was_acknowledged(empty_postgres_dsn: str, tmp_path: Path) -> None:
    acknowledged, point, code = set(), 0, KILLED
    command = [sys.executable, "-c", SWEEP, empty_postgres_dsn]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while code == KILLED:
            point += 1
            path, schema = tmp_path / str(point), f"s{point}"
            process.stdin.write(f"{schema} {path} {point}\n")
            process.stdin.flush()
            code = int(process.stdout.readline())
            acks = path.read_text().splitlines()
            asyncio.run(look(empty_postgres_dsn, schema, acks))
            assert leftovers(empty_postgres_dsn, schema) == []
            acknowledged.add(len(acks))
        process.stdin.close()

    assert code == 0
    assert point > 40
    assert acknowledged == set(range(8))
