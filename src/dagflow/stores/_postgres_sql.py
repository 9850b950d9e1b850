"""Every statement that `PostgresStore` sends, with the schema's name put in once.

All values travel as parameters. Three rules explain the shapes:

- What belongs together is one statement, so that it is one transaction and one round trip.
- A statement that changes many runs locks their rows in the order of their ids first: two of them can never wait for
  each other in a circle.
- Times that decide something come from ``clock_timestamp()``, which also moves on while a statement waits for a lock.
"""

from __future__ import annotations

from typing import LiteralString

import attrs
from psycopg import sql

__all__ = ["MOST_IN_ONE", "Statement", "Statements"]

MOST_IN_ONE = 6
"""Up to so many events of one append are sent as plain values; more of them are cheaper as arrays."""

_RECORD = sql.SQL(
    "r.run_id, r.workflow, r.status, r.version, r.created_at, r.updated_at, r.parent, r.priority, r.owner, r.epoch,"
    " r.lease_until, r.wake_at, r.received"
)

_EVENT = sql.SQL("e.version, e.kind, e.node, e.attempt, e.at, e.facts, e.codec, e.data, e.checksum")

_MESSAGE = sql.SQL("m.run_id, m.kind, m.name, m.codec, m.data, m.checksum, m.facts, m.key, m.number, m.sent_at")

_EVENT_VALUES = sql.SQL(
    "(%s::bigint, %s::text, %s::text, %s::bigint, %s::timestamptz, %s::text, %s::text, %s::bytea, %s::bytea)"
)

_APPEND_ONE: LiteralString = """
WITH moved AS (
    UPDATE {schema}.runs AS r
    SET version = %s, status = %s, updated_at = %s, wake_at = %s, received = coalesce(%s, r.received),
        owner = CASE WHEN %s THEN NULL ELSE r.owner END,
        lease_until = CASE WHEN %s THEN NULL ELSE r.lease_until END
    WHERE r.run_id = %s AND r.owner = %s AND r.epoch = %s AND r.version = %s
    RETURNING r.run_id
)
INSERT INTO {schema}.events (run_id, version, kind, node, attempt, at, facts, codec, data, checksum)
SELECT moved.run_id, e.* FROM moved CROSS JOIN (VALUES {events}) AS e
"""

_APPEND_MANY: LiteralString = """
WITH held AS MATERIALIZED (
    SELECT a.*
    FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        AS a (run_id, owner, epoch, version, new_version, status, updated_at, wake_at, received, release)
    JOIN {schema}.runs AS r
        ON r.run_id = a.run_id AND r.owner = a.owner AND r.epoch = a.epoch AND r.version = a.version
    ORDER BY r.run_id
    FOR NO KEY UPDATE OF r
), moved AS (
    UPDATE {schema}.runs AS r
    SET version = h.new_version, status = h.status, updated_at = h.updated_at, wake_at = h.wake_at,
        received = coalesce(h.received, r.received),
        owner = CASE WHEN h.release THEN NULL ELSE r.owner END,
        lease_until = CASE WHEN h.release THEN NULL ELSE r.lease_until END
    FROM held AS h
    WHERE r.run_id = h.run_id AND r.epoch = h.epoch AND r.version = h.version
    RETURNING r.run_id
), kept AS (
    INSERT INTO {schema}.events (run_id, version, kind, node, attempt, at, facts, codec, data, checksum)
    SELECT e.*
    FROM unnest(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        AS e (run_id, version, kind, node, attempt, at, facts, codec, data, checksum)
    JOIN moved ON moved.run_id = e.run_id
)
SELECT moved.run_id FROM moved
"""

_CREATE: LiteralString = """
WITH born AS (
    INSERT INTO {schema}.runs (
        run_id, workflow, status, version, created_at, updated_at, parent, priority, owner, epoch, lease_until,
        wake_at, received
    )
    VALUES (
        %(run_id)s, %(workflow)s, %(status)s, %(version)s, %(created_at)s, %(updated_at)s, %(parent)s, %(priority)s,
        %(owner)s, %(epoch)s,
        CASE WHEN %(owner)s::text IS NULL THEN NULL ELSE clock_timestamp() + make_interval(secs => %(lease)s) END,
        %(wake_at)s, %(received)s
    )
    ON CONFLICT (run_id) DO NOTHING
    RETURNING run_id, lease_until
), kept AS (
    INSERT INTO {schema}.events (run_id, version, kind, node, attempt, at, facts, codec, data, checksum)
    SELECT born.run_id, e.*
    FROM born CROSS JOIN unnest(
        %(versions)s, %(kinds)s, %(nodes)s, %(attempts)s, %(ats)s, %(facts)s, %(codecs)s, %(datas)s, %(checksums)s
    ) AS e
)
SELECT lease_until FROM born
"""

