"""A store in PostgreSQL: for services, and for runs that several processes or machines share.

Appends of all runs go over one connection, grouped; everything else shares a few others. Nothing depends on the state
of a session, so that a pooler may stand in between. Leases are counted by the clock of the database.
"""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import attrs

from dagflow._events import Claim, StoreFigures
from dagflow.errors import (
    MessageExistsError,
    MissingExtraError,
    RunExistsError,
    RunNotFoundError,
    RunOwnedError,
    StoreFormatError,
    StoreRefusedError,
)

try:
    import psycopg
    import psycopg_pool  # noqa: TC002 -- where it is missing, it is to be missed here
except ImportError as exc:
    raise MissingExtraError(feature="PostgresStore", extra="postgres") from exc

from dagflow.stores import _postgres_schema
from dagflow.stores._journal import check_numbers
from dagflow.stores._options import check_count, check_seconds
from dagflow.stores._postgres_arrays import Ints, Texts
from dagflow.stores._postgres_connections import Sources
from dagflow.stores._postgres_errors import DAMAGED_ROW
from dagflow.stores._postgres_home import Home
from dagflow.stores._postgres_journal import journal, own_birth
from dagflow.stores._postgres_link import Link
from dagflow.stores._postgres_rows import (
    claim_columns,
    columns_of,
    event_row,
    is_text,
    message_of,
    message_row,
    record_of,
    record_row,
    utc,
)
from dagflow.stores._postgres_sql import Statements
from dagflow.stores._postgres_writer import Append, GroupCommitter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    from dagflow._events import Event, Message, RunQuery, RunRecord, RunStatus
    from dagflow.stores._postgres_connections import Session

__all__ = ["PostgresStore"]

_T = TypeVar("_T")

_OPENING = 5.0
"""Seconds that a server gets which is just starting; a mistake in the address is to show soon."""


