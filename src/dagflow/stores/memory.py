"""A store in the memory of this process: for tests, notebooks, and runs that need not outlive it."""

from __future__ import annotations

import threading
from copy import deepcopy
from datetime import timedelta
from itertools import dropwhile, islice
from typing import TYPE_CHECKING, Self, TypeVar

import attrs

from dagflow._events import Claim, Event, Message, RunRecord, RunStatus, StoreFigures
from dagflow.clock import SYSTEM_CLOCK
from dagflow.errors import LeaseLostError, MessageExistsError, RunExistsError, RunNotFoundError, RunOwnedError
from dagflow.stores._journal import check_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from dagflow._events import RunQuery
    from dagflow.protocols import Clock

__all__ = ["MemoryStore"]

FactT = TypeVar("FactT", Event, Message)


@attrs.define(eq=False)
class _Row:
    """What is kept of one run; changed in place, so that an append costs no more than its events."""

    created: RunRecord
    events: list[Event]
    version: int
    status: RunStatus
    updated_at: datetime
    owner: str | None
    epoch: int
    lease_until: datetime | None
    wake_at: datetime | None
    received: int
    messages: list[Message] = attrs.field(factory=list)
    keys: set[str] = attrs.field(factory=set)
    counted: int = 0
    bytes: int = 0

    @property
    def record(self) -> RunRecord:
        return attrs.evolve(
            self.created,
            status=self.status,
            version=self.version,
            updated_at=self.updated_at,
            owner=self.owner,
            epoch=self.epoch,
            lease_until=self.lease_until,
            wake_at=self.wake_at,
            received=self.received,
        )

    def measure(self) -> int:
        """Return the bytes of all values; each event is looked at once."""
        fresh = self.events[self.counted :]
        self.counted += len(fresh)
        self.bytes += sum(len(event.payload.data) for event in fresh if event.payload is not None)
        return self.bytes

    def is_held(self, now: datetime) -> bool:
        return self.lease_until is not None and self.lease_until > now

    def is_held_by(self, claim: Claim) -> bool:
        return self.owner == claim.owner and self.epoch == claim.epoch

    def is_claimable(self, now: datetime) -> bool:
        if self.is_held(now) or self.status.is_terminal:
            return False
        if self.status is RunStatus.PENDING or self.status is RunStatus.RUNNING:
            return True
        return len(self.messages) > self.received or (self.wake_at is not None and self.wake_at <= now)

    def fits(self, query: RunQuery) -> bool:
        return (
            (query.workflow is None or self.created.workflow == query.workflow)
            and (not query.statuses or self.status in query.statuses)
            and (query.parent is None or self.created.parent == query.parent)
        )

    def hold(self, owner: str, until: datetime) -> None:
        self.owner = owner
        self.lease_until = until

    def let_go(self) -> None:
        self.owner = None
        self.lease_until = None


