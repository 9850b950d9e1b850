"""The tables of `SQLiteStore`: how they are made, brought up to date, and told from those of other programs.

The steps never change once they are released. The database's ``user_version`` is the number of the last one that was
taken, its ``application_id`` says that it is a store. All steps that are missing are taken in one transaction, so that
any number of processes may open a file at the same time.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from dagflow.errors import StoreFormatError, StoreRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagflow.stores._sqlite_file import DatabaseFile

__all__ = ["STEPS", "connect", "connect_reader", "prepare"]

_APPLICATION = 1145457751

# Run numbers are never used again, so that a new run never finds what is left of an old one. `live` is 1 while a run
# may be claimed and NULL when it has ended: it changes seldom, and so does the index over it. Nothing in the row of a
# run changes with every event, so that most appends touch events alone; what a record has besides, it has from its last
# event. Events lie in the order in which they came, not by run: what many runs append in one transaction fills a few
# pages at the end of the table instead of touching one page for each run.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE runs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            run_id TEXT NOT NULL UNIQUE,
            workflow TEXT NOT NULL,
            status TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            parent TEXT,
            priority INTEGER NOT NULL,
            owner TEXT,
            epoch INTEGER NOT NULL,
            lease_until INTEGER,
            wake_at INTEGER,
            received INTEGER NOT NULL,
            sent INTEGER NOT NULL DEFAULT 0,
            live INTEGER
        )""",
        "CREATE INDEX runs_by_workflow ON runs (workflow, number)",
        "CREATE INDEX runs_by_parent ON runs (parent, number) WHERE parent IS NOT NULL",
        "CREATE INDEX runs_to_claim ON runs (priority DESC, number) WHERE live = 1",
        """CREATE TABLE events (
            run INTEGER NOT NULL,
            version INTEGER NOT NULL,
            kind TEXT NOT NULL,
            node TEXT,
            attempt INTEGER NOT NULL,
            at INTEGER NOT NULL,
            data TEXT,
            codec TEXT,
            payload BLOB,
            checksum BLOB
        )""",
        "CREATE UNIQUE INDEX events_by_run ON events (run, version)",
        """CREATE VIEW records AS SELECT *,
            (SELECT max(version) FROM events WHERE run = runs.number) AS version,
            (SELECT at FROM events WHERE run = runs.number ORDER BY version DESC LIMIT 1) AS updated_at
        FROM runs""",
        """CREATE TABLE messages (
            run INTEGER NOT NULL REFERENCES runs (number),
            number INTEGER NOT NULL,
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            key TEXT,
            sent_at INTEGER NOT NULL,
            data TEXT,
            codec TEXT,
            payload BLOB,
            checksum BLOB,
            PRIMARY KEY (run, number)
        ) WITHOUT ROWID""",
        "CREATE UNIQUE INDEX messages_by_key ON messages (run, key) WHERE key IS NOT NULL",
        "PRAGMA application_id = 1145457751",
        "PRAGMA user_version = 1",
    ),
)

# A log that is copied back by the writer when it has time, not by whichever commit happens to fill it.
_SETTINGS = (
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA mmap_size = 0",
    "PRAGMA trusted_schema = OFF",
)


def connect(
    file: DatabaseFile, *, create: bool, factory: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    """Return a connection for writing that waits for nobody; transactions are begun and ended by hand.

    Args:
        file: The file.
        create: Whether a file that is missing is made.
        factory: The class of the connection.

    Raises:
        sqlite3.Error: The file cannot be opened.
    """
    mode = "rwc" if create else "rw"
    return sqlite3.connect(
        _uri(file, mode), uri=True, timeout=0, isolation_level=None, check_same_thread=False, factory=factory
    )


def connect_reader(file: DatabaseFile, *, timeout: float) -> sqlite3.Connection:
    """Return a connection that cannot write.

    Args:
        file: The file, which a writer has prepared.
        timeout: Seconds to wait for a lock.

    Raises:
        sqlite3.Error: The file cannot be opened.
    """
    connection = sqlite3.connect(_uri(file, "rw"), uri=True, timeout=timeout, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA mmap_size = 0")
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def prepare(connection: sqlite3.Connection, file: DatabaseFile, *, steps: Sequence[Sequence[str]] = STEPS) -> None:
    """Check whose database it is, set it up and bring its tables up to date; a foreign one is not touched.

    When it fails because the file is locked, it may be tried again.

    Args:
        connection: The connection for writing.
        file: What it is connected to.
        steps: The steps that the library knows.

    Raises:
        StoreFormatError: The file is not a store, or newer than the library.
        StoreRefusedError: The file system cannot keep a log in shared memory.
        sqlite3.Error: Anything else.
    """
    version = _version(connection, file, len(steps))
    if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
        raise StoreRefusedError("its file system does not support SQLite's WAL mode: use a local disk", file.name)
    for setting in _SETTINGS:
        connection.execute(setting)
    if version < len(steps):
        _migrate(connection, file, steps)


def _migrate(connection: sqlite3.Connection, file: DatabaseFile, steps: Sequence[Sequence[str]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    # Another process may have been faster.
    version = _version(connection, file, len(steps))
    for statement in (statement for step in steps[version:] for statement in step):
        connection.execute(statement)
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection, file: DatabaseFile, known: int) -> int:
    """Return the number of the last step that was taken, 0 for an empty file."""
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != _APPLICATION:
        if application or version or tables:
            raise StoreFormatError("the file belongs to another program: choose another path", file.name)
        return 0
    if version > known:
        raise StoreFormatError(
            f"the file has schema {version}, and this version of dagflow knows those up to {known}: upgrade dagflow",
            file.name,
        )
    return int(version)


def _uri(file: DatabaseFile, mode: str) -> str:
    return f"{file.path.as_uri()}?mode={mode}"