_READ: LiteralString = """
SELECT {record}, {event}
FROM {schema}.runs AS r
LEFT JOIN {schema}.events AS e ON e.run_id = r.run_id AND e.version > %(after)s
WHERE r.run_id = %(run_id)s
ORDER BY e.version
LIMIT %(limit)s
"""

_READ_ON: LiteralString = """
SELECT {event}
FROM {schema}.events AS e
WHERE e.run_id = %(run_id)s AND e.version > %(after)s AND e.version <= %(until)s
ORDER BY e.version
LIMIT %(limit)s
"""

_PLACE: LiteralString = "SELECT seq FROM {schema}.runs WHERE run_id = %(run_id)s"

_LIST: LiteralString = """
SELECT {record}
FROM {schema}.runs AS r
WHERE (%(workflow)s::text IS NULL OR r.workflow = %(workflow)s)
    AND (%(statuses)s::text[] IS NULL OR r.status = ANY (%(statuses)s))
    AND (%(parent)s::text IS NULL OR r.parent = %(parent)s)
    AND (%(before)s::bigint IS NULL OR r.seq < %(before)s)
ORDER BY r.seq DESC
LIMIT %(limit)s
"""

_CLAIMABLE: LiteralString = """
SELECT {record}
FROM {schema}.runs AS r
WHERE r.status IN ('pending', 'running', 'waiting', 'paused')
    AND (r.status IN ('pending', 'running') OR r.sent > r.received OR r.wake_at <= clock_timestamp())
    AND (r.lease_until IS NULL OR r.lease_until <= clock_timestamp())
    AND (%(workflow)s::text IS NULL OR r.workflow = %(workflow)s)
    AND (%(statuses)s::text[] IS NULL OR r.status = ANY (%(statuses)s))
    AND (%(parent)s::text IS NULL OR r.parent = %(parent)s)
ORDER BY r.priority DESC, r.seq
LIMIT %(limit)s
"""

_CLAIM: LiteralString = """
UPDATE {schema}.runs AS r
SET owner = %(owner)s, epoch = r.epoch + 1, lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
WHERE r.run_id = %(run_id)s
    AND (
        r.owner IS NULL OR r.owner = %(owner)s OR r.owner = %(dead_owner)s
        OR r.lease_until IS NULL OR r.lease_until <= clock_timestamp()
    )
RETURNING {record}
"""

_HOLDER: LiteralString = """
SELECT r.owner, r.lease_until, r.lease_until > clock_timestamp()
FROM {schema}.runs AS r WHERE r.run_id = %(run_id)s
"""

_HELD: LiteralString = """
    SELECT r.run_id, r.owner, r.epoch
    FROM unnest(%(run_ids)s, %(owners)s, %(epochs)s) AS a (run_id, owner, epoch)
    JOIN {schema}.runs AS r ON r.run_id = a.run_id AND r.owner = a.owner AND r.epoch = a.epoch
    ORDER BY r.run_id
    FOR NO KEY UPDATE OF r
"""

_RENEW: LiteralString = """
WITH held AS MATERIALIZED ({held})
UPDATE {schema}.runs AS r
SET lease_until = clock_timestamp() + make_interval(secs => %(lease)s)
FROM held AS h
WHERE r.run_id = h.run_id AND r.owner = h.owner AND r.epoch = h.epoch
RETURNING r.run_id, r.owner, r.epoch
"""

_RELEASE: LiteralString = """
WITH held AS MATERIALIZED ({held})
UPDATE {schema}.runs AS r
SET owner = NULL, lease_until = NULL
FROM held AS h
WHERE r.run_id = h.run_id AND r.owner = h.owner AND r.epoch = h.epoch
"""

