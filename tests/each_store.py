"""A store of each kind for tests that know nothing of stores but want to be sure of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagflow.stores import MemoryStore, SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagflow.protocols import ContextStore

__all__ = ["each_store"]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def each_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ContextStore]:
    """Makes stores at the place of the test, as one process after the other would; memory is the same for all."""
    memory = MemoryStore()

    def store() -> ContextStore:
        if request.param == "postgres":
            from dagflow.stores.postgres import PostgresStore  # noqa: PLC0415 - it is an extra

            return PostgresStore(request.getfixturevalue("postgres_dsn"))
        # The tests do not outlive the machine: a commit need not wait for the disk.
        fast = ["PRAGMA synchronous = OFF"]
        return memory if request.param == "memory" else SQLiteStore(tmp_path / "runs.db", pragmas=fast)

    return store
