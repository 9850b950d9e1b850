"""A store in one SQLite file: for everything that runs on one machine.

Many writes share a transaction. While the disk is quick, the thread of the event loop commits those that are not large;
otherwise a thread of the store's own does. Another one reads. Both are daemon threads. Several processes of one machine
may use a file at the same time; on a network file system it is not safe.
"""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dagflow._events import StoreFigures
from dagflow.clock import SYSTEM_CLOCK
from dagflow.errors import StoreRefusedError, StoreURLError
from dagflow.stores import _sqlite_reads as reads
from dagflow.stores._journal import check_numbers
from dagflow.stores._options import check_list, check_seconds
from dagflow.stores._sqlite_database import Database, Options
from dagflow.stores._sqlite_errors import not_open
from dagflow.stores._sqlite_file import DatabaseFile
from dagflow.stores._sqlite_reader import Reader
from dagflow.stores._sqlite_writer import Writer
from dagflow.stores._sqlite_writes import Append, ClaimRun, Create, Delete, Release, Renew, Send, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from datetime import datetime

    from dagflow._events import Claim, Event, Message, RunQuery, RunRecord, RunStatus
    from dagflow.protocols import Clock

__all__ = ["SQLiteStore"]

_CONNECTIONS = 2
"""One writes and one reads."""


