"""The store in a SQLite file keeps the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagflow.stores import SQLiteStore
from dagflow.testing import ContextStoreSuite

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dagflow.protocols import Clock


class TestSQLiteStore(ContextStoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path, clock: Clock) -> AsyncIterator[SQLiteStore]:
        async with SQLiteStore(tmp_path / "runs.db", clock=clock) as store:
            yield store

    @pytest.fixture
    async def other(self, store: SQLiteStore, tmp_path: Path, clock: Clock) -> AsyncIterator[SQLiteStore]:
        async with SQLiteStore(tmp_path / "runs.db", clock=clock) as other:
            yield other
