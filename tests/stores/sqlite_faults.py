"""Faults of a disk or a library, at named points of a SQLite store; and another program that is in the way."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dagflow.stores import SQLiteStore

__all__ = ["Faults", "Gate", "quiet", "sqlite_error", "writing_elsewhere"]


def sqlite_error(code: int, text: str = "a fault") -> sqlite3.OperationalError:
    """Return an error as the library raises it."""
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class Faults:
    """Raises errors at points; give it to a store as ``at``.

    Attributes:
        passed: Names of all points that were passed.
    """

    def __init__(self) -> None:
        self.passed: list[str] = []
        self._due: list[tuple[str, Callable[[], BaseException], int]] = []

    def add(self, point: str, error: Callable[[], BaseException] | int, *, times: int = 1) -> None:
        """Let the point fail the next times that it is passed, with an error or a code of SQLite's."""
        make = (lambda: sqlite_error(error)) if isinstance(error, int) else error
        self._due.append((point, make, times))

    def clear(self) -> None:
        """Let nothing fail any more."""
        self._due.clear()

    def __call__(self, point: str) -> None:
        self.passed.append(point)
        for place, (name, make, times) in enumerate(self._due):
            if name == point:
                self._due[place : place + 1] = [(name, make, times - 1)] if times > 1 else []
                raise make()


class Gate:
    """Stops the thread that passes a point, until it is let go; give it to a store as ``at``."""

    def __init__(self, point: str) -> None:
        self.reached = threading.Event()
        self._point = point
        self._open = threading.Event()
        self._is_shut = False

    def shut(self) -> None:
        """Stop whoever comes next."""
        self._is_shut = True

    def open(self) -> None:
        """Let everyone through."""
        self._is_shut = False
        self._open.set()

    def __call__(self, point: str) -> None:
        if self._is_shut and point == self._point:
            self.reached.set()
            self._open.wait(timeout=60)


async def quiet(store: SQLiteStore) -> None:
    """Return when the writer's thread has nothing to do, so that the next write is made on the loop's."""
    writer = store._opened.writer
    while writer._handed:  # noqa: ASYNC110 - it is another thread's
        await asyncio.sleep(0.001)
    store._opened.database.pace = 0.0


@contextlib.contextmanager
def writing_elsewhere(path: Path) -> Iterator[sqlite3.Connection]:
    """Keep a file locked, as a program does that knows nothing of dagflow."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        if connection.in_transaction:
            connection.execute("ROLLBACK")
