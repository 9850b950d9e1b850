"""A pooler for PostgreSQL on a unix socket that lends a connection for one transaction, as PgBouncer does.

It follows nothing that a session remembers: a client gets another connection for each transaction, so that a prepared
statement, a setting or a lock of an earlier one is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import attrs
from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Pooler"]

_Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]

_READY, _GOODBYE = b"Z", b"X"
_IDLE = b"I"


@attrs.define(eq=False)
class Pooler:
    """Shares a few connections to the database that ``target`` names among all of its clients.

    Attributes:
        size: How many it shares.
        lent: How often one was lent.
    """

    target: str
    size: int = 2
    lent: int = attrs.field(init=False, default=0)
    _directory: Path = attrs.field(init=False, factory=lambda: Path(tempfile.mkdtemp(prefix="dagflow-pooler-")))
    _idle: asyncio.Queue[_Link] = attrs.field(init=False, factory=asyncio.Queue)
    _made: list[_Link] = attrs.field(init=False, factory=list)
    _greeting: bytes = attrs.field(init=False, default=b"")
    _listener: asyncio.Server = attrs.field(init=False)
    _tasks: set[asyncio.Task[None]] = attrs.field(init=False, factory=set)

    @property
    def dsn(self) -> str:
        """Return the connection string that leads through the pooler."""
        return make_conninfo(self.target, host=str(self._directory), port=5432)

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_unix_server(self._serve, self._directory / ".s.PGSQL.5432")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _reader, writer in self._made:
            writer.close()
        shutil.rmtree(self._directory)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._client(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            (length,) = struct.unpack("!I", head := await reader.readexactly(4))
            hello = head + await reader.readexactly(length - 4)
            await self._meet(hello)
            writer.write(self._greeting)
            while (message := await _message(reader))[:1] != _GOODBYE:
                async with self._link() as server:
                    await _transaction(message, (reader, writer), server)

    async def _meet(self, hello: bytes) -> None:
        """Make all connections when the first client comes, and let it and all others hear what the server says."""
        if self._made:
            return
        facts = conninfo_to_dict(self.target)
        for _ in range(self.size):
            reader, writer = await asyncio.open_unix_connection(f"{facts['host']}/.s.PGSQL.{facts.get('port') or 5432}")
            self._made.append((reader, writer))
            writer.write(hello)
            self._greeting, _state = await _answer(reader)
            self._idle.put_nowait((reader, writer))

    @contextlib.asynccontextmanager
    async def _link(self) -> AsyncIterator[_Link]:
        # First in, first out: the next transaction of a client has another one.
        link = await self._idle.get()
        self.lent += 1
        yield link
        self._idle.put_nowait(link)


async def _transaction(message: bytes, client: _Link, server: _Link) -> None:
    """Carry messages to and fro until the server is out of the transaction."""
    while True:
        server[1].write(message)
        # What a client sends before it waits for the answer ends with Sync, or is one simple query.
        while message[:1] not in (b"S", b"Q"):
            message = await _message(client[0])
            server[1].write(message)
        answer, state = await _answer(server[0])
        client[1].write(answer)
        if state == _IDLE:
            return
        message = await _message(client[0])


async def _answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return all that the server says until it is ready, and the state in which it is."""
    answer = b""
    while True:
        message = await _message(reader)
        answer += message
        if message[:1] == _READY:
            return answer, message[-1:]


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!I", head[1:])
    return head + await reader.readexactly(length - 4)
