"""Named points around every statement of a connection, for tests that stop a process at each of them."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["watched"]

_NAME = re.compile(r"\s*(BEGIN|COMMIT|ROLLBACK|PRAGMA \w+|SELECT|[A-Z]+(?: UNIQUE| INTO| FROM)?(?: TABLE| INDEX)? \w+)")


class _WatchedConnection(sqlite3.Connection):
    """Tells ``at`` before and after each statement."""

    at: Callable[[str], None]

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return self._between(sql, lambda: super(_WatchedConnection, self).execute(sql, *parameters))

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        return self._between(sql, lambda: super(_WatchedConnection, self).executemany(sql, parameters))

    def _between(self, sql: str, work: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        name = _name(sql)
        self.at(f"before {name}")
        cursor = work()
        try:
            self.at(f"after {name}")
        except BaseException:
            # The traceback holds the cursor, the cursor its statement, and the statement the lock of the file.
            cursor.close()
            raise
        return cursor


def watched(at: Callable[[str], None]) -> type[sqlite3.Connection]:
    """Return the class of connections that tell ``at`` of every point."""
    return type("WatchedConnection", (_WatchedConnection,), {"at": staticmethod(at)})


def _name(sql: str) -> str:
    match = _NAME.match(sql)
    words = (match[1] if match else sql.strip()).split()
    return " ".join(word for word in words if word not in {"INTO", "FROM", "TABLE", "INDEX", "UNIQUE"})
