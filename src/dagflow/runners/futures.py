"""Calls by any executor of ``concurrent.futures``: a pool of threads or processes, the client of a cluster."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import BrokenExecutor
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from dagflow.errors import ExecutorError, NodeTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor, Future

__all__ = ["FuturesRunner"]


class FuturesRunner:
    """Hands calls to an executor of ``concurrent.futures``.

    Such an executor can take back a call that has not begun, and nothing else: a call that is too slow or cancelled is
    abandoned, goes on where it is, and its result is refused. `ProcessRunner` can stop calls.

    Example:
        >>> from concurrent.futures import ThreadPoolExecutor
        >>> from dagflow import DAGExecutor, Workflow
        >>> workflow = Workflow("greeting")
        >>> @workflow.node(runner="pool")
        ... def greet(name: str) -> str:
        ...     return f"Hello {name}"
        >>> with ThreadPoolExecutor(2) as pool:
        ...     with DAGExecutor("memory://", runners={"pool": FuturesRunner(pool)}) as executor:
        ...         run = executor.run(workflow, {"name": "Ada"})
        >>> run.outputs["greet"]
        'Hello Ada'

    Args:
        executor: Takes the calls. It belongs to whoever made it, who shuts it down after the runner is closed.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._closed = False

    async def call(
        self, function: Callable[..., Any], arguments: Mapping[str, Any], *, timeout: float | None, node: str
    ) -> Any:
        """Hand the function over and wait for its result; see `dagflow.protocols.Runner`.

        ``timeout`` counts from when the call is handed over, because such executors do not tell when it begins.

        Raises:
            ExecutorError: The executor takes no calls.
        """
        future = self._submit(function, arguments)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                value = await asyncio.wrap_future(future)
        except TimeoutError as exc:
            if timeout is None or not limit.expired():
                raise
            raise NodeTimeoutError(node, timeout, abandoned=not future.cancel()) from exc
        if isinstance(value, CoroutineType):
            value.close()
            raise TypeError(f"{function!r} returned a coroutine: async functions run on the loop")
        return value

    async def close(self) -> None:
        """Take no more calls; the executor is left to whoever made it."""
        self._closed = True

    def _submit(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Future[Any]:
        if self._closed:
            raise ExecutorError("the futures runner is closed")
        try:
            # Not by keywords: some executors take a few of those for themselves.
            return self._executor.submit(functools.partial(function, **arguments))
        except BrokenExecutor:
            raise
        except RuntimeError as exc:
            raise ExecutorError(f"the executor behind the runner takes no calls: {exc}") from exc
