"""The facts of a journal: events, the values they carry, and the rows and messages around them.

Everything here is frozen data without behaviour. It is what stores keep, what observers are told, and what the
state of a run is folded from.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = [
    "Claim",
    "ErrorInfo",
    "Event",
    "EventKind",
    "Message",
    "MessageKind",
    "NodeStatus",
    "Payload",
    "RunQuery",
    "RunRecord",
    "RunStatus",
    "StoreFigures",
]


class NodeStatus(enum.StrEnum):
    """Where a node of a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"


class RunStatus(enum.StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """True when nothing happens to the run until someone re-opens it."""
        return self in _TERMINAL

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"{value!r} is no status of a run: use one of {', '.join(cls)}")


_TERMINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})


class EventKind(enum.StrEnum):
    """What an event says; the value is what journals keep."""

    RUN_CREATED = "run_created"
    RUN_STARTED = "run_started"
    RUN_RESUMED = "run_resumed"
    RUN_PAUSED = "run_paused"
    RUN_COMPLETED = "run_completed"
    RUN_FAILED = "run_failed"
    RUN_CANCELLED = "run_cancelled"
    NODE_STARTED = "node_started"
    NODE_COMPLETED = "node_completed"
    NODE_FAILED = "node_failed"
    NODE_RETRY = "node_retry"
    NODE_INTERRUPTED = "node_interrupted"
    NODE_SKIPPED = "node_skipped"
    NODE_BLOCKED = "node_blocked"
    NODE_CANCELLED = "node_cancelled"
    NODE_WAITING = "node_waiting"
    MAP_EXPANDED = "map_expanded"
    SIGNAL_RECEIVED = "signal_received"
    REVIEW_REQUESTED = "review_requested"
    REVIEW_DECIDED = "review_decided"


class MessageKind(enum.StrEnum):
    """What one process asks of the owner of a run."""

    SIGNAL = "signal"
    DECISION = "decision"
    CANCEL = "cancel"
    PAUSE = "pause"
    WAKE = "wake"


# One is made for every value, and making a frozen one takes three times as long; nobody changes a payload.
@attrs.define(unsafe_hash=True)
class Payload:
    """An encoded value; never changed after it was made.

    Attributes:
        codec: Name of the codec that wrote it and can read it.
        data: The encoded value.
        checksum: SHA-256 of ``data``, 32 bytes.
        is_fresh: The codec has just made it, here, so there is nothing that could have changed it. One that was read,
            received, or made of another one is not fresh.
        spare: What decoding a fresh one gives, for the first who does that: taking it out of a list is one step for
            all threads. Left out where it would have to be decoded anyway to share nothing with the original.
    """

    codec: str
    data: bytes
    checksum: bytes
    is_fresh: bool = attrs.field(default=False, init=False, eq=False, repr=False)
    spare: list[Any] | None = attrs.field(default=None, init=False, eq=False, repr=False)


@attrs.frozen
class ErrorInfo:
    """What is recorded of an exception.

    Attributes:
        type: Name of the class; with its module, unless it is a built-in.
        message: Its text.
        traceback: The formatted traceback, ``""`` when there is none.
    """

    type: str
    message: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


# Two events are made for every node, and making a frozen one takes three times as long; nobody changes an event.
@attrs.define
class Event:
    """One fact in the journal of a run; never changed after it was made.

    Attributes:
        run_id: The run.
        version: Number of the event in its run: 1, 2, 3 ... without gaps.
        kind: What happened.
        node: Name of the node, ``None`` for events of the run itself.
        attempt: Number of the attempt, the first is 1; 0 where no attempt is meant.
        at: When it was recorded, aware UTC.
        data: The small facts of its kind: plain JSON under keys of dagflow's own. Never changed after creation.
        payload: The user's value, for the kinds that carry one (inputs, outputs, values of signals).
    """

    run_id: str
    version: int
    kind: EventKind
    node: str | None
    attempt: int
    at: datetime
    data: Mapping[str, Any] | None = None
    payload: Payload | None = None


