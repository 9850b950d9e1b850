"""Work on connections that may break: when it is tried again, and who waits for it.

The rule of doubt. When a connection breaks while a statement is under way, nobody can tell from the error whether it
was kept. So the statement is simply sent again over a new connection: each of them is fenced, by a version, an id
or a token, and if the first one was kept the second one is refused. Whoever is refused while in doubt looks whether
what is there is its own.

The rule of cancellation. Cancelling the caller stops the work as long as it is certain that nothing was kept; otherwise
the caller waits until the outcome is known and is cancelled then. So work runs in a task of its own, and who only reads
does not wait until the server has taken notice. Only an append that comes alone is sent by the task of its caller, and
when that is cancelled, the server is asked to stop. A connection that is given back in any state but idle is closed.

The rule of closing. What is under way when a store is closed gets a few seconds, or less when whoever closes it is
cancelled. Then the lines are made dead, so that nobody waits for a server that may never answer: psycopg would ask it
to stop, and wait ten seconds for what it says to that.
"""

from __future__ import annotations

import asyncio
import math
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg_pool import PoolTimeout

from dagflow._log import LOGGER
from dagflow.errors import StoreFormatError
from dagflow.stores._postgres_errors import DAMAGED_ROW, FAULTS, is_certain, may_pass, text_of, translate
from dagflow.stores._postgres_limits import Limit, Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dagflow.stores._postgres_connections import Session, Source

__all__ = ["Link", "pause_s"]

_T = TypeVar("_T")


_QUIET = 10.0
"""Seconds between two warnings about one outage."""

_LAST_TRY = 1.0
"""Seconds that a try gets at least, even when the patience is over in the middle of it."""

_CLOSING = 5.0
"""Seconds that a try may go on when its store is being closed, and whoever closes it does not cut it off before."""


def pause_s(tries: int) -> float:
    """Return the seconds to wait after so many tries that failed: from 20 milliseconds to a second, with jitter."""
    return min(1.0, 0.01 * 2.0 ** min(tries, 10)) * random.uniform(0.5, 1.5)  # noqa: S311


class _End(asyncio.Future[None]):
    """The end of a piece of work, which its caller awaits to the end even when it is cancelled meanwhile, if it writes.

    A future that refuses to be cancelled makes a cancelled task wait on; it is told of its cancellation when the future
    is done.
    """

    def __init__(self, task: asyncio.Task[Any], doubt: _Doubt) -> None:
        super().__init__()
        self._task = task
        self._doubt = doubt
        task.add_done_callback(self._settle)

    def cancel(self, msg: Any | None = None) -> bool:
        """Stop the work if nothing of it can have been kept; the end comes now, soon, or when the outcome is known."""
        first, self._doubt.is_unwanted = not self._doubt.is_unwanted, True
        # Only once, and never while the connection is given back: it would be lost.
        if first and self._doubt.is_certain and not self._doubt.is_leaving:
            self._task.cancel()
        # Nobody has to know what becomes of a question, and the server may take its time.
        return not self._doubt.writes and super().cancel(msg)

    def _settle(self, task: asyncio.Task[Any]) -> None:
        with suppress(asyncio.InvalidStateError):
            self.set_result(None)
        task.cancelled() or task.exception()


class _Doubt:
    """What is known of one piece of work."""

    def __init__(self, *, writes: bool) -> None:
        self.writes = writes
        self.is_unwanted = False
        self.is_sending = False
        self.is_leaving = False
        self.remains = False
        """An earlier try may have been kept."""

    @property
    def is_certain(self) -> bool:
        return not (self.is_sending or self.remains)

    def note(self, error: BaseException) -> None:
        """Take in how a try has ended."""
        if self.is_sending and not is_certain(error):
            self.remains = True
        self.is_sending = self.is_leaving = False


