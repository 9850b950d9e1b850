"""The runner's end of a worker: starts it with its guardian, exchanges frames with it, and brings it to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from multiprocessing import spawn
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING

import attrs

from dagflow.runners._frames import HEADER, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Frame", "WorkerProcess"]

_ROOM = str(Path(__file__).resolve().parents[2])
_GUARDIAN = f"import sys; sys.path.append({_ROOM!r}); from dagflow.runners._guardian import main; main()"
_WORKER = "import sys; sys.path[:] = {path!r}; from dagflow.runners._worker import main; main({descriptor})"
_BUFFER_BYTES = 2**20
_LOOK_S = 0.002
_LONGEST_S = 10.0


@attrs.frozen
class Frame:
    """What came from a worker."""

    kind: Kind
    body: bytes


class WorkerProcess:
    """A process that takes calls, and the guardian that ends it.

    Args:
        forget: Is called with the worker when it and all that it has started are gone.

    Attributes:
        calls: How many calls it has begun.
        is_ready: It has been set up.
        exit_code: What it exited with, or the negative number of the signal that ended it; ``None`` until it has ended,
            or when nobody knows.
    """

    def __init__(self, forget: Callable[[WorkerProcess], None]) -> None:
        self.calls = 0
        self.exit_code: int | None = None
        self._forget = forget
        self._pid: int | None = None
        line, theirs = socket.socketpair()
        leash, collar = socket.socketpair()
        try:
            with theirs, collar:
                self._guardian = _start(line=theirs.fileno(), leash=collar.fileno())
        except BaseException:
            line.close()
            leash.close()
            raise
        loop = asyncio.get_running_loop()
        self._line = loop.create_task(asyncio.open_unix_connection(sock=line, limit=_BUFFER_BYTES))
        self._leash = loop.create_task(asyncio.open_unix_connection(sock=leash))
        self._ending: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        return self._pid is not None

    async def send(self, kind: Kind, body: bytes) -> None:
        """Send a frame; what a dead worker does not take is lost."""
        _, writer = await asyncio.shield(self._line)
        writer.write(HEADER.pack(len(body), kind))
        writer.write(body)
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    async def receive(self) -> Frame | None:
        """Return the next frame, ``None`` when the worker has ended."""
        reader, _ = await asyncio.shield(self._line)
        try:
            size, kind = HEADER.unpack(await reader.readexactly(HEADER.size))
            frame = Frame(Kind(kind), await reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        if frame.kind is Kind.READY:
            self._pid = int(frame.body)
        return frame

    async def end(self, *, patience: float = 0.0) -> None:
        """Bring it to its end with all that it has started, and return when they are gone.

        It goes on when this is cancelled.

        Args:
            patience: Seconds in which an idle worker may end by itself.
        """
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end(patience))
        await asyncio.shield(self._ending)

    async def _end(self, patience: float) -> None:
        (_, line), (reader, leash) = await self._line, await self._leash
        report = asyncio.ensure_future(reader.read())
        line.transport.abort()
        await asyncio.wait({report}, timeout=patience)
        if not report.done():
            leash.write_eof()
            await asyncio.wait({report}, timeout=_LONGEST_S)
        self._read(report)
        leash.transport.abort()
        while self._guardian.poll() is None:  # noqa: ASYNC110 - nobody would set an event
            await asyncio.sleep(_LOOK_S)
        self._forget(self)

    def _read(self, report: asyncio.Future[bytes]) -> None:
        if report.done() and not report.exception() and report.result():
            self.exit_code = os.waitstatus_to_exitcode(int(report.result()))
            return
        # Somebody has killed or stopped the guardian: what can be reached from here is the worker's group.
        report.cancel()
        self._guardian.kill()
        if self._pid is not None:
            with contextlib.suppress(OSError):
                os.killpg(self._pid, SIGKILL)


def _start(*, line: int, leash: int) -> subprocess.Popen[bytes]:
    """Start a guardian, which starts the worker, each with its socket."""
    python, *flags = map(os.fsdecode, spawn.get_command_line()[:-3])
    worker = [python, *flags, "-c", _WORKER.format(path=sys.path, descriptor=line)]
    guardian = [python, "-I", "-S", "-c", _GUARDIAN, str(leash), str(line), str(os.getpid())]
    return subprocess.Popen(  # noqa: S603 - our own program
        [*guardian, *worker], stdin=subprocess.DEVNULL, pass_fds=(line, leash), start_new_session=True
    )
