"""A proxy for the protocol of PostgreSQL on a unix socket, which cuts connections where a test wants it."""

from __future__ import annotations

import asyncio
import enum
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

__all__ = ["Cut", "Proxy"]


class Cut(enum.Enum):
    """When a connection is cut, seen from the message of a client that makes the server commit."""

    BEFORE = "before"
    """The server never gets it."""
    AFTER = "after"
    """The server does it, and its answer never arrives."""
    NEVER_ANSWER = "never answer"
    """Nothing passes any more, in neither direction, and nobody is told."""


@attrs.define(eq=False)
class Proxy:
    """Stands between clients and the server, as ``.s.PGSQL.5432`` in ``directory``.

    ``cut`` is asked for each message of a client that ends with a request for an answer, which is one for each
    statement; it is given their number, from 1, and their bytes.
    """

    directory: Path
    server: Path
    cut: Callable[[int, bytes], Cut | None] = attrs.field(default=lambda _number, _data: None)
    requests: int = attrs.field(init=False, default=0)
    cuts: int = attrs.field(init=False, default=0)
    _listener: asyncio.Server | None = attrs.field(init=False, default=None)
    _tasks: set[asyncio.Task[None]] = attrs.field(init=False, factory=set)

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_unix_server(self._serve, self.directory / ".s.PGSQL.5432")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_unix_connection(self.server)
        answers = asyncio.create_task(_pump(there_reader, writer))
        try:
            await self._pump_requests(reader, there_writer, answers)
        finally:
            answers.cancel()
            there_writer.close()

    async def _pump_requests(
        self, reader: asyncio.StreamReader, there: asyncio.StreamWriter, answers: asyncio.Task[None]
    ) -> None:
        is_greeting = True
        while data := await reader.read(1 << 20):
            cut = None
            if not is_greeting:
                self.requests += 1
                cut = self.cut(self.requests, data)
            is_greeting = False
            if cut is None:
                there.write(data)
                await there.drain()
                continue
            self.cuts += 1
            await self._make(cut, data, there, answers)
            return

    async def _make(self, cut: Cut, data: bytes, there: asyncio.StreamWriter, answers: asyncio.Task[None]) -> None:
        if cut is Cut.BEFORE:
            return
        answers.cancel()
        with suppress(asyncio.CancelledError):
            await answers
        if cut is Cut.AFTER:
            there.write(data)
            await there.drain()
            await asyncio.sleep(0.05)
            return
        await asyncio.get_running_loop().create_future()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 20):
            writer.write(data)
            await writer.drain()
        writer.close()
