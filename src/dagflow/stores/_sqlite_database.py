"""The writing connection of a store: groups of writes in one transaction each, and what to do when one breaks.

Nothing here knows of threads or loops. The lock of the file is what keeps callers apart.
"""

from __future__ import annotations

import math
import sqlite3
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._log import LOGGER
from dagflow.errors import StoreFaultError, StoreUnavailableError
from dagflow.stores import _sqlite_sql as sql
from dagflow.stores._sqlite_desk import Desk
from dagflow.stores._sqlite_errors import Locked, code_of, is_fault_of_one_write, is_refusal, not_open, translated
from dagflow.stores._sqlite_points import watched
from dagflow.stores._sqlite_schema import connect, prepare
from dagflow.stores._sqlite_writes import Append, Create, append_all, create_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from dagflow.protocols import Clock
    from dagflow.stores._sqlite_calls import Call
    from dagflow.stores._sqlite_file import DatabaseFile, FileLock
    from dagflow.stores._sqlite_writes import Write

__all__ = ["Database", "Options"]


_TRIES = (0.0, 0.05, 0.5)
"""Seconds to wait before each try to find out what became of a transaction."""

_PAUSE_MAX = 0.02
"""Seconds between two looks at a file that another program has locked."""

_REFUSALS = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY})

_SMOOTHING = 0.2

_PAGES = 3 * 4096
"""What a transaction adds to the log at the least: the pages that hold a row, the events, and the way to them."""

_SYNCED = 32 * 1024
"""As many bytes as the disk takes in the time that it needs for the smallest transaction, about."""


class _Spoilt(Exception):  # noqa: N818 - a signal within this room
    """One call of a group cannot be done, and the transaction begins again without it."""

    def __init__(self, call: Call[Write], cause: BaseException) -> None:
        super().__init__(call, cause)
        self.call = call
        self.cause = cause


@attrs.frozen
class Options:
    """How a file is used.

    Attributes:
        clock: Counts the leases.
        patience: Seconds to wait for other programs that write to the file.
        pragmas: Statements for each writing connection, after those of the library.
        at: Is told every point; see `SQLiteStore`.
    """

    clock: Clock
    patience: float
    pragmas: tuple[str, ...] = ()
    at: Callable[[str], None] | None = None


