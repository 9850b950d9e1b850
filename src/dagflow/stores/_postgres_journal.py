"""The journal of one run, read in pages that are all of one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagflow.errors import RunNotFoundError
from dagflow.stores._postgres_rows import RECORD_WIDTH, event_of, event_row, record_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagflow._events import Event, RunRecord
    from dagflow.stores._postgres_connections import Session
    from dagflow.stores._postgres_sql import Statements

__all__ = ["journal", "own_birth"]

_PAGE = 5_000
"""Events that are fetched at once; a journal that is longer leaves the loop to others in between."""


async def journal(
    session: Session, statements: Statements, run_id: str, after: int
) -> tuple[RunRecord, list[Event]] | None:
    """Return a record and its events beyond ``after``, or ``None`` when some are missing: it was deleted meanwhile.

    Raises:
        RunNotFoundError: There is no such run.
    """
    page: dict[str, Any] = {"run_id": run_id, "after": after, "limit": _PAGE}
    rows = await session.rows(statements.read, page)
    if not rows:
        raise RunNotFoundError(run_id)
    record = record_of(rows[0][:RECORD_WIDTH])
    if record.version <= after:
        return record, []
    if rows[0][RECORD_WIDTH] is None:
        return None
    events = [event_of(run_id, row[RECORD_WIDTH:]) for row in rows]
    # Events never change, so that all pages up to the record's version are of its moment.
    while events[-1].version < record.version:
        page.update(after=events[-1].version, until=record.version)
        rows = await session.rows(statements.read_on, page)
        if not rows:
            return None
        events += [event_of(run_id, row) for row in rows]
    return record, events


async def own_birth(
    session: Session, statements: Statements, run: RunRecord, rows: Sequence[object]
) -> list[tuple[Any, ...]]:
    """Return the lease of a run that an earlier try has created, in a list, which is empty if it was another's.

    Args:
        session: Asks.
        statements: What it asks with.
        run: The run as it was to be created.
        rows: Its first events, as they are kept.
    """
    found = await journal(session, statements, run.run_id, run.version - len(rows))
    if found is None or [event_row(event) for event in found[1][: len(rows)]] != rows:
        return []
    return [(found[0].lease_until,)]
