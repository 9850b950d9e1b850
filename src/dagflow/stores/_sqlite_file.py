"""The file of a store: where it may lie, whether it is still the same, and who may write to it now.

SQLite before 3.51.3 can damage a database in WAL mode when one connection commits while another one copies the log
back. So every write and every such copy is made under one lock for the file, in this process and between processes.
Where the system has no POSIX locks (Windows), the lock holds within the process only.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from typing import TYPE_CHECKING

from dagflow.errors import StoreRefusedError
from dagflow.stores._sqlite_errors import not_open

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover - on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["DatabaseFile", "FileLock"]

_SAFE_VERSION = (3, 51, 3)

_PAUSE_MAX = 0.01
"""Seconds between two looks at a lock that another process holds."""

_SLICE = 0.05
"""Seconds after which it is seen that waiting for another thread shall end."""


def _patient() -> bool:
    return False


class FileLock:
    """Lets one writer at a time near a file; `of` returns the one that all stores of this process share."""

    _known: dict[tuple[str, int], FileLock] = {}  # noqa: RUF012 - process-wide, as the locks of the system are
    _gate = threading.Lock()

    def __init__(self, path: str) -> None:
        """Describe the lock; ``path`` is that of the side file which is locked."""
        self._path = path
        self._mutex = threading.Lock()
        self._users = 0
        self._descriptor: int | None = None

    @classmethod
    def of(cls, path: str) -> FileLock:
        """Return the lock of a side file, with one user more; `leave` takes it back.

        Raises:
            StoreRefusedError: This process was forked while its parent had the file open.
            OSError: The side file cannot be opened.
        """
        with cls._gate:
            if any(known == path and pid != os.getpid() for known, pid in cls._known):
                raise StoreRefusedError(
                    "its file was open in the parent when this process was forked, and SQLite does not survive that: "
                    "start the process with 'spawn', or open the store after the fork",
                    path.removesuffix("-lock"),
                )
            lock = cls._known.get((path, os.getpid())) or cls(path)
            lock.enter()
            cls._known[path, os.getpid()] = lock
            return lock

    def leave(self) -> None:
        """Give the lock up; the last user closes the side file."""
        with self._gate:
            self._users -= 1
            if self._users:
                return
            self._known.pop((self._path, os.getpid()), None)
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def acquire(self, timeout: float, is_hurried: Callable[[], bool] = _patient) -> bool:
        """Wait for the lock, this many seconds or until ``is_hurried``, and return whether it was got."""
        deadline = time.monotonic() + timeout
        while not self._mutex.acquire(timeout=max(0.0, min(deadline - time.monotonic(), _SLICE))):
            if time.monotonic() >= deadline or is_hurried():
                return False
        try:
            got = self._descriptor is None or _lock(self._descriptor, deadline, is_hurried)
        except BaseException:
            self.release()
            raise
        if not got:
            self._mutex.release()
        return got

    def release(self) -> None:
        """Let the next one have it."""
        try:
            if self._descriptor is not None:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    def enter(self) -> None:
        """Count a user, the first of whom opens the side file; `of` does this."""
        # A lock of POSIX is lost when any descriptor of its file is closed: there is one of them in a process.
        if not self._users and fcntl is not None and sqlite3.sqlite_version_info < _SAFE_VERSION:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        self._users += 1


def _lock(descriptor: int, deadline: float, is_hurried: Callable[[], bool]) -> bool:
    pause = 0.0002
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno not in (errno.EAGAIN, errno.EACCES):
                raise
        else:
            return True
        left = deadline - time.monotonic()
        if left <= 0 or is_hurried():
            return False
        time.sleep(min(pause, left))
        pause = min(pause * 2, _PAUSE_MAX)


class DatabaseFile:
    """A path, and what lay there when the store was opened."""

    def __init__(self, path: Path) -> None:
        """Describe the file, at the place that it has now, wherever the process works later; nothing is touched."""
        self.path = path.absolute()
        self.name = str(path)
        self._place = str(self.path)
        self._log = f"{self.path}-wal"
        self._identity: tuple[int, int] | None = None
        self._log_identity: tuple[int, int] | None = None

    def lock(self) -> FileLock:
        """Return the lock that all stores on this file share, with one user more.

        Raises:
            StoreRefusedError: No store can lie at this path.
        """
        self._check_place()
        try:
            return FileLock.of(f"{self.path.resolve()}-lock")
        except OSError as exc:
            raise StoreRefusedError(
                f"the file beside it that locks it (-lock) cannot be written to ({exc.strerror})", self.name
            ) from exc

    def remember(self) -> None:
        """Note what lies at the path; `check` compares with it."""
        self._identity = _look(self._place)
        self._log_identity = _look(self._log)

    def forget_log(self) -> None:
        """Expect another log: SQLite makes a new one for the next connection when the last one was closed."""
        self._log_identity = None

    def check(self) -> None:
        """Refuse to go on with a file that is no longer the one that was opened.

        Raises:
            StoreRefusedError: The file or its log was deleted or replaced; what is written now would be lost.
        """
        if self._log_identity is not None and _look(self._log) != self._log_identity:
            raise self._gone()
        self.check_itself()

    def check_itself(self) -> None:
        """Do as `check`, without the log: it comes and goes with the connections.

        Raises:
            StoreRefusedError: The file was deleted or replaced.
        """
        if _look(self._place) != self._identity:
            raise self._gone()

    def _gone(self) -> StoreRefusedError:
        if self._identity is None:
            return not_open(self.name)
        return StoreRefusedError(
            "the file or its log (-wal) was deleted, moved or replaced while the store was open: "
            "put it back if you can, and start again with a new store",
            self.name,
        )

    def _check_place(self) -> None:
        if self.path.is_dir():
            raise StoreRefusedError("it is a folder: name a file in it", self.name)
        if not self.path.parent.is_dir():
            raise StoreRefusedError(f"there is no folder {str(self.path.parent)!r}: create it first", self.name)


def _look(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)  # noqa: PTH116 - twice in every transaction
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
