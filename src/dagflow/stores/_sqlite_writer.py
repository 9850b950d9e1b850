"""The writer of a store: gathers writes, and commits each group as one transaction.

What one turn of an event loop asks for is one group, and so is all that comes in while the group before it is being
committed. When the disk is known to be quick, a group is committed on the spot: two threads that take turns cost more
than the pause, which is about as long as it took to make the events. A write that came alone in the last turn is not
even kept until the end of this one: the loop would turn twice more for each node of a chain. Large groups, and all
groups on a slower disk, are committed by a thread.
"""

from __future__ import annotations

import asyncio
import threading
import time
from queue import Empty
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from dagflow.errors import StoreUnavailableError
from dagflow.stores._sqlite_calls import Call, Ending, Inbox, answer, answer_now
from dagflow.stores._sqlite_errors import Locked, not_open, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dagflow.stores._sqlite_database import Database
    from dagflow.stores._sqlite_file import DatabaseFile
    from dagflow.stores._sqlite_writes import Write

__all__ = ["Writer"]

_GROUP = 1000
"""How many writes share a transaction at the most."""

_QUICK = 0.001
"""Seconds that the disk may take for a small transaction to be committed on the loop's thread."""

_SMALL = 512 * 1024
"""How many bytes a group may add to the log to be committed on the loop's thread: about ten milliseconds of work."""

_LOG_BYTES = 4 * 1024 * 1024
"""How long the log may become before it is copied back; writing over an old log is quicker than making it longer."""

_IDLE = 0.5
"""Seconds without a write after which the log is copied back anyway."""

_CLOSING = 0.2
"""Seconds that other programs may keep the file locked when the store is being closed."""

_ENDED = "the thread that writes to it has ended: close the store and open it again"


@attrs.frozen
class _Doubt:
    """A group whose transaction broke on the loop's thread."""

    calls: Sequence[Call[Write]]
    cause: BaseException


@attrs.frozen
class _Hello:
    """Somebody wants to know when the database is open."""

    call: Call[None]


@attrs.frozen
class _Look:
    """The thread shall see whether the log has to be copied back."""


_Item: TypeAlias = "list[Call[Write]] | _Doubt | _Hello | _Look"