# The run's row is changed before the message is kept, so that senders queue up for their numbers.
_SEND: LiteralString = """
WITH slot AS (
    UPDATE {schema}.runs SET sent = sent + 1 WHERE run_id = %(run_id)s RETURNING sent
)
INSERT INTO {schema}.messages AS m
    (run_id, number, kind, name, facts, codec, data, checksum, key, token, sent_at)
SELECT %(run_id)s, slot.sent, %(kind)s, %(name)s, %(facts)s, %(codec)s, %(data)s, %(checksum)s, %(key)s, %(token)s,
    clock_timestamp()
FROM slot
RETURNING m.number, m.sent_at
"""

_SENT: LiteralString = "SELECT number, sent_at FROM {schema}.messages WHERE token = %(token)s"

_RECEIVE: LiteralString = """
SELECT {message}
FROM unnest(%(run_ids)s, %(numbers)s) AS c (run_id, number)
JOIN {schema}.messages AS m ON m.run_id = c.run_id AND m.number > c.number
ORDER BY m.run_id, m.number
"""

# Not one statement: each of those that delete must see what was committed while the first one waited for the lock.
_SIZE: LiteralString = """
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
FROM pg_catalog.pg_class AS c
WHERE c.oid IN (to_regclass('{schema}.runs'), to_regclass('{schema}.events'), to_regclass('{schema}.messages'))
"""

_LOCK: LiteralString = """
SELECT r.seq, r.owner, r.lease_until, r.lease_until > clock_timestamp()
FROM {schema}.runs AS r WHERE r.run_id = %(run_id)s FOR UPDATE
"""
_DELETE: tuple[LiteralString, ...] = (
    "DELETE FROM {schema}.messages WHERE run_id = %(run_id)s",
    "DELETE FROM {schema}.events WHERE run_id = %(run_id)s",
    "DELETE FROM {schema}.runs WHERE run_id = %(run_id)s",
)


@attrs.frozen
class Statement:
    """A statement, and what tests call it."""

    name: str
    text: bytes

    @classmethod
    def of(cls, name: str, text: LiteralString, schema: str, **parts: sql.Composable) -> Statement:
        """Put the schema's name in, quoted as an identifier, and other parts."""
        return cls(name, sql.SQL(text).format(schema=sql.Identifier(schema), **parts).as_bytes(None))


@attrs.frozen
class Statements:
    """The statements of one schema, ready to be sent."""

    append_one: tuple[Statement, ...]
    """For 1, 2, ... `MOST_IN_ONE` events."""
    append_many: Statement
    create: Statement
    read: Statement
    read_on: Statement
    place: Statement
    list_runs: Statement
    claimable: Statement
    claim: Statement
    holder: Statement
    renew: Statement
    release: Statement
    send: Statement
    sent: Statement
    receive: Statement
    lock: Statement
    size: Statement
    delete: tuple[Statement, ...]

    @classmethod
    def for_schema(cls, schema: str) -> Statements:
        """Put the schema's name in, quoted as an identifier."""
        held = sql.SQL(_HELD).format(schema=sql.Identifier(schema))

        def of(name: str, text: LiteralString, **parts: sql.Composable) -> Statement:
            return Statement.of(name, text, schema, record=_RECORD, event=_EVENT, message=_MESSAGE, held=held, **parts)

        return cls(
            append_one=tuple(
                of("append", _APPEND_ONE, events=sql.SQL(", ").join([_EVENT_VALUES] * count))
                for count in range(1, MOST_IN_ONE + 1)
            ),
            append_many=of("appends", _APPEND_MANY),
            create=of("create", _CREATE),
            read=of("read", _READ),
            read_on=of("read on", _READ_ON),
            place=of("place", _PLACE),
            list_runs=of("list", _LIST),
            claimable=of("claimable", _CLAIMABLE),
            claim=of("claim", _CLAIM),
            holder=of("holder", _HOLDER),
            renew=of("renew", _RENEW),
            release=of("release", _RELEASE),
            send=of("send", _SEND),
            sent=of("sent", _SENT),
            receive=of("receive", _RECEIVE),
            size=of("size", _SIZE),
            lock=of("lock", _LOCK),
            delete=tuple(of("delete", text) for text in _DELETE),
        )
