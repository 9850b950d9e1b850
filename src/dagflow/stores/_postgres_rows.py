"""Between dagflow's data and the rows of PostgreSQL."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dagflow._events import Event, EventKind, Message, MessageKind, Payload, RunRecord, RunStatus
from dagflow.stores._postgres_arrays import Bytes, Ints, Texts, Times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagflow._events import Claim

__all__ = [
    "RECORD_WIDTH",
    "EventRow",
    "claim_columns",
    "columns_of",
    "event_of",
    "event_row",
    "is_text",
    "message_of",
    "message_row",
    "record_of",
    "record_row",
    "utc",
]

EventRow = tuple[int, str, str | None, int, datetime, str | None, str | None, bytes | None, bytes | None]
"""version, kind, node, attempt, at, facts, codec, data, checksum"""

RECORD_WIDTH = 13

# ASCII only: escaped, a NUL or half a surrogate pair in the text of an error can be kept too.
_encode = json.JSONEncoder(separators=(",", ":")).encode


def is_text(text: str) -> bool:
    """Return whether PostgreSQL can keep a text; what it cannot keep is nobody's name."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def event_row(event: Event) -> EventRow:
    """Return the values of an event, in the order of the columns."""
    payload, data = event.payload, event.data
    head = (event.version, event.kind._value_, event.node, event.attempt, event.at)
    facts = None if data is None else _encode(data)
    if payload is None:
        return (*head, facts, None, None, None)
    return (*head, facts, payload.codec, payload.data, payload.checksum)


def columns_of(rows: Sequence[EventRow]) -> dict[str, object]:
    """Return the values of many events, column by column, by the names that statements give them."""
    versions, kinds, nodes, attempts, ats, facts, codecs, datas, checksums = zip(*rows, strict=True)
    return {
        "versions": Ints(versions),
        "kinds": Texts(kinds),
        "nodes": Texts(nodes),
        "attempts": Ints(attempts),
        "ats": Times(ats),
        "facts": Texts(facts),
        "codecs": Texts(codecs),
        "datas": Bytes(datas),
        "checksums": Bytes(checksums),
    }


def event_of(run_id: str, row: Sequence[Any]) -> Event:
    """Return the event of a row."""
    version, kind, node, attempt, at, facts, codec, data, checksum = row
    return Event(
        run_id,
        version,
        EventKind(kind),
        node,
        attempt,
        at.astimezone(UTC),
        None if facts is None else json.loads(facts),
        None if codec is None else Payload(codec, data, checksum),
    )


def record_row(run: RunRecord) -> dict[str, Any]:
    """Return the values of a record by the names of their columns, without the lease."""
    return {
        "run_id": run.run_id,
        "workflow": run.workflow,
        "status": run.status.value,
        "version": run.version,
        "created_at": run.created_at,
        "updated_at": run.updated_at,
        "parent": run.parent,
        "priority": run.priority,
        "owner": run.owner,
        "epoch": run.epoch,
        "wake_at": run.wake_at,
        "received": run.received,
    }


def record_of(row: Sequence[Any]) -> RunRecord:
    """Return the record of a row."""
    run_id, workflow, status, version, created_at, updated_at, parent, priority, owner, epoch, until, wake_at, got = row
    return RunRecord(
        run_id=run_id,
        workflow=workflow,
        status=RunStatus(status),
        version=version,
        created_at=created_at.astimezone(UTC),
        updated_at=updated_at.astimezone(UTC),
        parent=parent,
        priority=priority,
        owner=owner,
        epoch=epoch,
        lease_until=utc(until),
        wake_at=utc(wake_at),
        received=got,
    )


def message_row(message: Message) -> dict[str, Any]:
    """Return the values of a message by the names of their columns, without what the store gives."""
    payload = message.payload
    return {
        "run_id": message.run_id,
        "kind": message.kind.value,
        "name": message.name,
        "facts": None if message.data is None else _encode(message.data),
        "codec": None if payload is None else payload.codec,
        "data": None if payload is None else payload.data,
        "checksum": None if payload is None else payload.checksum,
        "key": message.key,
    }


def message_of(row: Sequence[Any]) -> Message:
    """Return the message of a row."""
    run_id, kind, name, codec, data, checksum, facts, key, number, sent_at = row
    return Message(
        run_id=run_id,
        kind=MessageKind(kind),
        name=name,
        payload=None if codec is None else Payload(codec, data, checksum),
        data=None if facts is None else json.loads(facts),
        key=key,
        number=number,
        sent_at=sent_at.astimezone(UTC),
    )


def utc(at: datetime | None) -> datetime | None:
    """Return a time as UTC; connections answer in whatever zone their session has."""
    return None if at is None else at.astimezone(UTC)


def claim_columns(claims: Sequence[Claim]) -> dict[str, object]:
    """Return the values of claims, column by column, by the names that statements give them."""
    return {
        "run_ids": Texts([claim.run_id for claim in claims]),
        "owners": Texts([claim.owner for claim in claims]),
        "epochs": Ints([claim.epoch for claim in claims]),
    }
