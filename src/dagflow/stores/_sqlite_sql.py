"""Every statement of `SQLiteStore`. All of them are constant text: values are bound, never written into them."""

from __future__ import annotations

from itertools import product

__all__ = [
    "ADD_EVENTS",
    "ADD_MESSAGE",
    "ADD_OUTPUTS",
    "ADD_PLAIN_RUN",
    "ADD_ROWS",
    "ADD_RUN",
    "ADD_STARTS",
    "CHECKPOINT",
    "CLAIM_RUN",
    "COUNT_MESSAGE",
    "DATA_VERSION",
    "DELETE_RUN",
    "END_RUN",
    "FIND_BY_PARENT",
    "FIND_BY_WORKFLOW",
    "FIND_CLAIMABLE",
    "FIND_RUNS",
    "HAS_KEY",
    "MOVE_RUN",
    "READ_EVENTS",
    "READ_MESSAGES",
    "READ_RUN",
    "RELEASE_RUN",
    "RENEW_RUN",
    "ROWS",
    "SELECT_EVENTS",
    "SELECT_HELD",
    "SELECT_HOLDER",
    "SELECT_LAST_NUMBER",
    "SELECT_MESSAGE",
    "SELECT_NUMBER",
    "SELECT_OWNER",
    "SELECT_SENT",
]

ADD_RUN = """INSERT INTO runs
    (number, run_id, workflow, status, created_at, parent, priority, owner, epoch, lease_until, wake_at, received, live)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

ADD_PLAIN_RUN = """INSERT INTO runs
    (number, run_id, workflow, status, created_at, priority, owner, epoch, lease_until, received, live)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""


def _add_events(*, node: bool, facts: bool, payload: bool, **constant: str) -> str:
    optional = ["node"] * node + ["data"] * facts + ["codec", "payload", "checksum"] * payload
    values = dict.fromkeys(["run", "version", "at", "attempt", "kind", *optional], "?")
    values |= {column: f"'{value}'" for column, value in constant.items()}
    return f"INSERT INTO events ({', '.join(values)}) VALUES ({', '.join(values.values())})"  # noqa: S608


# By whether they have a node, facts, and a payload.
ADD_EVENTS = {has: _add_events(node=has[0], facts=has[1], payload=has[2]) for has in product((False, True), repeat=3)}

# Almost all of them. To bind a text takes longer than to have it in the statement.
ADD_STARTS = _add_events(node=True, facts=False, payload=False, kind="node_started")
ADD_OUTPUTS = _add_events(node=True, facts=False, payload=True, kind="node_completed", codec="json")

# A statement with several rows does what it has to do besides them once.
ROWS = 16
ADD_ROWS = {
    statement: statement + f", {statement.partition('VALUES ')[2]}" * (ROWS - 1)
    for statement in (*ADD_EVENTS.values(), ADD_STARTS, ADD_OUTPUTS, ADD_RUN, ADD_PLAIN_RUN)
}

