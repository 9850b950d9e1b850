"""A proxy for the protocol of PostgreSQL on a unix socket, which cuts connections where a test wants it."""

from __future__ import annotations

import asyncio
import enum
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs

from between import Between

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Cut", "Proxy"]


class Cut(enum.Enum):
    """How a connection is cut when a client has sent a request."""

    BEFORE = "before"
    """The server never gets the request."""
    AFTER = "after"
    """The server does what it is asked to, and its answer never arrives."""
    SILENT = "silent"
    """Nothing passes any more, in neither direction, and nobody is told."""


def _never(_number: int) -> Cut | None:
    return None


@attrs.define(eq=False)
class Proxy(Between):
    """Stands between clients and the server that ``target`` names.

    Each request of a client is put to ``decide`` with its number; what a client says first, to make itself known, is
    none.
    """

    decide: Callable[[int], Cut | None] = _never
    requests: int = attrs.field(init=False, default=0)
    cuts: int = attrs.field(init=False, default=0)

    def cut_once(self, cut: Cut, at: int) -> None:
        """Cut at the request ``at``, counted from now on, and never again."""
        wanted = self.requests + at
        self.decide = lambda number: cut if number == wanted else None

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await self._open()
        except OSError:
            writer.close()
            return
        answers = asyncio.create_task(_pump(there_reader, writer))
        try:
            await self._pump_requests(reader, there_writer, answers)
        finally:
            answers.cancel()
            there_writer.close()
            writer.close()

    async def _pump_requests(
        self, reader: asyncio.StreamReader, there: asyncio.StreamWriter, answers: asyncio.Task[None]
    ) -> None:
        there.write(await reader.read(1 << 20))
        while data := await _read(reader):
            self.requests += 1
            cut = self.decide(self.requests)
            if cut is None:
                await _write(there, data)
                continue
            self.cuts += 1
            await _cut(cut, data, there, answers)
            return


async def _cut(cut: Cut, data: bytes, there: asyncio.StreamWriter, answers: asyncio.Task[None]) -> None:
    if cut is Cut.BEFORE:
        return
    answers.cancel()
    await asyncio.wait([answers])
    if cut is Cut.SILENT:
        await asyncio.Event().wait()
    # The end of what it is sent tells the server nothing before it has done what it was asked to.
    await _write(there, data)
    there.write_eof()
    await asyncio.sleep(0.02)


async def _read(reader: asyncio.StreamReader) -> bytes:
    with suppress(OSError):
        return await reader.read(1 << 20)
    return b""


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    with suppress(OSError):
        writer.write(data)
        await writer.drain()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await _read(reader):
        await _write(writer, data)
    writer.close()
