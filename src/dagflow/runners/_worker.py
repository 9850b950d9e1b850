"""The program of a worker process: takes one call after the other, until the line to its runner ends.

Calls are made in the main thread, and there is no other one: what the functions do with signals, forks and threads is
as free as in a program of their own. Workers are replaced whenever a call is killed, so what only some calls need is
imported by those.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
import time
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from dagflow.runners._frames import HEADER, Kind
from dagflow.runners._main_module import import_main
from dagflow.runners._travel import load, pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

__all__ = ["Worker", "main"]

_LEAST_BETWEEN_BEATS_S = 0.01


class Worker:
    """Answers calls.

    Args:
        incoming: What the runner says.
        outgoing: What it is told.
    """

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._sending = threading.Lock()
        self._main: dict[str, str] = {}
        self._beaten_at = 0.0
        self._process = os.getpid()

    def set_up(self) -> bool:
        """Become ready as the runner wishes; return whether that went well."""
        if not (packed := self._receive()):
            return False
        settings = load(packed)
        sys.argv[:] = settings["argv"]
        self._main = settings["main"]
        try:
            _limit_memory(settings["memory_limit_bytes"])
            if settings["needs_main"]:
                self._import_main()
            if settings["initializer"]:
                load(settings["initializer"])()
        except BaseException as exc:  # noqa: BLE001 - the user's initializer
            self._send(Kind.RAISED, _packed_error(exc))
            return False
        self._send(Kind.READY, b"%d" % self._process)
        return True

    def serve(self) -> None:
        """Answer calls until the line ends, or the memory has run out once."""
        has_memory = True
        while has_memory and (settings := self._receive()):
            node, needs_main, beats = load(settings)
            has_memory = self._answer(node, self._receive(), needs_main=needs_main, beats=beats)
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()

    def _answer(self, node: str, packed: bytes, *, needs_main: bool, beats: bool) -> bool:
        """Make a call and answer it; return whether there is memory for another one."""
        has_memory = True
        try:
            if needs_main:
                self._import_main()
            function, arguments = _found(packed, node)
            del packed
            self._send(Kind.STARTED)
            value = _called(function, self._with_beat(arguments) if beats else arguments)
            answer, kind = _packed_result(value, node), Kind.RETURNED
        except BaseException as exc:  # noqa: BLE001 - the user's function; whatever it raises is the answer
            has_memory = not isinstance(exc, MemoryError)
            answer, kind = _packed_error(exc), Kind.RAISED
        if os.getpid() != self._process:
            # A fork that the function forgot to end; the answer is its parent's to give.
            os._exit(1)
        self._send(kind, answer)
        return has_memory

    def _import_main(self) -> None:
        location, self._main = self._main, {}
        try:
            import_main(location)
        except BaseException:
            self._main = location
            raise

    def _with_beat(self, arguments: dict[str, Any]) -> dict[str, Any]:
        from dagflow.runners._heartbeat import with_beat  # noqa: PLC0415 - it brings asyncio

        return with_beat(arguments, self._beat)

    def _beat(self) -> None:
        """Send a sign of life, unless the last one has hardly left."""
        if os.getpid() != self._process:
            message = "heartbeat() speaks for the process in which the node's function was called: call it there"
            raise RuntimeError(message)
        now = time.monotonic()
        if now - self._beaten_at >= _LEAST_BETWEEN_BEATS_S:
            self._beaten_at = now
            self._send(Kind.BEAT)

    def _receive(self) -> bytes:
        """Return the body of the next frame; nothing when the line has ended."""
        header = self._incoming.read(HEADER.size)
        return self._incoming.read(HEADER.unpack(header)[0]) if len(header) == HEADER.size else b""

    def _send(self, kind: Kind, body: bytes = b"") -> None:
        with self._sending:
            self._outgoing.write(HEADER.pack(len(body), kind))
            self._outgoing.write(body)
            self._outgoing.flush()


def main(descriptor: int) -> None:
    """Serve the runner at the other end of a socket."""
    _turn_a_deaf_ear()
    # The errors of the functions are answers; one that arrives here says that the runner is gone.
    with (
        contextlib.suppress(ConnectionError),
        os.fdopen(descriptor, "rb") as incoming,
        os.fdopen(descriptor, "wb", closefd=False) as outgoing,
    ):
        worker = Worker(incoming, outgoing)
        if worker.set_up():
            worker.serve()


def _turn_a_deaf_ear() -> None:
    """Ignore what tells a whole group of processes to end: it means the executor, who ends its workers.

    By handlers that do nothing, because signals that are ignored stay so in the programs that the functions start.
    """
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def ignore(*_: object) -> None: ...

    def hear_again() -> None:
        for number, handler in heard.items():
            if signal.getsignal(number) is ignore:
                signal.signal(number, handler)

    for number in heard:
        signal.signal(number, ignore)
    os.register_at_fork(after_in_child=hear_again)


def _limit_memory(limit: int | None) -> None:
    if limit is None:
        return
    # Who has to say that there is no memory left should not need any.
    import dagflow.runners._answers  # noqa: F401, PLC0415

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    highest = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (highest, highest))


def _found(packed: bytes, node: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    try:
        function, arguments = load(packed)
    except (ImportError, AttributeError) as exc:
        from dagflow.runners._answers import lost  # noqa: PLC0415 - see above

        raise lost(exc, node=node) from exc
    return function, arguments


def _called(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    value = function(**arguments)
    if not isinstance(value, CoroutineType):
        return value
    import asyncio  # noqa: PLC0415 - see above

    return asyncio.run(value)


def _packed_result(value: object, node: str) -> bytes:
    try:
        return pack(value)
    except Exception as exc:
        from dagflow.runners._answers import unreturnable  # noqa: PLC0415 - see above

        raise unreturnable(value, exc, node=node) from exc


def _packed_error(exc: BaseException) -> bytes:
    # What the functions had in their variables may be all the memory that there is.
    frames = exc.__traceback__
    while frames is not None:
        with contextlib.suppress(RuntimeError):
            frames.tb_frame.clear()
        frames = frames.tb_next
    from dagflow.runners._answers import pack_error  # noqa: PLC0415 - see above

    return pack_error(exc)
