"""A thread with a connection of its own that cannot write; reads never wait for writes."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from dagflow.errors import StoreError, StoreFormatError
from dagflow.stores._sqlite_calls import Call, Inbox, answer
from dagflow.stores._sqlite_errors import DAMAGED_ROW, not_open, translated
from dagflow.stores._sqlite_schema import connect_reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagflow.stores._sqlite_file import DatabaseFile

__all__ = ["Reader"]

ResultT = TypeVar("ResultT")


class Reader:
    """Reads one file, one call after the other."""

    def __init__(self, file: DatabaseFile, *, timeout: float) -> None:
        """Describe the reader; ``timeout`` is how many seconds it waits for a lock."""
        self._file = file
        self._timeout = timeout
        self._calls: Inbox[Call[Callable[[sqlite3.Connection], Any]] | None] = Inbox()
        self._connection: sqlite3.Connection | None = None
        # A thread that keeps the interpreter from ending would punish whoever forgot to close the store.
        self._thread = threading.Thread(target=self._serve, name=f"dagflow reader of {file.name}", daemon=True)

    @property
    def is_connected(self) -> bool:
        """Whether it has a connection now."""
        return self._connection is not None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end after the calls that it has got."""
        self._calls.end()

    def join(self) -> None:
        """Wait until the thread has ended."""
        self._thread.join()

    async def call(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        """Return what ``work`` makes of a connection, whose reads are all of one moment.

        Raises:
            StoreError: What the work raised, or why it could not be done.
        """
        loop = asyncio.get_running_loop()
        # One that is cancelled does not wait: nothing depends on what was read.
        call = Call(work, loop, loop.create_future())
        if not self._calls.put(call):
            raise not_open(self._file.name)
        result: ResultT = await call
        return result

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call.result = self._read(call.work)
            except BaseException as exc:  # noqa: BLE001 - it belongs to the caller
                call.error = translated(exc, self._file.name)
            answer([call])
            # Whatever it holds shall not live until the next call.
            del call
        self._disconnect()

    def _read(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        try:
            return self._transact(work)
        except sqlite3.Error:
            # The connection may be what is wrong.
            self._disconnect()
            return self._transact(work)

    def _transact(self, work: Callable[[sqlite3.Connection], ResultT]) -> ResultT:
        connection = self._connected()
        connection.execute("BEGIN")
        try:
            return work(connection)
        except (StoreError, UnicodeEncodeError):
            # The second is the question's fault, and no row's.
            raise
        except (ValueError, TypeError) as exc:
            raise StoreFormatError(f"{DAMAGED_ROW} ({exc})", self._file.name) from exc
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._file.check_itself()
            self._connection = connect_reader(self._file, timeout=self._timeout)
        else:
            self._file.check()
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
