"""The appends of all runs, in as few commits as their arrival allows.

While one commit is under way, further appends gather; the next commit takes them all, at most one of each run. There is
no timer: an append that arrives alone is sent at once, and by the task that asks for it if the one before it was alone
as well. An append that the server objects to is sent again by itself, so that it takes nobody down with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import attrs

from dagflow.errors import LeaseLostError
from dagflow.stores._postgres_arrays import Bools, Ints, Texts, Times
from dagflow.stores._postgres_errors import FAULTS, is_certain, may_pass, translate
from dagflow.stores._postgres_link import pause_s
from dagflow.stores._postgres_rows import columns_of, event_of, event_row
from dagflow.stores._postgres_sql import MOST_IN_ONE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from dagflow._events import Claim, Event, RunStatus
    from dagflow.stores._postgres_connections import Session
    from dagflow.stores._postgres_link import Link
    from dagflow.stores._postgres_rows import EventRow
    from dagflow.stores._postgres_sql import Statements

__all__ = ["Append", "GroupCommitter"]

_MOST_APPENDS = 1_000
_MOST_BYTES = 4_000_000


class _Kept(asyncio.Future[None]):
    """Done when an append is kept or refused; cannot be cancelled while nobody knows which.

    A task that is cancelled while it awaits this waits on, and is told of its cancellation when this is done.
    """

    is_sending = False
    is_doubtful = False
    """An earlier try may have been kept."""
    is_unwanted = False
    """Its task was cancelled."""

    @property
    def is_certain(self) -> bool:
        return not (self.is_sending or self.is_doubtful)

    def cancel(self, msg: Any | None = None) -> bool:
        self.is_unwanted = True
        return super().cancel(msg) if self.is_certain else False

    def end(self, reason: BaseException) -> None:
        """Be done all the same."""
        if isinstance(reason, asyncio.CancelledError):
            super().cancel()
            return
        with suppress(asyncio.InvalidStateError):
            self.set_exception(reason)


@attrs.define(eq=False)
class Append:
    """What `ContextStore.append` was given, and what became of it."""

    events: Sequence[Event]
    claim: Claim
    version: int
    status: RunStatus
    wake_at: datetime | None
    received: int | None
    release: bool
    give_up_at: float
    rows: list[EventRow] = attrs.field(init=False)
    kept: _Kept = attrs.field(init=False, factory=_Kept)
    is_alone: bool = attrs.field(init=False, default=False)
    """The server objected to something in its group."""

    def __attrs_post_init__(self) -> None:
        self.rows = [event_row(event) for event in self.events]

    @property
    def size_bytes(self) -> int:
        return sum(len(event.payload.data) for event in self.events if event.payload is not None)

    @property
    def lost(self) -> LeaseLostError:
        return LeaseLostError(self.claim.run_id, self.claim.epoch)


class GroupCommitter:
    """Writes the appends of one store over one connection at a time."""

    def __init__(self, link: Link, statements: Statements) -> None:
        """Write over ``link``, which must not lend its only connection to anybody for long."""
        self.commits = 0
        self._link = link
        self._statements = statements
        self._queue: deque[Append] = deque()
        # The task that empties the queue, or the append that its own task is sending.
        self._busy: asyncio.Future[None] | None = None
        # The last append had no company, so the next one does not wait for any.
        self._is_alone = False

    async def append(self, append: Append) -> None:
        """Return when it is kept.

        Raises:
            LeaseLostError: It was refused.
            StoreFaultError: See `ContextStore`.
        """
        if self._busy is None and self._is_alone and self._link.is_at_hand:
            await self._append_here(append)
            return
        self._queue.append(append)
        if self._busy is None:
            self._start()
        await append.kept

    async def close(self) -> None:
        """Wait until nothing is left to be written, or to be tried again."""
        while self._busy is not None:
            await asyncio.wait([self._busy])

    def forget(self) -> None:
        """Do nothing of what is left: it belongs to a loop that was closed."""
        self._queue.clear()

    async def _append_here(self, append: Append) -> None:
        """Send an append from the task that asks for it: with another one, the loop has to turn twice more."""
        kept = self._busy = append.kept
        at_once, is_cancelled = True, False
        try:
            at_once = await self._write([append])
        except asyncio.CancelledError as end:
            is_cancelled = True
            if kept.is_certain:
                kept.end(end)
            else:
                kept.is_doubtful, kept.is_sending = True, False
                kept.cancel()
                self._queue.appendleft(append)
        except BaseException as end:
            self._abandon(self._queue, end)
            # Nobody waits for it but `close`.
            kept.end(asyncio.CancelledError())
            raise
        finally:
            self._go_on(at_once=at_once)
        try:
            # It is done, unless it has to be tried again.
            await kept
        finally:
            if is_cancelled:
                raise asyncio.CancelledError

    def _go_on(self, *, at_once: bool) -> None:
        """Leave what has come in meanwhile, or has to be tried again, to a task."""
        self._busy = None
        self._is_alone = not self._queue
        if self._queue:
            self._start(tries=0 if at_once else 1)

    def _start(self, tries: int = 0) -> None:
        self._busy = task = asyncio.create_task(self._drain(tries))
        # Those who wait are told of its end; nobody asks the task.
        task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _drain(self, tries: int) -> None:
        batch: list[Append] = []
        try:
            while True:
                if tries:
                    await asyncio.sleep(pause_s(tries))
                batch = []
                self._fill(batch)
                if not batch:
                    return
                self._is_alone = len(batch) == 1
                tries = 0 if await self._write(batch) else tries + 1
        except BaseException as end:
            # The loop is ending, or a test says that the process is dead.
            self._abandon(chain(batch, self._queue), end)
            raise
        finally:
            self._busy = None

    def _abandon(self, appends: Iterable[Append], end: BaseException) -> None:
        for append in appends:
            append.kept.end(end)
        self._queue.clear()

    def _fill(self, batch: list[Append]) -> None:
        """Take the next group off the queue; wherever Ctrl-C cuts this off, each append is in one of them."""
        runs: set[str] = set()
        size = 0
        while self._queue and len(batch) < _MOST_APPENDS and size < _MOST_BYTES:
            append = self._queue[0]
            if batch and (append.claim.run_id in runs or append.is_alone or batch[0].is_alone):
                break
            if not append.kept.done():
                batch.append(append)
                runs.add(append.claim.run_id)
                size += append.size_bytes
            self._queue.popleft()

    async def _write(self, batch: list[Append]) -> bool:
        """Try a group once, and settle it or put it back; return whether to go on without a pause."""
        seconds = min(append.give_up_at for append in batch) - self._now()
        try:
            lost = await self._link.once(partial(self._send, batch), seconds=seconds)
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with one append must not harm the others
            return self._recover(batch, error)
        for append in batch:
            if append.kept.done():
                continue
            if append.claim.run_id in lost:
                append.kept.set_exception(append.lost)
            else:
                append.kept.set_result(None)
        return True

    async def _send(self, batch: list[Append], session: Session) -> set[str]:
        """Send a group and return the runs whose append was refused."""
        batch = [append for append in batch if not append.kept.done()]
        for append in batch:
            append.kept.is_sending = True
        if not batch:
            return set()
        if len(batch) == 1 and len(batch[0].rows) <= MOST_IN_ONE:
            moved = await self._send_one(batch[0], session)
        else:
            moved = await self._send_many(batch, session)
        self.commits += bool(moved)
        if len(moved) == len(batch):
            return set()
        refused = [append for append in batch if append.claim.run_id not in moved]
        return {append.claim.run_id for append in refused if not await self._was_kept(append, session)}

    async def _send_one(self, append: Append, session: Session) -> set[str]:
        claim, last = append.claim, append.rows[-1]
        moved = (last[0], append.status.value, last[4], append.wake_at, append.received, append.release, append.release)
        held = (claim.run_id, claim.owner, claim.epoch, append.version)
        values = (*moved, *held, *chain.from_iterable(append.rows))
        try:
            count = await session.run(self._statements.append_one[len(append.rows) - 1], values)
        except asyncio.CancelledError:
            append.kept.is_sending = not session.was_stopped
            raise
        return {claim.run_id} if count else set()

    async def _send_many(self, batch: Sequence[Append], session: Session) -> set[str]:
        run_ids = Texts([append.claim.run_id for append in batch for _ in append.rows])
        events = columns_of([row for append in batch for row in append.rows])
        values = (*_head_columns(batch), run_ids, *events.values())
        return {run_id for (run_id,) in await session.rows(self._statements.append_many, values)}

    async def _was_kept(self, append: Append, session: Session) -> bool:
        """Return whether an append that was refused had been kept by an earlier try."""
        if not append.kept.is_doubtful:
            return False
        bounds = {"run_id": append.claim.run_id, "after": append.version, "until": append.rows[-1][0]}
        rows = await session.rows(self._statements.read_on, {**bounds, "limit": len(append.rows)})
        return [event_row(event_of(append.claim.run_id, row)) for row in rows] == append.rows

    def _recover(self, batch: Sequence[Append], error: Exception) -> bool:
        """Give up what cannot be kept, put the rest back, and return whether to go on without a pause."""
        now, is_answered = self._now(), not may_pass(error)
        again: list[Append] = []
        stuck: list[Append] = []
        for append in batch:
            kept = append.kept
            kept.is_doubtful = kept.is_doubtful or (kept.is_sending and not is_certain(error))
            kept.is_sending = False
            hopeless = len(batch) == 1 and is_answered and not kept.is_doubtful
            if kept.is_unwanted and kept.is_certain:
                kept.end(asyncio.CancelledError())
            if kept.done():
                continue
            if hopeless or now >= min(append.give_up_at, self._link.ends_at):
                kept.set_exception(self._fault(error, doubt=kept.is_doubtful))
            else:
                append.is_alone = is_answered
                (stuck if is_answered and kept.is_doubtful else again).append(append)
        self._queue.extendleft(reversed(again))
        # What may have been kept by an earlier try is asked for until its patience is over, though nobody can say how
        # long the server will object: it shall keep nobody else waiting.
        self._queue.extend(stuck)
        if again or stuck:
            self._link.warn(error)
        return is_answered and not stuck

    def _fault(self, error: Exception, *, doubt: bool) -> Exception:
        if not isinstance(error, FAULTS):
            return error
        fault = translate(error, self._link.name, doubt=doubt)
        fault.__cause__ = error
        return fault

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _head_columns(batch: Sequence[Append]) -> tuple[object, ...]:
    return (
        Texts([append.claim.run_id for append in batch]),
        Texts([append.claim.owner for append in batch]),
        Ints([append.claim.epoch for append in batch]),
        Ints([append.version for append in batch]),
        Ints([append.rows[-1][0] for append in batch]),
        Texts([append.status.value for append in batch]),
        Times([append.rows[-1][4] for append in batch]),
        Times([append.wake_at for append in batch]),
        Ints([append.received for append in batch]),
        Bools([append.release for append in batch]),
    )
