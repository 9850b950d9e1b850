"""`PostgresStore` behind a pooler that lends a connection for one transaction: PgBouncer, and one of the tests."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dagflow import DAGExecutor, Node, Workflow
from dagflow._events import Claim, Event, EventKind, Message, MessageKind, RunRecord, RunStatus
from dagflow.errors import StoreRefusedError
from dagflow.stores.postgres import PostgresStore
from pooler import Pooler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

AT = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")

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


@contextmanager
def pgbouncer(target: str) -> Iterator[str]:
    """Start PgBouncer, which shares two connections among everybody."""
    facts = {"port": 5432, "user": "postgres", **conninfo_to_dict(target)}
    directory = Path(tempfile.mkdtemp(prefix="dagflow-pooler-"))
    directory.chmod(0o777)
    settings = directory / "settings.ini"
    settings.write_text(_SETTINGS.format(directory=directory, **facts))
    # It refuses to run as root; the server has an account of its own then.
    account = ["runuser", "-u", "pgserver", "--"] if os.geteuid() == 0 else []
    with subprocess.Popen([*account, str(PROGRAM), str(settings)], stderr=subprocess.DEVNULL) as process:
        dsn = make_conninfo(host=str(directory), port=6432, dbname="runs", user=str(facts["user"]))
        try:
            _wait_for(dsn, process)
            yield dsn
        finally:
            process.terminate()
    shutil.rmtree(directory)


def _wait_for(dsn: str, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            psycopg.connect(dsn).close()
        except psycopg.OperationalError:
            continue
        return
    pytest.fail("the pooler has ended")


# PgBouncer is tested where it is installed; the other one is stricter, and always there.
@pytest.fixture(params=["pooler", *(["pgbouncer"] if PROGRAM else [])])
async def pooled_dsn(request: pytest.FixtureRequest, postgres_dsn: str) -> AsyncIterator[str]:
    """The database of the test through a pooler."""
    if request.param == "pgbouncer":
        with pgbouncer(postgres_dsn) as dsn:
            yield dsn
        return
    async with Pooler(postgres_dsn) as pooler:
        yield pooler.dsn
        assert pooler.lent > pooler.size


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


async def test_runs_are_submitted_served_and_deleted_behind_a_pooler(pooled_dsn: str) -> None:
    workflow = Workflow("w", [Node("a", lambda x: x), Node("b", lambda a: a + 1), Node("c", lambda b: b + 1)])
    stores = [PostgresStore(pooled_dsn, prepare_threshold=None) for _ in range(3)]
    async with (
        DAGExecutor(stores[0], workflows=[workflow]) as one,
        DAGExecutor(stores[1], workflows=[workflow]) as two,
        DAGExecutor(stores[2]) as web,
    ):
        serving = [asyncio.create_task(each.serve(poll=0.02)) for each in (one, two)]
        handles = [await web.submit(workflow, {"x": number}, run_id=f"r{number}") for number in range(20)]
        runs = [await handle.result() for handle in handles]
        for task in serving:
            task.cancel()
        await asyncio.wait(serving)
        for run in runs:
            await web.delete(run.run_id)

        assert [run.outputs["c"] for run in runs] == [number + 2 for number in range(20)]
        assert await web.runs() == []


async def test_the_schema_is_made_once_through_a_pooler(empty_postgres_dsn: str) -> None:
    async with Pooler(empty_postgres_dsn) as pooler:
        stores = [PostgresStore(pooler.dsn, prepare_threshold=None) for _ in range(5)]
        await asyncio.gather(*(store.open() for store in stores))
        await asyncio.gather(*(started(store, f"r{number}") for number, store in enumerate(stores)))
        await asyncio.gather(*(store.close() for store in stores))


async def test_prepared_statements_that_a_pooler_loses_are_reported_with_the_way_out(postgres_dsn: str) -> None:
    async def use(dsn: str) -> None:
        async with PostgresStore(dsn) as store:
            for number in range(10):
                await started(store, f"r{number}")

    async with Pooler(postgres_dsn) as pooler:
        with pytest.raises(StoreRefusedError, match="pass prepare_threshold=None"):
            await use(pooler.dsn)
