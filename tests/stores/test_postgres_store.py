"""The store in PostgreSQL keeps the contract, and what it does beyond that."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from dagflow._events import (
    Claim,
    Event,
    EventKind,
    Message,
    MessageKind,
    Payload,
    RunQuery,
    RunRecord,
    RunStatus,
)
from dagflow.clock import SYSTEM_CLOCK
from dagflow.errors import (
    LeaseLostError,
    MissingExtraError,
    RunNotFoundError,
    RunOwnedError,
    StoreFormatError,
    StoreRefusedError,
    StoreUnavailableError,
)
from dagflow.stores import _postgres_schema
from dagflow.stores.postgres import PostgresStore
from dagflow.testing import ContextStoreSuite, Crash

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from dagflow.protocols import Clock
    from postgres_server import OwnServer

AT = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)


def event(run_id: str, version: int, *, node: str = "count", data: bytes = b"[1]") -> Event:
    payload = Payload("json", data, bytes(32))
    return Event(run_id, version, EventKind.NODE_COMPLETED, node, 1, AT, {"n": version}, payload)


def record(run_id: str = "r", *, owner: str | None = "me", status: RunStatus = RunStatus.RUNNING) -> RunRecord:
    return RunRecord(run_id, "w", status, 1, AT, AT, owner=owner, epoch=1 if owner else 0)


async def started(store: PostgresStore, run_id: str = "r") -> Claim:
    return (await store.create(record(run_id), [event(run_id, 1)], lease=60.0)).claim


async def append(store: PostgresStore, claim: Claim, version: int, count: int = 1, **options: Any) -> None:
    events = [event(claim.run_id, version + number) for number in range(1, count + 1)]
    await store.append(events, claim=claim, version=version, status=RunStatus.RUNNING, **options)


async def versions(store: PostgresStore, run_id: str) -> list[int]:
    _, events = await store.read(run_id)
    return [event.version for event in events]


@pytest.fixture
async def store(postgres_dsn: str) -> AsyncIterator[PostgresStore]:
    async with PostgresStore(postgres_dsn, patience=20.0) as store:
        yield store


@pytest.fixture
def admin(postgres_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        yield connection


class TestPostgresStore(ContextStoreSuite):
    @pytest.fixture
    def clock(self) -> Clock:
        return SYSTEM_CLOCK

    @pytest.fixture
    async def store(self, postgres_dsn: str) -> AsyncIterator[PostgresStore]:
        async with PostgresStore(postgres_dsn) as store:
            yield store

    @pytest.fixture
    async def other(self, store: PostgresStore, postgres_dsn: str) -> AsyncIterator[PostgresStore]:
        async with PostgresStore(postgres_dsn) as other:
            yield other


# -- before anything is opened --------------------------------------------------------------------


def test_without_psycopg_the_import_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "dagflow.stores.postgres")

    with pytest.raises(MissingExtraError, match=r"pip install 'dagflow-sdk\[postgres\]'"):
        importlib.import_module("dagflow.stores.postgres")


def test_making_a_store_does_not_connect() -> None:
    store = PostgresStore("postgresql://nobody:secret@nowhere.invalid:1/runs", schema="mine")

    assert repr(store) == "<PostgresStore: PostgreSQL 'runs' at nowhere.invalid:1, schema 'mine'>"


def test_a_connection_string_that_cannot_be_read_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="cannot be read") as caught:
        PostgresStore("postgresql//me:secret@host/runs")

    assert "secret" not in repr(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("schema", ["", "Runs", "1st", "a-b", 'a"; DROP TABLE x', "pg_runs", "x" * 64])
def test_a_schema_has_a_plain_name(schema: str) -> None:
    with pytest.raises(ValueError, match="a schema is named"):
        PostgresStore("postgresql:///runs", schema=schema)
    with pytest.raises(ValueError, match="a schema is named"):
        PostgresStore.ddl(schema)


@pytest.mark.parametrize("after", [-1, 2, "new"])
def test_a_script_begins_at_a_version_that_there_is(after: Any) -> None:
    with pytest.raises(ValueError, match="0 for none, at most 1"):
        PostgresStore.ddl(after=after)


async def test_a_dead_link_is_noticed_and_what_the_connection_string_says_comes_first(postgres_dsn: str) -> None:
    async with PostgresStore(make_conninfo(postgres_dsn, keepalives_idle=77)) as store:
        session = await store._sources.others.take()
        settings = session.connection.info.get_parameters()
        await store._sources.others.give_back(session)

    names = ("keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "connect_timeout")
    assert [settings[name] for name in names] == ["77", "5", "3", "20000", "10"]


def test_one_connection_is_too_few() -> None:
    with pytest.raises(ValueError, match="2 connections at least"):
        PostgresStore("postgresql:///runs", max_connections=1)


async def test_a_store_that_is_not_open_says_so(postgres_dsn: str) -> None:
    store = PostgresStore(postgres_dsn)

    with pytest.raises(StoreRefusedError, match="not open"):
        await store.read("r")


# -- schema ---------------------------------------------------------------------------------------


async def test_opening_makes_the_schema_and_opening_again_leaves_it(empty_postgres_dsn: str) -> None:
    store = PostgresStore(empty_postgres_dsn, schema="user")
    await store.open()
    await store.open()
    await started(store)
    await store.close()
    await store.close()

    async with PostgresStore(empty_postgres_dsn, schema="user") as again:
        assert await versions(again, "r") == [1]


async def test_stores_in_two_schemas_do_not_see_each_other(empty_postgres_dsn: str) -> None:
    async with (
        PostgresStore(empty_postgres_dsn, schema="one") as one,
        PostgresStore(empty_postgres_dsn, schema="two") as two,
    ):
        await started(one)

        assert await two.find(RunQuery()) == []


async def test_many_stores_that_open_at_once_migrate_once(empty_postgres_dsn: str) -> None:
    stores = [PostgresStore(empty_postgres_dsn) for _ in range(8)]

    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))

    with psycopg.connect(empty_postgres_dsn) as connection:
        rows = connection.execute("SELECT version FROM dagflow.dagflow_schema").fetchall()
    assert rows == [(len(_postgres_schema.STEPS),)]


async def test_many_processes_that_open_at_once_migrate_once(empty_postgres_dsn: str) -> None:
    script = (
        "import asyncio, sys\n"
        "from dagflow.stores.postgres import PostgresStore\n"
        "async def main():\n"
        "    async with PostgresStore(sys.argv[1]): pass\n"
        "asyncio.run(main())\n"
    )
    starting = (asyncio.create_subprocess_exec(sys.executable, "-c", script, empty_postgres_dsn) for _ in range(8))
    processes = await asyncio.gather(*starting)

    codes = await asyncio.gather(*(process.wait() for process in processes))

    assert codes == [0] * 8
    with psycopg.connect(empty_postgres_dsn) as connection:
        rows = connection.execute("SELECT version FROM dagflow.dagflow_schema").fetchall()
    assert rows == [(len(_postgres_schema.STEPS),)]


async def test_a_missing_schema_is_not_made_without_leave(empty_postgres_dsn: str) -> None:
    store = PostgresStore(empty_postgres_dsn, migrate=False)

    with pytest.raises(StoreFormatError, match=r"PostgresStore\.ddl\(schema='dagflow'\)"):
        await store.open()

    with psycopg.connect(empty_postgres_dsn) as connection:
        assert connection.execute("SELECT to_regnamespace('dagflow')").fetchone() == (None,)


async def test_the_script_makes_what_a_store_needs_that_may_not_migrate(empty_postgres_dsn: str) -> None:
    with psycopg.connect(empty_postgres_dsn, autocommit=True) as connection:
        connection.execute(PostgresStore.ddl("mine").encode())

    async with PostgresStore(empty_postgres_dsn, schema="mine", migrate=False) as store:
        claim = await started(store)
        await append(store, claim, 1)


NEXT_STEPS = (*_postgres_schema.STEPS, "ALTER TABLE {schema}.runs ADD COLUMN colour text;")


async def test_an_older_schema_is_brought_up_to_date_and_keeps_its_runs(
    store: PostgresStore, postgres_dsn: str
) -> None:
    await started(store)
    prepare = partial(_postgres_schema.prepare, schema="dagflow", store="s", steps=NEXT_STEPS)

    await store._link.write(partial(prepare, migrate=True))
    await store._link.write(partial(prepare, migrate=False))

    assert await versions(store, "r") == [1]
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("SELECT version FROM dagflow.dagflow_schema").fetchall() == [(2,)]
        assert connection.execute("SELECT colour FROM dagflow.runs").fetchall() == [(None,)]


async def test_an_older_schema_is_not_changed_without_leave(store: PostgresStore) -> None:
    with pytest.raises(StoreFormatError, match=r"version 1 and version 2 is needed.*after=1\)"):
        await store._link.write(
            partial(_postgres_schema.prepare, schema="dagflow", migrate=False, store="s", steps=NEXT_STEPS)
        )


def test_the_script_from_one_version_to_the_next_has_the_new_steps_alone() -> None:
    script = _postgres_schema.ddl("mine", after=1, steps=NEXT_STEPS)

    assert script == (
        'BEGIN;\nALTER TABLE "mine".runs ADD COLUMN colour text;\n'
        'UPDATE "mine".dagflow_schema SET version = 2;\nCOMMIT;\n'
    )


async def test_a_schema_of_a_newer_release_is_refused(postgres_dsn: str, admin: psycopg.Connection[Any]) -> None:
    admin.execute("UPDATE dagflow.dagflow_schema SET version = 99")

    with pytest.raises(StoreFormatError, match="version 99"):
        await PostgresStore(postgres_dsn).open()


async def test_tables_of_somebody_else_are_left_alone(empty_postgres_dsn: str) -> None:
    with psycopg.connect(empty_postgres_dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA dagflow; CREATE TABLE dagflow.runs (mine text)")

    with pytest.raises(StoreFormatError, match="somebody else"):
        await PostgresStore(empty_postgres_dsn).open()

    with psycopg.connect(empty_postgres_dsn) as connection:
        assert connection.execute("SELECT to_regclass('dagflow.dagflow_schema')").fetchone() == (None,)


async def test_tables_that_vanish_are_reported(store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    admin.execute("DROP SCHEMA dagflow CASCADE")

    with pytest.raises(StoreFormatError, match="not there"):
        await store.read("r")


@pytest.mark.parametrize(
    "script",
    [
        "UPDATE dagflow.runs SET status = 'dreaming'",
        "UPDATE dagflow.events SET kind = 'node_dreamt'",
        "UPDATE dagflow.events SET facts = '{'",
    ],
)
async def test_a_row_that_the_library_cannot_read_is_named(
    store: PostgresStore, admin: psycopg.Connection[Any], script: str
) -> None:
    await started(store)
    admin.execute(script.encode())

    with pytest.raises(StoreFormatError, match="damaged, or was written by a newer version"):
        await store.read("r")


async def test_a_message_that_the_library_cannot_read_is_named(
    store: PostgresStore, admin: psycopg.Connection[Any]
) -> None:
    await started(store)
    await store.send(Message("r", MessageKind.SIGNAL))
    admin.execute("UPDATE dagflow.messages SET kind = 'dream'")

    with pytest.raises(StoreFormatError, match="damaged, or was written by a newer version"):
        await store.receive({"r": 0})


async def test_a_run_whose_row_cannot_be_read_is_not_claimed(
    store: PostgresStore, admin: psycopg.Connection[Any]
) -> None:
    claim = await started(store)
    await store.release([claim])
    admin.execute("UPDATE dagflow.runs SET status = 'dreaming'")

    with pytest.raises(StoreFormatError, match="damaged, or was written by a newer version"):
        await store.claim("r", owner="you", lease=60.0)

    assert admin.execute("SELECT owner, lease_until FROM dagflow.runs").fetchone() == (None, None)


async def test_a_database_with_another_encoding_is_refused(postgres_server: str) -> None:
    name = sql.Identifier("dagflow_latin1")
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        make = "CREATE DATABASE {} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        connection.execute(sql.SQL(make).format(name))
        try:
            with pytest.raises(StoreFormatError, match="LATIN1"):
                await PostgresStore(make_conninfo(postgres_server, dbname="dagflow_latin1")).open()
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


async def test_a_server_that_acknowledges_before_it_is_durable_is_refused(postgres_dsn: str) -> None:
    store = PostgresStore(make_conninfo(postgres_dsn, options="-c synchronous_commit=off"))

    with pytest.raises(StoreRefusedError, match="synchronous_commit is off"):
        await store.open()


async def test_a_standby_is_refused(own_postgres_server: OwnServer) -> None:
    own_postgres_server.kill()
    (own_postgres_server.directory / "data" / "standby.signal").touch()
    own_postgres_server.start()

    with pytest.raises(StoreRefusedError, match="standby"):
        await PostgresStore(own_postgres_server.dsn).open()


async def test_a_read_only_database_is_refused_by_name(postgres_dsn: str, admin: psycopg.Connection[Any]) -> None:
    name = sql.Identifier(admin.info.dbname)
    admin.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))

    async with PostgresStore(postgres_dsn) as store:
        with pytest.raises(StoreRefusedError, match="read-only"):
            await started(store)


async def test_a_server_that_has_become_read_only_is_left_for_one_that_is_not(
    postgres_dsn: str, admin: psycopg.Connection[Any]
) -> None:
    name = sql.Identifier(admin.info.dbname)
    admin.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))

    async with PostgresStore(postgres_dsn) as store:
        with pytest.raises(StoreRefusedError, match="read-only"):
            await started(store)
        admin.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))

        await started(store)


async def test_a_role_without_permissions_is_told_so(postgres_dsn: str, admin: psycopg.Connection[Any]) -> None:
    admin.execute("CREATE ROLE dagflow_reader LOGIN")
    try:
        admin.execute(
            "GRANT USAGE ON SCHEMA dagflow TO dagflow_reader; GRANT SELECT ON dagflow.dagflow_schema TO dagflow_reader"
        )
        async with PostgresStore(make_conninfo(postgres_dsn, user="dagflow_reader")) as store:
            with pytest.raises(StoreRefusedError, match="lacks a permission"):
                await store.read("r")
    finally:
        admin.execute("DROP OWNED BY dagflow_reader; DROP ROLE dagflow_reader")


# -- appends --------------------------------------------------------------------------------------


async def test_a_chain_of_appends_costs_one_commit_each(store: PostgresStore) -> None:
    claim = await started(store)

    before = store.commits
    for version in range(1, 21):
        await append(store, claim, version)

    assert store.commits - before == 20


async def test_appends_of_many_runs_that_wait_together_are_committed_together(store: PostgresStore) -> None:
    claims = [await started(store, f"r{number}") for number in range(50)]

    before = store.commits
    await asyncio.gather(*(append(store, claim, 1, count=2) for claim in claims))

    assert store.commits - before <= 2
    assert [await versions(store, claim.run_id) for claim in claims] == [[1, 2, 3]] * 50


async def test_an_append_that_has_probably_no_company_is_sent_by_the_task_that_asks_for_it(postgres_dsn: str) -> None:
    senders: list[asyncio.Task[Any] | None] = []
    async with PostgresStore(postgres_dsn, at=lambda _: senders.append(asyncio.current_task())) as store:
        claim = await started(store)
        await append(store, claim, 1)
        senders.clear()

        await append(store, claim, 2)

    assert senders == [asyncio.current_task()] * 2


async def test_appends_that_come_while_one_is_being_sent_alone_are_the_next_commit(store: PostgresStore) -> None:
    claims = [await started(store, f"r{number}") for number in range(9)]
    await append(store, claims[0], 1)
    commits = [store.commits]
    for version in (2, 3):
        await asyncio.gather(*(append(store, claim, version - (claim is not claims[0])) for claim in claims))
        commits.append(store.commits)

    # The second time it is known that there is company.
    assert [later - earlier for earlier, later in pairwise(commits)] == [2, 1]


async def test_an_append_that_is_cancelled_while_it_is_sent_alone_is_stopped_in_the_server(
    postgres_dsn: str, admin: psycopg.Connection[Any]
) -> None:
    async with PostgresStore(postgres_dsn, patience=3600.0) as store:
        claim = await started(store)
        await append(store, claim, 1)
        with admin.transaction():
            admin.execute("SELECT * FROM dagflow.runs FOR UPDATE")
            task = asyncio.create_task(append(store, claim, 2))
            while not admin.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])

        assert task.cancelled()
        assert await versions(store, "r") == [1, 2]
        await append(store, claim, 2)
        assert await versions(store, "r") == [1, 2, 3]


async def test_closing_waits_for_an_append_that_is_sent_alone(
    store: PostgresStore, admin: psycopg.Connection[Any]
) -> None:
    claim = await started(store)
    await append(store, claim, 1)
    with admin.transaction():
        admin.execute("SELECT * FROM dagflow.runs FOR UPDATE")
        writing = asyncio.create_task(append(store, claim, 2))
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0.05)
        assert not closing.done()

    await closing

    assert writing.done()
    assert not writing.exception()


async def test_appends_with_more_bytes_than_one_group_holds_are_all_kept(store: PostgresStore) -> None:
    claims = [await started(store, f"r{number}") for number in range(3)]
    big = bytes(3_000_000)
    before = store.commits

    await asyncio.gather(
        *(
            store.append([event(claim.run_id, 2, data=big)], claim=claim, version=1, status=RunStatus.RUNNING)
            for claim in claims
        )
    )

    for claim in claims:
        _, [kept] = await store.read(claim.run_id, after=1)
        assert kept.payload is not None
        assert kept.payload.data == big
    assert store.commits - before == 2


async def test_of_two_appends_after_one_version_the_first_is_kept(store: PostgresStore) -> None:
    claim = await started(store)

    results = await asyncio.gather(append(store, claim, 1), append(store, claim, 1, count=2), return_exceptions=True)

    assert results[0] is None
    assert isinstance(results[1], LeaseLostError)
    assert await versions(store, "r") == [1, 2]


async def test_a_refused_append_does_not_harm_its_group(store: PostgresStore) -> None:
    claims = [await started(store, f"r{number}") for number in range(5)]
    stale = Claim("r0", "me", 7)

    results = await asyncio.gather(
        append(store, stale, 1), *(append(store, claim, 1) for claim in claims[1:]), return_exceptions=True
    )

    assert isinstance(results[0], LeaseLostError)
    assert results[1:] == [None] * 4


@pytest.mark.parametrize("node", ["nul\0", "half \ud800"])
async def test_an_append_that_cannot_be_kept_does_not_harm_its_group(store: PostgresStore, node: str) -> None:
    claims = [await started(store, f"r{number}") for number in range(5)]
    bad = event("r0", 2, node=node)

    results = await asyncio.gather(
        store.append([bad], claim=claims[0], version=1, status=RunStatus.RUNNING),
        *(append(store, claim, 1) for claim in claims[1:]),
        return_exceptions=True,
    )

    assert isinstance(results[0], StoreRefusedError)
    assert results[1:] == [None] * 4
    assert await versions(store, "r0") == [1]


async def test_an_append_with_a_number_beyond_reason_raises_and_does_not_harm_its_group(store: PostgresStore) -> None:
    claims = [await started(store, f"r{number}") for number in range(3)]

    results = await asyncio.gather(
        append(store, claims[0], 1, received=2**64),
        *(append(store, claim, 1) for claim in claims[1:]),
        return_exceptions=True,
    )

    assert isinstance(results[0], Exception)
    assert results[1:] == [None] * 2


@pytest.mark.parametrize("count", [1, 6, 7, 40])
async def test_an_append_moves_the_record_with_its_events(store: PostgresStore, count: int) -> None:
    claim = await started(store)
    wake_at = AT + timedelta(days=1)

    await append(store, claim, 1, count=count, wake_at=wake_at, received=3, release=True)

    kept, events = await store.read("r")
    assert kept == RunRecord("r", "w", RunStatus.RUNNING, count + 1, AT, AT, epoch=1, wake_at=wake_at, received=3)
    assert events == [event("r", number) for number in range(1, count + 2)]


async def test_events_without_values_and_facts_are_kept_in_groups_too(store: PostgresStore) -> None:
    claim = await started(store)
    bare = [Event("r", version, EventKind.NODE_SKIPPED, None, 0, AT) for version in range(2, 20)]

    await store.append(bare, claim=claim, version=1, status=RunStatus.RUNNING)

    assert (await store.read("r", after=1))[1] == bare


async def test_a_journal_of_many_pages_is_read_as_it_is(store: PostgresStore) -> None:
    claim = await started(store)
    await append(store, claim, 1, count=11_000)

    assert await versions(store, "r") == list(range(1, 11_002))
    assert [event.version for event in (await store.read("r", after=10_999))[1]] == [11_000, 11_001]


@pytest.mark.parametrize("missing", ["version = 1", "version > 5000"])
async def test_a_journal_with_a_gap_is_reported(
    store: PostgresStore, admin: psycopg.Connection[Any], missing: str
) -> None:
    claim = await started(store)
    if missing == "version > 5000":
        await append(store, claim, 1, count=5_100)
    admin.execute(f"DELETE FROM dagflow.events WHERE {missing}".encode())

    with pytest.raises(StoreFormatError, match="gap"):
        await store.read("r")


async def test_what_sessions_think_of_time_changes_nothing(postgres_dsn: str) -> None:
    async with PostgresStore(make_conninfo(postgres_dsn, options="-c timezone=Asia/Kathmandu")) as store:
        claim = await started(store)
        await append(store, claim, 1, wake_at=AT)
        sent = await store.send(Message("r", MessageKind.SIGNAL))
        kept, events = await store.read("r")

    assert kept.lease_until is not None
    assert sent.sent_at is not None
    times = [kept.created_at, kept.updated_at, kept.lease_until, sent.sent_at, *(event.at for event in events)]
    assert [at.tzinfo for at in times] == [UTC] * 6
    assert kept.wake_at == AT


# -- the others -----------------------------------------------------------------------------------


async def test_messages_of_many_senders_are_numbered_without_gaps(store: PostgresStore, postgres_dsn: str) -> None:
    await started(store)

    async with PostgresStore(postgres_dsn) as other:
        sent = await asyncio.gather(
            *(sender.send(Message("r", MessageKind.SIGNAL, str(n))) for n in range(30) for sender in (store, other)),
            *(store.send(Message("r", MessageKind.SIGNAL, key="once")) for _ in range(5)),
            return_exceptions=True,
        )

    assert sorted(message.number for message in sent if isinstance(message, Message)) == list(range(1, 62))
    assert [message.number for message in await store.receive({"r": 0})] == list(range(1, 62))


async def test_renewals_and_appends_of_the_same_runs_never_wait_for_each_other_in_a_circle(
    store: PostgresStore, postgres_dsn: str, admin: psycopg.Connection[Any]
) -> None:
    claims = [await started(store, f"r{number}") for number in range(40)]

    async with PostgresStore(postgres_dsn) as other:
        for version in range(1, 11):
            await asyncio.gather(
                *(append(store, claim, version) for claim in claims),
                other.renew(claims[::-1], lease=60.0),
                store.renew(claims[::2] + claims[1::2], lease=60.0),
                other.renew(claims[20:] + claims[:20], lease=60.0),
            )

    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert admin.execute(query).fetchone() == (0,)


async def test_a_claim_that_is_refused_while_its_owner_lets_go_is_tried_again(store: PostgresStore) -> None:
    await started(store)

    async def let_go_first(run_id: str) -> None:
        await store.release([Claim(run_id, "me", 1)])

    refuse = store._refuse_owned
    calls = 0

    async def refuse_later(session: Any, run_id: str) -> None:
        nonlocal calls
        calls += 1
        await let_go_first(run_id)
        await refuse(session, run_id)

    store._refuse_owned = refuse_later  # type: ignore[method-assign]
    claimed = await store.claim("r", owner="you", lease=1.0)

    assert (claimed.owner, claimed.epoch, calls) == ("you", 2, 1)


async def test_a_run_is_found_by_everything_that_narrows_a_list(store: PostgresStore) -> None:
    for number in range(4):
        await started(store, f"r{number}")

    found = await store.find(RunQuery(workflow="w", statuses=frozenset({RunStatus.RUNNING}), after="r2", limit=1))

    assert [run.run_id for run in found] == ["r1"]
    with pytest.raises(RunNotFoundError):
        await store.find(RunQuery(after="missing"))


async def test_nothing_is_asked_when_there_is_nothing_to_ask(store: PostgresStore) -> None:
    assert await store.renew([], lease=1.0) == []
    assert await store.receive({}) == []
    await store.release([])


async def test_half_a_surrogate_pair_is_nobodys_name(store: PostgresStore) -> None:
    await started(store)

    assert await store.find(RunQuery(workflow="half \ud800")) == []
    with pytest.raises(RunNotFoundError):
        await store.read("half \ud800")


async def test_a_run_that_cannot_be_claimed_says_why(store: PostgresStore) -> None:
    await started(store)

    with pytest.raises(RunOwnedError) as caught:
        await store.claim("r", owner="you", lease=1.0)
    with pytest.raises(RunNotFoundError):
        await store.claim("missing", owner="you", lease=1.0)
    with pytest.raises(RunNotFoundError):
        await store.send(Message("missing", MessageKind.CANCEL))

    assert caught.value.owner == "me"
    assert caught.value.lease_until is not None


async def test_a_run_under_a_lease_is_not_deleted(store: PostgresStore) -> None:
    claim = await started(store)

    with pytest.raises(RunOwnedError):
        await store.delete("r")
    await store.release([claim])
    await store.delete("r")

    with pytest.raises(RunNotFoundError):
        await store.delete("r")


# -- connections ----------------------------------------------------------------------------------


def backends(admin: psycopg.Connection[Any]) -> set[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'dagflow' AND datname = current_database()"
    return {pid for (pid,) in admin.execute(query)}


async def test_connections_are_kept_and_used_again(store: PostgresStore, admin: psycopg.Connection[Any]) -> None:
    claim = await started(store)
    await append(store, claim, 1)
    before = backends(admin)

    for version in range(2, 10):
        await append(store, claim, version)
        await store.read("r")

    assert backends(admin) == before
    assert len(before) == 2


async def test_no_more_connections_are_made_than_allowed(postgres_dsn: str, admin: psycopg.Connection[Any]) -> None:
    async with PostgresStore(postgres_dsn, max_connections=3) as store:
        claim = await started(store)
        await asyncio.gather(append(store, claim, 1), *(store.read("r") for _ in range(30)))

        assert len(backends(admin)) == 3


async def test_closing_waits_for_every_call_that_is_under_way(
    store: PostgresStore, admin: psycopg.Connection[Any]
) -> None:
    claim = await started(store)
    with admin.transaction():
        admin.execute("SELECT * FROM dagflow.runs FOR UPDATE")
        renewing = asyncio.create_task(store.renew([claim], lease=5.0))
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0.05)
        assert not closing.done()

    await closing

    assert renewing.result() == []


async def test_closing_finishes_what_is_being_written(store: PostgresStore) -> None:
    claims = [await started(store, f"r{number}") for number in range(5)]
    writes = [asyncio.create_task(append(store, claim, 1)) for claim in claims[1:]]
    writes += [asyncio.create_task(store.release([claims[0]]))]
    await asyncio.sleep(0)

    await store.close()

    assert [task.done() and task.exception() for task in writes] == [None] * 5
    with pytest.raises(StoreRefusedError, match="not open"):
        await append(store, claims[1], 2)


def test_a_store_may_be_opened_again_on_another_loop(postgres_dsn: str) -> None:
    store = PostgresStore(postgres_dsn, max_connections=2)

    async def use(run_id: str) -> list[int]:
        async with store:
            await started(store, run_id)
            await asyncio.gather(*(store.read(run_id) for _ in range(5)))
            return await versions(store, run_id)

    assert asyncio.run(use("a")) == [1]
    assert asyncio.run(use("b")) == [1]


async def test_a_store_is_open_until_everybody_has_closed_it(store: PostgresStore) -> None:
    await started(store)

    async with store:
        assert await versions(store, "r") == [1]
    assert await versions(store, "r") == [1]
    await store.close()

    with pytest.raises(StoreRefusedError, match="not open"):
        await versions(store, "r")


async def test_a_store_is_not_used_from_another_loop(store: PostgresStore) -> None:
    async def open_it() -> None:
        await store.open()

    with pytest.raises(StoreRefusedError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, store.read("r"))
    with pytest.raises(StoreRefusedError, match="another event loop"):
        await asyncio.to_thread(asyncio.run, open_it())


async def test_a_store_is_not_used_by_a_child_that_was_forked(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await started(store)

    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: 1)
        with pytest.raises(StoreRefusedError, match="forked"):
            await store.read("r")
        await store.close()

    assert await versions(store, "r") == [1]


async def test_tests_are_told_of_every_statement(postgres_dsn: str) -> None:
    told: list[str] = []
    async with PostgresStore(postgres_dsn, at=told.append) as store:
        claim = await started(store)
        await append(store, claim, 1, release=True)
        await store.delete("r")

    assert told[told.index("before create") :] == [
        *("before create", "after create", "before append", "after append"),
        *("before BEGIN", "after BEGIN", "before lock", "after lock"),
        *("before delete", "after delete") * 3,
        *("before COMMIT", "after COMMIT"),
    ]


@pytest.mark.parametrize("point", ["before append", "after append", "before send", "after send"])
@pytest.mark.parametrize("earlier", [0, 1], ids=["the first", "one more"])
async def test_a_test_may_crash_at_any_point(postgres_dsn: str, point: str, earlier: int) -> None:
    points: list[str] = []

    def crash(name: str) -> None:
        if name in points:
            raise Crash(name)

    async with PostgresStore(postgres_dsn, at=crash) as store:
        claim = await started(store)
        for version in range(1, earlier + 1):
            await append(store, claim, version)
        points.append(point)
        call = append(store, claim, earlier + 1) if "append" in point else store.send(Message("r", MessageKind.SIGNAL))

        with pytest.raises(Crash):
            await call

        kept = len(await versions(store, "r")) == earlier + 2 or bool(await store.receive({"r": 0}))
        assert kept is point.startswith("after")


def test_a_store_that_was_left_open_on_a_loop_that_ended_is_opened_anew(postgres_dsn: str) -> None:
    store = PostgresStore(postgres_dsn)

    async def use(run_id: str) -> list[int]:
        await store.open()
        claim = await started(store, run_id)
        await append(store, claim, 1)
        return await versions(store, run_id)

    assert asyncio.run(use("a")) == [1, 2]
    assert asyncio.run(use("b")) == [1, 2]
    asyncio.run(store.close())


def test_a_loop_that_ends_in_the_middle_of_an_append_ends(postgres_dsn: str) -> None:
    async def use() -> None:
        store = PostgresStore(postgres_dsn)
        await store.open()
        claim = await started(store)
        await append(store, claim, 1)
        with psycopg.connect(postgres_dsn) as connection:
            connection.execute("SELECT * FROM dagflow.runs FOR UPDATE")
            task = asyncio.create_task(append(store, claim, 2))
            reading = asyncio.create_task(store.claim("r", owner="me", lease=1.0))
            await asyncio.sleep(0.1)
            everything = asyncio.all_tasks() - {asyncio.current_task()}
            for other in everything:
                other.cancel()
            await asyncio.wait(everything)
            assert task.cancelled()
            assert reading.cancelled()
        await store.close()

    asyncio.run(use())


# -- pools of the application ---------------------------------------------------------------------


async def test_a_pool_of_the_application_is_used_as_it_is_and_left_open(postgres_dsn: str) -> None:
    async with AsyncConnectionPool(
        postgres_dsn, min_size=1, max_size=2, open=False, kwargs={"row_factory": dict_row}
    ) as pool:
        async with PostgresStore(pool) as store:
            claim = await started(store)
            await append(store, claim, 1)
            await append(store, claim, 2, count=10)
            assert await versions(store, "r") == list(range(1, 13))
            assert "pool" in repr(store)

        async with pool.connection() as connection:
            assert not connection.autocommit
            cursor = await connection.execute("SELECT count(*) AS n FROM dagflow.runs")
            assert dict(await cursor.fetchone() or ()) == {"n": 1}


async def test_a_pool_of_one_connection_is_enough(postgres_dsn: str) -> None:
    async with (
        AsyncConnectionPool(postgres_dsn, min_size=1, max_size=1, open=False) as pool,
        PostgresStore(pool) as store,
    ):
        claims = await asyncio.gather(*(started(store, f"r{number}") for number in range(10)))
        await asyncio.gather(
            *(append(store, claim, 1) for claim in claims),
            *(store.read(claim.run_id) for claim in claims),
            *(store.send(Message(claim.run_id, MessageKind.SIGNAL)) for claim in claims),
            store.renew(claims, lease=10.0),
        )

        assert [await versions(store, claim.run_id) for claim in claims] == [[1, 2]] * 10


async def test_the_connections_of_a_pool_are_those_of_the_store(postgres_dsn: str) -> None:
    async with (
        AsyncConnectionPool(postgres_dsn, min_size=2, max_size=2, open=False) as pool,
        PostgresStore(pool) as store,
    ):
        await started(store)
        figures = await store.measure()

    assert (figures.connections, figures.pool_size) == (2, 2)
    assert figures.size_bytes > 0


async def test_a_pool_that_never_prepares_is_never_made_to(postgres_dsn: str) -> None:
    options = {"prepare_threshold": None, "autocommit": True}
    async with AsyncConnectionPool(postgres_dsn, min_size=1, max_size=1, open=False, kwargs=options) as pool:
        async with PostgresStore(pool) as store:
            claim = await started(store)
            for version in range(1, 10):
                await append(store, claim, version)

        async with pool.connection() as connection:
            cursor = await connection.execute("SELECT count(*) FROM pg_prepared_statements")
            assert await cursor.fetchone() == (0,)


async def test_a_pool_that_is_exhausted_is_waited_for_with_patience(postgres_dsn: str) -> None:
    async with (
        AsyncConnectionPool(postgres_dsn, min_size=1, max_size=1, open=False) as pool,
        PostgresStore(pool, patience=0.1) as store,
    ):
        claim = await started(store)
        async with pool.connection():
            with pytest.raises(StoreUnavailableError, match="in time: the pool is drained, or belongs to another"):
                await append(store, claim, 1)
            with pytest.raises(StoreUnavailableError, match="no connection could be had"):
                await store.read("r")

        await append(store, claim, 1)


async def test_an_append_that_is_cancelled_while_it_waits_for_a_connection_is_never_sent(postgres_dsn: str) -> None:
    async with (
        AsyncConnectionPool(postgres_dsn, min_size=1, max_size=1, open=False) as pool,
        PostgresStore(pool) as store,
    ):
        claim = await started(store)
        before = store.commits
        async with pool.connection():
            waiting = asyncio.create_task(append(store, claim, 1))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait([waiting])

        await store.close()
        assert waiting.cancelled()
        assert before == store.commits


async def test_something_that_is_no_pool_of_the_right_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="AsyncConnectionPool, not a ConnectionPool"):
        PostgresStore(ConnectionPool("", open=False))  # type: ignore[arg-type]


async def test_a_pool_that_is_closed_is_reported_at_once(postgres_dsn: str) -> None:
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(postgres_dsn, min_size=1, max_size=1, open=False)

    with pytest.raises(StoreRefusedError, match="not open yet: open it before the executor"):
        await PostgresStore(pool).open()


async def test_a_connection_that_the_application_has_closed_in_its_pool_is_passed_over(postgres_dsn: str) -> None:
    async with (
        AsyncConnectionPool(postgres_dsn, min_size=1, max_size=1, open=False) as pool,
        PostgresStore(pool) as store,
    ):
        await started(store)
        async with pool.connection() as connection:
            pass
        await connection.close()

        assert await versions(store, "r") == [1]


# -- errors of the server -------------------------------------------------------------------------


@pytest.fixture
def fail(admin: psycopg.Connection[Any]) -> Any:
    """Make the next inserts of events fail with a state, so many times."""

    def arm(state: str, times: int, slow: float = 0.0) -> None:
        admin.execute("DROP SEQUENCE IF EXISTS failures; CREATE SEQUENCE failures")
        fault = f"IF nextval('failures') <= {times} THEN RAISE 'no luck' USING ERRCODE = '{state}'; END IF"
        body = f"BEGIN PERFORM pg_sleep({slow}); {fault}; RETURN NEW; END"
        admin.execute(f"CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $${body}$$".encode())
        admin.execute(
            "CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON dagflow.events FOR EACH ROW EXECUTE FUNCTION fail()"
        )

    return arm


PASSING = [
    *("08000", "08006", "25P03", "25P04", "40001", "40003", "40P01", "53100", "53200", "53300", "55P03", "57014"),
    *("57P03", "58030"),
]


@pytest.mark.parametrize("state", PASSING)
async def test_a_fault_that_passes_is_waited_for(store: PostgresStore, fail: Any, state: str) -> None:
    claim = await started(store)

    fail(state, 2)
    await append(store, claim, 1)
    fail(state, 2)
    await started(store, "other")

    assert await versions(store, "r") == [1, 2]
    assert await versions(store, "other") == [1]


@pytest.mark.parametrize(
    ("state", "error", "words"),
    [
        ("53100", StoreRefusedError, "no space is left"),
        ("57014", StoreUnavailableError, "no luck"),
        ("08006", StoreUnavailableError, "not known whether the write was kept"),
        ("25006", StoreRefusedError, "read-only"),
        ("26000", StoreRefusedError, "prepare_threshold=None"),
        ("42501", StoreRefusedError, "lacks a permission"),
        ("22021", StoreRefusedError, "no luck"),
        ("42P01", StoreFormatError, "not there"),
    ],
)
async def test_a_fault_that_does_not_pass_is_named(
    postgres_dsn: str, fail: Any, state: str, error: type[Exception], words: str
) -> None:
    async with PostgresStore(postgres_dsn, patience=0.2) as store:
        claim = await started(store)
        fail(state, 1_000)

        with pytest.raises(error, match=words):
            await append(store, claim, 1)
        with pytest.raises(error, match=words):
            await started(store, "other")

        fail(state, 0)
        assert await versions(store, "r") == [1]
        await append(store, claim, 1)


async def test_waiting_for_the_server_is_logged_without_what_is_stored(
    store: PostgresStore, fail: Any, caplog: pytest.LogCaptureFixture
) -> None:
    claim = await started(store)
    fail("40001", 3)

    await append(store, claim, 1)

    [line] = [line for line in caplog.records if line.name == "dagflow"]
    assert line.getMessage() == "the store does not answer, trying again"
    assert vars(line)["error"] == "no luck (40001)"


async def test_a_write_that_is_cancelled_while_it_fails_for_certain_is_not_tried_again(
    postgres_dsn: str, fail: Any
) -> None:
    async with PostgresStore(postgres_dsn, patience=3600.0) as store:
        claim = await started(store)
        fail("40001", 1_000_000, slow=0.1)

        for write in (append(store, claim, 1), started(store, "other")):
            task = asyncio.create_task(write)
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

        fail("40001", 0)
        assert [run.run_id for run in await store.find(RunQuery())] == ["r"]
        assert await versions(store, "r") == [1]
