"""The reads of `SQLiteStore`: each is made within one transaction, and so of one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagflow.errors import RunNotFoundError
from dagflow.stores import _sqlite_sql as sql
from dagflow.stores._sqlite_rows import event_of, message_of, micros, record_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from datetime import datetime

    from dagflow._events import Event, Message, RunQuery, RunRecord

__all__ = ["find", "read", "receive", "size_bytes"]

_NO_NUMBER = 2**62
"""Higher than the number of any run."""


def read(connection: sqlite3.Connection, run_id: str, after: int) -> tuple[RunRecord, list[Event]]:
    """Return the record of a run and its events beyond the version ``after``.

    Raises:
        RunNotFoundError: No run has this id.
    """
    row = connection.execute(sql.READ_RUN, (run_id,)).fetchone()
    if row is None:
        raise RunNotFoundError(run_id)
    number, *columns = row
    rows = connection.execute(sql.READ_EVENTS, (number, after)).fetchall()
    return record_of(tuple(columns)), [event_of(run_id, row) for row in rows]


def find(connection: sqlite3.Connection, query: RunQuery, now: datetime) -> list[RunRecord]:
    """Return the records that fit.

    Raises:
        RunNotFoundError: No run has the id ``query.after``.
    """
    values: dict[str, Any] = {
        "workflow": query.workflow,
        "parent": query.parent,
        "statuses": f",{','.join(query.statuses)}," if query.statuses else None,
        "limit": query.limit,
    }
    if query.claimable:
        rows = connection.execute(sql.FIND_CLAIMABLE, {**values, "now": micros(now)})
    else:
        before = _NO_NUMBER if query.after is None else _number(connection, query.after)
        rows = connection.execute(_statement(query), {**values, "before": before})
    return [record_of(row) for row in rows.fetchall()]


def receive(connection: sqlite3.Connection, cursors: Mapping[str, int]) -> list[Message]:
    """Return the messages beyond the cursors."""
    return [
        message_of(run_id, row)
        for run_id, after in cursors.items()
        for [number] in connection.execute(sql.SELECT_NUMBER, (run_id,)).fetchall()
        for row in connection.execute(sql.READ_MESSAGES, (number, after)).fetchall()
    ]


def _statement(query: RunQuery) -> str:
    if query.parent is not None and query.workflow is None:
        return sql.FIND_BY_PARENT
    return sql.FIND_RUNS if query.workflow is None else sql.FIND_BY_WORKFLOW


def _number(connection: sqlite3.Connection, run_id: str) -> int:
    row = connection.execute(sql.SELECT_NUMBER, (run_id,)).fetchone()
    if row is None:
        raise RunNotFoundError(run_id)
    return int(row[0])


def size_bytes(connection: sqlite3.Connection) -> int:
    """Return how many bytes the database takes."""
    [pages] = connection.execute("PRAGMA page_count").fetchone()
    [page] = connection.execute("PRAGMA page_size").fetchone()
    return int(pages) * int(page)
