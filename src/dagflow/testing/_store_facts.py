"""Runs, events and messages for the tests of a store, and what many of those tests do first."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import Claim, Event, EventKind, Message, MessageKind, Payload, RunRecord, RunStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagflow.protocols import ContextStore

__all__ = [
    "LONG",
    "SHORT",
    "START",
    "claimed",
    "event",
    "kept",
    "message",
    "numbers",
    "payload",
    "record",
    "steps",
]

START = datetime(2030, 1, 1, 12, 30, 15, 123456, tzinfo=UTC)

LONG = 600.0
"""Seconds of a lease that does not lapse while a test runs."""

SHORT = 0.05
"""Seconds of a lease that a test lets lapse, by sleeping twice as long."""


def payload(data: bytes = b"[1]", codec: str = "json") -> Payload:
    """Return a payload with its right checksum."""
    return Payload(codec, data, hashlib.sha256(data).digest())


def record(run_id: str = "run", version: int = 1, **facts: Any) -> RunRecord:
    """Return the record of a run that is pending and nobody's, unless the facts say otherwise."""
    at = START + timedelta(seconds=version)
    plain = RunRecord(run_id, "workflow", RunStatus.PENDING, version, START, at)
    return attrs.evolve(plain, **facts)


def event(
    version: int,
    kind: EventKind = EventKind.NODE_STARTED,
    *,
    run_id: str = "run",
    node: str | None = "node",
    data: Mapping[str, Any] | None = None,
    payload: Payload | None = None,
    at: datetime | None = None,
) -> Event:
    """Return an event of a node."""
    return Event(run_id, version, kind, node, 1, at or START + timedelta(seconds=version), data, payload)


def steps(first: int, last: int, *, run_id: str = "run") -> list[Event]:
    """Return the events of these numbers, each with a payload of its own."""
    return [
        event(number, run_id=run_id, node=f"node{number}", payload=payload(b"%d" % number))
        for number in range(first, last + 1)
    ]


def numbers(events: list[Event]) -> list[int]:
    """Return the versions of events."""
    return [event.version for event in events]


def message(run_id: str = "run", name: str = "news", **facts: Any) -> Message:
    """Return a signal that is to be sent."""
    return attrs.evolve(Message(run_id, MessageKind.SIGNAL, name), **facts)


async def kept(store: ContextStore, run_id: str = "run", version: int = 1, **facts: Any) -> RunRecord:
    """Create a run with as many events as its version says."""
    return await store.create(record(run_id, version, **facts), steps(1, version, run_id=run_id))


async def claimed(store: ContextStore, run_id: str = "run", *, owner: str = "ann", lease: float = LONG) -> Claim:
    """Create a run that is running and owned, and return the claim."""
    run = record(run_id, status=RunStatus.RUNNING, owner=owner, epoch=1)
    return (await store.create(run, steps(1, 1, run_id=run_id), lease=lease)).claim
