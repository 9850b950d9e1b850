"""A pooler for PostgreSQL on a unix socket that lends a connection for one transaction, as PgBouncer does.

It follows nothing that a session remembers: a client gets another connection for each transaction, so that a prepared
statement, a setting or a lock of an earlier one is not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING

import attrs

from between import Between, Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["Pooler"]

_READY, _GOODBYE = b"Z", b"X"
_IDLE = b"I"


@attrs.define(eq=False)
class Pooler(Between):
    """Shares a few connections to the database that ``target`` names among all of its clients.

    Attributes:
        size: How many it shares.
        lent: How often one was lent.
    """

    size: int = 2
    lent: int = attrs.field(init=False, default=0)
    _idle: asyncio.Queue[Link] = attrs.field(init=False, factory=asyncio.Queue)
    _made: list[Link] = attrs.field(init=False, factory=list)
    _greeting: bytes = attrs.field(init=False, default=b"")

    async def __aexit__(self, *exc: object) -> None:
        await super().__aexit__(*exc)
        for _reader, writer in self._made:
            writer.close()

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
        for _ in range(self.size):
            reader, writer = await self._open()
            self._made.append((reader, writer))
            writer.write(hello)
            self._greeting, _state = await _answer(reader)
            self._idle.put_nowait((reader, writer))

    @contextlib.asynccontextmanager
    async def _link(self) -> AsyncIterator[Link]:
        # First in, first out: the next transaction of a client has another one.
        link = await self._idle.get()
        self.lent += 1
        yield link
        self._idle.put_nowait(link)


async def _transaction(message: bytes, client: Link, server: Link) -> None:
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
