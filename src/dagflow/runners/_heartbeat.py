"""Attempts that say that they are alive: one that falls silent for too long is ended like one that takes too long.

Only nodes with ``heartbeat_timeout=`` come here; the calls of all others know nothing of it.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NoReturn

import attrs

from dagflow._node import NodeContext
from dagflow.errors import ExecutorError, NodeTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["Beating", "Pulse", "call_watched", "with_beat"]


@attrs.define(eq=False)
class Pulse:
    """When an attempt gave its last sign of life.

    Attributes:
        limit: Seconds without a sign after which the attempt fails.
        beaten_at: When the last one came, in monotonic seconds; ``None`` until the function is called, so that waiting
            for a thread or a process is no silence.
        is_running: The function is running in this process, where perhaps nobody can stop it.
    """

    limit: float
    beaten_at: float | None = None
    is_running: bool = False

    def beat(self) -> None:
        """Give a sign of life, from any thread."""
        self.beaten_at = time.monotonic()

    def left_s(self) -> float:
        """Return the seconds after which to look again; 0 or less when the attempt has been silent for too long."""
        return self.limit if self.beaten_at is None else self.beaten_at + self.limit - time.monotonic()


@attrs.define(eq=False)
class Beating:
    """A node's function whose call is a first sign of life.

    A runner that calls it elsewhere takes it apart, and beats for what it hears from there.
    """

    function: Callable[..., Any]
    pulse: Pulse

    def __call__(self, **arguments: Any) -> Any:
        """Call the function."""
        self.pulse.beat()
        self.pulse.is_running = True
        try:
            return self.function(**arguments)
        finally:
            self.pulse.is_running = False

    def __reduce__(self) -> NoReturn:
        """Refuse to go where nobody would hear it."""
        message = "heartbeat_timeout= works on the loop, in threads of this process, and in ProcessRunner"
        raise ExecutorError(message)


def with_beat(arguments: Mapping[str, Any], beat: Callable[[], object]) -> dict[str, Any]:
    """Return the arguments with contexts whose heartbeats are heard."""
    return {
        name: attrs.evolve(value, beat=beat) if isinstance(value, NodeContext) else value
        for name, value in arguments.items()
    }


async def call_watched(
    call: Callable[..., Awaitable[Any]],
    limit: float,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    timeout: float | None,
    node: str,
) -> Any:
    """Make a call as a runner does, and end it when it gives no sign of life.

    Args:
        call: The method of the runner.
        limit: Seconds without a sign after which the call is ended.
        function: The node's function.
        arguments: Its keyword arguments.
        timeout: Seconds that the call may take altogether.
        node: Name of the node, for errors.

    Raises:
        NodeTimeoutError: It was silent for too long, or took longer than ``timeout``.
    """
    pulse = Pulse(limit)

    async def called() -> Any:
        return await call(Beating(function, pulse), with_beat(arguments, pulse.beat), timeout=timeout, node=node)

    task = asyncio.ensure_future(called())
    try:
        while not task.done() and (left := pulse.left_s()) > 0:
            await asyncio.wait({task}, timeout=left)
        if task.done():
            return task.result()
    finally:
        await _end(task)
    raise NodeTimeoutError(node, limit, abandoned=pulse.is_running, verdict="gave no sign of life for")


async def _end(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        # What it raised on its way out is of no interest, and asyncio wants that to be said.
        task.exception()
