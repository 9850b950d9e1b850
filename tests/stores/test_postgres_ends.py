"""However work with `PostgresStore` is cut off, nobody waits for what never comes, or keeps others waiting."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from dagflow._events import Message, MessageKind
from dagflow.errors import StoreUnavailableError
from dagflow.stores.postgres import PostgresStore
from dagflow.testing import Crash
from proxy import Cut, Proxy
from stores.ctrl_c import CtrlC, run_to_its_end
from stores.test_postgres_faults import append, journal, started, whole

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from dagflow._events import Claim

OBJECT = """
CREATE FUNCTION dagflow.object() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
CREATE TRIGGER object BEFORE INSERT ON dagflow.events FOR EACH ROW WHEN (NEW.run_id = 'r')
    EXECUTE FUNCTION dagflow.object();
"""


# -- appends that may have been kept, and that the server objects to -------------------------------


def cut_and_object(proxy: Proxy, dsn: str) -> None:
    """Cut at the next request, which the server never gets, and let it object to all that follow."""
    wanted = proxy.requests + 1

    def decide(number: int) -> Cut | None:
        if number != wanted:
            return None
        with psycopg.connect(dsn) as connection:
            connection.execute(OBJECT.encode())
        return Cut.BEFORE

    proxy.decide = decide


async def test_an_append_in_doubt_to_which_the_server_objects_is_sent_now_and_then_and_keeps_nobody_waiting(
    postgres_dsn: str,
) -> None:
    async with Proxy(postgres_dsn) as proxy, PostgresStore(proxy.dsn, patience=2.0) as store:
        claim, other = await started(store, "r"), await started(store, "other")
        await append(store, claim, 1)
        cut_and_object(proxy, postgres_dsn)
        stuck = asyncio.create_task(append(store, claim, 2))
        while not proxy.cuts:  # noqa: ASYNC110 - it is the proxy's
            await asyncio.sleep(0.01)

        for version in range(1, 6):
            await append(store, other, version)
        assert not stuck.done()
        with pytest.raises(StoreUnavailableError, match="not known whether the write was kept: no"):
            await stuck

        assert proxy.requests < 100
        assert await journal(store, "r") == whole("r", 2)
        assert await journal(store, "other") == whole("other", 6)


async def test_an_append_in_doubt_whose_pool_was_closed_leaves_the_loop_to_others(postgres_dsn: str) -> None:
    async with Proxy(postgres_dsn) as proxy, AsyncConnectionPool(proxy.dsn, min_size=1, open=False) as pool:
        store = PostgresStore(pool, patience=1.5)
        await store.open()
        claim = await started(store, "r")
        proxy.cut_once(Cut.AFTER, at=1)
        stuck = asyncio.create_task(append(store, claim, 1))
        while not proxy.cuts:  # noqa: ASYNC110 - it is the proxy's
            await asyncio.sleep(0)
        await pool.close()

        turns = 0
        while not stuck.done():
            await asyncio.sleep(0.01)
            turns += 1

        assert turns > 20
        with pytest.raises(StoreUnavailableError, match="not known whether the write was kept"):
            await stuck
        await store.close()


# -- loops that are closed in the middle of something ---------------------------------------------


async def alone(store: PostgresStore, claims: list[Claim]) -> None:
    await append(store, claims[0], 2)


async def together(store: PostgresStore, claims: list[Claim]) -> None:
    await asyncio.gather(*(append(store, claim, 2) for claim in (*claims, *claims)))


async def claiming(store: PostgresStore, claims: list[Claim]) -> None:
    await store.claim(claims[0].run_id, owner="me", lease=60.0)


def closed_in_the_middle(store: PostgresStore, dsn: str, work: Any) -> None:
    """Use a store on a loop that is closed while the server keeps an answer back."""

    async def begin() -> list[Claim]:
        await store.open()
        claims = [await started(store, run_id) for run_id in "ab"]
        for claim in claims:
            await append(store, claim, 1)
        return claims

    with contextlib.closing(asyncio.new_event_loop()) as loop, psycopg.connect(dsn) as connection:
        claims = loop.run_until_complete(begin())
        connection.execute("SELECT * FROM dagflow.runs FOR UPDATE")
        loop.create_task(work(store, claims))
        loop.run_until_complete(asyncio.sleep(0.1))
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("work", [alone, together, claiming])
def test_a_store_whose_loop_was_closed_in_the_middle_is_opened_anew(postgres_dsn: str, work: Any) -> None:
    store = PostgresStore(postgres_dsn, max_connections=2)
    closed_in_the_middle(store, postgres_dsn, work)
    before = store.commits

    async def use() -> None:
        async with store:
            claim = await started(store, "r")
            writing = asyncio.gather(*(started(store, f"r{number}") for number in range(5)), append(store, claim, 1))
            # What is left of the other loop ends now, and takes nothing from this one.
            gc.collect()
            await writing
            await append(store, claim, 2)
            assert await journal(store, "r") == whole("r", 3)
            figures = await store.measure()
            assert (figures.connections, figures.pool_size) == (2, 2)

    asyncio.run(use())
    assert store.commits > before


@pytest.mark.parametrize("work", [alone, together, claiming])
def test_a_store_whose_loop_was_closed_in_the_middle_is_closed_on_another_one(postgres_dsn: str, work: Any) -> None:
    store = PostgresStore(postgres_dsn)
    closed_in_the_middle(store, postgres_dsn, work)

    asyncio.run(store.close())
    gc.collect()

    with psycopg.connect(postgres_dsn) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        while connection.execute(query).fetchone() != (0,):
            connection.execute("SELECT pg_stat_clear_snapshot()")


# -- tasks that die in the middle of something ----------------------------------------------------


async def test_closing_does_not_wait_for_an_append_whose_task_has_died(postgres_dsn: str) -> None:
    points: list[str] = []

    def crash(name: str) -> None:
        if name in points:
            raise Crash(name)

    store = PostgresStore(postgres_dsn, at=crash)
    await store.open()
    claim = await started(store, "r")
    await append(store, claim, 1)
    points.append("after append")
    dying = asyncio.create_task(append(store, claim, 2))
    await asyncio.sleep(0)

    await store.close()

    with pytest.raises(Crash):
        await dying


@contextlib.contextmanager
def filtered() -> Iterator[list[str]]:
    """Let an application fail whenever the library logs; what was to be logged is in the list."""
    lines: list[str] = []

    def fail(entry: logging.LogRecord) -> bool:
        lines.append(entry.getMessage())
        raise ZeroDivisionError

    logger = logging.getLogger("dagflow")
    logger.addFilter(fail)
    try:
        yield lines
    finally:
        logger.removeFilter(fail)


async def test_an_application_whose_log_raises_changes_no_write(postgres_dsn: str) -> None:
    async with Proxy(postgres_dsn) as proxy, PostgresStore(proxy.dsn) as store:
        claim = await started(store, "r")
        await append(store, claim, 1)
        with filtered() as lines:
            proxy.cut_once(Cut.AFTER, at=1)
            await append(store, claim, 2)

        assert lines == ["the store does not answer, trying again"]
        assert await journal(store, "r") == whole("r", 3)


# -- Ctrl-C ---------------------------------------------------------------------------------------

ROOMS = ("postgres.py", "_postgres_writer.py", "_postgres_link.py", "_postgres_connections.py", "_postgres_limits.py")


async def sending(store: PostgresStore, claims: list[Claim]) -> None:
    await store.send(Message(claims[0].run_id, MessageKind.SIGNAL))


async def ended(call: Awaitable[None]) -> BaseException | None:
    """Return how a call has ended that a loop was stopped in."""
    [answer] = await asyncio.gather(call, return_exceptions=True)
    return answer


def interrupted(dsn: str, ctrl_c: CtrlC, work: Any, name: str) -> None:
    """Interrupt a loop that writes, run it on, and check that everyone has an answer and the store can be used."""
    store = PostgresStore(dsn, patience=5.0, max_connections=2)
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(store.open())
        claims = [loop.run_until_complete(started(store, f"{name}{which}")) for which in "ab"]
        for claim in claims:
            loop.run_until_complete(append(store, claim, 1))
        task = loop.create_task(ended(work(store, claims)))
        ctrl_c.interrupt(loop, task)

        assert run_to_its_end(loop, task)
        after = loop.run_until_complete(started(store, f"{name}after"))
        loop.run_until_complete(append(store, after, 1))
        loop.run_until_complete(store.close())


@pytest.mark.parametrize("work", [alone, together, sending])
def test_ctrl_c_anywhere_in_the_store_leaves_nobody_without_an_answer(postgres_dsn: str, work: Any) -> None:
    for number in itertools.count(1):
        ctrl_c = CtrlC(number, *ROOMS)
        interrupted(postgres_dsn, ctrl_c, work, f"r{number}")
        if not ctrl_c.came:
            break

    assert number > 10
