"""The stores that figures are taken on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagflow.stores import MemoryStore, PostgresStore, SQLiteStore

if TYPE_CHECKING:
    from pathlib import Path

    from dagflow.protocols import ContextStore


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ContextStore:
    if request.param == "postgres":
        return PostgresStore(request.getfixturevalue("postgres_dsn"))
    return MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "runs.db")
