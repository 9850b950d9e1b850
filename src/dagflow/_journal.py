"""The journal of one run as its owner sees it: every write carries the claim, and messages come in by their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from dagflow._events import MessageKind, RunRecord, RunStatus
from dagflow._facts import Decided, Fact, Signalled
from dagflow._log import LOGGER
from dagflow.errors import MessageExistsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from dagflow._events import Claim, Event, Message
    from dagflow.protocols import ContextStore

__all__ = ["Journal", "facts_of"]


@attrs.define(eq=False)
class Journal:
    """Writes the events of one run under one claim.

    Attributes:
        store: Keeps them.
        record: The record of the run; for a new run, as it shall be created.
        lease: Seconds of the first lease of a new run.
        is_new: The run is created with the first write; whoever has written that says when it is done.
        ignored: Numbers of messages that are not for the run as it is now.
        received: Number of the last message that has come in.
        heard: Number of the last one that the next write follows from; the next owner reads on from there.
        held: Numbers of messages that have been heard and have had no effect yet, by what they are for: a pause
            (``""``), or a node that shall look again. The next owner finds them too.
        before_end: Called before the end of the run is written.
        claim: What every write carries.
    """

    store: ContextStore
    record: RunRecord
    lease: float
    is_new: bool = False
    ignored: frozenset[int] = frozenset()
    received: int = attrs.field(init=False)
    heard: int = attrs.field(init=False)
    held: dict[str, int] = attrs.field(init=False, factory=dict)
    before_end: Callable[[], Awaitable[None]] | None = attrs.field(init=False, default=None)
    _kept: int = attrs.field(init=False)
    claim: Claim = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.received = self.heard = self._kept = self.record.received
        self.claim = self.record.claim

    def write(
        self, events: Sequence[Event], *, status: RunStatus, wake_at: datetime | None = None, release: bool = False
    ) -> Awaitable[object]:
        """Keep the events durably, in one transaction; a run that is paused is woken by no timer."""
        if self.before_end is not None and status.is_terminal:
            return self._write_last(self.before_end, events, status, wake_at, release=release)
        if self.is_new:
            return self._create(events, status, wake_at, release=release)
        if not self.held or status is RunStatus.PAUSED or status.is_terminal:
            self._kept = self.heard
        else:
            self._kept = max(self._kept, min(self.heard, min(self.held.values()) - 1))
        return self.store.append(
            events,
            claim=self.claim,
            version=events[0].version - 1,
            status=status,
            wake_at=None if status is RunStatus.PAUSED else wake_at,
            received=self._kept,
            release=release,
        )

    async def _write_last(
        self,
        before_end: Callable[[], Awaitable[None]],
        events: Sequence[Event],
        status: RunStatus,
        wake_at: datetime | None,
        *,
        release: bool,
    ) -> None:
        self.before_end = None
        await before_end()
        await self.write(events, status=status, wake_at=wake_at, release=release)

    def _create(
        self, events: Sequence[Event], status: RunStatus, wake_at: datetime | None, *, release: bool
    ) -> Awaitable[object]:
        # Nobody has seen the record yet.
        record, last = self.record, events[-1]
        record.status, record.version, record.updated_at, record.wake_at = status, last.version, last.at, wake_at
        created = self.store.create(record, events, lease=self.lease)
        return self._release(created) if release else created

    async def _release(self, created: Awaitable[object]) -> None:
        await created
        self.is_new = False
        await self.store.release([self.claim])

    async def receive(self) -> list[Message]:
        """Return the messages that have come for the run and were not asked for yet."""
        run_id = self.record.run_id
        return [] if self.is_new else await self.store.receive({run_id: self.received})

    async def send(self, message: Message) -> None:
        """Send the run a message of its own; one that somebody sent before under the same key stands."""
        try:
            await self.store.send(message)
        except MessageExistsError:
            LOGGER.info("somebody was faster", extra={"run_id": message.run_id, "key": message.key})


def facts_of(message: Message) -> list[Fact]:
    """Return what a message says to the scheduler."""
    if message.kind is MessageKind.SIGNAL:
        return [Signalled(message.name, message.payload, message.number)]
    if message.kind is MessageKind.DECISION and message.payload is not None:
        data = dict(message.data or {})
        return [Decided(message.name, data.pop("requested"), data, message.payload, message.number)]
    return []