class SQLiteStore:
    """Keeps runs in a SQLite file, durable against the loss of the process and of power.

    Every write is synchronised with the disk before it is acknowledged (WAL mode, ``synchronous=FULL``). Beside the
    file lie ``-wal`` and ``-shm``, which are SQLite's and part of the data while anyone has the file open, and
    ``-lock``, which keeps processes apart.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Clock = SYSTEM_CLOCK,
        busy_timeout: float = 30.0,
        pragmas: Sequence[str] = (),
        at: Callable[[str], None] | None = None,
    ) -> None:
        """Describe the store; `open` touches the file.

        Args:
            path: The file, which is made when it is missing; its folder must exist.
            clock: Counts the leases; all processes that share the file must agree on it.
            busy_timeout: Seconds to wait for other programs that write to the file.
            pragmas: Further statements for the connection that writes, such as ``PRAGMA fullfsync = ON``, which makes
                macOS synchronise as far as the disk itself.
            at: For tests: is called, by whichever thread writes, with a name before and after each statement, such as
                ``before COMMIT``; see `dagflow.testing.CrashPoints`.

        Raises:
            StoreURLError: The path is none: a URL, ``:memory:``, or empty.
            ValueError: A number is out of its range.
            TypeError: An option is of another sort than it takes.
        """
        self._path = _checked(path)
        self._options = Options(clock, check_seconds("busy_timeout", busy_timeout), check_list("pragmas", pragmas), at)
        self._commits = 0
        self._gate = threading.Lock()
        self._session: _Session | None = None

    def __repr__(self) -> str:
        return f"SQLiteStore({str(self._path)!r})"

    def __del__(self) -> None:
        session = getattr(self, "_session", None)
        if session is not None and session.is_ours:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
            session.stop()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def commits(self) -> int:
        """How many transactions have been committed since the store was made."""
        session = self._session
        return self._commits + (session.database.commits if session is not None else 0)

    async def open(self) -> None:
        """Open the file, create or migrate the schema; see `ContextStore.open`.

        Raises:
            StoreFormatError: The file is damaged, belongs to another program, or is newer than the library.
            StoreRefusedError: The file or its folder cannot be written to, or is not there.
            StoreUnavailableError: Another program has it locked.
        """
        with self._gate:
            if self._session is None or not self._session.is_ours:
                self._session = _Session(self._path, self._options)
            session = self._session
            session.users += 1
        try:
            await session.writer.opened()
        except BaseException:
            await self._leave(session)
            raise

    async def close(self) -> None:
        """Take back one `open`; the last one finishes what is being written and lets go of the file."""
        if self._session is not None and self._session.is_ours:
            await self._leave(self._session)

    def create(self, run: RunRecord, events: Sequence[Event], *, lease: float = 0.0) -> Coroutine[Any, Any, RunRecord]:
        """Keep a new run with its first events; see `ContextStore.create`."""
        check_numbers(events, run.version - len(events))
        return self._opened.writer.write(Create(run, events, lease, size_of(events)))

    def append(
        self,
        events: Sequence[Event],
        *,
        claim: Claim,
        version: int,
        status: RunStatus,
        wake_at: datetime | None = None,
        received: int | None = None,
        release: bool = False,
    ) -> Coroutine[Any, Any, None]:
        """Keep all events of one run or none, and move its record with them; see `ContextStore.append`."""
        check_numbers(events, version)
        size = size_of(events)
        return self._opened.writer.write(Append(events, claim, version, status, wake_at, received, release, size))

    async def read(self, run_id: str, *, after: int = 0) -> tuple[RunRecord, list[Event]]:
        """Return a record and its events of one moment; see `ContextStore.read`."""
        return await self._opened.reader.call(lambda connection: reads.read(connection, run_id, after))

    async def find(self, query: RunQuery) -> list[RunRecord]:
        """Return the records that fit; see `ContextStore.find`."""
        now = self._options.clock.now()
        return await self._opened.reader.call(lambda connection: reads.find(connection, query, now))

    async def claim(self, run_id: str, *, owner: str, lease: float, dead_owner: str | None = None) -> RunRecord:
        """Make ``owner`` the only executor of a run until the lease lapses; see `ContextStore.claim`."""
        record: RunRecord = await self._opened.writer.write(ClaimRun(run_id, owner, lease, dead_owner))
        return record

    async def renew(self, claims: Sequence[Claim], *, lease: float) -> list[Claim]:
        """Extend claims and return those that are lost; see `ContextStore.renew`."""
        lost: list[Claim] = await self._opened.writer.write(Renew(tuple(claims), lease)) if claims else []
        return lost

    async def release(self, claims: Sequence[Claim]) -> None:
        """Give claims up; see `ContextStore.release`."""
        if claims:
            await self._opened.writer.write(Release(tuple(claims)))

    async def send(self, message: Message) -> Message:
        """Keep a message for the owner of a run; see `ContextStore.send`."""
        sent: Message = await self._opened.writer.write(Send(message))
        return sent

    async def receive(self, cursors: Mapping[str, int]) -> list[Message]:
        """Return the messages beyond the cursors; see `ContextStore.receive`."""
        known = dict(cursors)
        return await self._opened.reader.call(lambda connection: reads.receive(connection, known))

    async def delete(self, run_id: str) -> None:
        """Forget a run, its events and its messages; see `ContextStore.delete`."""
        await self._opened.writer.write(Delete(run_id))

    async def measure(self) -> StoreFigures:
        """Say how large the file is, and what is connected to it; see `MeasuredStore.measure`."""
        session = self._opened
        size = await session.reader.call(reads.size_bytes)
        connections = session.database.is_sound + session.reader.is_connected
        return StoreFigures(size, connections, _CONNECTIONS, session.database.retries, session.address)

    @property
    def _opened(self) -> _Session:
        session = self._session
        if session is None:
            raise not_open(str(self._path))
        if not session.is_ours:
            raise StoreRefusedError(
                "it was opened before this process was forked: open a store of its own in the child, "
                "or start the child with 'spawn'",
                str(self._path),
            )
        return session

    async def _leave(self, session: _Session) -> None:
        with self._gate:
            session.users -= 1
            if session.users:
                return
            self._session = None
        await session.close()
        self._commits += session.database.commits


class _Session:
    """The threads of a store between its first `open` and its last `close`."""

    def __init__(self, path: Path, options: Options) -> None:
        file = DatabaseFile(path)
        self.users = 0
        self.address = str(file.path)
        self.database = Database(file, options)
        self.reader = Reader(file, timeout=options.patience)
        # SQLite copies the log back when the last connection is closed; that shall be the writer's, under the lock.
        self.writer = Writer(self.database, file, patience=options.patience, first=self.reader.join)
        self._pid = os.getpid()
        self.reader.start()
        self.writer.start()

    @property
    def is_ours(self) -> bool:
        """Whether the threads are those of this process: a child has the object, but not them."""
        return self._pid == os.getpid()

    def stop(self) -> None:
        """Let the threads end when they have done what they have got."""
        self.reader.stop()
        self.writer.stop()

    async def close(self) -> None:
        """Finish what is being written, end the threads and let go of the file."""
        self.stop()
        try:
            await self.writer.ending.wait()
        finally:
            self.writer.join()
            self.reader.join()


def _checked(path: str | os.PathLike[str]) -> Path:
    """Return a path that is one.

    Raises:
        StoreURLError: SQLite would take it for something else.
        TypeError: It is no text and no path.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"a store in SQLite is a file: give its path, not {path!r}")
    text = os.fsdecode(path)
    if text in ("", ":memory:"):
        raise StoreURLError(text, "a store in SQLite is a file: name one, or use MemoryStore (memory://)")
    if "://" in text or text.startswith("file:"):
        raise StoreURLError(text.partition(":")[0] + ":...", "this is a URL and not a path: give it to open_store(url)")
    if "\0" in text:
        raise StoreURLError(text, "a path has no NUL in it")
    return Path(text)
