"""Calls in this process: async functions on the event loop, others in threads.

The threads are daemons of our own: those of ``concurrent.futures`` keep the interpreter from ending until every call
has returned. A thread cannot be stopped, so a call that is cancelled or too slow is abandoned: its result goes
nowhere, and another thread takes its place.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import queue
import threading
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import attrs

from dagflow.errors import ExecutorError, NodeTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

__all__ = ["LoopRunner", "ThreadRunner"]


class LoopRunner:
    """Awaits async functions on the executor's event loop; a call that is too slow is cancelled."""

    def call(
        self, function: Callable[..., Any], arguments: Mapping[str, Any], *, timeout: float | None, node: str
    ) -> Awaitable[Any]:
        """Await the function; see `dagflow.protocols.Runner`."""
        if timeout is None:
            # The coroutine itself: another one around it would cost every node.
            return _awaitable(function, function(**arguments))
        return self._limited(function, arguments, timeout, node)

    async def _limited(
        self, function: Callable[..., Any], arguments: Mapping[str, Any], timeout: float, node: str
    ) -> Any:
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                value = await _awaitable(function, function(**arguments))
        except Exception as exc:
            # A TimeoutError of the function's own is no timeout of ours.
            if not limit.expired():
                raise
            raise NodeTimeoutError(node, timeout) from exc
        if limit.expired():
            # It has caught its cancellation and gone on: what it returned comes too late.
            raise NodeTimeoutError(node, timeout)
        return value

    async def close(self) -> None:
        """There is nothing to let go of."""


def _awaitable(function: Callable[..., Any], value: Any) -> Awaitable[Any]:
    if type(value) is not CoroutineType and not inspect.isawaitable(value):
        raise TypeError(f"{function!r} is no async function: leave runner='loop' away, and it runs in a thread")
    awaitable: Awaitable[Any] = value
    return awaitable


@attrs.define(eq=False)
class _Call:
    """One call on its way through a thread."""

    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    context: contextvars.Context
    loop: asyncio.AbstractEventLoop
    outcome: asyncio.Future[tuple[Any, BaseException | None]]
    started: asyncio.Future[None] | None
    abandoned: bool = False
    running: bool = False
    ended: asyncio.Future[None] | None = None


class ThreadRunner:
    """Calls functions in daemon threads, which are made when they are needed.

    Args:
        max_threads: How many calls run at a time; default: the number of processors and 4, at most 32. Calls that were
            abandoned do not count.
        grace: Seconds that closing waits for calls that were cancelled and have not ended, counted from when they were.
    """

    def __init__(self, max_threads: int | None = None, *, grace: float = 0.0) -> None:
        if max_threads is not None and max_threads < 1:
            raise ValueError(f"max_threads must be at least 1, not {max_threads!r}")
        self._limit = max_threads or min(32, (os.cpu_count() or 1) + 4)
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        # Threads that wait for a call, less the calls that wait for a thread.
        self._free = 0
        self._closed = False
        self._grace = grace
        self._cancelled: set[asyncio.Future[None]] = set()
        self._graced_until = 0.0

    async def call(
        self, function: Callable[..., Any], arguments: Mapping[str, Any], *, timeout: float | None, node: str
    ) -> Any:
        """Call the function in a thread; see `dagflow.protocols.Runner`.

        ``timeout`` counts from the moment at which a thread takes the call.
        """
        if self._closed:
            raise ExecutorError("the thread runner is closed")
        loop = asyncio.get_running_loop()
        started = loop.create_future() if timeout is not None else None
        call = _Call(function, arguments, contextvars.copy_context(), loop, loop.create_future(), started)
        try:
            self._submit(call)
            value, error = await self._outcome(call, timeout, node)
        except BaseException as exc:
            self._abandon(call)
            if call.running and isinstance(exc, asyncio.CancelledError):
                self._watch(call)
            raise
        if error is not None:
            raise error
        return value

    def forget_cancelled(self) -> None:
        """Do not wait, on closing, for calls that have been cancelled by now: they have had their grace time."""
        self._cancelled.clear()

    async def close(self) -> None:
        """Let idle threads end; one that is in the middle of a call beyond its grace time ends with the interpreter."""
        with self._lock:
            self._closed = True
            threads = self._threads
        for _ in range(threads):
            self._calls.put(None)
        left = self._graced_until - asyncio.get_running_loop().time()
        if self._cancelled and left > 0:
            await asyncio.wait(self._cancelled, timeout=left)

    async def _outcome(self, call: _Call, timeout: float | None, node: str) -> tuple[Any, BaseException | None]:
        if timeout is None or call.started is None:
            return await call.outcome
        await call.started
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await call.outcome
        except TimeoutError as exc:
            raise NodeTimeoutError(node, timeout, abandoned=True) from exc

    def _submit(self, call: _Call) -> None:
        with self._lock:
            self._calls.put(call)
            self._free -= 1
            self._hire()

    def _hire(self) -> None:
        """Make a thread for a call that waits for one; under the lock."""
        if self._free < 0 and self._threads < self._limit and not self._closed:
            threading.Thread(target=self._work, name="dagflow-node", daemon=True).start()
            self._threads += 1
            self._free += 1

    def _abandon(self, call: _Call) -> None:
        with self._lock:
            call.abandoned = True
            if call.running:
                # Its thread is lost for an unknown time; another one takes its place, if a call waits for it.
                self._threads -= 1
                self._hire()

    def _watch(self, call: _Call) -> None:
        """Remember a call that goes on, until it has ended."""
        with self._lock:
            if not call.running:
                return
            call.ended = call.loop.create_future()
        self._graced_until = call.loop.time() + self._grace
        self._cancelled.add(call.ended)
        call.ended.add_done_callback(self._cancelled.discard)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            with self._lock:
                call.running = not call.abandoned
            if call.running:
                _make(call)
            with self._lock:
                is_lost = call.running and call.abandoned
                call.running = False
                self._free += not is_lost
            if call.ended is not None:
                _tell(call.loop, call.ended, None)
            if is_lost:
                return
            del call


def _make(call: _Call) -> None:
    if call.started is not None:
        _tell(call.loop, call.started, None)
    value: Any = None
    error: BaseException | None = None
    try:
        value = call.context.run(call.function, **call.arguments)
        if inspect.iscoroutine(value):
            value.close()
            error = TypeError(f"{call.function!r} returned a coroutine: {_way_out(call.function)}")
    except BaseException as exc:  # noqa: BLE001 - the user's function; whatever it raises is the outcome
        error = exc
    _tell(call.loop, call.outcome, (value, error))


def _way_out(function: Callable[..., Any]) -> str:
    if inspect.iscoroutinefunction(function):
        return "an async function runs on the loop, leave runner= away"
    return "declare it with 'async def'"


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], value: object) -> None:
    try:
        loop.call_soon_threadsafe(_set, future, value)
    except RuntimeError:
        # The loop is closed: nobody waits any more.
        return


def _set(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)
