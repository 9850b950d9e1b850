"""A store says what is wrong with an option where it is made, before anything is opened."""

from __future__ import annotations

from typing import Any

import pytest

from dagflow.stores import SQLiteStore
from dagflow.stores.postgres import PostgresStore

WRONG: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (SQLiteStore, {"path": None}, TypeError, "give its path, not None"),
    (SQLiteStore, {"path": 5}, TypeError, "give its path, not 5"),
    (SQLiteStore, {"busy_timeout": "30"}, TypeError, "busy_timeout= takes seconds, not '30'"),
    (SQLiteStore, {"busy_timeout": -1}, ValueError, "busy_timeout is in seconds and must be at least 0, not -1"),
    (SQLiteStore, {"busy_timeout": float("nan")}, ValueError, "at least 0, not nan"),
    (SQLiteStore, {"pragmas": "PRAGMA cache_size = 1"}, TypeError, r"write pragmas=\[...\]"),
    (SQLiteStore, {"pragmas": [1]}, TypeError, r"write pragmas=\[...\]"),
    (PostgresStore, {"schema": 3}, ValueError, "a schema is named with .*: 3"),
    (PostgresStore, {"max_connections": "5"}, TypeError, "max_connections= takes a whole number, not '5'"),
    (PostgresStore, {"max_connections": 2.5}, TypeError, "takes a whole number, not 2.5"),
    (PostgresStore, {"max_connections": True}, TypeError, "takes a whole number, not True"),
    (PostgresStore, {"patience": None}, TypeError, "patience= takes seconds, not None"),
    (PostgresStore, {"patience": -0.1}, ValueError, "patience is in seconds"),
    (PostgresStore, {"dsn_or_pool": None}, TypeError, "AsyncConnectionPool, not a NoneType"),
]


@pytest.mark.parametrize(("make", "options", "error", "text"), WRONG)
def test_a_wrong_option_is_named(make: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    place = {"path": "runs.db"} if make is SQLiteStore else {"dsn_or_pool": "postgresql://localhost/x"}
    with pytest.raises(error, match=text):
        make(**{**place, **options})
