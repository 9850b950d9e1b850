"""Calls in processes of our own, which can be stopped, limited, and lost without harm.

A process is started when it is needed and serves one call after the other. Beside it lives a guardian (`_guardian`), so
that a call that is too slow, cancelled, or whose executor dies leaves nothing behind, whatever it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from dagflow.errors import ExecutorError, NodeTimeoutError, WorkerDiedError
from dagflow.runners._answers import unpack_error, unpack_result
from dagflow.runners._frames import Kind
from dagflow.runners._main_module import check_not_importing, locate_main
from dagflow.runners._parcels import Parcel, pack_initializer
from dagflow.runners._travel import names_main, pack
from dagflow.runners._worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from dagflow.runners._worker_process import Frame

__all__ = ["ProcessRunner"]

_PATIENCE_S = 2.0
"""How long an idle process may take to end by itself, with its ``atexit`` functions."""


class ProcessRunner:
    """Calls functions in worker processes; a call that is too slow or cancelled is killed with all that it has started.

    Functions go to a worker by name and arguments as pickles, results and exceptions come back the same way: through a
    socket between a process and its own child, never from a store. A worker is a new interpreter, not a fork, that
    shares nothing else with the executor's process.

    Args:
        max_processes: How many calls run at a time; default: the number of processors.
        memory_limit_bytes: Address space that a worker may have, its interpreter and libraries included; beyond it
            functions get a `MemoryError`. ``None`` for no limit.
        initializer: Is called once in each worker, before its first call.
        reuse: How many calls a worker serves before another one takes its place; ``None`` for no limit.
        start_timeout: Seconds in which a worker has to start and to import what a call needs.

    Raises:
        ValueError: A number is below 1.
        ExecutorError: The system is not POSIX, or the initializer cannot travel.
    """

    def __init__(
        self,
        max_processes: int | None = None,
        *,
        memory_limit_bytes: int | None = None,
        initializer: Callable[[], object] | None = None,
        reuse: int | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        numbers = {"max_processes": max_processes, "memory_limit_bytes": memory_limit_bytes, "reuse": reuse}
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, not {number!r}")
        if os.name != "posix":
            raise ExecutorError("ProcessRunner needs a POSIX system: use ThreadRunner, or FuturesRunner with a pool")
        self._memory_limit_bytes = memory_limit_bytes
        self._initializer = pack_initializer(initializer)
        self._reuse = reuse
        self._start_timeout = start_timeout
        self._slots = asyncio.Semaphore(max_processes or os.cpu_count() or 1)
        self._workers: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []
        self._closed = False

    async def call(
        self, function: Callable[..., Any], arguments: Mapping[str, Any], *, timeout: float | None, node: str
    ) -> Any:
        """Call the function in a worker; see `dagflow.protocols.Runner`.

        ``timeout`` counts from the moment at which the worker calls the function. An async function gets an event loop
        of its own.

        Raises:
            WorkflowError: The function cannot be found by its name.
            SerializationError: An argument or the result cannot travel.
            WorkerDiedError: The worker died.
        """
        check_not_importing()
        parcel = Parcel.of(function, arguments, node=node)
        async with self._slots:
            while (answer := await self._made(parcel, timeout)) is None:
                continue
        if answer.kind is Kind.RAISED:
            raise unpack_error(answer.body, node=node)
        return unpack_result(answer.body, node=node)

    async def close(self) -> None:
        """End all workers and what they have started, for a bounded time."""
        self._closed = True
        idle, self._idle = self._idle, []
        await asyncio.gather(*(w.end(patience=_PATIENCE_S if w in idle else 0.0) for w in self._workers))

    # -- one call ---------------------------------------------------------------------------------

    async def _made(self, parcel: Parcel, timeout: float | None) -> Frame | None:
        """Make a call; ``None`` when an idle worker has died before it took the call, so that another one can."""
        worker, was_idle = self._take()
        begun = worker.calls
        try:
            answer = await self._answer(worker, parcel, timeout)
        except BaseException:
            await worker.end()
            raise
        if answer is None:
            await worker.end()
            if was_idle and worker.calls == begun and not self._closed:
                return None
            raise self._death(worker, parcel.node)
        await self._give_back(worker)
        return answer

    def _take(self) -> tuple[WorkerProcess, bool]:
        """Return a worker, and whether it has been idle."""
        if self._closed:
            raise ExecutorError("the process runner is closed")
        if self._idle:
            return self._idle.pop(), True
        worker = WorkerProcess(self._workers.discard)
        self._workers.add(worker)
        return worker, False

    async def _give_back(self, worker: WorkerProcess) -> None:
        if self._closed or worker.calls == self._reuse:
            await worker.end(patience=_PATIENCE_S)
        else:
            self._idle.append(worker)

    async def _answer(self, worker: WorkerProcess, parcel: Parcel, timeout: float | None) -> Frame | None:
        async with _limited(self._start_timeout, parcel.node, verdict="was not ready to be called after"):
            if not worker.is_ready and not await self._set_up(worker):
                return None
            await worker.send(Kind.CALL, parcel.settings)
            await worker.send(Kind.LOAD, parcel.load)
            while (frame := await worker.receive()) is not None and frame.kind is Kind.BEAT:
                continue  # from a thread that an earlier call has left behind
        if frame is None or frame.kind is not Kind.STARTED:
            return frame
        worker.calls += 1
        parcel.beat()
        async with _limited(timeout, parcel.node):
            while (frame := await worker.receive()) is not None and frame.kind is Kind.BEAT:
                parcel.beat()
        return frame

    async def _set_up(self, worker: WorkerProcess) -> bool:
        """Make a new worker ready; return whether it is alive."""
        settings = {
            "argv": sys.argv,
            "main": locate_main(),
            "memory_limit_bytes": self._memory_limit_bytes,
            "initializer": self._initializer,
            "needs_main": names_main(self._initializer),
        }
        await worker.send(Kind.SETUP, pack(settings))
        frame = await worker.receive()
        if frame is not None and frame.kind is Kind.RAISED:
            error = unpack_error(frame.body, node="initializer")
            raise ExecutorError(f"the initializer of the process runner failed: {error}") from error
        return frame is not None

    def _death(self, worker: WorkerProcess, node: str) -> WorkerDiedError | ExecutorError:
        if self._closed:
            return ExecutorError("the process runner was closed in the middle of a call")
        code = worker.exit_code
        if code is None or code >= 0:
            return WorkerDiedError(node, exit_code=code)
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return WorkerDiedError(node, signal=name)


@contextlib.asynccontextmanager
async def _limited(seconds: float | None, node: str, *, verdict: str = "took longer than") -> AsyncIterator[None]:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError as exc:
        raise NodeTimeoutError(node, seconds or 0.0, verdict=verdict) from exc
