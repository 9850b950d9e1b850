"""The blocking face of an executor: the same methods, answered by an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from dagflow._ending import end_tasks
from dagflow.errors import ExecutorError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator, Mapping

    from dagflow._events import Event, RunStatus
    from dagflow._explain import Explanation
    from dagflow._handle import RunHandle
    from dagflow._model import Workflow
    from dagflow._references import ArtifactRef
    from dagflow._requests import Review
    from dagflow._run import Run, RunSummary
    from dagflow.executor import DAGExecutor

__all__ = ["BlockingExecutor", "BlockingHandle"]

T = TypeVar("T")


class _LoopThread:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dagflow-loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it; an interrupted wait cancels it and waits for its end."""
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            coroutine.close()
            if self._thread.is_alive():
                message = "a blocking call on the executor's own event loop would wait for itself: make the node sync"
                raise ExecutorError(message)
            raise ExecutorError("the executor is closed: make another one")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            if future.cancel():
                asyncio.run_coroutine_threadsafe(_ended(coroutine), self._loop).result()
            raise

    def stop(self) -> None:
        """End the loop and its thread."""
        if not self._thread.is_alive():
            return
        asyncio.run_coroutine_threadsafe(end_tasks(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _ended(coroutine: object) -> None:
    tasks = [task for task in asyncio.all_tasks() if task.get_coro() is coroutine]
    if tasks:
        await asyncio.wait(tasks)


class BlockingExecutor:
    """What ``with DAGExecutor(...)`` gives: the methods of `DAGExecutor`, each of which returns when it is done.

    It works where an event loop is running already, and may be called from several threads.
    """

    def __init__(self, executor: DAGExecutor) -> None:
        self._executor = executor
        self._loop = _LoopThread()

    def open(self) -> None:
        """Start the loop and open the executor."""
        self._loop.start()
        try:
            self._loop.call(self._executor.__aenter__())
        except BaseException:
            self._loop.stop()
            raise

    def close(self) -> None:
        """Close the executor and end the loop."""
        try:
            self._loop.call(self._executor.__aexit__(None, None, None))
        finally:
            self._loop.stop()

    @property
    def is_open(self) -> bool:
        """See `DAGExecutor.is_open`."""
        return self._executor.is_open

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """See `DAGExecutor.workflows`."""
        return self._executor.workflows

    def run(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        wait: bool = True,
        priority: int = 0,
    ) -> Run:
        """See `DAGExecutor.run`."""
        return self._loop.call(self._executor.run(workflow, inputs, run_id=run_id, wait=wait, priority=priority))

    def start(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        priority: int = 0,
    ) -> BlockingHandle:
        """See `DAGExecutor.start`."""
        started = self._executor.start(workflow, inputs, run_id=run_id, priority=priority)
        return BlockingHandle(self._loop.call(started), self._loop)

    def resume(self, run_id: str, *, wait: bool = True) -> Run:
        """See `DAGExecutor.resume`."""
        return self._loop.call(self._executor.resume(run_id, wait=wait))

    def go_on(self, run_id: str) -> BlockingHandle:
        """See `DAGExecutor.go_on`."""
        return BlockingHandle(self._loop.call(self._executor.go_on(run_id)), self._loop)

    def recover(self) -> list[Run]:
        """See `DAGExecutor.recover`."""
        return self._loop.call(self._executor.recover())

    def get(self, run_id: str, *, version: int | None = None) -> Run:
        """See `DAGExecutor.get`."""
        return self._loop.call(self._executor.get(run_id, version=version))

    def runs(
        self,
        *,
        workflow: str | Workflow | None = None,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[RunSummary]:
        """See `DAGExecutor.runs`."""
        return self._loop.call(self._executor.runs(workflow=workflow, status=status, limit=limit, after=after))

    def explain(self, run_id: str, node: str) -> Explanation:
        """See `DAGExecutor.explain`."""
        return self._loop.call(self._executor.explain(run_id, node))

    def history(self, run_id: str, *, after: int = 0) -> list[Event]:
        """See `DAGExecutor.history`."""
        return self._loop.call(self._executor.history(run_id, after=after))

    def artifacts(self, run_id: str) -> list[ArtifactRef]:
        """See `DAGExecutor.artifacts`."""
        return self._loop.call(self._executor.artifacts(run_id))

    def cancel(self, run_id: str) -> None:
        """See `DAGExecutor.cancel`."""
        self._loop.call(self._executor.cancel(run_id))

    def pause(self, run_id: str) -> None:
        """See `DAGExecutor.pause`."""
        self._loop.call(self._executor.pause(run_id))

    def signal(self, run_id: str, name: str, value: Any = None) -> None:
        """See `DAGExecutor.signal`."""
        self._loop.call(self._executor.signal(run_id, name, value))

    def decide(
        self, run_id: str, review: str, *, approved: bool, by: str, data: Any = None, comment: str | None = None
    ) -> None:
        """See `DAGExecutor.decide`."""
        self._loop.call(self._executor.decide(run_id, review, approved=approved, by=by, data=data, comment=comment))

    def reviews(self, *, assignee: str | None = None, limit: int = 100) -> list[Review]:
        """See `DAGExecutor.reviews`."""
        return self._loop.call(self._executor.reviews(assignee=assignee, limit=limit))

    def submit(
        self,
        workflow: Workflow,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        priority: int = 0,
    ) -> BlockingHandle:
        """See `DAGExecutor.submit`."""
        submitted = self._executor.submit(workflow, inputs, run_id=run_id, priority=priority)
        return BlockingHandle(self._loop.call(submitted), self._loop)

    def serve(self, *, concurrency: int = 10, poll: float = 1.0) -> None:
        """See `DAGExecutor.serve`; Ctrl-C stops it."""
        self._loop.call(self._executor.serve(concurrency=concurrency, poll=poll))

    def delete(self, run_id: str) -> None:
        """See `DAGExecutor.delete`."""
        self._loop.call(self._executor.delete(run_id))


class BlockingHandle:
    """The blocking face of a `RunHandle`.

    Attributes:
        run_id: The run.
        is_new: The call that returned the handle has recorded the run.
    """

    def __init__(self, handle: RunHandle, loop: _LoopThread) -> None:
        self.run_id = handle.run_id
        self.is_new = handle.is_new
        self._handle = handle
        self._loop = loop

    def __repr__(self) -> str:
        return f"<BlockingHandle {self.run_id!r}>"

    def result(self) -> Run:
        """See `RunHandle.result`."""
        return self._loop.call(self._handle.result())

    def events(self, *, after: int = 0) -> Iterator[Event]:
        """See `RunHandle.events`."""
        events = self._handle.events(after=after)
        while (event := self._loop.call(_next(events))) is not None:
            yield event

    def cancel(self) -> None:
        """See `RunHandle.cancel`."""
        self._loop.call(self._handle.cancel())

    def pause(self) -> None:
        """See `RunHandle.pause`."""
        self._loop.call(self._handle.pause())


async def _next(events: Any) -> Event | None:
    event: Event | None = await anext(events, None)
    return event
