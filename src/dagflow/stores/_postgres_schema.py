"""The tables of `PostgresStore`: how they are made, brought up to date, and checked.

The steps are numbered from 1 and never change once they are released; the table ``dagflow_schema`` holds the number
of the last one that was taken. All steps that are missing are taken in one transaction under a lock that every
process asks for, so that any number of processes may open a store at the same time.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, LiteralString

from psycopg import errors, sql

from dagflow.errors import StoreFormatError, StoreRefusedError
from dagflow.stores._postgres_sql import Statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagflow.stores._postgres_connections import Session

__all__ = ["STEPS", "check_name", "ddl", "prepare"]

_NAME = re.compile(r"(?!pg_)[a-z_][a-z0-9_]{0,62}")

# Names are compared byte by byte: that is what the library means, and no update of the system's locales can then
# damage an index. The row of a run has room to spare, and no index covers what an append changes, so that an append
# writes it within its page. Facts are text and values are bytea because jsonb keeps neither as it was written.
STEPS: tuple[LiteralString, ...] = (
    """
CREATE TABLE {schema}.runs (
    run_id text COLLATE "C" NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    workflow text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    parent text COLLATE "C",
    priority bigint NOT NULL,
    owner text COLLATE "C",
    epoch bigint NOT NULL,
    lease_until timestamptz,
    wake_at timestamptz,
    received bigint NOT NULL,
    sent bigint NOT NULL DEFAULT 0,
    CONSTRAINT runs_pkey PRIMARY KEY (run_id)
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX runs_newest ON {schema}.runs (seq);
CREATE INDEX runs_of_workflow ON {schema}.runs (workflow, seq);
CREATE INDEX runs_of_parent ON {schema}.runs (parent, seq) WHERE parent IS NOT NULL;
CREATE INDEX runs_alive ON {schema}.runs (priority DESC, seq)
    WHERE status IN ('pending', 'running', 'waiting', 'paused');

CREATE TABLE {schema}.events (
    run_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    attempt bigint NOT NULL,
    at timestamptz NOT NULL,
    kind text COLLATE "C" NOT NULL,
    node text COLLATE "C",
    facts text COLLATE "C",
    codec text COLLATE "C",
    checksum bytea,
    data bytea,
    CONSTRAINT events_pkey PRIMARY KEY (run_id, version)
);

CREATE TABLE {schema}.messages (
    run_id text COLLATE "C" NOT NULL,
    number bigint NOT NULL,
    kind text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    facts text COLLATE "C",
    codec text COLLATE "C",
    checksum bytea,
    data bytea,
    key text COLLATE "C",
    token uuid NOT NULL,
    sent_at timestamptz NOT NULL,
    CONSTRAINT messages_pkey PRIMARY KEY (run_id, number),
    CONSTRAINT messages_key UNIQUE (run_id, key),
    CONSTRAINT messages_token UNIQUE (token)
);
""",
)

_VERSION_TABLE: LiteralString = "CREATE TABLE {schema}.dagflow_schema (version bigint NOT NULL);"
_FIRST_VERSION: LiteralString = "INSERT INTO {schema}.dagflow_schema (version) VALUES (0);"
_SET_VERSION: LiteralString = "UPDATE {schema}.dagflow_schema SET version = {version};"

# The catalogue's tables are asked, not to_regclass() and the like: those answer from a cache that may be older than the
# lock that was waited for.
_VERSION: LiteralString = "SELECT version FROM {schema}.dagflow_schema"
_LOCK: LiteralString = "SELECT pg_advisory_xact_lock(%(key)s)"
_STATE: LiteralString = """
SELECT
    current_setting('server_encoding'),
    current_setting('client_encoding'),
    current_setting('synchronous_commit'),
    pg_is_in_recovery(),
    EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s),
    EXISTS (
        SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = %(schema)s AND c.relname = 'dagflow_schema'
    )