class Writer:
    """Writes to one database, from the moment it is started until it is stopped."""

    def __init__(self, database: Database, file: DatabaseFile, *, patience: float, first: Callable[[], None]) -> None:
        """Describe the writer.

        Args:
            database: What it writes to; nobody else uses it.
            file: Names it in errors.
            patience: Seconds that the thread waits for other programs that write to the file.
            first: What has to be waited for before the file is let go of.
        """
        self.ending = Ending()
        self._database = database
        self._name = file.name
        self._patience = patience
        self._first = first
        self._items: Inbox[_Item] = Inbox()
        self._turns: dict[asyncio.AbstractEventLoop, list[Call[Write]]] = {}
        # The collector may run a finalizer that comes here, wherever this thread is at that moment.
        self._gate = threading.RLock()
        self._left: list[_Item | None] = []
        # Writes that the thread has got and not yet answered; meanwhile nothing is committed on a loop's thread.
        self._handed = 0
        # The last turn has asked for one write at the most; so the next one is not kept waiting for company.
        self._is_alone = False
        self._failure: BaseException = not_open(self._name)
        # A thread that keeps the interpreter from ending would punish whoever forgot to close the store.
        self._thread = threading.Thread(target=self._live, name=f"dagflow writer of {self._name}", daemon=True)

    def start(self) -> None:
        """Start the thread, which opens the database first."""
        self._thread.start()

    async def opened(self) -> None:
        """Return when the database is open.

        Raises:
            StoreFaultError: It cannot be opened.
        """
        call: Call[None] = Call(None, asyncio.get_running_loop())
        if not self._items.put(_Hello(call)):
            raise self._failure
        await call

    def write(self, work: Write) -> Call[Write]:
        """Do a write; its result is there when it is durable, and a caller that is cancelled learns of it afterwards.

        Raises:
            StoreError: It was refused, or failed.
        """
        loop = asyncio.get_running_loop()
        call = Call(work, loop)
        if self._is_alone and loop not in self._turns:
            self._begin_turn(loop)
            group = [call]
            if self._is_for_here(group) and self._commit_here(group):
                return call
        with self._gate:
            turn = self._turns.get(loop)
            if turn is None:
                turn = self._begin_turn(loop)
            turn.append(call)
        return call

    def stop(self) -> None:
        """Let the thread end after the writes that it has got, and wait for other programs only a moment longer."""
        self._database.hurry(_CLOSING)
        with self._gate:
            turns, self._turns = self._turns, {}
        for calls in turns.values():
            self._hand_over(calls, calls, self._failure)
        self._items.end()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    # -- on the thread of a loop ----------------------------------------------------------------------

    def _begin_turn(self, loop: asyncio.AbstractEventLoop) -> list[Call[Write]]:
        """Gather what is asked for until the loop has done all that it has to do now."""
        with self._gate:
            turn: list[Call[Write]] = []
            # In this order: cut off in between by Ctrl-C, a turn without an end would take writes and never do them.
            loop.call_soon(self._end_turn, loop)
            self._turns[loop] = turn
        return turn

    def _end_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Pass on what this turn of the loop has asked for."""
        calls: list[Call[Write]] = []
        try:
            with self._gate:
                calls = self._turns.get(loop, calls)
                self._turns.pop(loop, None)
            # What was expected to be alone has been committed by now, and all others have come unexpectedly.
            self._is_alone = len(calls) <= (0 if self._is_alone else 1)
            if calls and not (self._is_for_here(calls) and self._commit_here(calls)):
                self._hand_over(calls, calls, self._failure)
        except BaseException as exc:
            # Ctrl-C, which ends the loop: those who wait are to be told all the same when another one ends it.
            left = [call for call in self._turns.pop(loop, calls) if not call.is_done]
            self._hand_over(_Doubt(left, exc), left, translated(exc, self._name))
            raise

    def _hand_over(self, item: _Item, calls: Sequence[Call[Write]], too_late: BaseException) -> None:
        """Give the thread something to do; when it has ended, tell the calls that it is too late."""
        with self._gate:
            self._handed += len(calls)
        if not self._items.put(item):
            _fail(calls, too_late)
            self._answer(calls)

    def _is_for_here(self, calls: Sequence[Call[Write]]) -> bool:
        """Decide whether a group is committed on the loop's thread."""
        database = self._database
        return (
            not self._handed
            and database.pace < _QUICK
            and database.is_sound
            and sum(call.work.log_bytes for call in calls) <= _SMALL
        )

    def _commit_here(self, calls: list[Call[Write]]) -> bool:
        """Commit a group at once, and return false when somebody else writes to the file."""
        database = self._database
        is_first = not database.log_bytes
        try:
            database.commit(calls, patience=0.0)
        except Locked:
            return False
        except (Exception, KeyboardInterrupt, SystemExit) as exc:  # noqa: BLE001 - the thread finds out what it has done
            self._hand_over(_Doubt(calls, exc), calls, translated(exc, self._name))
            if not isinstance(exc, Exception):
                # It ends the loop; the task that writes has done nothing to deserve it, and learns what came of that.
                asyncio.get_running_loop().call_soon(_raise, exc)
            return True
        except BaseException as exc:  # noqa: BLE001 - a test's crash, which its callers shall see
            _fail(calls, exc)
        answer_now(calls)
        # The thread may be waiting without an end in sight.
        if is_first or database.log_bytes > _LOG_BYTES:
            self._items.put(_Look())
        return True

    # -- on the thread of the writer ------------------------------------------------------------------

    def _live(self) -> None:
        try:
            self._database.open()
        except BaseException as exc:  # noqa: BLE001 - it belongs to those who open the store
            self._give_up(exc)
            self.ending.come()
            return
        try:
            self._serve()
        except BaseException as exc:  # noqa: BLE001 - nobody else would tell those who wait
            error = StoreUnavailableError(f"{_ENDED} ({exc!r})", self._name)
            error.__cause__ = exc
            self._give_up(error)
        try:
            self._first()
            self._database.close()
        finally:
            self.ending.come()

    def _serve(self) -> None:
        while (item := self._next()) is not None:
            self._handle(item)
            # Whatever it holds shall not live until the next one.
            del item

    def _next(self) -> _Item | None:
        """Return what to do next; meanwhile copy the log back when nobody has written for a while."""
        if self._left:
            return self._left.pop()
        while self._database.log_bytes:
            try:
                return self._items.get(timeout=_IDLE)
            except Empty:
                if time.monotonic() - self._database.last_commit >= _IDLE:
                    self._copy_log()
        return self._items.get()

    def _handle(self, item: _Item) -> None:
        if isinstance(item, list):
            self._commit(self._gather(item))
        elif isinstance(item, _Doubt):
            self._settle(item.calls, item.cause)
        elif isinstance(item, _Hello):
            answer([item.call])
        if self._database.log_bytes > _LOG_BYTES:
            self._copy_log()

    def _gather(self, calls: list[Call[Write]]) -> list[Call[Write]]:
        """Add all that has come in meanwhile."""
        while len(calls) < _GROUP:
            try:
                item = self._items.get(timeout=0)
            except Empty:
                break
            if not isinstance(item, list):
                self._left.append(item)
                break
            calls = calls + item
        return calls

    def _commit(self, calls: Sequence[Call[Write]]) -> None:
        try:
            self._database.commit(calls, patience=self._patience)
        except Locked as exc:
            _fail(calls, translated(exc, self._name))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the calls get an answer
            return self._settle(calls, exc)
        except BaseException as exc:  # noqa: BLE001 - a test's crash, which its callers shall see
            _fail(calls, exc)
        return self._answer(calls)

    def _settle(self, calls: Sequence[Call[Write]], cause: BaseException) -> None:
        try:
            self._database.settle(calls, cause)
        except BaseException as exc:  # noqa: BLE001 - a test's crash, which its callers shall see
            _fail(calls, exc)
        self._answer(calls)

    def _answer(self, calls: Sequence[Call[Write]]) -> None:
        with self._gate:
            self._handed -= len(calls)
        answer(calls)

    def _copy_log(self) -> None:
        self._database.checkpoint(patience=self._patience)

    def _give_up(self, failure: BaseException) -> None:
        """Tell everyone who waits, or comes later, why there is nothing to wait for."""
        self._failure = failure
        self._items.end()
        while (item := self._left.pop() if self._left else self._items.get()) is not None:
            calls = _calls_of(item)
            _fail(calls, failure)
            answer(calls)


def _calls_of(item: _Item) -> Sequence[Call[Any]]:
    if isinstance(item, list):
        return item
    if isinstance(item, _Hello):
        return [item.call]
    return item.calls if isinstance(item, _Doubt) else []


def _raise(exc: BaseException) -> None:
    raise exc


def _fail(calls: Sequence[Call[Any]], error: BaseException) -> None:
    for call in calls:
        call.error = error
