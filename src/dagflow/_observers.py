"""Tells observers what was committed, off the path of the runs.

Each observer has a line of its own, bounded; when it is full, further events are dropped and counted for it. A plain
function is called in a daemon thread, so that one that hangs stops nobody; a coroutine function is awaited on the loop,
and so is what a plain function returns to be awaited.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import queue
import threading
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dagflow._binding import is_async
from dagflow._events import EventKind
from dagflow._log import LOGGER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from dagflow._events import Event
    from dagflow._plan import Plan
    from dagflow._state import RunState
    from dagflow.protocols import Observer

__all__ = ["Follower", "Observers"]

_CAPACITY = 100_000
_TAKEN = frozenset({EventKind.RUN_STARTED, EventKind.RUN_RESUMED})


@runtime_checkable
class Follower(Protocol):
    """An observer that counts for itself: it is told at once, on the loop, many events at a time, and does not wait."""

    def follow(self, events: Sequence[Event], state: RunState | None, plan: Plan | None) -> None:
        """Take in what was committed of a run; see `MetricsCollector.follow`."""

    def leave(self, state: RunState, error: BaseException | None) -> None:
        """Take in that a run is no longer driven here."""


@runtime_checkable
class Tracer(Protocol):
    """An observer that is told when a run is about to be driven, and leaves a mark in its journal."""

    def begin(self, state: RunState, before: str | None) -> str | None:
        """Return the mark; ``before`` is the last one in the journal."""

    def leave(self, state: RunState, error: BaseException | None) -> None:
        """Take in that a run is no longer driven here; called after its events, as they are."""


class Observers:
    """All observers of one executor.

    Args:
        observers: Callables that take one event.
        capacity: How many events may wait for one observer before further ones are dropped.
    """

    def __init__(self, observers: Iterable[Observer] = (), *, capacity: int = _CAPACITY) -> None:
        observers = self.given = tuple(observers)
        self._followers: list[Follower] = [o for o in observers if isinstance(o, Follower)]
        others = [o for o in observers if not isinstance(o, Follower)]
        for other in others:
            if not callable(other):
                raise TypeError(f"an observer is a callable that takes one event, not {other!r}")
        self._tracers = [o for o in others if isinstance(o, Tracer)]
        self._lines = [_AsyncLine(o, capacity) if is_async(o) else _ThreadLine(o, capacity) for o in others]

    @property
    def dropped(self) -> int:
        """How many events were dropped because an observer was too slow."""
        return sum(line.dropped for line in self._lines)

    def tell(self, events: Sequence[Event], state: RunState | None = None, plan: Plan | None = None) -> None:
        """Put committed events of a run in every line and return at once.

        Args:
            events: The events.
            state: The run with the events taken in, if it is at hand.
            plan: Its workflow, if it is known.
        """
        for follower in self._followers:
            try:
                follower.follow(events, state, plan)
            except Exception as exc:  # noqa: BLE001 - of the user's observer
                _failed(follower, events[0], exc)
        for line in self._lines:
            line.put(events)

    def begin(self, state: RunState, opening: Sequence[Event], journal: Sequence[Event] = ()) -> None:
        """Let those that trace runs mark the events with which one is about to be taken; ``journal`` is what it has."""
        for tracer in self._tracers:
            before = next(
                (e.data["traceparent"] for e in reversed(journal) if e.data and "traceparent" in e.data), None
            )
            try:
                mark = tracer.begin(state, before)
            except Exception as exc:  # noqa: BLE001 - of the user's observer
                _failed(tracer, opening[0], exc)
                continue
            taken = next(event for event in opening if event.kind in _TAKEN)
            if mark is not None:
                # Nobody has seen the event yet.
                taken.data = {**(taken.data or {}), "traceparent": mark}

    def attach(self, follower: Follower) -> Callable[[], None]:
        """Tell one more follower, until the result is called."""
        self._followers = [*self._followers, follower]

        def detach() -> None:
            self._followers = [f for f in self._followers if f is not follower]

        return detach

    def leave(self, state: RunState, error: BaseException | None) -> None:
        """Tell those that follow runs that one is no longer driven here, and why it was given up, if so."""
        for follower in self._followers:
            try:
                follower.leave(state, error)
            except Exception:  # of the user's observer
                facts = {"observer": follower, "run_id": state.run_id}
                LOGGER.exception("an observer raised, the run goes on", extra=facts)
        for line in self._lines:
            if isinstance(line.observer, Tracer):
                line.then(functools.partial(line.observer.leave, state, error))

    async def flush(self, timeout: float) -> None:
        """Return when every observer has got what was told so far, at the latest after ``timeout`` seconds."""
        if self._lines:
            await asyncio.gather(*(line.flush(timeout) for line in self._lines))

    async def close(self, timeout: float) -> None:
        """Deliver what waits, for ``timeout`` seconds at the most, and let go of threads and tasks."""
        await self.flush(timeout)
        for line in self._lines:
            await line.close()


class _Line:
    """What waits for one observer."""

    def __init__(self, observer: Observer, capacity: int) -> None:
        self.dropped = 0
        self.observer = observer
        self._capacity = capacity
        self._told = 0
        self._done = 0

    def then(self, call: Callable[[], None]) -> None:
        """Call a function when all events that were told have been taken."""
        try:
            call()
        except BaseException:  # of the user's observer
            LOGGER.exception("an observer raised, the run goes on", extra={"observer": self.observer})

    def _admit(self, events: Sequence[Event]) -> Sequence[Event]:
        room = self._capacity - (self._told - self._done)
        taken = events if len(events) <= room else events[: max(room, 0)]
        if len(taken) < len(events):
            if not self.dropped:
                facts = {"observer": self.observer}
                LOGGER.warning("an observer is too slow, events are dropped for it", extra=facts)
            self.dropped += len(events) - len(taken)
        self._told += len(taken)
        return taken

    def _failed(self, event: Event, exc: BaseException) -> None:
        _failed(self.observer, event, exc)


def _failed(observer: object, event: Event, exc: BaseException) -> None:
    facts = {"observer": observer, "run_id": event.run_id, "version": event.version}
    LOGGER.error("an observer raised, the run goes on", exc_info=exc, extra=facts)


class _ThreadLine(_Line):
    """A plain function, called in a thread that is made for the first event."""

    def __init__(self, observer: Observer, capacity: int) -> None:
        super().__init__(observer, capacity)
        self._events: queue.SimpleQueue[Sequence[Event] | asyncio.Future[None] | Callable[[], None] | None] = (
            queue.SimpleQueue()
        )
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, events: Sequence[Event]) -> None:
        taken = self._admit(events)
        if not taken:
            return
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._work, name="dagflow-observer", daemon=True)
            self._thread.start()
        self._events.put(taken)

    async def flush(self, timeout: float) -> None:
        if self._thread is None or self._done == self._told:
            return
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events.put(reached)
        await asyncio.wait([reached], timeout=timeout)
        reached.cancel()

    def then(self, call: Callable[[], None]) -> None:
        if self._thread is None:
            super().then(call)
        else:
            # It is waited for as an event is.
            self._told += 1
            self._events.put(call)

    async def close(self) -> None:
        self._events.put(None)

    def _work(self) -> None:
        while (item := self._events.get()) is not None:
            if isinstance(item, asyncio.Future):
                _reach(item)
                continue
            if callable(item):
                super().then(item)
                self._done += 1
                continue
            for event in item:
                try:
                    self._call(event)
                except BaseException as exc:  # noqa: BLE001 - the user's observer
                    self._failed(event, exc)
                self._done += 1

    def _call(self, event: Event) -> None:
        told = self.observer(event)
        if self._loop is None or not inspect.isawaitable(told):
            return
        awaiting = _wait_for(told)
        try:
            awaited = asyncio.run_coroutine_threadsafe(awaiting, self._loop)
        except RuntimeError:
            # The loop is closed: nobody can await it any more.
            awaiting.close()
            if inspect.iscoroutine(told):
                told.close()
            return
        awaited.result()


async def _wait_for(told: Awaitable[None]) -> None:
    await told


def _reach(reached: asyncio.Future[None]) -> None:
    try:
        reached.get_loop().call_soon_threadsafe(_resolve, reached)
    except RuntimeError:
        # The loop is closed: nobody waits any more.
        return


def _resolve(reached: asyncio.Future[None]) -> None:
    if not reached.done():
        reached.set_result(None)


class _AsyncLine(_Line):
    """A coroutine function, awaited by a task on the loop."""

    def __init__(self, observer: Observer, capacity: int) -> None:
        super().__init__(observer, capacity)
        self._events: list[Event] = []
        self._task: asyncio.Task[None] | None = None

    def put(self, events: Sequence[Event]) -> None:
        self._events.extend(self._admit(events))
        if self._events and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._work(), name="dagflow-observer")

    async def flush(self, timeout: float) -> None:
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout)

    async def close(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1.0)

    async def _work(self) -> None:
        while self._events:
            events, self._events = self._events, []
            for event in events:
                try:
                    told = self.observer(event)
                    if told is not None:
                        await told
                except Exception as exc:  # noqa: BLE001 - the user's observer
                    self._failed(event, exc)
                self._done += 1
