"""The permissions that the page for production grants are enough, and no more than that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from dagflow import DAGExecutor, Workflow
from dagflow.errors import RunNotFoundError, StoreRefusedError
from dagflow.stores.postgres import PostgresStore
from pages import ROOT, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = ROOT / "docs" / "how-to" / "postgresql-in-production.md"
ROLES = ("dagflow_worker", "dagflow_reader")


@pytest.fixture
def granted_dsn(postgres_dsn: str) -> Iterator[str]:
    """A database in which all the SQL of the page was run, with a user for each role that it names."""
    with psycopg.connect(postgres_dsn, autocommit=True) as admin:
        for role in ROLES:
            admin.execute(f"CREATE ROLE {role} LOGIN".encode())
        for block in blocks(PAGE):
            if block.info == "sql":
                admin.execute(block.code.encode())
        yield postgres_dsn
        for role in ROLES:
            admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


def approvals() -> Workflow:
    """Return a workflow that waits for a signal."""
    workflow = Workflow("approvals")
    workflow.wait_for_signal("approved")

    @workflow.node(depends_on="approved")
    def write(approved: str) -> str:
        return f"Dear {approved}"

    return workflow


def opened_as(role: str, dsn: str) -> DAGExecutor:
    return DAGExecutor(PostgresStore(make_conninfo(dsn, user=role), migrate=False), workflows=[approvals()])


async def test_a_worker_may_do_all_that_an_executor_does(granted_dsn: str) -> None:
    async with opened_as("dagflow_worker", granted_dsn) as worker:
        serving = asyncio.create_task(worker.serve(poll=0.05))
        handle = await worker.submit(approvals(), run_id="r")
        await worker.signal("r", "approved", "Ada")
        run = await handle.result()
        serving.cancel()
        await asyncio.wait([serving])
        await worker.delete("r")
        with pytest.raises(RunNotFoundError):
            await worker.get("r")

    assert run.outputs["write"] == "Dear Ada"


async def test_a_role_that_may_not_create_the_tables_is_told_who_can_do_it(empty_postgres_dsn: str) -> None:
    with psycopg.connect(empty_postgres_dsn, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS dagflow_nobody")
        connection.execute("CREATE ROLE dagflow_nobody LOGIN")
    try:
        store = PostgresStore(make_conninfo(empty_postgres_dsn, user="dagflow_nobody"))
        with pytest.raises(StoreRefusedError, match=r"permission denied .*: let a role .* PostgresStore.ddl\(schema="):
            await store.open()
    finally:
        with psycopg.connect(empty_postgres_dsn, autocommit=True) as connection:
            connection.execute("DROP ROLE dagflow_nobody")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE dagflow.events SET node = 'forged'",
        "UPDATE dagflow.messages SET name = 'forged'",
        "UPDATE dagflow.dagflow_schema SET version = 9",
        "CREATE TABLE dagflow.more (x int)",
        "DROP TABLE dagflow.runs",
    ],
)
def test_a_worker_may_not_change_what_is_recorded_or_the_tables(granted_dsn: str, statement: str) -> None:
    with (
        psycopg.connect(make_conninfo(granted_dsn, user="dagflow_worker")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(statement.encode())


async def test_a_reader_sees_runs_and_starts_none(granted_dsn: str) -> None:
    async with opened_as("dagflow_worker", granted_dsn) as worker, opened_as("dagflow_reader", granted_dsn) as reader:
        await worker.submit(approvals(), run_id="r")

        assert [run.run_id for run in await reader.runs()] == ["r"]
        assert (await reader.get("r")).status == "pending"
        with pytest.raises(StoreRefusedError, match="lacks a permission"):
            await reader.submit(approvals(), run_id="other")
        with pytest.raises(StoreRefusedError, match="lacks a permission"):
            await reader.signal("r", "approved", "Ada")
