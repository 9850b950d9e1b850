"""Observers are guests: they are told in order, and what they do wrong changes nothing."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from dagflow._events import Event, EventKind
from dagflow._observers import Observers

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def event(version: int) -> Event:
    return Event("r", version, EventKind.NODE_STARTED, "a", 1, NOW)


class Sync:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.threads: set[threading.Thread] = set()

    def __call__(self, event: Event) -> None:
        self.told.append(event.version)
        self.threads.add(threading.current_thread())


class Async(Sync):
    """The same on the loop."""

    async def __call__(self, event: Event) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        super().__call__(event)


@pytest.mark.parametrize("kind", [Sync, Async])
class TestBothKinds:
    async def test_events_are_told_in_their_order(self, kind: Callable[[], Any]) -> None:
        observer = kind()
        observers = Observers([observer])
        for version in range(1, 100, 3):
            observers.tell([event(version), event(version + 1), event(version + 2)])

        await observers.flush(10)

        assert observer.told == list(range(1, 100))
        await observers.close(1)

    async def test_closing_delivers_what_waits(self, kind: Callable[[], Any]) -> None:
        observer = kind()
        observers = Observers([observer])
        observers.tell([event(version) for version in range(1, 1000)])

        await observers.close(10)

        assert observer.told == list(range(1, 1000))

    async def test_nothing_to_tell_starts_nothing(self, kind: Callable[[], Any]) -> None:
        observers = Observers([kind()])
        before = threading.active_count(), len(asyncio.all_tasks())

        observers.tell([])
        await observers.flush(1)
        await observers.close(1)

        assert (threading.active_count(), len(asyncio.all_tasks())) == before

    async def test_one_that_raises_is_told_the_next_event_and_the_fault_is_logged(
        self, kind: Callable[[], Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        observer = kind()

        def stumble(event: Event) -> Any:
            if event.version == 2:
                raise ValueError("no")
            return observer(event)

        async def stumble_on_the_loop(event: Event) -> None:
            await stumble(event)

        other = Sync()
        observers = Observers([stumble if kind is Sync else stumble_on_the_loop, other])
        observers.tell([event(1), event(2), event(3)])
        await observers.close(10)

        assert (observer.told, other.told) == ([1, 3], [1, 2, 3])
        (record,) = caplog.records
        assert record.message == "an observer raised, the run goes on"
        assert (record.run_id, record.version) == ("r", 2)  # type: ignore[attr-defined]

    async def test_events_beyond_the_capacity_are_dropped_and_counted(
        self, kind: Callable[[], Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        gate, entered = threading.Event(), threading.Event()
        told: list[int] = []

        def slow(event: Event) -> None:
            entered.set()
            gate.wait(30)
            told.append(event.version)

        async def slow_on_the_loop(event: Event) -> None:
            await asyncio.to_thread(slow, event)

        observers = Observers([slow if kind is Sync else slow_on_the_loop], capacity=5)
        observers.tell([event(version) for version in range(1, 4)])
        await asyncio.to_thread(entered.wait, 30)
        observers.tell([event(version) for version in range(4, 10)])
        observers.tell([event(10)])

        assert observers.dropped == 5
        gate.set()
        await observers.close(10)
        assert told == [1, 2, 3, 4, 5]
        assert [record.message for record in caplog.records] == ["an observer is too slow, events are dropped for it"]

    async def test_there_is_a_limit_without_being_asked_for_one(
        self, kind: Callable[[], Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = threading.Event()

        def hang(_event: Event) -> None:
            gate.wait(30)

        async def hang_on_the_loop(_event: Event) -> None:
            await asyncio.Event().wait()

        observers = Observers([hang if kind is Sync else hang_on_the_loop])
        observers.tell([event(1)] * 100_010)

        assert observers.dropped == 10
        await observers.close(0)
        gate.set()
        assert caplog.records[0].message == "an observer is too slow, events are dropped for it"

    async def test_one_that_hangs_holds_up_neither_the_others_nor_the_end(self, kind: Callable[[], Any]) -> None:
        gate = threading.Event()

        def hang(event: Event) -> None:
            gate.wait(30)

        async def hang_on_the_loop(event: Event) -> None:
            await asyncio.Event().wait()

        other = Sync()
        observers = Observers([hang if kind is Sync else hang_on_the_loop, other])
        observers.tell([event(1), event(2)])

        await asyncio.wait_for(observers.close(0.05), timeout=10)

        assert other.told == [1, 2]
        gate.set()


class TestThreads:
    async def test_a_plain_function_is_called_in_one_daemon_thread_of_its_own(self) -> None:
        one, other = Sync(), Sync()
        observers = Observers([one, other])
        observers.tell([event(1)])
        observers.tell([event(2)])
        await observers.close(10)

        (thread,), (another,) = one.threads, other.threads
        assert thread is not another
        assert thread.daemon
        await asyncio.to_thread(thread.join, 30)
        assert not thread.is_alive()

    async def test_one_that_would_end_its_thread_is_told_the_next_event(self) -> None:
        told = []

        def leave(event: Event) -> None:
            told.append(event.version)
            raise SystemExit

        observers = Observers([leave])
        observers.tell([event(1), event(2)])
        await observers.close(10)

        assert told == [1, 2]

    async def test_a_plain_function_may_return_something_to_await(self) -> None:
        told = []

        async def later(event: Event) -> None:
            told.append(event.version)

        observers = Observers([lambda event: later(event)])  # noqa: PLW0108 - as users write it
        observers.tell([event(1), event(2)])
        await observers.close(10)

        assert told == [1, 2]

    def test_what_it_returns_to_be_awaited_is_dropped_when_the_loop_is_closed(self) -> None:
        gate, told = threading.Event(), []

        async def later(event: Event) -> None:
            told.append(event.version)

        def slow(event: Event) -> Any:
            gate.wait(30)
            return later(event)

        async def use() -> list[threading.Thread]:
            before = set(threading.enumerate())
            observers = Observers([slow])
            observers.tell([event(1), event(2)])
            await observers.close(0.01)
            return list(set(threading.enumerate()) - before)

        (thread,) = asyncio.run(use())
        gate.set()
        thread.join(30)

        assert (thread.is_alive(), told) == (False, [])

    def test_one_that_is_still_busy_when_the_loop_closes_harms_nobody(self) -> None:
        gate, done = threading.Event(), threading.Event()

        def slow(event: Event) -> None:
            gate.wait(30)
            if event.version == 2:
                done.set()

        async def use() -> None:
            observers = Observers([slow])
            observers.tell([event(1), event(2)])
            await observers.flush(0.01)

        asyncio.run(use())
        gate.set()
        assert done.wait(30)


class TestLoop:
    async def test_a_partial_of_an_async_function_is_awaited(self) -> None:
        told = []

        async def note(prefix: str, event: Event) -> None:
            told.append(f"{prefix}{event.version}")

        observers = Observers([functools.partial(note, "v")])
        observers.tell([event(1)])
        await observers.close(10)

        assert told == ["v1"]

    async def test_one_is_told_what_comes_while_it_works(self) -> None:
        observer = Async()
        observers = Observers([observer])
        observers.tell([event(1)])
        await asyncio.sleep(0)
        observers.tell([event(2)])
        await observers.flush(10)
        observers.tell([event(3)])
        await observers.close(10)

        assert observer.told == [1, 2, 3]

    async def test_no_warning_is_logged_when_all_goes_well(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, logger="dagflow")
        observers = Observers([Sync(), Async()])
        observers.tell([event(1)])
        await observers.close(10)

        assert caplog.records == []
