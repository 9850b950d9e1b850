"""Connections, and where they come from: made by the store, or borrowed from the application's pool."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import attrs
import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.numeric import Int8BinaryDumper
from psycopg_pool import AsyncConnectionPool

from dagflow.stores import _postgres_arrays

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from dagflow.stores._postgres_sql import Statement

    Parameters = Mapping[str, Any] | Sequence[Any]

__all__ = ["Session", "Source", "Sources"]

_A_DAY = 86_400.0
_FEWEST = 2

# What libpq would otherwise wait for in the dark: a dead link is noticed within half a minute.
_LINK_DEFAULTS: dict[str, Any] = {
    "application_name": "dagflow",
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "client_encoding": "UTF8",
}


class Session:
    """A connection that one piece of work has at a time."""

    in_doubt = False
    """An earlier try of this work may have been kept."""

    def __init__(self, connection: AsyncConnection[Any], at: Callable[[str], None] | None) -> None:
        """Teach the connection what the store sends; ``at`` is told of each statement before and after it."""
        _postgres_arrays.register(connection)
        self.connection = connection
        self._tell = at
        self._was_autocommit = connection.autocommit
        # One for all statements, because it remembers how values are sent. Not connection.cursor(): the application's
        # pool may be set to give rows of another shape.
        self._cursor = AsyncCursor(connection, row_factory=tuple_row)
        # psycopg would send each number as the smallest type that holds it, and each mixture is another statement.
        self._cursor.adapters.register_dumper(int, Int8BinaryDumper)

    async def rows(
        self, statement: Statement, parameters: Parameters | None = None, *, prepare: bool | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement and return what it returns."""
        self._at("before", statement.name)
        await self._cursor.execute(statement.text, parameters, binary=True, prepare=prepare)
        rows = await self._cursor.fetchall()
        self._at("after", statement.name)
        return rows

    async def run(self, statement: Statement, parameters: Parameters | None = None) -> int:
        """Run one statement and return how many rows it changed."""
        self._at("before", statement.name)
        await self._cursor.execute(statement.text, parameters, binary=True)
        self._at("after", statement.name)
        return self._cursor.rowcount

    @property
    def was_stopped(self) -> bool:
        """Whether the server has said that it did nothing of a statement whose task was cancelled.

        psycopg then asks the server to stop, waits for its answer, and keeps that from the task.
        """
        return self._is_idle and self._cursor.pgresult is None

    async def script(self, statements: Statement) -> None:
        """Run several statements that take no parameters."""
        self._at("before", statements.name)
        await self._cursor.execute(statements.text, prepare=False)
        self._at("after", statements.name)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Commit what is done inside at the end, or roll it back after an error."""
        self._at("before", "BEGIN")
        async with self.connection.transaction():
            self._at("after", "BEGIN")
            yield
            self._at("before", "COMMIT")
        self._at("after", "COMMIT")

    async def begin(self) -> None:
        """Let the connection commit each statement by itself."""
        if self.connection.closed:
            message = "the pool lent a connection that is closed"
            raise psycopg.OperationalError(message)
        self._was_autocommit = self.connection.autocommit
        if not self._was_autocommit:
            await self.connection.set_autocommit(True)

    async def end(self) -> None:
        """Leave the connection as it was, or closed if work has left it in any other state than idle."""
        if not self._is_idle:
            await self.connection.close()
        elif not self._was_autocommit:
            await self.connection.set_autocommit(False)

    def cut(self) -> None:
        """Make the line dead: whoever waits for the server is told at once, as if it had hung up."""
        # The descriptor stays open, so that it is not another file's while the loop still looks at it.
        with (
            suppress(OSError, psycopg.OperationalError),
            socket.socket(fileno=os.dup(self.connection.fileno())) as line,
        ):
            line.shutdown(socket.SHUT_RDWR)

    @property
    def _is_idle(self) -> bool:
        return self.connection.pgconn.transaction_status == TransactionStatus.IDLE

    def _at(self, when: str, name: str) -> None:
        if self._tell is not None:
            self._tell(f"{when} {name}")


class Source(Protocol):
    """Where connections come from.

    Attributes:
        remark: What is added when none could be had.
    """

    remark: ClassVar[str]

    @property
    def is_at_hand(self) -> bool:
        """Whether `take` lends one without waiting."""
        ...

    async def close(self) -> None:
        """Close what is the store's own."""

    async def take(self) -> Session:
        """Lend a connection, or raise one of `FAULTS`."""
        ...

    async def give_back(self, session: Session) -> None:
        """Take a connection back, closed or idle."""

    def load(self) -> tuple[int, int]:
        """Return how many connections are open, and how many there may be."""
        ...


