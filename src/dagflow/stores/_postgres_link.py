"""Work on connections that may break: where they come from, when work is tried again, and who waits for it.

The rule of doubt. When a connection breaks while a statement is under way, nobody can tell from the error whether it
was kept. So the statement is simply sent again over a new connection: each of them is fenced, by a version, an id
or a token, and if the first one was kept the second one is refused. Whoever is refused while in doubt looks whether
what is there is its own.

The rule of cancellation. Work runs in a task of its own. Cancelling the caller stops it as long as it is certain that
nothing was kept; otherwise the caller waits until the outcome is known and is cancelled then. A connection that is
given back in any state but idle is closed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from psycopg_pool import PoolTimeout

from dagflow.stores import _postgres_arrays
from dagflow.stores._postgres_errors import FAULTS, is_certain, may_pass, text_of, translate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from psycopg_pool import AsyncConnectionPool

    Parameters = Mapping[str, Any] | Sequence[Any]

__all__ = ["BorrowedConnections", "Link", "OwnConnections", "Session", "Source", "pause_s"]

_T = TypeVar("_T")

_log = logging.getLogger("dagflow")

_QUIET = 10.0
"""Seconds between two warnings about one outage."""

_A_DAY = 86_400.0

_LAST_TRY = 1.0
"""Seconds that a try gets at least, even when the patience is over in the middle of it."""

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


def pause_s(tries: int) -> float:
    """Return the seconds to wait after so many tries that failed: from 20 milliseconds to a second, with jitter."""
    return min(1.0, 0.01 * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1.5)  # noqa: S311


class Session:
    """A connection that one piece of work has at a time."""

    in_doubt = False
    """An earlier try of this work may have been kept."""

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        """Teach the connection what the store sends."""
        _postgres_arrays.register(connection)
        self.connection = connection
        # One for all statements, because it remembers how values are sent. Not connection.cursor(): the application's
        # pool may be set to give rows of another shape.
        self._cursor = AsyncCursor(connection, row_factory=tuple_row)

    async def rows(
        self,
        statement: bytes,
        parameters: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        prepare: bool | None = None,
    ) -> list[tuple[Any, ...]]:
        """Run one statement and return what it returns."""
        await self._cursor.execute(statement, parameters, binary=True, prepare=prepare)
        return await self._cursor.fetchall()

    async def run(self, statement: bytes, parameters: Parameters | None = None) -> int:
        """Run one statement and return how many rows it changed."""
        await self._cursor.execute(statement, parameters, binary=True)
        return self._cursor.rowcount

    async def script(self, statements: bytes) -> None:
        """Run several statements that take no parameters."""
        await self._cursor.execute(statements, prepare=False)

    def transaction(self) -> AbstractAsyncContextManager[object]:
        """Return a transaction, to be entered; its work is committed at the end or rolled back by an error."""
        return self.connection.transaction()


class Source(Protocol):
    """Where connections come from."""

    async def close(self) -> None:
        """Close what is the store's own."""

    async def take(self) -> Session:
        """Lend a connection that commits each statement by itself, or raise one of `FAULTS`."""
        ...

    async def give_back(self, session: Session) -> None:
        """Take a connection back, closed or idle."""


class OwnConnections:
    """Connections of the store's own: made when they are needed, kept while they are well, the latest used first."""

    def __init__(self, conninfo: str, *, limit: int, prepare_threshold: int | None) -> None:
        """Lend up to ``limit`` connections at a time."""
        self._conninfo = conninfo
        self._limit = limit
        given = conninfo_to_dict(conninfo)
        self._options: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": prepare_threshold,
            **{key: value for key, value in _LINK_DEFAULTS.items() if key not in given},
        }
        self._idle: list[Session] = []
        self._slots = asyncio.Semaphore(limit)

    async def close(self) -> None:
        """Close all connections; nobody may have one. The next one may be made on another loop."""
        await self._drop_idle()
        self._slots = asyncio.Semaphore(self._limit)

    async def take(self) -> Session:
        """Lend a connection, a new one if none is idle."""
        await self._slots.acquire()
        try:
            return self._idle.pop() if self._idle else await self._connect()
        except BaseException:
            self._slots.release()
            raise

    async def give_back(self, session: Session) -> None:
        """Keep it for the next one; if it broke, the idle ones are not to be trusted either."""
        self._slots.release()
        if session.connection.closed:
            await self._drop_idle()
        else:
            self._idle.append(session)

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().connection.close()

    async def _connect(self) -> Session:
        return Session(await AsyncConnection.connect(self._conninfo, **self._options))


