"""What the tests of the executor share: a store of each kind, a clock that is moved by hand, and executors."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from dagflow import DAGExecutor
from dagflow.stores import MemoryStore, SQLiteStore
from dagflow.stores.postgres import PostgresStore
from dagflow.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from dagflow import Workflow
    from dagflow.protocols import ContextStore
    from executors import OpenExecutor


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the executor and of the leases; sleeps pass at once."""
    return FakeClock(auto=True)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[ContextStore]:
    """One store of each kind, open for the whole test so that what is in it outlives its executors."""
    if request.param == "memory":
        yield MemoryStore(clock=clock)
        return
    if request.param == "postgres":
        async with PostgresStore(request.getfixturevalue("postgres_dsn")) as store:
            yield store
        return
    # The tests do not outlive the machine: a commit need not wait for the disk.
    fast = SQLiteStore(tmp_path / "runs.db", clock=clock, pragmas=["PRAGMA synchronous = OFF"])
    async with fast as store:
        yield store


@pytest.fixture
def lapse(store: ContextStore, clock: FakeClock, request: pytest.FixtureRequest) -> Callable[[], Awaitable[None]]:
    """Lets the leases of all runs lapse; those in PostgreSQL are counted by another clock than that of the test."""

    async def let_all_lapse() -> None:
        clock.advance(31)
        if isinstance(store, PostgresStore):
            dsn = request.getfixturevalue("postgres_dsn")
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
                await connection.execute("UPDATE dagflow.runs SET lease_until = now() WHERE lease_until IS NOT NULL")

    return let_all_lapse


@pytest.fixture
async def open_executor(store: ContextStore, clock: FakeClock) -> AsyncIterator[OpenExecutor]:
    """See `OpenExecutor`; time is that of the fake clock, and cancelled calls have a short grace."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(*workflows: Workflow, **options: Any) -> DAGExecutor:
            options = {"clock": clock, "grace": 0.2, **options}
            return await stack.enter_async_context(DAGExecutor(store, workflows=workflows, **options))

        yield open_one


@pytest.fixture
async def executor(open_executor: OpenExecutor) -> DAGExecutor:
    """One executor, open."""
    return await open_executor()