class MemoryStore:
    """Keeps runs in dictionaries, by the same contract as the durable stores.

    What it keeps lives as long as the object: closing loses nothing, and opening is not needed. Several executors,
    on loops in several threads, may share one.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """Start empty; ``clock`` counts the leases."""
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._rows)} runs)"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def open(self) -> None:
        """Do nothing: memory is always open."""

    async def close(self) -> None:
        """Do nothing: what is kept stays as long as the object."""

    async def create(self, run: RunRecord, events: Sequence[Event], *, lease: float = 0.0) -> RunRecord:
        """Keep a new run with its first events; see `ContextStore.create`."""
        check_numbers(events, run.version - len(events))
        until = self._until(lease) if run.owner is not None else None
        with self._lock:
            if run.run_id in self._rows:
                raise RunExistsError(run.run_id)
            self._rows[run.run_id] = _Row(
                created=run,
                events=_copies(events),
                version=run.version,
                status=run.status,
                updated_at=run.updated_at,
                owner=run.owner,
                epoch=run.epoch,
                lease_until=until,
                wake_at=run.wake_at,
                received=run.received,
            )
        return run.leased(until)

    async def append(
        self,
        events: Sequence[Event],
        *,
        claim: Claim,
        version: int,
        status: RunStatus,
        wake_at: datetime | None = None,
        received: int | None = None,
        release: bool = False,
    ) -> None:
        """Keep all events of one run or none, and move its record with them; see `ContextStore.append`."""
        check_numbers(events, version)
        with self._lock:
            row = self._rows.get(claim.run_id)
            if row is None or row.version != version or not row.is_held_by(claim):
                raise LeaseLostError(claim.run_id, claim.epoch)
            row.events += _copies(events)
            row.version = version + len(events)
            row.status = status
            row.updated_at = events[-1].at
            row.wake_at = wake_at
            if received is not None:
                row.received = received
            if release:
                row.let_go()

    async def read(self, run_id: str, *, after: int = 0) -> tuple[RunRecord, list[Event]]:
        """Return a record and its events of one moment; see `ContextStore.read`."""
        with self._lock:
            row = self._row(run_id)
            return row.record, _copies(row.events[after:])

    async def find(self, query: RunQuery) -> list[RunRecord]:
        """Return the records that fit; see `ContextStore.find`."""
        with self._lock:
            rows = self._claimable() if query.claimable else self._newest_first(query.after)
            return [row.record for row in islice((row for row in rows if row.fits(query)), query.limit)]

    async def claim(self, run_id: str, *, owner: str, lease: float, dead_owner: str | None = None) -> RunRecord:
        """Make ``owner`` the only executor of a run until the lease lapses; see `ContextStore.claim`."""
        now, until = self._clock.now(), self._until(lease)
        with self._lock:
            row = self._row(run_id)
            if row.owner not in (None, owner, dead_owner) and row.is_held(now):
                raise RunOwnedError(run_id, row.owner or "", row.lease_until)
            row.hold(owner, until)
            row.epoch += 1
            return row.record

    async def renew(self, claims: Sequence[Claim], *, lease: float) -> list[Claim]:
        """Extend claims and return those that are lost; see `ContextStore.renew`."""
        until = self._until(lease)
        lost = []
        with self._lock:
            for claim in claims:
                row = self._held(claim)
                if row is None:
                    lost.append(claim)
                else:
                    row.lease_until = until
        return lost

    async def release(self, claims: Sequence[Claim]) -> None:
        """Give claims up; see `ContextStore.release`."""
        with self._lock:
            for claim in claims:
                row = self._held(claim)
                if row is not None:
                    row.let_go()

    async def send(self, message: Message) -> Message:
        """Keep a message for the owner of a run; see `ContextStore.send`."""
        now = self._clock.now()
        with self._lock:
            row = self._row(message.run_id)
            if message.key is not None:
                if message.key in row.keys:
                    raise MessageExistsError(message.run_id, message.key)
                row.keys.add(message.key)
            sent = attrs.evolve(message, number=len(row.messages) + 1, sent_at=now)
            row.messages += _copies([sent])
            return sent

    async def receive(self, cursors: Mapping[str, int]) -> list[Message]:
        """Return the messages beyond the cursors; see `ContextStore.receive`."""
        with self._lock:
            known = ((self._rows.get(run_id), after) for run_id, after in cursors.items())
            return [fact for row, after in known if row is not None for fact in _copies(row.messages[after:])]

    async def delete(self, run_id: str) -> None:
        """Forget a run, its events and its messages; see `ContextStore.delete`."""
        now = self._clock.now()
        with self._lock:
            row = self._row(run_id)
            if row.is_held(now):
                raise RunOwnedError(run_id, row.owner or "", row.lease_until)
            del self._rows[run_id]

    async def measure(self) -> StoreFigures:
        """Say how many bytes the kept values take; see `MeasuredStore.measure`."""
        with self._lock:
            rows = list(self._rows.values())
        return StoreFigures(size_bytes=sum(row.measure() for row in rows))

    def _until(self, lease: float) -> datetime:
        return self._clock.now() + timedelta(seconds=lease)

    def _row(self, run_id: str) -> _Row:
        try:
            return self._rows[run_id]
        except KeyError:
            raise RunNotFoundError(run_id) from None

    def _held(self, claim: Claim) -> _Row | None:
        row = self._rows.get(claim.run_id)
        return row if row is not None and row.is_held_by(claim) else None

    def _newest_first(self, after: str | None) -> Iterator[_Row]:
        rows = reversed(self._rows.values())
        if after is None:
            return rows
        last = self._row(after)
        return islice(dropwhile(lambda row: row is not last, rows), 1, None)

    def _claimable(self) -> list[_Row]:
        now = self._clock.now()
        rows = [row for row in self._rows.values() if row.is_claimable(now)]
        # The sort is stable: runs of one priority stay in the order in which they were created.
        return sorted(rows, key=lambda row: -row.created.priority)


def _copies(facts: Sequence[FactT]) -> list[FactT]:
    """Return events or messages whose data nobody else can change."""
    return [fact if fact.data is None else attrs.evolve(fact, data=deepcopy(fact.data)) for fact in facts]
