"""Leases: an owner keeps what it drives, starts nothing while that is uncertain, and lets go of what it has lost."""

from __future__ import annotations

import asyncio
import logging
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor, Node, Workflow
from dagflow.errors import StoreUnavailableError
from dagflow.stores import MemoryStore
from executors import Calls, Held, until

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from dagflow._events import Claim, Event

LEASE = 0.15


class Watched(MemoryStore):
    """Notes renewals, and refuses them, or does not answer, when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.renewals = 0
        self.together = 0
        self.error: Exception | None = None
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def renew(self, claims: Sequence[Claim], *, lease: float) -> list[Claim]:
        self.asked.set()
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        self.renewals += 1
        self.together = len(claims)
        return await super().renew(claims, lease=lease)

    async def renewed(self, times: int) -> None:
        """Return after this many further renewals."""
        wanted = self.renewals + times
        while self.renewals < wanted:
            self.asked.clear()
            await self.asked.wait()


async def test_an_owner_that_works_longer_than_its_lease_keeps_the_run() -> None:
    store, held = Watched(), Held("a")
    workflow = Workflow("w", [Node("a", held)])
    async with DAGExecutor(store, lease=LEASE) as executor, DAGExecutor(store, workflows=[workflow]) as other:
        handle = await executor.start(workflow, run_id="r")
        await store.renewed(6)
        assert await other.recover() == []
        held.gate.set()

        assert (await handle.result()).outputs == {"a": "a"}
    assert held.calls == 1


async def test_all_runs_of_an_owner_are_renewed_together() -> None:
    store, held = Watched(), Held("a")
    workflow = Workflow("w", [Node("a", held)])
    async with DAGExecutor(store, lease=LEASE) as executor:
        handles = [await executor.start(workflow, run_id=f"r{number}") for number in range(3)]
        await store.renewed(2)

        assert store.together == 3
        held.gate.set()
        await asyncio.gather(*(handle.result() for handle in handles))


async def test_two_thirds_of_a_lease_after_its_last_renewal_nothing_new_starts() -> None:
    store, held = MemoryStore(), Held("a")
    async with DAGExecutor(store, lease=30.0) as executor:
        handle = await executor.start(Workflow("w", [Node("a", held)]), run_id="r")
        await held.started.wait()
        leases, driver = executor._engine.leases, executor._engine.active["r"].driver

        leases._freeze(leases._renewed_at + 19.9)
        before = driver._wishes.frozen
        leases._freeze(leases._renewed_at + 20.1)

        assert (before, driver._wishes.frozen) == (False, True)
        leases._freeze(leases._renewed_at)
        held.gate.set()
        await handle.result()


async def test_calls_that_block_the_loop_do_not_come_between_a_lease_and_its_renewal() -> None:
    store, renewals = Watched(), []

    async def block() -> None:
        renewals.append(store.renewals)
        time.sleep(LEASE / 2)  # noqa: ASYNC251 - as code does that does not know better

    nodes = [Node(f"n{number}", block, depends_on=[f"n{number - 1}"] if number else []) for number in range(5)]
    async with DAGExecutor(store, lease=LEASE) as executor:
        await executor.run(Workflow("w", nodes))

    assert all(before < after for before, after in pairwise(renewals)), renewals


class Ending(MemoryStore):
    """Acknowledges the end of a run only when its lease could not be renewed any more."""

    def __init__(self) -> None:
        super().__init__()
        self.is_over = False
        self.was_asked = asyncio.Event()

    async def append(self, events: Sequence[Event], *, release: bool = False, **facts: Any) -> None:
        await super().append(events, release=release, **facts)
        if release:
            self.is_over = True
            await self.was_asked.wait()

    async def renew(self, claims: Sequence[Claim], *, lease: float) -> list[Claim]:
        if not self.is_over:
            return await super().renew(claims, lease=lease)
        self.was_asked.set()
        return list(claims)


async def test_a_renewal_that_comes_after_the_end_of_a_run_does_not_lose_it() -> None:
    errors: list[BaseException | None] = []
    follower = SimpleNamespace(follow=lambda *_: None, leave=lambda _, error: errors.append(error))
    async with DAGExecutor(Ending(), lease=LEASE) as executor:
        executor.follow(follower)

        run = await executor.run(Workflow("w", [Node("a", Calls().of("a"))]))

    assert run.status == "completed"
    assert errors == [None]


async def test_an_executor_without_runs_renews_nothing() -> None:
    store = Watched()
    async with DAGExecutor(store, lease=0.01):
        await asyncio.sleep(0.03)

    assert store.renewals == 0


async def test_an_owner_that_hears_that_its_lease_is_lost_stops_at_once() -> None:
    store, held = Watched(), Held("a")
    workflow = Workflow("w", [Node("a", held)])
    async with DAGExecutor(store, lease=LEASE, grace=0.1) as executor:
        waiter = asyncio.create_task(executor.run(workflow, run_id="r"))
        await held.started.wait()
        record, _ = await store.read("r")
        await store.claim("r", owner="other", lease=30.0, dead_owner=record.owner)
        before = (await store.read("r"))[0].version
        await until(lambda: not any(task.get_name() == "dagflow-run-r" for task in asyncio.all_tasks()))

        assert not waiter.done()
        assert (await store.read("r"))[0].version == before
        held.gate.set()
        await store.release([(await store.read("r"))[0].claim])
        assert (await asyncio.wait_for(waiter, 10)).outputs == {"a": "a"}


async def test_while_leases_cannot_be_renewed_nothing_new_starts(caplog: pytest.LogCaptureFixture) -> None:
    store, held, calls = Watched(), Held(), Calls()
    workflow = Workflow("w", [Node("a", held), Node("b", calls.of("b"), ["a"])])
    async with DAGExecutor(store, lease=LEASE) as executor:
        handle = await executor.start(workflow, run_id="r")
        await store.renewed(1)
        store.error = StoreUnavailableError("no route", "the store")
        driver: Any = executor._engine.active["r"].driver
        await until(lambda: driver._wishes.frozen)
        assert "the leases of the runs could not be renewed" in caplog.text
        held.gate.set()
        await until(lambda: driver.state.by_name["a"].status == "completed")
        await asyncio.sleep(0.01)
        assert calls == {}

        store.error = None

        assert (await asyncio.wait_for(handle.result(), 10)).status == "completed"
    assert calls == {"b": 1}


async def test_while_the_store_does_not_answer_nothing_new_starts(caplog: pytest.LogCaptureFixture) -> None:
    store, held, calls = Watched(), Held(), Calls()
    workflow = Workflow("w", [Node("a", held), Node("b", calls.of("b"), ["a"])])
    async with DAGExecutor(store, lease=LEASE) as executor:
        handle = await executor.start(workflow, run_id="r")
        await store.renewed(1)
        store.answers.clear()
        driver: Any = executor._engine.active["r"].driver
        await until(lambda: driver._wishes.frozen)
        held.gate.set()
        await until(lambda: driver.state.by_name["a"].status == "completed")
        await until(lambda: "TimeoutError" in caplog.text)
        assert calls == {}

        store.answers.set()

        assert (await asyncio.wait_for(handle.result(), 10)).status == "completed"
    assert calls == {"b": 1}


async def test_an_error_that_is_the_stores_own_is_no_reason_to_stop_renewing(caplog: pytest.LogCaptureFixture) -> None:
    store, held = Watched(), Held("a")
    async with DAGExecutor(store, lease=LEASE) as executor:
        handle = await executor.start(Workflow("w", [Node("a", held)]), run_id="r")
        await store.renewed(1)
        store.error = ZeroDivisionError("of a plug-in")
        await until(lambda: "the leases of the runs could not be renewed" in caplog.text)
        store.error = None

        await store.renewed(2)

        held.gate.set()
        assert (await handle.result()).status == "completed"


async def test_an_application_whose_log_raises_keeps_its_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    def fail(entry: logging.LogRecord) -> bool:
        lines.append(entry.getMessage())
        raise ZeroDivisionError

    monkeypatch.setattr(logging.getLogger("dagflow"), "filters", [fail])
    store, held = Watched(), Held("a")
    async with DAGExecutor(store, lease=LEASE) as executor:
        handle = await executor.start(Workflow("w", [Node("a", held)]), run_id="r")
        await store.renewed(1)
        store.error = StoreUnavailableError("no route", "the store")
        await until(lambda: bool(lines))
        store.error = None

        await store.renewed(2)

        held.gate.set()
        assert (await handle.result()).status == "completed"
    assert set(lines) == {"the leases of the runs could not be renewed"}


async def test_a_server_that_winds_down_starts_nothing_new_however_long_that_takes() -> None:
    store, held, calls = Watched(), Held("a"), Calls()
    workflow = Workflow("w", [Node("a", held), Node("b", calls.of("b"), ["a"])])
    async with DAGExecutor(store, workflows=[workflow], lease=LEASE, grace=30.0) as executor:
        await executor.submit(workflow, run_id="r")
        serving = asyncio.create_task(executor.serve(poll=0.01))
        await held.started.wait()
        serving.cancel()
        await store.renewed(3)
        held.gate.set()
        await asyncio.wait([serving])

        run = await executor.get("r")
        assert (run.status, run.nodes["a"].status, calls) == ("running", "completed", {})