class PostgresStore:
    """Keeps runs in one schema of a PostgreSQL database.

    A server that cannot be reached, restarts, or drops a connection in the middle of a write is waited for; what was
    under way is kept exactly once. When the patience is over, `StoreUnavailableError` is raised.
    """

    def __init__(
        self,
        dsn_or_pool: str | psycopg_pool.AsyncConnectionPool[Any],
        *,
        schema: str = "dagflow",
        migrate: bool = True,
        patience: float = 60.0,
        max_connections: int = 5,
        prepare_threshold: int | None = 0,
        at: Callable[[str], None] | None = None,
    ) -> None:
        """Describe the store; `open` connects.

        Args:
            dsn_or_pool: A connection string, or a pool of the application, which it opens and closes itself.
            schema: The schema that holds the tables, a-z, 0-9 and ``_``.
            migrate: Create the schema and bring it up to date. When false, it is only checked.
            patience: Seconds that a call may take, trying again, before it fails; opening takes 5 at the most.
            max_connections: How many connections the store makes, at least 2; a pool has a limit of its own.
            prepare_threshold: As in psycopg, for connections of the store's own; ``None`` prepares nothing, which
                poolers need that lend connections for one transaction and do not follow prepared statements.
            at: For tests: is called with a name before and after each statement, such as ``before append``; see
                `dagflow.testing.CrashPoints`.

        Raises:
            ValueError: The schema or the connection string is malformed, or a number is out of its range.
            TypeError: An option is of another sort than it takes, as is a pool that is not asynchronous.
        """
        self._schema = _postgres_schema.check_name(schema)
        self._connect = partial(
            Sources.of,
            dsn_or_pool,
            limit=check_count("max_connections", max_connections),
            prepare_threshold=prepare_threshold,
            at=at,
        )
        self._migrate = migrate
        self._patience = check_seconds("patience", patience)
        self._statements = Statements.for_schema(schema)
        self._commits = 0
        self._users = 0
        self._is_ready = False
        self._home = Home()
        self._begin()

    def __repr__(self) -> str:
        return f"<PostgresStore: {self._name}>"

    @property
    def commits(self) -> int:
        """How many writes have been committed since the store was made; a group of appends is one."""
        return self._commits + self._writer.commits

    @staticmethod
    def ddl(schema: str = "dagflow", *, after: int = 0) -> str:
        """Return the SQL script that makes the schema, for those who may not let a library do it.

        Args:
            schema: Name of the schema.
            after: The version that the schema has now, to get what is new since; 0 when there is none.

        Raises:
            ValueError: The name is malformed, or this library knows no such version.
        """
        return _postgres_schema.ddl(_postgres_schema.check_name(schema), after=after)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect, create or migrate the schema, and check that the store can be used; see `ContextStore.open`."""
        if self._home.is_over:
            await self.close()
        if self._users:
            self._home.check(self._name)
        self._home = Home.here()
        self._users += 1
        try:
            if not self._is_ready:
                await self._link.write(self._prepare, patience=min(self._patience, _OPENING))
        except BaseException:
            await self.close()
            raise
        self._is_ready = True

    async def close(self) -> None:
        """Take back one `open`; the last one tries nothing again, and closes what the store owns.

        What is under way gets 5 seconds; a caller that is cancelled meanwhile has it cut off at once.
        """
        # A child of this process has the same sockets: to say goodbye on them would end the connections of its parent.
        if not self._users or not self._home.is_ours:
            return
        if self._home.is_over:
            await self._forget_loop()
            return
        self._users -= 1
        if self._users:
            return
        self._is_ready = False
        try:
            await self._finish()
        except asyncio.CancelledError:
            for link in (self._writer_link, self._link):
                link.cut()
            await self._finish()
            raise

    async def _finish(self) -> None:
        for link in (self._writer_link, self._link):
            link.hurry()
        await self._writer.close()
        await self._writer_link.close()
        await self._link.close()

    def _begin(self) -> None:
        """Make what works on one loop, and on the next one when it was closed."""
        self._sources = sources = self._connect()
        self._name = f"{sources.name}, schema {self._schema!r}"
        self._link = Link(sources.others, patience=self._patience, name=self._name)
        self._writer_link = Link(sources.appends, patience=self._patience, name=self._name)
        self._writer = GroupCommitter(self._writer_link, self._statements)

    async def _forget_loop(self) -> None:
        """Let go of what was left open on a loop that was closed: its tasks never end, and nobody may wait for them."""
        self._users, self._is_ready = 0, False
        self._commits += self._writer.commits
        self._writer.forget()
        sources = self._sources
        # When the collector ends those tasks, they give back what they have: not to whoever works by then.
        self._begin()
        await sources.appends.close()
        await sources.others.close()

    async def create(self, run: RunRecord, events: Sequence[Event], *, lease: float = 0.0) -> RunRecord:
        """Keep a new run with its first events; see `ContextStore.create`."""
        self._check_open()
        check_numbers(events, run.version - len(events))
        rows = [event_row(event) for event in events]
        values = {**record_row(run), **columns_of(rows), "lease": float(lease)}

        async def work(session: Session) -> RunRecord:
            born = await session.rows(self._statements.create, values)
            if not born and session.in_doubt:
                born = await own_birth(session, self._statements, run, rows)
            if not born:
                raise RunExistsError(run.run_id)
            return attrs.evolve(run, lease_until=utc(born[0][0]))

        return await self._write(work)

    async def append(
        self,
        events: Sequence[Event],
        *,
        claim: Claim,
        version: int,
        status: RunStatus,
        wake_at: datetime | None = None,
        received: int | None = None,
        release: bool = False,
    ) -> None:
        """Keep all events of one run or none, and move its record with them; see `ContextStore.append`."""
        self._check_open()
        check_numbers(events, version)
        give_up_at = asyncio.get_running_loop().time() + self._patience
        await self._writer.append(Append(events, claim, version, status, wake_at, received, release, give_up_at))

    async def read(self, run_id: str, *, after: int = 0) -> tuple[RunRecord, list[Event]]:
        """Return a record and its events of one moment; see `ContextStore.read`."""
        self._check_open()
        _check_id(run_id)

        async def work(session: Session) -> tuple[RunRecord, list[Event]]:
            for _tries in range(2):
                found = await journal(session, self._statements, run_id, after)
                if found is not None:
                    return found
            raise StoreFormatError(f"the journal of run {run_id!r} has a gap", self._name)

        return await self._link.read(work)

    async def find(self, query: RunQuery) -> list[RunRecord]:
        """Return the records that fit; see `ContextStore.find`."""
        self._check_open()
        if not (is_text(query.workflow or "") and is_text(query.parent or "")):
            return []
        statement = self._statements.claimable if query.claimable else self._statements.list_runs
        values: dict[str, Any] = {
            "workflow": query.workflow,
            "statuses": [status.value for status in query.statuses] or None,
            "parent": query.parent,
            "limit": query.limit,
            "before": None,
        }

        async def work(session: Session) -> list[RunRecord]:
            if query.after is not None and not query.claimable:
                values["before"] = await self._place(session, query.after)
            # Not prepared, so that it is planned for the filters that are set.
            return [record_of(row) for row in await session.rows(statement, values, prepare=False)]

        return await self._link.read(work)

    async def claim(self, run_id: str, *, owner: str, lease: float, dead_owner: str | None = None) -> RunRecord:
        """Make ``owner`` the only executor of a run until the lease lapses; see `ContextStore.claim`."""
        self._check_open()
        _check_id(run_id)
        values = {"run_id": run_id, "owner": owner, "lease": float(lease), "dead_owner": dead_owner}

        # Claimed twice after doubt, the owner is the same and the epoch of the first one is over.
        async def work(session: Session) -> RunRecord:
            while True:
                rows = await session.rows(self._statements.claim, values)
                if rows:
                    return await self._claimed(session, rows[0])
                await self._refuse_owned(session, run_id)

        return await self._write(work)

    async def renew(self, claims: Sequence[Claim], *, lease: float) -> list[Claim]:
        """Extend claims and return those that are lost; see `ContextStore.renew`."""
        self._check_open()
        if not claims:
            return []
        values = {**claim_columns(claims), "lease": float(lease)}

        async def work(session: Session) -> set[tuple[Any, ...]]:
            return set(await session.rows(self._statements.renew, values))

        # Over the connection for appends, where nothing takes long: a late renewal costs the runs.
        renewed = await self._write(work, self._writer_link)
        return [claim for claim in claims if (claim.run_id, claim.owner, claim.epoch) not in renewed]

    async def release(self, claims: Sequence[Claim]) -> None:
        """Give claims up; see `ContextStore.release`."""
        self._check_open()
        if not claims:
            return
        values = claim_columns(claims)

        async def work(session: Session) -> None:
            await session.run(self._statements.release, values)

        await self._write(work)

    async def send(self, message: Message) -> Message:
        """Keep a message for the owner of a run; see `ContextStore.send`."""
        self._check_open()
        _check_id(message.run_id)
        values = {**message_row(message), "token": uuid.uuid4()}

        async def work(session: Session) -> Message:
            try:
                rows = await session.rows(self._statements.send, values)
            except psycopg.errors.UniqueViolation:
                rows = await session.rows(self._statements.sent, values) if session.in_doubt else []
                if not rows:
                    raise MessageExistsError(message.run_id, message.key or "") from None
            if not rows:
                raise RunNotFoundError(message.run_id)
            [(number, sent_at)] = rows
            return attrs.evolve(message, number=number, sent_at=utc(sent_at))

        return await self._write(work)

    async def receive(self, cursors: Mapping[str, int]) -> list[Message]:
        """Return the messages beyond the cursors; see `ContextStore.receive`."""
        self._check_open()
        if not cursors:
            return []
        values = {"run_ids": Texts(list(cursors)), "numbers": Ints(list(cursors.values()))}

        async def work(session: Session) -> list[Message]:
            return [message_of(row) for row in await session.rows(self._statements.receive, values)]

        return await self._link.read(work)

    async def delete(self, run_id: str) -> None:
        """Forget a run, its events and its messages; see `ContextStore.delete`."""
        self._check_open()
        _check_id(run_id)
        values = {"run_id": run_id}
        deleted: int | None = None

        async def work(session: Session) -> None:
            nonlocal deleted
            async with session.transaction():
                rows = await session.rows(self._statements.lock, values)
                [(place, owner, until, is_held)] = rows or [(None, None, None, False)]
                # What was deleted by an earlier try is gone; another run may have its id by now.
                if deleted is not None and place != deleted:
                    return
                if place is None:
                    raise RunNotFoundError(run_id)
                if is_held:
                    raise RunOwnedError(run_id, owner or "", utc(until))
                for statement in self._statements.delete:
                    await session.run(statement, values)
                deleted = place

        await self._write(work)

    async def measure(self) -> StoreFigures:
        """Say how large the tables are, and what is connected to them; see `MeasuredStore.measure`."""
        self._check_open()

        async def work(session: Session) -> list[tuple[Any, ...]]:
            return await session.rows(self._statements.size)

        [(size,)] = await self._link.read(work)
        retries = self._link.retries + self._writer_link.retries
        return StoreFigures(int(size), *self._sources.load(), retries, self._name)

    async def _write(self, work: Callable[[Session], Awaitable[_T]], link: Link | None = None) -> _T:
        result = await (link or self._link).write(work)
        self._commits += 1
        return result

    def _check_open(self) -> None:
        if not self._is_ready:
            raise StoreRefusedError("it is not open: await open(), or use it in 'async with'", self._name)
        self._home.check(self._name)

    async def _prepare(self, session: Session) -> None:
        await _postgres_schema.prepare(session, self._schema, migrate=self._migrate, store=self._name)

    async def _place(self, session: Session, run_id: str) -> int:
        _check_id(run_id)
        rows = await session.rows(self._statements.place, {"run_id": run_id})
        if not rows:
            raise RunNotFoundError(run_id)
        return int(rows[0][0])

    async def _claimed(self, session: Session, row: tuple[Any, ...]) -> RunRecord:
        """Return the record of a run that was claimed, or let go of it: nobody can drive what cannot be read."""
        try:
            return record_of(row)
        except ValueError as exc:
            run_id, owner, epoch = row[0], row[8], row[9]
            await session.run(self._statements.release, claim_columns([Claim(run_id, owner, epoch)]))
            raise StoreFormatError(f"{DAMAGED_ROW} ({exc})", self._name) from exc

    async def _refuse_owned(self, session: Session, run_id: str) -> None:
        """Raise the reason why a run cannot be claimed, or return when it can be by now."""
        rows = await session.rows(self._statements.holder, {"run_id": run_id})
        if not rows:
            raise RunNotFoundError(run_id)
        [(owner, until, is_held)] = rows
        if is_held:
            raise RunOwnedError(run_id, owner or "", utc(until))


def _check_id(run_id: str) -> None:
    if not is_text(run_id):
        raise RunNotFoundError(run_id)
