"""Calls that wait on an event loop while a thread does their work."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dagflow._answers import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

__all__ = ["Call", "Ending", "Inbox", "answer", "answer_now"]

ItemT = TypeVar("ItemT")
WorkT = TypeVar("WorkT")


class Definite(asyncio.Future[Any]):
    """A future that cannot be cancelled: whoever is cancelled while awaiting it learns of that when it is done.

    A task that is told that its future cannot be cancelled goes on waiting, and raises `CancelledError` when the
    future is done; however often it was cancelled. So a write that has been started comes to its end first.
    """

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ARG002 - the signature is asyncio's
        """Refuse."""
        return False


class Call(Answer[Any], Generic[WorkT]):
    """One piece of work, who waits for it, and what became of it.

    Attributes:
        work: What to do.
        loop: Where it is asked for and answered.
        future: Who waits, if it is awaited before it is answered.
        is_done: It is answered.
        result: What came of it.
        error: Why nothing came of it.
        is_decided: The error stands, whatever becomes of the other calls.
    """

    __slots__ = ("_told", "error", "future", "is_decided", "is_done", "loop", "result", "work")

    def __init__(self, work: WorkT, loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any] | None = None) -> None:
        self.work = work
        self.loop = loop
        self.future = future
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.is_decided = False
        self._told: Callable[[Answer[Any], BaseException | None], None] | None = None

    def __await__(self) -> Generator[object, None, Any]:
        """Wait until it is answered."""
        if not self.is_done:
            if self.future is None:
                self.future = Definite(loop=self.loop)
            return (yield from self.future)
        if self.error is not None:
            raise self.error
        return self.result

    def then(self, told: Callable[[Answer[Any], BaseException | None], None]) -> None:
        """Tell one caller at once; see `Answer`."""
        if self.is_done:
            told(self, self.error)
        else:
            self._told = told

    def settle(self) -> None:
        """Tell who waits, on the loop; cut off by Ctrl-C, it can be done again."""
        future = self.future
        if future is not None and not future.done():
            if self.error is None:
                future.set_result(self.result)
            else:
                future.set_exception(self.error)
        if self._told is not None:
            self._told(self, self.error)
            # A thread may hold this for a moment longer, and must not keep a run alive that has ended.
            self._told = None
        self.is_done = True


def answer_now(calls: Iterable[Call[Any]]) -> None:
    """Tell everyone who waits, on the loop that is running."""
    for call in calls:
        call.settle()


def answer(calls: Iterable[Call[Any]]) -> None:
    """Tell everyone who waits, from any thread, waking each loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Call[Any]]] = {}
    for call in calls:
        by_loop.setdefault(call.loop, []).append(call)
    for loop, theirs in by_loop.items():
        # A loop that has been closed took those who waited with it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(answer_now, theirs)


class Inbox(Generic[ItemT]):
    """What a thread has to do. Nothing can be put in behind its end, and so nothing is forgotten in it."""

    def __init__(self) -> None:
        self._items: SimpleQueue[ItemT | None] = SimpleQueue()
        # The collector may run a finalizer that comes here, wherever this thread is at that moment.
        self._gate = threading.RLock()
        self._is_ended = False

    def put(self, item: ItemT) -> bool:
        """Add an item, and return false when it came too late."""
        with self._gate:
            if self._is_ended:
                return False
            self._items.put(item)
            return True

    def end(self) -> None:
        """Let nothing in any more."""
        with self._gate:
            if not self._is_ended:
                self._is_ended = True
                self._items.put(None)

    def get(self, timeout: float | None = None) -> ItemT | None:
        """Return the next item, or ``None`` at the end.

        Args:
            timeout: Seconds to wait for it, ``None`` for as long as it takes.

        Raises:
            Empty: There was none in that time.
        """
        return self._items.get(timeout=timeout)


class Ending:
    """The end of a thread; many can wait for it, each on a loop of its own."""

    def __init__(self) -> None:
        self._calls: Inbox[Call[None]] = Inbox()

    def come(self) -> None:
        """Tell everyone that it has come."""
        self._calls.end()
        while (call := self._calls.get()) is not None:
            answer([call])

    async def wait(self) -> None:
        """Return when it has come; a caller that is cancelled learns of it afterwards."""
        call: Call[None] = Call(None, asyncio.get_running_loop())
        if self._calls.put(call):
            await call
