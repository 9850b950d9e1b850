"""What stands between clients and PostgreSQL: listens on a unix socket of its own, and serves each connection."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from psycopg.conninfo import conninfo_to_dict, make_conninfo

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Between", "Link"]

Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@attrs.define(eq=False)
class Between:
    """Stands between clients and the server that ``target`` names; what it does with them is its subclass's."""

    target: str
    _directory: Path = attrs.field(init=False, factory=lambda: Path(tempfile.mkdtemp(prefix="dagflow-between-")))
    _listener: asyncio.Server = attrs.field(init=False)
    _tasks: set[asyncio.Task[None]] = attrs.field(init=False, factory=set)

    @property
    def dsn(self) -> str:
        """Return the connection string that leads through it."""
        return make_conninfo(self.target, host=str(self._directory), port=5432)

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_unix_server(self._serve, self._directory / ".s.PGSQL.5432")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self._directory)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._client(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        raise NotImplementedError

    async def _open(self) -> Link:
        """Connect to the server."""
        facts = conninfo_to_dict(self.target)
        host, port = str(facts["host"]), int(facts.get("port") or 5432)
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)