"""


def check_name(schema: str) -> str:
    """Return the name of a schema if PostgreSQL and this library take it as it is.

    Raises:
        ValueError: It is not lower-case letters, digits and ``_``, at most 63, or it begins with a digit or ``pg_``.
    """
    if not isinstance(schema, str) or _NAME.fullmatch(schema) is None:
        message = f"a schema is named with a-z, 0-9 and _, at most 63 of them, and not pg_...: {schema!r}"
        raise ValueError(message)
    return schema


def ddl(schema: str, *, after: int = 0, steps: Sequence[LiteralString] = STEPS) -> str:
    """Return the script that takes a schema from the version ``after`` to the newest; 0 is none at all.

    Raises:
        ValueError: There is no such version.
    """
    if after not in range(len(steps) + 1):
        raise ValueError(f"after is the version that the schema has, 0 for none, at most {len(steps)}: {after!r}")
    if after == 0:
        steps = ("CREATE SCHEMA IF NOT EXISTS {schema};", _VERSION_TABLE, _FIRST_VERSION, *steps)
        parts = [_composed(step, schema) for step in steps]
        newest = len(steps) - 3
    else:
        parts = [_composed(step, schema) for step in steps[after:]]
        newest = len(steps)
    parts.append(_set_version(schema, newest))
    return "\n".join(["BEGIN;", *(part.as_string(None) for part in parts), "COMMIT;", ""])


async def prepare(
    session: Session, schema: str, *, migrate: bool, store: str, steps: Sequence[LiteralString] = STEPS
) -> None:
    """Bring the schema up to date, or check that it is.

    Raises:
        StoreFormatError: The database cannot keep what this library writes, or the schema is newer than the library,
            or it is missing or older and ``migrate`` is false.
        StoreRefusedError: The server takes no writes, or would acknowledge them before they are durable, or the role
            may not migrate.
    """
    _, found = await _look(session, schema, store)
    if found > len(steps):
        raise StoreFormatError(
            f"schema {schema!r} has version {found} and this library knows none above {len(steps)}: "
            "use the release that wrote it, or a newer one",
            store,
        )
    if found < len(steps) and not migrate:
        has = f"has version {found}" if found else "has no tables of dagflow"
        after = f", after={found}" if found else ""
        raise StoreFormatError(
            f"schema {schema!r} {has} and version {len(steps)} is needed: open it with migrate=True, or apply "
            f"the script that PostgresStore.ddl(schema={schema!r}{after}) returns",
            store,
        )
    if found < len(steps):
        try:
            await _migrate(session, schema, store, steps)
        except errors.InsufficientPrivilege as exc:
            # The server's own words, without the statement and the place in it.
            why = str(exc.diag.message_primary)
            raise StoreRefusedError(
                f"the role may not create or change the tables ({why}): let a role that may apply the script that "
                f"PostgresStore.ddl(schema={schema!r}, after={found}) returns, or grant it CREATE on the database",
                store,
            ) from exc


async def _look(session: Session, schema: str, store: str) -> tuple[bool, int]:
    """Return whether the schema exists, and its version, 0 for none."""
    [state] = await session.rows(Statement("state", _STATE.encode()), {"schema": schema})
    server, client, synchronous, standby, has_schema, has_table = state
    if (server, client) != ("UTF8", "UTF8"):
        reason = f"text is kept as {server} and sent as {client}: both must be UTF8, or names would be changed"
        raise StoreFormatError(reason, store)
    if standby:
        reason = "this server is a standby: connect to the primary (target_session_attrs=read-write)"
        raise StoreRefusedError(reason, store)
    if synchronous == "off":
        reason = (
            "synchronous_commit is off, so a crash of the server would lose what it has acknowledged: switch it on "
            "for this role (ALTER ROLE ... SET synchronous_commit = on) or in the connection string"
        )
        raise StoreRefusedError(reason, store)
    if not has_table:
        return has_schema, 0
    [(version,)] = await session.rows(Statement.of("version", _VERSION, schema))
    return has_schema, version


async def _migrate(session: Session, schema: str, store: str, steps: Sequence[LiteralString]) -> None:
    async with session.transaction():
        # Held to the end of the transaction, so it works behind a pooler that lends connections for one transaction.
        await session.run(Statement("lock", _LOCK.encode()), {"key": _lock_key(schema)})
        has_schema, found = await _look(session, schema, store)
        if not has_schema:
            await session.run(Statement.of("create schema", "CREATE SCHEMA {schema}", schema))
        if found == 0:
            await session.run(Statement.of("create version", _VERSION_TABLE, schema))
            await session.run(Statement.of("first version", _FIRST_VERSION, schema))
        for step in steps[found:]:
            await session.script(Statement.of("step", step, schema))
        await session.run(Statement("set version", _set_version(schema, len(steps)).as_bytes(None)))


def _lock_key(schema: str) -> int:
    digest = hashlib.sha256(b"dagflow schema " + schema.encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def _composed(text: LiteralString, schema: str) -> sql.Composed:
    return sql.SQL(text).format(schema=sql.Identifier(schema))


def _set_version(schema: str, version: int) -> sql.Composed:
    return sql.SQL(_SET_VERSION).format(schema=sql.Identifier(schema), version=sql.Literal(version))