class BorrowedConnections:
    """Connections of the application's pool, which stays the application's to open and to close."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        """Borrow from ``pool``."""
        self._pool = pool
        self._autocommit: dict[Session, bool] = {}

    async def close(self) -> None:
        """Do nothing: the application closes it."""

    async def take(self) -> Session:
        """Borrow a connection, however long the pool takes: the caller's patience counts."""
        connection: AsyncConnection[Any] = await self._pool.getconn(timeout=_A_DAY)
        if connection.closed:
            await self._pool.putconn(connection)
            message = "the pool lent a connection that is closed"
            raise psycopg.OperationalError(message)
        session = Session(connection)
        self._autocommit[session] = connection.autocommit
        await connection.set_autocommit(True)
        return session

    async def give_back(self, session: Session) -> None:
        """Return it to the pool as it was."""
        autocommit = self._autocommit.pop(session)
        if not session.connection.closed:
            await session.connection.set_autocommit(autocommit)
        await self._pool.putconn(session.connection)


class _End(asyncio.Future[None]):
    """The end of a piece of work, which its caller awaits to the end even when it is cancelled meanwhile.

    A future that refuses to be cancelled makes a cancelled task wait on; it is told of its cancellation when the future
    is done.
    """

    def __init__(self, task: asyncio.Task[Any], doubt: _Doubt) -> None:
        super().__init__()
        self._task = task
        self._doubt = doubt
        task.add_done_callback(self._settle)

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ARG002 -- the signature is asyncio's
        """Stop the work if nothing of it can have been kept; the end comes soon or when the outcome is known."""
        first, self._doubt.is_unwanted = not self._doubt.is_unwanted, True
        # Only once: a second one would hit the work while it gives its connection back.
        if first and self._doubt.is_certain:
            self._task.cancel()
        return False

    def _settle(self, task: asyncio.Task[Any]) -> None:
        task.cancelled() or task.exception()
        self.set_result(None)


class _Doubt:
    """What is known of one piece of work."""

    def __init__(self, *, writes: bool) -> None:
        self.writes = writes
        self.is_unwanted = False
        self.is_sending = False
        self.remains = False
        """An earlier try may have been kept."""

    @property
    def is_certain(self) -> bool:
        return not (self.is_sending or self.remains)


class Link:
    """Does work on the connections of one source, with patience."""

    def __init__(self, source: Source, *, patience: float, name: str) -> None:
        """Try each piece of work for ``patience`` seconds; ``name`` is what errors call the store."""
        self.source = source
        self.patience = patience
        self.name = name
        self._warned_at = float("-inf")
        self._tasks: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Wait for what is being done, then close the source."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.source.close()

    async def read(self, work: Callable[[Session], Awaitable[_T]]) -> _T:
        """Do work that changes nothing."""
        return await self._run(work, _Doubt(writes=False), self.patience)

    async def write(self, work: Callable[[Session], Awaitable[_T]], *, patience: float | None = None) -> _T:
        """Do work that is kept or refused as a whole, whatever happens to the connection or the caller."""
        return await self._run(work, _Doubt(writes=True), self.patience if patience is None else patience)

    async def once(self, work: Callable[[Session], Awaitable[_T]], *, seconds: float) -> _T:
        """Try work once, for so many seconds.

        Raises:
            psycopg.Error: And the other `FAULTS`.
        """
        session: Session | None = None
        try:
            async with asyncio.timeout(max(seconds, _LAST_TRY)):
                session = await self.source.take()
                try:
                    return await work(session)
                finally:
                    await self._give_back(session)
        except TimeoutError:
            if session is None:
                message = "no connection could be had in time"
                raise PoolTimeout(message) from None
            raise

    def warn(self, error: BaseException) -> None:
        """Log that work will be tried again, now and then."""
        now = asyncio.get_running_loop().time()
        if now >= self._warned_at + _QUIET:
            self._warned_at = now
            _log.warning("the store does not answer, trying again", extra={"store": self.name, "error": text_of(error)})

    async def _give_back(self, session: Session) -> None:
        if session.connection.pgconn.transaction_status != TransactionStatus.IDLE:
            await session.connection.close()
        await self.source.give_back(session)

    async def _run(self, work: Callable[[Session], Awaitable[_T]], state: _Doubt, patience: float) -> _T:
        task = asyncio.create_task(self._persist(work, state, patience))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await _End(task, state)
        return task.result()

    async def _persist(self, work: Callable[[Session], Awaitable[_T]], state: _Doubt, patience: float) -> _T:
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + patience
        tries = 0

        async def attempt(session: Session) -> _T:
            state.is_sending = state.writes
            session.in_doubt = state.remains
            return await work(session)

        while True:
            try:
                return await self.once(attempt, seconds=give_up_at - clock())
            except FAULTS as error:
                self._note(error, state)
                if clock() >= give_up_at or not (state.remains or may_pass(error)):
                    raise translate(error, self.name, doubt=state.remains) from error
                self.warn(error)
            tries += 1
            if state.is_unwanted and state.is_certain:
                raise asyncio.CancelledError
            await asyncio.sleep(pause_s(tries))

    @staticmethod
    def _note(error: BaseException, state: _Doubt) -> None:
        if state.is_sending and not is_certain(error):
            state.remains = True
        state.is_sending = False