ADD_MESSAGE = """INSERT INTO messages (run, number, sent_at, kind, name, key, data, codec, payload, checksum)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""

# Whose run it is, and which version it has, is known by then; see `Held`.
MOVE_RUN = """UPDATE runs
    SET received = ?, status = ?, wake_at = ?, live = ?,
        owner = CASE WHEN ? THEN NULL ELSE owner END, lease_until = CASE WHEN ? THEN NULL ELSE lease_until END
    WHERE number = ?"""

# The last append of a run that ends and is given up.
END_RUN = """UPDATE runs
    SET received = ?, status = ?, wake_at = NULL, live = NULL, owner = NULL, lease_until = NULL
    WHERE number = ?"""

CLAIM_RUN = """UPDATE runs
    SET owner = :owner, epoch = epoch + 1, lease_until = :until, live = 1
    WHERE run_id = :run_id
        AND (owner IS NULL OR owner IN (:owner, :dead_owner) OR lease_until IS NULL OR lease_until <= :now)"""

RENEW_RUN = "UPDATE runs SET lease_until = ? WHERE run_id = ? AND owner = ? AND epoch = ?"

RELEASE_RUN = "UPDATE runs SET owner = NULL, lease_until = NULL WHERE run_id = ? AND owner = ? AND epoch = ?"

COUNT_MESSAGE = "UPDATE runs SET sent = ? WHERE number = ?"

# What belongs to a run goes before the run itself.
DELETE_RUN = (
    "DELETE FROM messages WHERE run = ?",
    "DELETE FROM events WHERE run = ?",
    "DELETE FROM runs WHERE number = ?",
)

# The first knows of runs that were deleted; a file that was copied table by table has the second alone.
SELECT_LAST_NUMBER = """SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'runs'), 0),
        coalesce((SELECT max(number) FROM runs), 0))"""

SELECT_NUMBER = "SELECT number FROM runs WHERE run_id = ?"

SELECT_HELD = """SELECT number, owner, epoch, (SELECT max(version) FROM events WHERE run = number), received,
        status = 'running' AND wake_at IS NULL
    FROM runs WHERE run_id = ?"""

SELECT_HOLDER = "SELECT number, owner, lease_until FROM runs WHERE run_id = ?"

SELECT_OWNER = "SELECT owner, epoch FROM runs WHERE number = ?"

SELECT_SENT = "SELECT number, sent FROM runs WHERE run_id = ?"

HAS_KEY = "SELECT 1 FROM messages WHERE run = ? AND key = ?"

SELECT_EVENTS = """SELECT run, version, kind, node, attempt, at, data, codec, payload, checksum
    FROM events WHERE run = ? AND version BETWEEN ? AND ? ORDER BY version"""

SELECT_MESSAGE = """SELECT sent_at, kind, name, key, data, codec, payload, checksum
    FROM messages WHERE run = ? AND number = ?"""

READ_RUN = """SELECT number, run_id, workflow, status, version, created_at, updated_at, parent, priority, owner, epoch,
        lease_until, wake_at, received
    FROM records WHERE run_id = ?"""

READ_EVENTS = """SELECT version, kind, node, attempt, at, data, codec, payload, checksum
    FROM events WHERE run = ? AND version > ? ORDER BY version"""

READ_MESSAGES = """SELECT number, sent_at, kind, name, key, data, codec, payload, checksum
    FROM messages WHERE run = ? AND number > ? ORDER BY number"""

# The statuses are bound as one text, `,failed,cancelled,`, whose commas keep them apart. What narrows the list most has
# a statement of its own, because an index cannot serve a condition that may be absent.
FIND_RUNS = """SELECT run_id, workflow, status, version, created_at, updated_at, parent, priority, owner, epoch,
        lease_until, wake_at, received
    FROM records
    WHERE number < :before
        AND (:statuses IS NULL OR instr(:statuses, ',' || status || ',') > 0)
    ORDER BY number DESC LIMIT :limit"""

FIND_BY_WORKFLOW = """SELECT run_id, workflow, status, version, created_at, updated_at, parent, priority, owner, epoch,
        lease_until, wake_at, received
    FROM records
    WHERE workflow = :workflow AND number < :before
        AND (:parent IS NULL OR parent = :parent)
        AND (:statuses IS NULL OR instr(:statuses, ',' || status || ',') > 0)
    ORDER BY number DESC LIMIT :limit"""

FIND_BY_PARENT = """SELECT run_id, workflow, status, version, created_at, updated_at, parent, priority, owner, epoch,
        lease_until, wake_at, received
    FROM records
    WHERE parent = :parent AND number < :before
        AND (:statuses IS NULL OR instr(:statuses, ',' || status || ',') > 0)
    ORDER BY number DESC LIMIT :limit"""

FIND_CLAIMABLE = """SELECT run_id, workflow, status, version, created_at, updated_at, parent, priority, owner, epoch,
        lease_until, wake_at, received
    FROM records
    WHERE live = 1
        AND (lease_until IS NULL OR lease_until <= :now)
        AND (status IN ('pending', 'running')
            OR (status IN ('waiting', 'paused') AND (wake_at <= :now OR sent > received)))
        AND (:workflow IS NULL OR workflow = :workflow)
        AND (:parent IS NULL OR parent = :parent)
        AND (:statuses IS NULL OR instr(:statuses, ',' || status || ',') > 0)
    ORDER BY priority DESC, number LIMIT :limit"""

# Another number than before says that another connection has written meanwhile.
DATA_VERSION = "PRAGMA data_version"

CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"
