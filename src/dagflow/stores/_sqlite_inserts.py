"""How runs and events are put into their tables: many rows with a statement, and no column that is empty.

For a None or bytes the interpreter looks for an adapter before it binds it, as it does not for a bytearray; for an
empty column that takes as long as it takes SQLite to insert the row.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from dagflow._events import EventKind
from dagflow.stores import _sqlite_sql as sql
from dagflow.stores._sqlite_rows import micros, record_row, write_json

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from dagflow._events import Event, RunRecord

__all__ = ["add_events", "add_runs"]

_STARTED, _COMPLETED = EventKind.NODE_STARTED, EventKind.NODE_COMPLETED

_COPIED = 8 * 1024
"""Bytes up to which a copy is quicker than a look for an adapter; from there on neither is."""


def add_runs(connection: sqlite3.Connection, runs: Iterable[tuple[int, RunRecord]]) -> None:
    """Keep new runs, given with the number of each.

    Raises:
        sqlite3.IntegrityError: An id is taken.
    """
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for number, run in runs:
        statement, row = sql.ADD_RUN, record_row(run)
        if run.parent is None and run.wake_at is None:
            # Almost every run.
            statement, row = sql.ADD_PLAIN_RUN, (*row[:4], *row[5:9], *row[10:])
        rows.setdefault(statement, []).append((number, *row))
    for statement, some in rows.items():
        _insert(connection, statement, some)


def add_events(connection: sqlite3.Connection, runs: Iterable[tuple[int, Sequence[Event], int]]) -> None:
    """Keep events of runs, given with the number of each, and with when its last one was recorded as it is kept."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    starts, outputs = rows[sql.ADD_STARTS], rows[sql.ADD_OUTPUTS] = [], []
    # Runs of the same workflow begin with the same facts.
    texts: dict[int, str] = {}
    for run, events, last_at in runs:
        known_at, at = events[-1].at, last_at
        for event in events:
            # The events of one append are mostly recorded at the same time.
            if event.at is not known_at:
                known_at, at = event.at, micros(event.at)
            kind, payload = event.kind, event.payload
            if kind is _STARTED and payload is None and event.data is None:
                starts.append((run, event.version, at, event.attempt, event.node))
            elif kind is _COMPLETED and payload is not None and payload.codec == "json" and event.data is None:
                data = payload.data
                bindable = bytearray(data) if len(data) < _COPIED else data
                checksum = bytearray(payload.checksum)
                outputs.append((run, event.version, at, event.attempt, event.node, bindable, checksum))
            else:
                statement, row = _other(run, event, at, texts)
                rows.setdefault(statement, []).append(row)
    for statement, some in rows.items():
        if some:
            _insert(connection, statement, some)


def _insert(connection: sqlite3.Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    done = 0
    if len(rows) >= sql.ROWS and (several := sql.ADD_ROWS.get(statement)) is not None:
        done = len(rows) - len(rows) % sql.ROWS
        for start in range(0, done, sql.ROWS):
            connection.execute(several, [*chain.from_iterable(rows[start : start + sql.ROWS])])
    if done < len(rows):
        connection.executemany(statement, rows[done:])


def _other(run: int, event: Event, at: int, texts: dict[int, str]) -> tuple[str, tuple[Any, ...]]:
    """Return the statement that keeps an event of a run itself, or one with facts, and its values.

    Args:
        run: The number of the run.
        event: The event.
        at: When it was recorded.
        texts: Facts that have been written as JSON, by the identity of what they were.
    """
    row: tuple[Any, ...] = (run, event.version, at, event.attempt, event.kind._value_)
    payload = event.payload
    if event.node is not None:
        row = (*row, event.node)
    data = event.data
    if data is not None:
        text = texts.get(id(data))
        if text is None:
            text = texts[id(data)] = write_json(data)
        row = (*row, text)
    if payload is not None:
        row = (*row, payload.codec, bytearray(payload.data), bytearray(payload.checksum))
    return sql.ADD_EVENTS[event.node is not None, data is not None, payload is not None], row