class Link:
    """Does work on the connections of one source, with patience."""

    def __init__(self, source: Source, *, patience: float, name: str) -> None:
        """Try each piece of work for ``patience`` seconds; ``name`` is what errors call the store."""
        self.source = source
        self.patience = patience
        self.name = name
        self.retries = 0
        self.ends_at = math.inf
        """When nothing is tried again, by the clock of the loop."""
        self._is_cut = False
        self._cutting: list[asyncio.TimerHandle] = []
        self._watch = Watch()
        self._warned_at = float("-inf")
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def is_at_hand(self) -> bool:
        """Whether there is a connection for which nobody has to wait."""
        return self.source.is_at_hand

    def hurry(self) -> None:
        """Try nothing again that fails from now on, and give what is being tried a few seconds more."""
        if not self._cutting:
            loop = asyncio.get_running_loop()
            self.ends_at = loop.time()
            self._cutting.append(loop.call_later(_CLOSING, self.cut))

    def cut(self) -> None:
        """Try nothing more, and cut off what is being tried: nobody knows whether it was kept."""
        self._is_cut = True
        self._watch.cut()

    async def close(self) -> None:
        """Wait for what is being done, then close the source."""
        self.hurry()
        while under_way := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(under_way)
        self._watch.close()
        while self._cutting:
            self._cutting.pop().cancel()
        self.ends_at, self._is_cut = math.inf, False
        await self.source.close()

    async def read(self, work: Callable[[Session], Awaitable[_T]]) -> _T:
        """Do work that changes nothing.

        Raises:
            StoreFormatError: It met a row that this library does not write.
        """
        try:
            return await self._run(work, _Doubt(writes=False), self.patience)
        except (ValueError, TypeError) as exc:
            raise StoreFormatError(f"{DAMAGED_ROW} ({exc})", self.name) from exc

    async def write(self, work: Callable[[Session], Awaitable[_T]], *, patience: float | None = None) -> _T:
        """Do work that is kept or refused as a whole, whatever happens to the connection or the caller."""
        return await self._run(work, _Doubt(writes=True), self.patience if patience is None else patience)

    async def once(self, work: Callable[[Session], Awaitable[_T]], *, seconds: float) -> _T:
        """Try work once, for so many seconds.

        Raises:
            psycopg.Error: And the other `FAULTS`.
        """
        if self._is_cut:
            message = "the store is being closed"
            raise psycopg.OperationalError(message)
        session: Session | None = None
        try:
            with Limit(self._watch, asyncio.get_running_loop().time() + max(seconds, _LAST_TRY)) as limit:
                session = limit.session = await self.source.take()
                try:
                    await session.begin()
                    return await work(session)
                except psycopg.errors.ReadOnlySqlTransaction:
                    # The server may have become a standby; only a new connection finds the primary.
                    await session.connection.close()
                    raise
                finally:
                    await self._give_back(session, limit)
        except TimeoutError:
            if session is None:
                message = f"no connection could be had in time{self.source.remark}"
                raise PoolTimeout(message) from None
            raise

    async def _give_back(self, session: Session, limit: Limit) -> None:
        try:
            # To be stopped now would lose the connection.
            limit.lift()
        finally:
            await session.end()
            await self.source.give_back(session)

    def warn(self, error: BaseException) -> None:
        """Log that work will be tried again, now and then."""
        self.retries += 1
        now = asyncio.get_running_loop().time()
        if now >= self._warned_at + _QUIET:
            self._warned_at = now
            facts = {"store": self.name, "error": text_of(error)}
            LOGGER.warning("the store does not answer, trying again", extra=facts)

    async def _run(self, work: Callable[[Session], Awaitable[_T]], doubt: _Doubt, patience: float) -> _T:
        task = asyncio.create_task(self._persist(work, doubt, patience))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await _End(task, doubt)
        return task.result()

    async def _persist(self, work: Callable[[Session], Awaitable[_T]], doubt: _Doubt, patience: float) -> _T:
        clock = asyncio.get_running_loop().time
        give_up_at = clock() + patience
        tries = 0

        async def attempt(session: Session) -> _T:
            doubt.is_sending = doubt.writes
            session.in_doubt = doubt.remains
            try:
                return await work(session)
            finally:
                doubt.is_leaving = True

        while True:
            try:
                return await self.once(attempt, seconds=give_up_at - clock())
            except FAULTS as error:
                doubt.note(error)
                if clock() >= min(give_up_at, self.ends_at) or not (doubt.remains or may_pass(error)):
                    raise translate(error, self.name, doubt=doubt.remains) from error
                self.warn(error)
            tries += 1
            if doubt.is_unwanted and doubt.is_certain:
                raise asyncio.CancelledError
            await asyncio.sleep(pause_s(tries))