# As with payloads: one is made for every run.
@attrs.define(unsafe_hash=True)
class Claim:
    """The right to write to a run: who owns it, and the number that fences out earlier owners. Never changed."""

    run_id: str
    owner: str
    epoch: int


# As with payloads: three are made for every run.
@attrs.define(unsafe_hash=True)
class RunRecord:
    """The row that a store keeps of a run beside its journal; listing reads these alone. Never changed afterwards.

    Attributes:
        run_id: The run.
        workflow: Name of its workflow.
        status: As of ``version``.
        version: Number of the last event.
        created_at: When it was recorded, aware UTC.
        updated_at: When the last event was recorded, aware UTC.
        parent: The run that started it as a sub-workflow.
        priority: Higher is claimed earlier.
        owner: The executor that drives it, ``None`` when nobody does.
        epoch: How often it has been claimed.
        lease_until: When the owner's lease lapses by the clock of the store, aware UTC.
        wake_at: When its next timer is due, for a run that waits without an owner, aware UTC.
        received: Number of the last message that the journal has taken in.
    """

    run_id: str
    workflow: str
    status: RunStatus
    version: int
    created_at: datetime
    updated_at: datetime
    parent: str | None = None
    priority: int = 0
    owner: str | None = None
    epoch: int = 0
    lease_until: datetime | None = None
    wake_at: datetime | None = None
    received: int = 0

    @property
    def claim(self) -> Claim:
        """The claim of the present owner."""
        return Claim(self.run_id, self.owner or "", self.epoch)

    def leased(self, until: datetime | None) -> RunRecord:
        """Return the record with another end of the lease."""
        # Made for every run, and `attrs.evolve` takes three times as long.
        return RunRecord(
            self.run_id,
            self.workflow,
            self.status,
            self.version,
            self.created_at,
            self.updated_at,
            self.parent,
            self.priority,
            self.owner,
            self.epoch,
            until,
            self.wake_at,
            self.received,
        )


@attrs.frozen
class RunQuery:
    """Which runs to list; what is not given does not narrow the list.

    Attributes:
        workflow: Name of the workflow.
        statuses: Any of these.
        parent: The run that started them.
        after: Id of the last run of the page before.
        limit: How many at the most, at least 1.
        claimable: Only what an executor may take now: not under a living lease, and pending, running, or woken
            (``wake_at`` has passed, or a message waits that the journal has not taken in). A run that has ended is
            never woken: it stays until someone re-opens it. These come highest priority first, then oldest first;
            all other lists come newest first. ``after`` does not go with it.
    """

    workflow: str | None = None
    statuses: frozenset[RunStatus] = frozenset()
    parent: str | None = None
    after: str | None = None
    limit: int = 100
    claimable: bool = False


@attrs.frozen
class StoreFigures:
    """What a store says of itself.

    Attributes:
        size_bytes: Bytes that the runs take.
        connections: Connections that are open.
        pool_size: How many it may have.
        retries: How often it has tried again after a fault.
        address: The same for all stores that keep the same runs, ``""`` when there is no telling.
    """

    size_bytes: int = 0
    connections: int = 0
    pool_size: int = 0
    retries: int = 0
    address: str = ""


@attrs.frozen
class Message:
    """What one process sends to the owner of a run.

    Attributes:
        run_id: The run.
        kind: What is asked.
        name: Name of the signal or review, ``""`` otherwise.
        payload: The value that goes with it.
        data: Small facts of dagflow's own, plain JSON.
        key: When given, no second message of the run may have it.
        number: Counts the messages of a run from 1 without gaps; given by the store, 0 before.
        sent_at: Given by the store, aware UTC.
    """

    run_id: str
    kind: MessageKind
    name: str = ""
    payload: Payload | None = None
    data: Mapping[str, Any] | None = None
    key: str | None = None
    number: int = 0
    sent_at: datetime | None = None
