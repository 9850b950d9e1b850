"""The clock that tests move by hand."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from dagflow.clock import SYSTEM_CLOCK
from dagflow.protocols import Clock
from dagflow.testing import FakeClock


async def test_a_fake_clock_stands_still_until_it_is_moved() -> None:
    clock = FakeClock()
    before = clock.now()

    await asyncio.sleep(0)
    still = clock.now()
    clock.advance(1.5)

    assert (still, clock.now()) == (before, before + timedelta(seconds=1.5))


async def test_a_sleeper_wakes_when_its_time_has_come_and_not_before() -> None:
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(10))
    await clock.asleep()

    clock.advance(9.9)
    await asyncio.sleep(0.01)
    early = sleeper.done()
    clock.advance(0.1)
    await sleeper

    assert not early
    assert clock.sleepers == 0


async def test_sleepers_wake_in_the_order_of_their_times() -> None:
    clock, woken = FakeClock(), []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    tasks = [asyncio.create_task(sleep(seconds)) for seconds in (3, 1, 2)]
    await clock.asleep(3)
    clock.advance(5)
    await asyncio.gather(*tasks)

    assert woken == [1, 2, 3]
    assert clock.slept == [3, 1, 2]


async def test_a_cancelled_sleeper_no_longer_counts() -> None:
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(10))
    await clock.asleep()

    sleeper.cancel()
    await asyncio.gather(sleeper, return_exceptions=True)
    clock.advance(10)
    await asyncio.sleep(0)

    assert sleeper.cancelled()
    assert clock.sleepers == 0


def test_a_thread_may_move_the_clock_of_a_loop_that_sleeps() -> None:
    clock = FakeClock()
    thread = threading.Thread(target=lambda: asyncio.run(clock.sleep(60)))
    thread.start()

    asyncio.run(clock.asleep())
    clock.advance(60)
    thread.join(timeout=10)

    assert not thread.is_alive()


def test_a_loop_that_was_closed_in_its_sleep_does_not_stop_the_clock() -> None:
    clock = FakeClock()
    loop = asyncio.new_event_loop()
    coroutine = clock.sleep(1)
    loop.call_soon(coroutine.send, None)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    clock.advance(1)
    coroutine.close()

    assert clock.sleepers == 0


async def test_a_sleep_of_no_time_returns_at_once() -> None:
    clock = FakeClock()

    await clock.sleep(0)
    await clock.sleep(-1)

    assert clock.slept == [0, -1]


async def test_an_automatic_clock_moves_itself_to_the_end_of_each_sleep() -> None:
    clock = FakeClock(auto=True)
    start = clock.now()

    await clock.sleep(30)
    await clock.sleep(12)

    assert clock.now() == start + timedelta(seconds=42)


async def test_an_automatic_clock_wakes_the_earliest_of_several_sleepers_first() -> None:
    clock, woken = FakeClock(auto=True), []
    start = clock.now()

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append((seconds, (clock.now() - start).total_seconds()))

    await asyncio.gather(sleep(10), sleep(1), sleep(5))

    assert [seconds for seconds, _ in woken] == [1, 5, 10]
    assert clock.now() == start + timedelta(seconds=10)


async def test_an_automatic_clock_passes_over_sleepers_that_were_cancelled() -> None:
    clock = FakeClock(auto=True)
    start = clock.now()
    cancelled = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    cancelled.cancel()

    await asyncio.gather(cancelled, clock.sleep(5), return_exceptions=True)
    alone = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    alone.cancel()
    await asyncio.gather(alone, return_exceptions=True)
    await asyncio.sleep(0)

    assert clock.now() == start + timedelta(seconds=5)


def test_a_clock_may_be_set_back() -> None:
    clock = FakeClock(datetime(2030, 6, 1, tzinfo=UTC))

    clock.advance(-3600)

    assert clock.now() == datetime(2030, 5, 31, 23, tzinfo=UTC)


def test_a_fake_clock_refuses_to_start_at_a_naive_time() -> None:
    with pytest.raises(ValueError, match="aware"):
        FakeClock(datetime(2030, 1, 1))  # noqa: DTZ001 - that is the point


async def test_the_clock_of_the_machine_goes_forward_in_utc() -> None:
    before = SYSTEM_CLOCK.now()

    await SYSTEM_CLOCK.sleep(0.001)

    assert before.tzinfo is UTC
    assert SYSTEM_CLOCK.now() > before
    assert isinstance(SYSTEM_CLOCK, Clock)
    assert isinstance(FakeClock(), Clock)
