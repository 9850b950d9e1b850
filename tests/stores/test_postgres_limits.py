"""Time limits of which one timer looks after all."""

from __future__ import annotations

import asyncio

import pytest

from dagflow.stores._postgres_limits import Limit, Watch


@pytest.fixture
def watch() -> Watch:
    return Watch()


def limit(watch: Watch, seconds: float) -> Limit:
    return Limit(watch, asyncio.get_running_loop().time() + seconds)


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_what_takes_too_long_is_ended(watch: Watch) -> None:
    with pytest.raises(TimeoutError), limit(watch, 0.01):
        await for_ever()

    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_each_limit_is_looked_after_for_as_long_as_there_is_one(watch: Watch) -> None:
    async def limited(seconds: float) -> float:
        with pytest.raises(TimeoutError), limit(watch, seconds):
            await for_ever()
        return seconds

    ended = [await task for task in asyncio.as_completed([limited(0.6), limited(0.01)])]

    assert ended == [0.01, 0.6]


async def test_what_ends_in_time_is_left_alone(watch: Watch) -> None:
    task = asyncio.current_task()
    with limit(watch, 60):
        await asyncio.sleep(0)

    assert task is not None
    assert not task.cancelling()
    assert not watch.limits


async def test_a_limit_that_was_lifted_ends_nothing(watch: Watch) -> None:
    async def work() -> None:
        with limit(watch, 0.6), limit(watch, 0.01) as lifted:
            lifted.lift()
            await for_ever()

    begun = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await work()
    assert asyncio.get_running_loop().time() - begun >= 0.6


async def test_an_error_of_the_work_is_not_taken_for_the_end_of_its_time(watch: Watch) -> None:
    async def work() -> None:
        with limit(watch, 0.01):
            try:
                await for_ever()
            except asyncio.CancelledError:
                raise ValueError("no") from None

    with pytest.raises(ValueError, match="no"):
        await work()


async def test_somebody_else_who_cancels_is_not_passed_over(watch: Watch) -> None:
    async def work() -> None:
        with limit(watch, 60) as running:
            task.cancel()
            running.expire()
            await for_ever()

    task = asyncio.create_task(work())

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_limit_is_for_a_task(watch: Watch) -> None:
    caught: list[BaseException] = []

    def enter() -> None:
        try:
            with limit(watch, 1):
                pass
        except RuntimeError as exc:
            caught.append(exc)

    asyncio.get_running_loop().call_soon(enter)
    await asyncio.sleep(0)

    assert [str(exc) for exc in caught] == ["a limit is for a task"]


def test_it_can_be_used_on_one_loop_after_another(watch: Watch) -> None:
    async def work() -> None:
        with pytest.raises(TimeoutError), limit(watch, 0.01):
            await for_ever()
        with limit(watch, 60):
            pass
        watch.close()

    asyncio.run(work())
    asyncio.run(work())


def test_what_a_dead_loop_has_left_harms_no_other(watch: Watch) -> None:
    dead = asyncio.new_event_loop()

    async def forget() -> None:
        with limit(watch, 0.01):
            await for_ever()

    forgotten = dead.create_task(forget())
    dead.call_soon(dead.stop)
    dead.run_forever()
    dead.close()
    watch.close()

    async def work() -> None:
        # Later than the first look, which must not stumble over the other one.
        with pytest.raises(TimeoutError), limit(watch, 0.6):
            await for_ever()

    asyncio.run(work())
    # It is destroyed while it is pending, and says so to the handler of its loop.
    dead.set_exception_handler(lambda *_: None)
    del forgotten