class OwnConnections:
    """Connections of the store's own: made when they are needed, kept while they are well, the latest used first."""

    remark: ClassVar[str] = ""

    def __init__(
        self, conninfo: str, *, limit: int, prepare_threshold: int | None, at: Callable[[str], None] | None
    ) -> None:
        """Lend up to ``limit`` connections at a time."""
        self._at = at
        self._conninfo = conninfo
        self._limit = limit
        given = conninfo_to_dict(conninfo)
        self._options: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": prepare_threshold,
            **{key: value for key, value in _LINK_DEFAULTS.items() if key not in given},
        }
        self._idle: list[Session] = []
        self._lent: set[Session] = set()
        self._slots = asyncio.Semaphore(limit)

    @property
    def is_at_hand(self) -> bool:
        """Whether one is idle, and nobody stands in line for it."""
        return bool(self._idle) and not self._slots.locked()

    async def close(self) -> None:
        """Close all connections, also those that tasks have whose loop was closed. Another loop may make the next."""
        await self._drop_idle()
        while self._lent:
            await self._lent.pop().connection.close()
        self._slots = asyncio.Semaphore(self._limit)

    async def take(self) -> Session:
        """Lend a connection, a new one if none is idle."""
        await self._slots.acquire()
        try:
            session = self._idle[-1] if self._idle else await self._connect()
            # In this order: wherever Ctrl-C comes in between, `close` knows of it.
            self._lent.add(session)
            if session in self._idle:
                self._idle.remove(session)
        except BaseException:
            self._slots.release()
            raise
        return session

    async def give_back(self, session: Session) -> None:
        """Keep it for the next one; if it broke, the idle ones are not to be trusted either."""
        self._slots.release()
        if session.connection.closed:
            await self._drop_idle()
        else:
            self._idle.append(session)
        self._lent.discard(session)

    def load(self) -> tuple[int, int]:
        """Return how many connections are open, and how many there may be."""
        return len(self._idle) + len(self._lent), self._limit

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().connection.close()

    async def _connect(self) -> Session:
        return Session(await AsyncConnection.connect(self._conninfo, **self._options), self._at)


class BorrowedConnections:
    """Connections of the application's pool, which stays the application's to open and to close."""

    remark: ClassVar[str] = ": the pool is drained, or belongs to another event loop"

    def __init__(self, pool: AsyncConnectionPool[Any], at: Callable[[str], None] | None) -> None:
        """Borrow from ``pool``."""
        self._at = at
        self._pool = pool

    @property
    def is_at_hand(self) -> bool:
        """Nobody knows: the pool may have to make one, or to look whether it is sound."""
        return False

    async def close(self) -> None:
        """Do nothing: the application closes it."""

    async def take(self) -> Session:
        """Borrow a connection, however long the pool takes: the caller's patience counts."""
        return Session(await self._pool.getconn(timeout=_A_DAY), self._at)

    async def give_back(self, session: Session) -> None:
        """Return it to the pool."""
        await self._pool.putconn(session.connection)

    def load(self) -> tuple[int, int]:
        """Return how many connections are open, and how many there may be."""
        return self._pool.get_stats().get("pool_size", 0), self._pool.max_size


@attrs.frozen
class Sources:
    """Connections for appends and for all else, and what errors call their database: no user, no password."""

    name: str
    appends: Source
    others: Source

    def load(self) -> tuple[int, int]:
        """Return how many connections are open, and how many there may be."""
        loads = [source.load() for source in dict.fromkeys([self.appends, self.others])]
        return sum(load[0] for load in loads), sum(load[1] for load in loads)

    @classmethod
    def of(
        cls,
        dsn_or_pool: str | AsyncConnectionPool[Any],
        *,
        limit: int,
        prepare_threshold: int | None,
        at: Callable[[str], None] | None,
    ) -> Sources:
        """Keep one of the store's own connections for appends, so that long reads never keep them waiting.

        Raises:
            ValueError: The connection string cannot be read, or there are too few connections.
            TypeError: The pool is of another kind.
        """
        if isinstance(dsn_or_pool, AsyncConnectionPool):
            pool = BorrowedConnections(dsn_or_pool, at)
            return cls(f"PostgreSQL by pool {dsn_or_pool.name!r}", pool, pool)
        if not isinstance(dsn_or_pool, str):
            message = f"give a connection string or an AsyncConnectionPool, not a {type(dsn_or_pool).__name__}"
            raise TypeError(message)
        if limit < _FEWEST:
            message = f"the store needs {_FEWEST} connections at least, not {limit}: one is for appends alone"
            raise ValueError(message)
        name = _describe(dsn_or_pool)
        appends, others = (
            OwnConnections(dsn_or_pool, limit=count, prepare_threshold=prepare_threshold, at=at)
            for count in (1, limit - 1)
        )
        return cls(name, appends, others)


def _describe(dsn: str) -> str:
    try:
        facts = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # Its text quotes the string, and with it the password.
        message = "the connection string cannot be read: give postgresql://user@host:port/database, or key=value pairs"
        raise ValueError(message) from None
    where = facts.get("host") or facts.get("service") or "localhost"
    return f"PostgreSQL {facts.get('dbname', '')!r} at {where}:{facts.get('port', 5432)}"
