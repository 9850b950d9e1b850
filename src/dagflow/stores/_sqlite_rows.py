"""Rows of the database and the data they stand for. Times are whole microseconds since 1970."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dagflow._events import Event, EventKind, Message, MessageKind, Payload, RunRecord, RunStatus
from dagflow._json import plain_encoder

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "event_of",
    "event_row",
    "message_of",
    "message_row",
    "micros",
    "micros_or_none",
    "record_of",
    "record_row",
    "utc",
    "utc_or_none",
    "write_json",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_PAYLOAD = (None, None, None)


write_json = plain_encoder(ascii_only=True)


def micros(at: datetime) -> int:
    """Return a time as the database keeps it."""
    since = at - _EPOCH
    # To divide it by a microsecond takes five times as long.
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def micros_or_none(at: datetime | None) -> int | None:
    """Return a time as the database keeps it, if there is one."""
    return None if at is None else micros(at)


def utc(at: int) -> datetime:
    """Return a time that was kept, aware UTC."""
    return _EPOCH + timedelta(microseconds=at)


def utc_or_none(at: int | None) -> datetime | None:
    """Return a time that was kept, aware UTC, if there is one."""
    return None if at is None else utc(at)


def event_row(run: int, event: Event) -> tuple[Any, ...]:
    """Return the columns of an event of the run that has this number."""
    data, payload = event.data, event.payload
    facts = None if data is None else write_json(data)
    codec, value, checksum = _NO_PAYLOAD if payload is None else (payload.codec, payload.data, payload.checksum)
    at = micros(event.at)
    return run, event.version, event.kind._value_, event.node, event.attempt, at, facts, codec, value, checksum


def event_of(run_id: str, row: tuple[Any, ...]) -> Event:
    """Return the event of a row that lacks the column of its run.

    Raises:
        ValueError: The row is not one that this library writes.
    """
    version, kind, node, attempt, at, data, codec, payload, checksum = row
    return Event(
        run_id=run_id,
        version=version,
        kind=EventKind(kind),
        node=node,
        attempt=attempt,
        at=utc(at),
        data=_data_of(data),
        payload=None if codec is None else Payload(codec, payload, checksum),
    )


def message_row(message: Message) -> tuple[Any, ...]:
    """Return the columns of a message after its number, without the time."""
    payload = message.payload
    return (
        message.kind.value,
        message.name,
        message.key,
        None if message.data is None else write_json(message.data),
        *(_NO_PAYLOAD if payload is None else (payload.codec, payload.data, payload.checksum)),
    )


def message_of(run_id: str, row: tuple[Any, ...]) -> Message:
    """Return the message of a row: its number, its time, and the columns of `message_row`.

    Raises:
        ValueError: The row is not one that this library writes.
    """
    number, sent_at, kind, name, key, data, codec, payload, checksum = row
    return Message(
        run_id=run_id,
        kind=MessageKind(kind),
        name=name,
        payload=None if codec is None else Payload(codec, payload, checksum),
        data=_data_of(data),
        key=key,
        number=number,
        sent_at=utc(sent_at),
    )


def record_row(run: RunRecord) -> tuple[Any, ...]:
    """Return the columns of a run that its events do not tell, in the order of `RunRecord`, and ``live``."""
    return (
        run.run_id,
        run.workflow,
        run.status.value,
        micros(run.created_at),
        run.parent,
        run.priority,
        run.owner,
        run.epoch,
        micros_or_none(run.lease_until),
        micros_or_none(run.wake_at),
        run.received,
        None if run.status.is_terminal else 1,
    )


def record_of(row: tuple[Any, ...]) -> RunRecord:
    """Return the record of a row, the columns in the order of `RunRecord`.

    Raises:
        ValueError: The row is not one that this library writes.
    """
    run_id, workflow, status, version, created, updated, parent, priority, owner, epoch, until, wake, received = row
    return RunRecord(
        run_id=run_id,
        workflow=workflow,
        status=RunStatus(status),
        version=version,
        created_at=utc(created),
        updated_at=utc(updated),
        parent=parent,
        priority=priority,
        owner=owner,
        epoch=epoch,
        lease_until=utc_or_none(until),
        wake_at=utc_or_none(wake),
        received=received,
    )


def _data_of(text: str | None) -> Mapping[str, Any] | None:
    return None if text is None else json.loads(text)
