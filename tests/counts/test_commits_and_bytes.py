"""How often a store has to reach the disk, and how much SQLite writes: counts, which no noise can hide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import workloads
from dagflow import DAGExecutor
from dagflow.stores import SQLiteStore
from dagflow.stores.postgres import PostgresStore

if TYPE_CHECKING:
    from pathlib import Path

    from workloads import Workload


async def run_and_count(made: SQLiteStore | PostgresStore, workload: Workload) -> int:
    """Return the commits of a run that finds the store open."""
    async with made as store, DAGExecutor(store) as executor:
        before = store.commits
        await workloads.run_checked(executor, workload.workflow)
        return store.commits - before


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SQLiteStore | PostgresStore:
    """A store that counts its commits, not open."""
    if request.param == "sqlite":
        return SQLiteStore(tmp_path / "runs.db")
    return PostgresStore(request.getfixturevalue("postgres_dsn"))


@pytest.mark.parametrize(
    ("workload", "commits_a_node"),
    [
        pytest.param(workloads.chain(300), 1.02, id="chain"),
        pytest.param(workloads.fan_out(1000), 0.02, id="fan-out"),
        pytest.param(workloads.layers(50, 100), 0.03, id="layers"),
    ],
)
async def test_a_node_needs_this_many_commits_at_the_most(
    store: SQLiteStore | PostgresStore, workload: Workload, commits_a_node: float
) -> None:
    commits = await run_and_count(store, workload)

    assert commits / workload.size <= commits_a_node


async def test_runs_at_the_same_time_share_commits(store: SQLiteStore | PostgresStore) -> None:
    six = workloads.chain(6)

    async with store, DAGExecutor(store) as executor:
        await workloads.many_runs(lambda: executor.run(six.workflow), runs=100, at_a_time=50)

        # PostgreSQL commits each new run by itself, and the appends of many runs together.
        assert store.commits / 600 <= (0.4 if isinstance(store, PostgresStore) else 0.06)


@pytest.mark.parametrize(
    "workload",
    [pytest.param(workloads.chain(1000), id="chain"), pytest.param(workloads.layers(20, 100), id="layers")],
)
async def test_a_node_takes_less_than_600_bytes_on_the_disk(tmp_path: Path, workload: Workload) -> None:
    path = tmp_path / "runs.db"

    await run_and_count(SQLiteStore(path), workload)

    assert not path.with_name("runs.db-wal").exists(), "closing copies the log back"
    assert path.stat().st_size / workload.size < 600
