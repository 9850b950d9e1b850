"""What SQLite says, in the words of dagflow: what happened to the write, and the way out."""

from __future__ import annotations

import sqlite3

from dagflow.errors import StoreError, StoreFaultError, StoreFormatError, StoreRefusedError, StoreUnavailableError

__all__ = ["DAMAGED_ROW", "Locked", "code_of", "is_fault_of_one_write", "is_refusal", "not_open", "translated"]

DAMAGED_ROW = "a row is damaged, or was written by a newer version of dagflow: upgrade it"

_FULL = "there is no room left for this write: free space on its disk, then resume the runs"
_CLOSED = "it cannot be written to: the file, its folder and the files beside it (-wal, -shm, -lock) must be writable"
_DAMAGED = "the file is damaged or no SQLite database: restore it from a backup, or use another path"
_FOREIGN = "its tables are not those of a store: the file has been changed by hand, use a backup or another path"
_TOO_BIG = "a value is larger than SQLite can keep: write it to a file and let the node return its path"

_LOCKED = "another program has kept it locked for longer than busy_timeout: end that program, then resume the runs"

_REASONS: dict[int, tuple[type[StoreFaultError], str]] = {
    sqlite3.SQLITE_FULL: (StoreRefusedError, _FULL),
    sqlite3.SQLITE_READONLY: (StoreRefusedError, _CLOSED),
    sqlite3.SQLITE_PERM: (StoreRefusedError, _CLOSED),
    sqlite3.SQLITE_CANTOPEN: (StoreRefusedError, _CLOSED),
    sqlite3.SQLITE_TOOBIG: (StoreRefusedError, _TOO_BIG),
    sqlite3.SQLITE_CORRUPT: (StoreFormatError, _DAMAGED),
    sqlite3.SQLITE_NOTADB: (StoreFormatError, _DAMAGED),
    sqlite3.SQLITE_FORMAT: (StoreFormatError, _DAMAGED),
    sqlite3.SQLITE_ERROR: (StoreFormatError, _FOREIGN),
    sqlite3.SQLITE_BUSY: (StoreUnavailableError, _LOCKED),
}

_UNKNOWN = "it failed in the middle of its work: look at its disk, then resume the runs"

# These say that the database as a whole cannot go on; anything else is about the one write that met it.
_OF_THE_DATABASE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


class Locked(Exception):  # noqa: N818 - it is no error yet: nothing has been done, and all can still be done
    """Another program, or another store in this process, writes to the file."""

    sqlite_errorcode = sqlite3.SQLITE_BUSY


def code_of(exc: BaseException) -> int:
    """Return SQLite's primary result code, or 0 when the error is not SQLite's."""
    # The upper bits tell details.
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


def is_refusal(exc: BaseException) -> bool:
    """Return whether a write was refused by what the database holds, and has changed nothing."""
    return isinstance(exc, StoreError) and not isinstance(exc, StoreFaultError)


def is_fault_of_one_write(exc: BaseException) -> bool:
    """Return whether other writes could do without the one that met this error."""
    return isinstance(exc, Exception) and not isinstance(exc, OSError) and code_of(exc) not in _OF_THE_DATABASE


def not_open(store: str) -> StoreRefusedError:
    """Return the error for calls before `open` and after `close`."""
    return StoreRefusedError("it is not open: await open(), or use it in 'async with'", store)


def translated(exc: BaseException, store: str) -> BaseException:
    """Return the error that a caller gets; ``exc`` is its cause.

    What is dagflow's own already, what is no ordinary error, and what says that data is no JSON stays as it is.
    """
    if isinstance(exc, StoreError) or not isinstance(exc, Exception):
        return exc
    if isinstance(exc, UnicodeError | OverflowError):
        reason: tuple[type[StoreFaultError], str] = (StoreRefusedError, f"a name or a number cannot be kept ({exc})")
    elif isinstance(exc, TypeError | ValueError):
        return exc
    else:
        kind, text = _REASONS.get(code_of(exc), (StoreUnavailableError, _UNKNOWN))
        reason = (kind, f"{text} ({exc})" if str(exc) else text)
    error = reason[0](reason[1], store)
    error.__cause__ = exc
    return error
