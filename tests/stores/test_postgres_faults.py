"""`PostgresStore` when connections are cut, the server dies, or callers are cancelled."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from dagflow._events import Claim, Event, EventKind, Message, MessageKind, Payload, RunQuery, RunRecord, RunStatus
from dagflow.errors import LeaseLostError, MessageExistsError, RunExistsError, RunNotFoundError, StoreUnavailableError
from dagflow.stores import _postgres_schema
from dagflow.stores.postgres import PostgresStore
from proxy import Cut, Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from postgres_server import OwnServer

AT = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)


def event(run_id: str, version: int) -> Event:
    return Event(
        run_id, version, EventKind.NODE_COMPLETED, "n", 1, AT, {"n": version}, Payload("json", b"1", bytes(32))
    )


def record(run_id: str) -> RunRecord:
    return RunRecord(run_id, "w", RunStatus.RUNNING, 1, AT, AT, owner="me", epoch=1)


async def started(store: PostgresStore, run_id: str) -> Claim:
    return (await store.create(record(run_id), [event(run_id, 1)], lease=60.0)).claim


async def append(store: PostgresStore, claim: Claim, version: int, count: int = 1, **options: Any) -> None:
    events = [event(claim.run_id, version + number) for number in range(1, count + 1)]
    await store.append(events, claim=claim, version=version, status=RunStatus.RUNNING, **options)


async def journal(store: PostgresStore, run_id: str) -> list[Event]:
    return (await store.read(run_id))[1]


def whole(run_id: str, last: int) -> list[Event]:
    return [event(run_id, version) for version in range(1, last + 1)]


# -- connections that are cut ---------------------------------------------------------------------


async def reference(store: PostgresStore) -> None:
    """Call every method, and check that each did what it was asked to do once."""
    claims = [await started(store, run_id) for run_id in "abc"]
    await append(store, claims[0], 1)
    await append(store, claims[0], 2, count=8)
    await asyncio.gather(*(append(store, claim, 1, count=2) for claim in claims[1:]))
    assert [await journal(store, run_id) for run_id in "abc"] == [whole("a", 10), whole("b", 3), whole("c", 3)]

    sent = [await store.send(Message("a", MessageKind.SIGNAL, name, key=name)) for name in ("x", "y")]
    assert await store.receive({"a": 0}) == sent
    with pytest.raises(MessageExistsError):
        await store.send(Message("a", MessageKind.SIGNAL, key="x"))

    assert await store.renew([*claims, Claim("a", "me", 9)], lease=60.0) == [Claim("a", "me", 9)]
    taken = await store.claim("a", owner="you", lease=60.0, dead_owner="me")
    with pytest.raises(LeaseLostError):
        await append(store, claims[0], 10)
    await append(store, taken.claim, 10, release=True)
    await store.release(claims[1:])
    assert [run.owner for run in await store.find(RunQuery())] == [None] * 3
    await store.delete("a")
    with pytest.raises(RunNotFoundError):
        await store.read("a")
    assert [run.run_id for run in await store.find(RunQuery(claimable=True))] == ["b", "c"]


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_a_connection_that_is_cut_at_any_request_changes_no_result(postgres_dsn: str, cut: Cut) -> None:
    async with Proxy(postgres_dsn) as proxy:
        request = 0
        while proxy.cuts == request:
            request += 1
            proxy.cut_once(cut, request)
            async with PostgresStore(proxy.dsn, patience=20.0) as store:
                await reference(store)
            with psycopg.connect(postgres_dsn) as connection:
                connection.execute("TRUNCATE dagflow.runs, dagflow.events, dagflow.messages")

    assert request > 40


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_a_migration_that_is_cut_at_any_request_is_made_once(empty_postgres_dsn: str, cut: Cut) -> None:
    async with Proxy(empty_postgres_dsn) as proxy:
        request = 0
        while proxy.cuts == request:
            request += 1
            proxy.cut_once(cut, request)
            async with PostgresStore(proxy.dsn, schema=f"s{request}", patience=20.0) as store:
                await started(store, "r")
            with psycopg.connect(empty_postgres_dsn) as connection:
                [(version,)] = connection.execute(f"SELECT version FROM s{request}.dagflow_schema".encode())
                assert version == len(_postgres_schema.STEPS)

    assert request > 10


@asynccontextmanager
async def cut_and_meddle(proxy: Proxy, dsn: str, cut: Cut, meddle: str, *, at: int = 1) -> AsyncIterator[None]:
    """Cut at a request, and let somebody else change the database before the next one arrives."""
    wanted = proxy.requests + at

    def decide(number: int) -> Cut | None:
        if number == wanted + 1:
            with psycopg.connect(dsn) as connection:
                connection.execute(meddle.encode())
        return cut if number == wanted else None

    proxy.decide = decide
    yield
    assert proxy.requests > wanted


async def test_an_append_that_was_not_kept_is_not_forced_on_a_new_owner(postgres_dsn: str) -> None:
    async with Proxy(postgres_dsn) as proxy, PostgresStore(proxy.dsn) as store:
        claim = await started(store, "r")

        async with cut_and_meddle(proxy, postgres_dsn, Cut.BEFORE, "UPDATE dagflow.runs SET epoch = 2, owner = 'you'"):
            with pytest.raises(LeaseLostError):
                await append(store, claim, 1)

        assert await journal(store, "r") == whole("r", 1)


async def test_an_append_that_was_kept_is_known_to_be_when_the_run_has_a_new_owner(postgres_dsn: str) -> None:
    async with Proxy(postgres_dsn) as proxy, PostgresStore(proxy.dsn) as store:
        claim = await started(store, "r")
        await append(store, claim, 1)

        async with cut_and_meddle(proxy, postgres_dsn, Cut.AFTER, "UPDATE dagflow.runs SET epoch = 2, owner = 'you'"):
            await append(store, claim, 2)

        assert await journal(store, "r") == whole("r", 3)


async def test_a_run_that_another_has_created_meanwhile_is_not_taken_for_ours(postgres_dsn: str) -> None:
    theirs = (
        "INSERT INTO dagflow.runs"
        " (run_id, workflow, status, version, created_at, updated_at, priority, epoch, received)"
        " VALUES ('r', 'w', 'pending', 1, now(), now(), 0, 0, 0);"
        "INSERT INTO dagflow.events (run_id, version, attempt, at, kind) VALUES ('r', 1, 0, now(), 'run_created')"
    )
    async with Proxy(postgres_dsn) as proxy, PostgresStore(proxy.dsn) as store:
        async with cut_and_meddle(proxy, postgres_dsn, Cut.BEFORE, theirs):
            with pytest.raises(RunExistsError):
                await started(store, "r")

        assert [event.kind for event in await journal(store, "r")] == [EventKind.RUN_CREATED]


async def test_a_run_that_has_the_id_of_one_just_deleted_stays(postgres_dsn: str) -> None:
    theirs = (
        "INSERT INTO dagflow.runs"
        " (run_id, workflow, status, version, created_at, updated_at, priority, epoch, received)"
        " VALUES ('r', 'w', 'pending', 0, now(), now(), 0, 0, 0)"
    )
    async with Proxy(postgres_dsn) as proxy, PostgresStore(proxy.dsn) as store:
        for run_id in ("first", "r"):
            await store.release([await started(store, run_id)])
        await store.delete("first")

        # BEGIN, the lock, three deletions: the sixth request is the COMMIT.
        async with cut_and_meddle(proxy, postgres_dsn, Cut.AFTER, theirs, at=6):
            await store.delete("r")

        kept, _ = await store.read("r")
        assert kept.version == 0


async def test_a_message_that_is_sent_again_in_doubt_may_still_find_its_key_taken(postgres_dsn: str) -> None:
    theirs = (
        "INSERT INTO dagflow.messages (run_id, number, kind, name, key, token, sent_at)"
        " VALUES ('r', 1, 'signal', '', 'k', gen_random_uuid(), now()); UPDATE dagflow.runs SET sent = 1"
    )
    async with Proxy(postgres_dsn) as proxy, PostgresStore(proxy.dsn) as store:
        await started(store, "r")

        async with cut_and_meddle(proxy, postgres_dsn, Cut.BEFORE, theirs):
            with pytest.raises(MessageExistsError):
                await store.send(Message("r", MessageKind.SIGNAL, key="k"))

        assert len(await store.receive({"r": 0})) == 1


async def test_when_the_link_stays_broken_it_is_said_that_nobody_knows(postgres_dsn: str) -> None:
    async with Proxy(postgres_dsn) as proxy, PostgresStore(proxy.dsn, patience=0.3) as store:
        claim = await started(store, "r")
        await append(store, claim, 1)
        proxy.decide = lambda number: Cut.AFTER if number == first else Cut.BEFORE
        first = proxy.requests + 1

        with pytest.raises(StoreUnavailableError, match="not known whether the write was kept"):
            await append(store, claim, 2)
        with pytest.raises(StoreUnavailableError, match="not known whether the write was kept"):
            await store.send(Message("r", MessageKind.SIGNAL))
        with pytest.raises(StoreUnavailableError) as caught:
            await store.read("r")
        assert "not known" not in str(caught.value)

        proxy.decide = lambda _: None
        assert await journal(store, "r") == whole("r", 3)


async def test_a_link_that_falls_silent_is_given_up_and_made_anew(postgres_dsn: str) -> None:
    async with Proxy(postgres_dsn) as proxy, PostgresStore(proxy.dsn, patience=0.3) as store:
        claim = await started(store, "r")
        await append(store, claim, 1)
        proxy.decide = lambda _: Cut.SILENT

        results = await asyncio.gather(append(store, claim, 2), store.read("r"), return_exceptions=True)
        proxy.decide = lambda _: None

        assert [type(result) for result in results] == [StoreUnavailableError, StoreUnavailableError]
        await append(store, claim, 2)
        assert await journal(store, "r") == whole("r", 3)


# -- servers that are not there -------------------------------------------------------------------


@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
async def test_a_pool_whose_connection_is_cut_is_used_on(postgres_dsn: str, cut: Cut) -> None:
    async with (
        Proxy(postgres_dsn) as proxy,
        AsyncConnectionPool(proxy.dsn, min_size=2, max_size=2, open=False) as pool,
        PostgresStore(pool) as store,
    ):
        claim = await started(store, "r")
        for version in range(1, 6):
            proxy.cut_once(cut, 1)
            await append(store, claim, version)

        assert await journal(store, "r") == whole("r", 6)
        assert proxy.cuts == 5


async def test_a_server_that_does_not_exist_is_reported(postgres_dsn: str) -> None:
    store = PostgresStore(make_conninfo(postgres_dsn, host="/nowhere", password="secret"), patience=0.1)

    with pytest.raises(StoreUnavailableError, match="/nowhere") as caught:
        await store.open()

    assert "secret" not in str(caught.value)
    assert "secret" not in repr(store)


async def test_a_wrong_password_is_reported_and_not_shown(own_postgres_server: OwnServer) -> None:
    with psycopg.connect(own_postgres_server.dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
    (own_postgres_server.directory / "data" / "pg_hba.conf").write_text("local all all scram-sha-256\n")
    own_postgres_server.kill()
    own_postgres_server.start()
    dsn = make_conninfo(own_postgres_server.dsn, user="guarded", password="secret-and-wrong")

    with pytest.raises(StoreUnavailableError, match="password authentication failed") as caught:
        await PostgresStore(dsn, patience=0.1).open()

    assert "secret" not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"


async def test_a_server_that_is_killed_and_started_again_loses_and_repeats_nothing(
    own_postgres_server: OwnServer,
) -> None:
    is_over = asyncio.Event()

    async def chain(store: PostgresStore, run_id: str) -> int:
        claim = await started(store, run_id)
        version = 1
        while not is_over.is_set():
            await append(store, claim, version)
            version += 1
            await store.send(Message(run_id, MessageKind.SIGNAL, str(version)))
        return version

    async def kill(times: int) -> None:
        for _ in range(times):
            await asyncio.sleep(0.2)
            own_postgres_server.kill()
            await asyncio.to_thread(own_postgres_server.start)
        is_over.set()

    async with PostgresStore(own_postgres_server.dsn) as store:
        run_ids = [f"r{number}" for number in range(20)]

        killing = asyncio.create_task(kill(5))
        lasts = await asyncio.gather(*(chain(store, run_id) for run_id in run_ids))
        await killing

        for run_id, last in zip(run_ids, lasts, strict=True):
            assert await journal(store, run_id) == whole(run_id, last)
            sent = await store.receive({run_id: 0})
            assert [message.name for message in sent] == [str(version) for version in range(2, last + 1)]


# -- callers that are cancelled -------------------------------------------------------------------


@pytest.fixture(params=["connections of its own", "a pool of one"])
async def store(
    postgres_dsn: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[PostgresStore]:
    # psycopg leaves the loop to others when it has been busy: now it always has been, and there are more moments.
    monkeypatch.setattr("psycopg.waiting.MAX_BUSY_TIME", 0.0, raising=False)
    if request.param == "a pool of one":
        async with (
            AsyncConnectionPool(postgres_dsn, min_size=1, max_size=1, open=False) as pool,
            PostgresStore(pool, patience=20.0) as store,
        ):
            yield store
    else:
        async with PostgresStore(postgres_dsn, patience=20.0) as store:
            yield store


async def cancelled_after(turns: int, work: Awaitable[object], *, times: int = 1) -> bool:
    """Cancel work after so many turns of the loop; return whether it was told of it before it ended."""
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return task.cancelled()


async def until_it_is_too_late(
    work: Callable[[], Awaitable[Awaitable[object]]], check: Callable[[], Awaitable[None]]
) -> None:
    """Cancel work at its first turn, then its second and so on, once and twice, until it ends before that."""
    for times in (1, 2):
        turns = 0
        while await cancelled_after(turns, await work(), times=times):
            await check()
            turns += 1
        await check()


async def test_an_append_that_is_cancelled_at_any_moment_is_kept_or_not(
    store: PostgresStore, postgres_dsn: str
) -> None:
    claim = await started(store, "r")
    state = {"version": 1, "kept": 0, "not kept": 0}

    async def work() -> Awaitable[None]:
        return append(store, claim, state["version"])

    async def check() -> None:
        kept, events = await store.read("r")
        state["kept" if kept.version > state["version"] else "not kept"] += 1
        state["version"] = kept.version
        assert events == whole("r", kept.version)

    await until_it_is_too_late(work, check)

    assert state["kept"] > 2
    assert state["not kept"] > 2
    with psycopg.connect(postgres_dsn) as connection:
        query = "SELECT state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert set(connection.execute(query)) == {("idle",)}


async def test_one_of_many_appends_that_is_cancelled_takes_no_other_with_it(store: PostgresStore) -> None:
    claims = [await started(store, f"r{number}") for number in range(5)]
    state = {"turns": 0, "version": 1}

    while True:
        versions = [(await store.read(claim.run_id))[0].version for claim in claims]
        others = asyncio.gather(*(append(store, c, v) for c, v in zip(claims[1:], versions[1:], strict=True)))
        was_cancelled = await cancelled_after(state["turns"], append(store, claims[0], versions[0]))
        await others
        for claim, version in zip(claims[1:], versions[1:], strict=True):
            assert await journal(store, claim.run_id) == whole(claim.run_id, version + 1)
        if not was_cancelled:
            break
        state["turns"] += 1


async def test_every_other_call_may_be_cancelled_at_any_moment(store: PostgresStore) -> None:
    await started(store, "r")
    count = 0

    def calls(run_id: str) -> list[Callable[[], Awaitable[object]]]:
        return [
            lambda: store.create(record(run_id), [event(run_id, 1)]),
            lambda: store.send(Message("r", MessageKind.SIGNAL, run_id)),
            lambda: store.claim("r", owner="you", lease=1.0, dead_owner="me"),
            lambda: store.renew([Claim("r", "me", 1)], lease=1.0),
            lambda: store.release([Claim("r", "nobody", 1)]),
            lambda: store.read("r"),
            lambda: store.find(RunQuery(claimable=True)),
            lambda: store.receive({"r": 0}),
        ]

    # Many times, for what happens at a turn depends on when the server answers.
    for number, attempt in itertools.product(range(len(calls(""))), range(6)):
        turns = 0
        call = calls(f"{number}/{attempt}/{turns}")[number]
        while await cancelled_after(turns, call(), times=1 + attempt % 2):
            turns += 1
            call = calls(f"{number}/{attempt}/{turns}")[number]
        count += turns

    messages = await store.receive({"r": 0})
    assert [message.number for message in messages] == list(range(1, len(messages) + 1))
    assert await journal(store, "r") == whole("r", 1)
    assert count > 240


async def test_a_deletion_that_is_cancelled_at_any_moment_is_whole(store: PostgresStore, postgres_dsn: str) -> None:
    turns = 0
    while True:
        with suppress(RunExistsError):
            await store.release([await started(store, "r")])
        was_cancelled = await cancelled_after(turns, store.delete("r"))
        with psycopg.connect(postgres_dsn) as connection:
            query = "SELECT (SELECT count(*) FROM dagflow.runs), (SELECT count(*) FROM dagflow.events)"
            assert connection.execute(query).fetchone() in ((0, 0), (1, 1))
        if not was_cancelled:
            break
        turns += 1


async def test_a_read_that_waits_for_a_server_is_cancelled_at_once(postgres_dsn: str) -> None:
    async with Proxy(postgres_dsn) as proxy, PostgresStore(proxy.dsn, patience=3600.0) as store:
        claim = await started(store, "r")
        await append(store, claim, 1)
        proxy.decide = lambda _: Cut.BEFORE
        with suppress(TimeoutError):
            await asyncio.wait_for(store.read("r"), 0.1)

        for work in (store.find(RunQuery()), store.read("r")):
            await cancelled_after(200, work)


def keep_the_first(first: int, tried_again: asyncio.Event) -> Callable[[int], Cut | None]:
    """Let the server do a request without an answer, and cut all that follow before it hears of them."""

    def decide(number: int) -> Cut | None:
        if number > first + 1:
            tried_again.set()
        return Cut.AFTER if number == first else Cut.BEFORE

    return decide


async def test_a_cancelled_write_in_doubt_ends_when_its_outcome_is_known(postgres_dsn: str) -> None:
    async with Proxy(postgres_dsn) as proxy, PostgresStore(proxy.dsn, patience=3600.0) as store:
        claim = await started(store, "r")
        await append(store, claim, 1)
        for write in (append(store, claim, 2), store.send(Message("r", MessageKind.SIGNAL))):
            is_doubtful = asyncio.Event()
            proxy.decide = keep_the_first(proxy.requests + 1, is_doubtful)
            task = asyncio.ensure_future(write)
            await is_doubtful.wait()
            for _ in range(2):
                task.cancel()
                await asyncio.sleep(0.05)
            assert not task.done()

            proxy.decide = lambda _: None
            await asyncio.wait([task])
            assert task.cancelled()

        assert await journal(store, "r") == whole("r", 3)
        assert [message.number for message in await store.receive({"r": 0})] == [1]


async def test_a_cancelled_append_that_the_server_does_not_answer_ends_when_its_outcome_is_known(
    postgres_dsn: str,
) -> None:
    async with Proxy(postgres_dsn) as proxy, PostgresStore(proxy.dsn, patience=3600.0) as store:
        claim = await started(store, "r")
        await append(store, claim, 1)
        proxy.cut_once(Cut.SILENT, at=1)
        task = asyncio.create_task(append(store, claim, 2))
        while not proxy.cuts:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()
        assert await journal(store, "r") == whole("r", 3)
