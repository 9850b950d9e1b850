"""Where runs are kept: in memory, in a SQLite file, in PostgreSQL, or in a store of your own (`ContextStore`)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dagflow.stores._urls import open_store

if TYPE_CHECKING:
    from dagflow.stores.memory import MemoryStore
    from dagflow.stores.postgres import PostgresStore
    from dagflow.stores.sqlite import SQLiteStore

__all__ = ["MemoryStore", "PostgresStore", "SQLiteStore", "open_store"]

_ROOMS = {
    "MemoryStore": "dagflow.stores.memory",
    "PostgresStore": "dagflow.stores.postgres",
    "SQLiteStore": "dagflow.stores.sqlite",
}


def __getattr__(name: str) -> Any:
    """Import a store when it is asked for: nobody pays for those that are not used."""
    if name not in _ROOMS:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_ROOMS[name]), name)