class Database:
    """Writes to one file.

    Attributes:
        commits: How many transactions have been committed.
        retries: How often it has tried to find out what became of a transaction.
        log_bytes: About how much has been written to the log since it was copied back.
        pace: Seconds that the disk takes for a small transaction, the later ones counting more.
        last_commit: When the last one ended, by the clock of `time.monotonic`.
    """

    def __init__(self, file: DatabaseFile, options: Options) -> None:
        """Describe the database; `open` connects."""
        self.commits = 0
        self.retries = 0
        self.log_bytes = 0
        self.pace = 0.0
        self.last_commit = 0.0
        self._file = file
        self._options = options
        self._factory = sqlite3.Connection if options.at is None else watched(options.at)
        self._lock: FileLock
        self._is_open = False
        self._in_doubt = False
        self._desk: Desk | None = None
        self._hurries_at = math.inf

    @property
    def is_sound(self) -> bool:
        """Whether there is a connection that nothing is known to be wrong with."""
        return self._desk is not None

    def open(self) -> None:
        """Connect, and create or migrate the schema.

        Raises:
            StoreFaultError: The file cannot be used.
        """
        self._lock = self._file.lock()
        try:
            with self._turn(self._options.patience):
                self._connect(create=True)
        except Exception as exc:
            self._lock.leave()
            error = translated(exc, self._file.name)
            if error is exc:
                raise
            raise error from exc
        except BaseException:
            self._lock.leave()
            raise
        self._is_open = True

    def hurry(self, seconds: float) -> None:
        """Wait for other programs no longer than so many seconds from now; may be called by any thread."""
        self._hurries_at = min(self._hurries_at, time.monotonic() + seconds)

    def close(self) -> None:
        """Let go of the file; SQLite copies the log back when nobody else has it open."""
        with ExitStack() as then:
            then.callback(self._lock.leave)
            # What keeps the lock from being taken is no reason to keep the file.
            with suppress(OSError):
                if self._lock.acquire(self._options.patience, self._is_hurried):
                    then.callback(self._lock.release)
            self._is_open = False
            self._drop()

    def commit(self, calls: Sequence[Call[Write]], *, patience: float) -> None:
        """Do a group of writes in one transaction and note in each call what became of it.

        Args:
            calls: What to do, in this order.
            patience: Seconds to wait for others that write to the file.

        Raises:
            Locked: They had not ended by then; nothing has been done.
            BaseException: The transaction broke: `settle` finds out what became of it.
        """
        deadline = time.monotonic() + patience
        if not self._lock.acquire(patience, self._is_hurried):
            raise Locked
        try:
            self._commit(calls, deadline)
        finally:
            self._lock.release()

    def settle(self, calls: Sequence[Call[Write]], cause: BaseException) -> None:
        """Find out what became of a transaction that broke, and do it again if it was not kept.

        Args:
            calls: Its writes; each gets a definite outcome, or `StoreUnavailableError` when there is none to be had.
            cause: What broke it.
        """
        waiting: Sequence[Call[Write]] = [call for call in calls if not call.is_decided]
        for pause in _TRIES:
            time.sleep(pause)
            try:
                self._settle_some(waiting, cause, is_last=pause == _TRIES[-1])
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is a reason to try again
                cause = exc
                waiting = [call for call in waiting if not call.is_decided]
            else:
                return
        self._fail(waiting, self._doubtful(cause) if self._in_doubt else cause)

    def checkpoint(self, *, patience: float) -> None:
        """Copy the log back into the file, as far as no reader is in the way."""
        self.log_bytes = 0
        try:
            with self._turn(patience):
                desk = self._sound_desk()
                desk.connection.execute(sql.CHECKPOINT).fetchone()
        except Locked:
            # Whoever writes at present will come to this as well.
            return
        except BaseException as exc:  # noqa: BLE001 - nobody waits for this who could be told
            # Nothing is lost: the log is kept until it can be copied.
            facts = {"store": self._file.name, "why": str(exc)}
            LOGGER.warning("a store's log could not be copied back", extra=facts)

    @contextmanager
    def _turn(self, patience: float) -> Iterator[None]:
        """Keep all others from the file; `commit` does the same by hand, which is quicker."""
        if not self._lock.acquire(patience, self._is_hurried):
            raise Locked
        try:
            yield
        finally:
            self._lock.release()

    def _commit(self, calls: Sequence[Call[Write]], deadline: float) -> None:
        waiting = calls
        while waiting:
            try:
                self._transact(waiting, deadline)
            except _Spoilt as exc:
                waiting = self._without(exc, waiting)
            except Locked:
                raise
            except StoreFaultError as exc:
                # It came before the transaction began.
                self._fail(waiting, exc)
                return
            except BaseException:
                self._drop()
                raise
            else:
                return

    def _transact(self, calls: Sequence[Call[Write]], deadline: float) -> None:
        desk = self._sound_desk()
        self._begin(desk, deadline)
        rest = self._append_together(calls, desk)
        if rest is None:
            # One of them cannot be done: do each by itself, to find out which.
            self._take_back(desk)
            self._begin(desk, deadline)
            rest = calls
        self._perform(rest, desk)
        self._end(desk, calls)

    def _append_together(self, calls: Sequence[Call[Write]], desk: Desk) -> Sequence[Call[Write]] | None:
        """Create runs and do the appends of runs that are known; return what is left, ``None`` when that cannot be.

        A statement costs more than its rows, and a group may have a hundred small appends. All of a group are under way
        at the same time, so that none has to come before another.
        """
        appends, creates, rest = [], [], []
        try:
            for call in calls:
                work = call.work
                if type(work) is Append and (work.claim.run_id in desk.held or desk.knows(work.claim.run_id)):
                    appends.append(work)
                    call.error = None
                elif type(work) is Create:
                    creates.append(work)
                    call.result, call.error = work.place(desk), None
                else:
                    rest.append(call)
            create_all(creates, desk)
            return rest if not (appends or creates) or append_all(appends, creates, desk) else None
        except Exception as exc:
            if not is_fault_of_one_write(exc):
                raise
            return None

    def _settle_some(self, calls: Sequence[Call[Write]], cause: BaseException, *, is_last: bool) -> None:
        """Settle all that can be; one that cannot be done fails, and that is no try of the others."""
        waiting = calls
        while True:
            self.retries += 1
            try:
                with self._turn(self._options.patience):
                    return self._settle(waiting, cause, is_last=is_last)
            except _Spoilt as exc:
                waiting = self._without(exc, waiting)

    def _settle(self, calls: Sequence[Call[Write]], cause: BaseException, *, is_last: bool) -> None:
        try:
            desk = self._sound_desk()
            self._begin(desk, time.monotonic() + self._options.patience)
            stands = any(call.work.stands(desk) for call in calls if call.error is None)
            self._in_doubt = False
            if not stands and (is_last or code_of(cause) in _REFUSALS):
                self._take_back(desk)
                self._fail(calls, cause)
                return
            if not stands:
                self._perform(calls, desk)
            self._end(desk, calls)
        except BaseException:
            self._drop()
            raise

    def _perform(self, calls: Iterable[Call[Write]], desk: Desk) -> None:
        for call in calls:
            self._do(call, call.work.run, desk)

    def _do(self, call: Call[Write], work: Callable[[Desk], Any], desk: Desk) -> None:
        try:
            call.error, call.is_decided = None, False
            call.result = work(desk)
        except Exception as exc:
            if is_refusal(exc):
                call.error = exc
                return
            if not is_fault_of_one_write(exc):
                raise
            self._take_back(desk)
            raise _Spoilt(call, exc) from exc

    def _take_back(self, desk: Desk) -> None:
        desk.held.clear()
        # SQLite has done it itself after some errors.
        if desk.connection.in_transaction:
            desk.connection.execute("ROLLBACK")

    def _end(self, desk: Desk, calls: Iterable[Call[Write]]) -> None:
        kept = [call.work.log_bytes for call in calls if call.error is None]
        start = time.monotonic()
        self._in_doubt = True
        desk.connection.execute("COMMIT")
        self._in_doubt = False
        self.last_commit = time.monotonic()
        if kept:
            size = sum(kept)
            self.commits += 1
            self.log_bytes += _PAGES + size
            self.pace += _SMOOTHING * ((self.last_commit - start) / (1 + size / _SYNCED) - self.pace)

    def _without(self, spoilt: _Spoilt, calls: Sequence[Call[Write]]) -> Sequence[Call[Write]]:
        self._fail([spoilt.call], spoilt.cause)
        return [call for call in calls if call is not spoilt.call]

    def _fail(self, calls: Iterable[Call[Write]], cause: BaseException) -> None:
        for call in calls:
            call.error = translated(cause, self._file.name)
            call.is_decided = True

    def _doubtful(self, cause: BaseException) -> StoreUnavailableError:
        reason = f"it is not known whether this write was kept: read before you write again ({cause})"
        error = StoreUnavailableError(reason, self._file.name)
        error.__cause__ = cause
        return error

    def _sound_desk(self) -> Desk:
        if not self._is_open:
            raise not_open(self._file.name)
        if self._desk is None:
            return self._connect(create=False)
        self._file.check()
        return self._desk

    def _connect(self, *, create: bool) -> Desk:
        if not create:
            self._file.check_itself()
        connection = connect(self._file, create=create, factory=self._factory)
        try:
            deadline = time.monotonic() + self._options.patience
            self._patiently(lambda: prepare(connection, self._file), deadline)
            for pragma in self._options.pragmas:
                connection.execute(pragma)
            self._file.remember()
        except BaseException:
            connection.close()
            raise
        self._desk = Desk(connection, self._options.clock)
        return self._desk

    def _drop(self) -> None:
        """Close the connection; what it has begun and not committed is undone, and what it knows is forgotten."""
        desk, self._desk = self._desk, None
        if desk is not None:
            self._file.forget_log()
            desk.connection.close()

    def _begin(self, desk: Desk, deadline: float) -> None:
        self._patiently(desk.begin, deadline)

    def _patiently(self, work: Callable[[], object], deadline: float) -> None:
        """Do it as soon as nobody has the file locked.

        Raises:
            Locked: Somebody still had at the deadline, in the time of `time.monotonic`, or when it had to be quick.
        """
        pause = 0.0005
        while True:
            try:
                work()
            except sqlite3.OperationalError as exc:
                if code_of(exc) != sqlite3.SQLITE_BUSY:
                    raise
            else:
                return
            left = deadline - time.monotonic()
            if left <= 0 or self._is_hurried():
                raise Locked
            time.sleep(min(pause, left))
            pause = min(pause * 2, _PAUSE_MAX)

    def _is_hurried(self) -> bool:
        return time.monotonic() >= self._hurries_at
