"""The writes of `SQLiteStore`: what each does within a transaction that others share with it.

A write that is refused raises before it has changed anything, so that it harms no other one. ``stands`` answers, after
a transaction whose end nobody saw, whether it took place.
"""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import attrs

from dagflow._events import RunStatus
from dagflow.errors import (
    LeaseLostError,
    MessageExistsError,
    RunExistsError,
    RunNotFoundError,
    RunOwnedError,
    StoreFormatError,
)
from dagflow.stores import _sqlite_sql as sql
from dagflow.stores._sqlite_desk import Held
from dagflow.stores._sqlite_errors import DAMAGED_ROW
from dagflow.stores._sqlite_inserts import add_events, add_runs
from dagflow.stores._sqlite_rows import (
    event_row,
    message_row,
    micros,
    micros_or_none,
    record_of,
    utc,
    utc_or_none,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from dagflow._events import Claim, Event, Message, RunRecord
    from dagflow.stores._sqlite_desk import Desk

__all__ = [
    "Append",
    "ClaimRun",
    "Create",
    "Delete",
    "Release",
    "Renew",
    "Send",
    "Write",
    "append_all",
    "create_all",
    "size_of",
]


_SHARE = 1024
"""What a small write adds to the log besides its events: those of one transaction mostly touch the same pages."""

_ROW_BYTES = 256

_GOES_ON = RunStatus.RUNNING


class Write(Protocol):
    """One write; ``log_bytes`` is about how much it adds to the log."""

    @property
    def log_bytes(self) -> int: ...

    def run(self, desk: Desk) -> Any:
        """Do it and return what its caller gets.

        Raises:
            StoreError: It is refused; nothing has been changed.
        """
        ...

    def stands(self, desk: Desk) -> bool:
        """Return whether the database shows that it took place; false when it cannot be told or may be done again."""
        ...


@attrs.define(eq=False)
class Create:
    """Keeps a new run with its first events."""

    record: RunRecord
    events: Sequence[Event]
    lease: float
    log_bytes: int
    number: int = 0

    def run(self, desk: Desk) -> RunRecord:
        """Do it and return the record.

        Raises:
            RunExistsError: The id is taken.
        """
        record = self.place(desk)
        try:
            create_all([self], desk)
        except sqlite3.IntegrityError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                raise
            raise RunExistsError(record.run_id) from None
        add_events(desk.connection, [(self.number, self.events, micros(self.events[-1].at))])
        return record

    def place(self, desk: Desk) -> RunRecord:
        """Give the run its number and the record its lease, and return that."""
        self.number, record = desk.new_number(), self.record
        self.record = record.leased(None if record.owner is None else _until(desk.now, self.lease))
        return self.record

    def stands(self, desk: Desk) -> bool:
        """Return whether the run has the number that it was given, and its events."""
        held = desk.look_up(self.record.run_id)
        is_there = held is not None and held.number == self.number
        return is_there and _has_events(desk.connection, self.number, self.events)


@attrs.define(eq=False)
class Append:
    """Keeps events of a run, and what they change in its row."""

    events: Sequence[Event]
    claim: Claim
    version: int
    status: RunStatus
    wake_at: datetime | None
    received: int | None
    release: bool
    log_bytes: int
    number: int = 0

    def run(self, desk: Desk) -> None:
        """Do it.

        Raises:
            LeaseLostError: The run is not the claim's, or has another version.
        """
        held = desk.look_up(self.claim.run_id)
        if held is None:
            raise LeaseLostError(self.claim.run_id, self.claim.epoch)
        move = self.move(held)
        if move is not None:
            desk.connection.execute(*move)
        add_events(desk.connection, [(held.number, self.events, micros(self.events[-1].at))])
        if not self.release:
            desk.held[self.claim.run_id] = held

    def stands(self, desk: Desk) -> bool:
        """Return whether its events are there."""
        return _has_events(desk.connection, self.number, self.events)

    def move(self, held: Held) -> tuple[str, tuple[Any, ...]] | None:
        """Note how the run stands after this.

        Returns:
            The statement that changes the row of the run, and its values; ``None`` when nothing in it changes, as with
            almost every append.

        Raises:
            LeaseLostError: The run is not the claim's, or has another version.
        """
        claim, status, received = self.claim, self.status, self.received
        if held.version != self.version or held.owner != claim.owner or held.epoch != claim.epoch:
            raise LeaseLostError(claim.run_id, claim.epoch)
        self.number, held.version = held.number, self.events[-1].version
        goes_on = status is _GOES_ON and self.wake_at is None
        has_heard = received is not None and received != held.received
        if goes_on and held.goes_on and not has_heard and not self.release:
            return None
        held.goes_on, held.received = goes_on, received if received is not None else held.received
        if self.release and status.is_terminal and self.wake_at is None:
            return sql.END_RUN, (held.received, status._value_, held.number)
        live, wake_at = None if status.is_terminal else 1, micros_or_none(self.wake_at)
        return sql.MOVE_RUN, (held.received, status._value_, wake_at, live, self.release, self.release, held.number)


def create_all(creates: Sequence[Create], desk: Desk) -> None:
    """Add runs that have been placed, without their events, with a few statements for all of them.

    Raises:
        sqlite3.IntegrityError: An id is taken; the transaction has to be taken back, unless there is only one.
    """
    add_runs(desk.connection, [(create.number, create.record) for create in creates])
    for create in creates:
        record, owner = create.record, create.record.owner
        if owner is not None:
            goes_on = record.status is _GOES_ON and record.wake_at is None
            held = Held(create.number, owner, record.epoch, record.version, record.received, goes_on)
            desk.held[record.run_id] = held


def append_all(appends: Sequence[Append], created: Sequence[Create], desk: Desk) -> bool:
    """Do appends of runs that this store owns, with a few statements for all of them.

    Args:
        appends: What to do.
        created: Runs that have been added, and whose first events go with theirs.
        desk: What to work with.

    Returns:
        Whether all could be done. If not, or when it raises, the transaction has to be taken back.
    """
    moves: dict[str, list[tuple[Any, ...]]] = {}
    events = [(create.number, create.events, micros(create.events[-1].at)) for create in created]
    kept: dict[str, Held] = {}
    try:
        for append in appends:
            run_id = append.claim.run_id
            held = desk.held.pop(run_id, None)
            if held is None:
                # It follows another append of its run, and may not be done before that.
                return False
            if (move := append.move(held)) is not None:
                moves.setdefault(move[0], []).append(move[1])
            events.append((held.number, append.events, micros(append.events[-1].at)))
            if not append.release:
                kept[run_id] = held
    except LeaseLostError:
        return False
    for statement, rows in moves.items():
        desk.connection.executemany(statement, rows)
    add_events(desk.connection, events)
    desk.held.update(kept)
    return True


def size_of(events: Sequence[Event]) -> int:
    """Return about how many bytes events add to the log."""
    size = _SHARE + len(events) * _ROW_BYTES
    for event in events:
        if event.payload is not None:
            size += len(event.payload.data)
    return size


@attrs.define(eq=False)
class ClaimRun:
    """Makes ``owner`` the only executor of a run."""

    log_bytes: ClassVar[int] = _SHARE
    run_id: str
    owner: str
    lease: float
    dead_owner: str | None
    number: int = 0
    epoch: int = 0

    def run(self, desk: Desk) -> RunRecord:
        """Do it and return the record.

        Raises:
            RunNotFoundError: No run has this id.
            RunOwnedError: Another owner holds it.
            StoreFormatError: Its row cannot be read; the claim is not kept.
        """
        now, connection = desk.now, desk.connection
        values = {
            "run_id": self.run_id,
            "owner": self.owner,
            "dead_owner": self.dead_owner,
            "now": micros(now),
            "until": micros(_until(now, self.lease)),
        }
        if not connection.execute(sql.CLAIM_RUN, values).rowcount:
            raise _refusal(connection, self.run_id)
        desk.held.pop(self.run_id, None)
        number, *columns = connection.execute(sql.READ_RUN, (self.run_id,)).fetchone()
        record = _known(tuple(columns))
        self.number, self.epoch = number, record.epoch
        return record

    def stands(self, desk: Desk) -> bool:
        """Return whether the claim is the run's present one."""
        row = desk.connection.execute(sql.SELECT_OWNER, (self.number,)).fetchone()
        return bool(row == (self.owner, self.epoch))


@attrs.define(eq=False)
class Renew:
    """Extends claims."""

    log_bytes: ClassVar[int] = _SHARE
    claims: Sequence[Claim]
    lease: float

    def run(self, desk: Desk) -> list[Claim]:
        """Do it and return the claims that are lost."""
        until = micros(_until(desk.now, self.lease))
        execute = desk.connection.execute
        return [
            claim
            for claim in self.claims
            if not execute(sql.RENEW_RUN, (until, claim.run_id, claim.owner, claim.epoch)).rowcount
        ]

    def stands(self, _desk: Desk) -> bool:
        """Return false: it may be done again."""
        return False


@attrs.define(eq=False)
class Release:
    """Gives claims up."""

    log_bytes: ClassVar[int] = _SHARE
    claims: Sequence[Claim]

    def run(self, desk: Desk) -> None:
        """Do it, passing over those that are lost."""
        rows = [(claim.run_id, claim.owner, claim.epoch) for claim in self.claims]
        desk.connection.executemany(sql.RELEASE_RUN, rows)
        for claim in self.claims:
            desk.held.pop(claim.run_id, None)

    def stands(self, _desk: Desk) -> bool:
        """Return false: it may be done again."""
        return False


@attrs.define(eq=False)
class Send:
    """Keeps a message; its row lacks run, number and time."""

    log_bytes: ClassVar[int] = _SHARE
    message: Message
    row: tuple[Any, ...] = attrs.field(init=False)
    place: tuple[int, int] = (0, 0)
    sent_at: int = 0

    def __attrs_post_init__(self) -> None:
        self.row = message_row(self.message)

    def run(self, desk: Desk) -> Message:
        """Do it and return the message with its number and time.

        Raises:
            RunNotFoundError: No run has this id.
            MessageExistsError: The run has a message with this key.
        """
        connection, message = desk.connection, self.message
        row = connection.execute(sql.SELECT_SENT, (message.run_id,)).fetchone()
        if row is None:
            raise RunNotFoundError(message.run_id)
        run, number = row[0], row[1] + 1
        if message.key is not None and connection.execute(sql.HAS_KEY, (run, message.key)).fetchone():
            raise MessageExistsError(message.run_id, message.key)
        self.place, self.sent_at = (run, number), micros(desk.now)
        connection.execute(sql.COUNT_MESSAGE, (number, run))
        connection.execute(sql.ADD_MESSAGE, (run, number, self.sent_at, *self.row))
        return attrs.evolve(message, number=number, sent_at=utc(self.sent_at))

    def stands(self, desk: Desk) -> bool:
        """Return whether this message has the number that it was given."""
        row = desk.connection.execute(sql.SELECT_MESSAGE, self.place).fetchone()
        return bool(row == (self.sent_at, *self.row))


@attrs.define(eq=False)
class Delete:
    """Forgets a run."""

    log_bytes: ClassVar[int] = _SHARE
    run_id: str
    number: int = 0

    def run(self, desk: Desk) -> None:
        """Do it.

        Raises:
            RunNotFoundError: No run has this id.
            RunOwnedError: An owner holds it.
        """
        connection = desk.connection
        row = connection.execute(sql.SELECT_HOLDER, (self.run_id,)).fetchone()
        if self.number and (row is None or row[0] != self.number):
            # An earlier try has met the run, and it is gone; another one may have its id by now.
            return
        if row is None:
            raise RunNotFoundError(self.run_id)
        number, owner, until = row
        if until is not None and until > micros(desk.now):
            raise RunOwnedError(self.run_id, owner or "", utc(until))
        self.number = number
        for statement in sql.DELETE_RUN:
            connection.execute(statement, (number,))
        desk.held.pop(self.run_id, None)

    def stands(self, _desk: Desk) -> bool:
        """Return false: it may be done again, and a run that is gone may have been deleted by somebody else."""
        return False


def _known(row: tuple[Any, ...]) -> RunRecord:
    try:
        return record_of(row)
    except (TypeError, ValueError) as exc:
        raise StoreFormatError(f"{DAMAGED_ROW} ({exc})") from exc


def _until(now: datetime, lease: float) -> datetime:
    return now + timedelta(seconds=lease)


def _refusal(connection: sqlite3.Connection, run_id: str) -> RunNotFoundError | RunOwnedError:
    """Return why a run cannot be claimed."""
    row = connection.execute(sql.SELECT_HOLDER, (run_id,)).fetchone()
    if row is None:
        return RunNotFoundError(run_id)
    return RunOwnedError(run_id, row[1], utc_or_none(row[2]))


def _has_events(connection: sqlite3.Connection, number: int, events: Sequence[Event]) -> bool:
    kept = connection.execute(sql.SELECT_EVENTS, (number, events[0].version, events[-1].version)).fetchall()
    return kept == [event_row(number, event) for event in events]
