"""The store in a SQLite file keeps the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagflow.stores import SQLiteStore
from dagflow.testing import ContextStoreSuite
from dagflow.testing._store_facts import event, payload, record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dagflow.protocols import Clock


async def test_a_store_measures_its_file_and_its_connections(tmp_path: Path) -> None:
    async with SQLiteStore(tmp_path / "runs.db") as store:
        before = await store.measure()
        await store.create(record(), [event(1, payload=payload(b"x" * 1_000_000))], lease=30.0)
        await store.read("run")
        figures = await store.measure()

    assert figures.size_bytes - before.size_bytes >= 900_000
    assert (figures.connections, figures.pool_size, figures.retries) == (2, 2, 0)
    assert figures.address == str(tmp_path / "runs.db")


class TestSQLiteStore(ContextStoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path, clock: Clock) -> AsyncIterator[SQLiteStore]:
        async with SQLiteStore(tmp_path / "runs.db", clock=clock) as store:
            yield store

    @pytest.fixture
    async def other(self, store: SQLiteStore, tmp_path: Path, clock: Clock) -> AsyncIterator[SQLiteStore]:
        async with SQLiteStore(tmp_path / "runs.db", clock=clock) as other:
            yield other
