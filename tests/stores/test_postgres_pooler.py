"""`PostgresStore` behind PgBouncer, which lends a connection for one transaction at a time."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dagflow._events import Claim, Event, EventKind, Message, MessageKind, RunRecord, RunStatus
from dagflow.stores.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import Iterator

AT = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)

_SETTINGS = """
[databases]
runs = host={host} port={port} dbname={dbname} user={user}
[pgbouncer]
unix_socket_dir = {directory}
listen_port = 6432
auth_type = any
pool_mode = transaction
default_pool_size = 2
"""


@pytest.fixture
def pooled_dsn(postgres_dsn: str) -> Iterator[str]:
    """The database of the test through a pooler that shares two connections among everybody."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed")
    facts = {"port": 5432, "user": "postgres", **conninfo_to_dict(postgres_dsn)}
    directory = Path(tempfile.mkdtemp(prefix="dagflow-pooler-"))
    directory.chmod(0o777)
    settings = directory / "settings.ini"
    settings.write_text(_SETTINGS.format(directory=directory, **facts))
    # It refuses to run as root; the server has an account of its own then.
    account = ["runuser", "-u", "pgserver", "--"] if os.geteuid() == 0 else []
    with subprocess.Popen([*account, program, str(settings)], stderr=subprocess.DEVNULL) as pooler:
        dsn = make_conninfo(host=str(directory), port=6432, dbname="runs", user=str(facts["user"]))
        try:
            _wait_for(dsn, pooler)
            yield dsn
        finally:
            pooler.terminate()
    shutil.rmtree(directory)


def _wait_for(dsn: str, pooler: subprocess.Popen[bytes]) -> None:
    while pooler.poll() is None:
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError:
            continue
        return
    pytest.fail("the pooler has ended")


def event(run_id: str, version: int) -> Event:
    return Event(run_id, version, EventKind.NODE_COMPLETED, "n", 1, AT)


async def started(store: PostgresStore, run_id: str) -> Claim:
    run = RunRecord(run_id, "w", RunStatus.RUNNING, 1, AT, AT, owner="me", epoch=1)
    return (await store.create(run, [event(run_id, 1)], lease=60.0)).claim


async def test_many_stores_share_the_connections_of_a_pooler(pooled_dsn: str) -> None:
    async with (
        PostgresStore(pooled_dsn, prepare_threshold=None) as one,
        PostgresStore(pooled_dsn, prepare_threshold=None) as two,
    ):
        pairs = [(store, await started(store, f"r{number}")) for number, store in enumerate([one, two] * 10)]
        for version in range(1, 8):
            appends = (
                store.append([event(claim.run_id, version + 1)], claim=claim, version=version, status=RunStatus.RUNNING)
                for store, claim in pairs
            )
            sends = (store.send(Message(claim.run_id, MessageKind.SIGNAL)) for store, claim in pairs)
            await asyncio.gather(*appends, *sends, two.renew([claim for _, claim in pairs], lease=60.0))

        for store, claim in pairs:
            _, events = await store.read(claim.run_id)
            assert events == [event(claim.run_id, version) for version in range(1, 9)]
        await one.release([claim for _, claim in pairs])
        await two.delete("r0")
