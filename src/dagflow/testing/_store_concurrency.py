"""Many callers at once: one of them wins, the others are told, and nothing is lost or mixed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from dagflow._events import RunQuery, RunStatus
from dagflow.errors import LeaseLostError, MessageExistsError, RunExistsError, RunNotFoundError, RunOwnedError
from dagflow.testing._store_facts import LONG, claimed, kept, message, numbers, record, steps

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from dagflow._events import Claim
    from dagflow.protocols import ContextStore

__all__ = ["CancellationTests", "ConcurrencyTests"]

RUNNING = RunStatus.RUNNING


async def outcomes(*calls: Coroutine[Any, Any, Any]) -> tuple[list[Any], list[BaseException]]:
    """Return the results and the errors of calls that are made at once."""
    answers = await asyncio.gather(*calls, return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    return [answer for answer in answers if not isinstance(answer, BaseException)], errors


async def grow(store: ContextStore, claim: Claim, count: int) -> None:
    """Append so often to a run that has one event."""
    for version in range(1, 2 * count, 2):
        events = steps(version + 1, version + 2, run_id=claim.run_id)
        await store.append(events, claim=claim, version=version, status=RUNNING)


class ConcurrencyTests:
    """Races; ``other`` is a second way to the same runs, or the store itself."""

    async def test_one_of_many_that_create_the_same_run_wins(self, store: ContextStore, other: ContextStore) -> None:
        calls = [kept(one, workflow=f"workflow{number}") for number in range(6) for one in (store, other)]

        results, errors = await outcomes(*calls)
        read, events = await store.read("run")

        assert [run.workflow for run in results] == [read.workflow]
        assert {type(error) for error in errors} == {RunExistsError}
        assert numbers(events) == [1]

    async def test_one_of_many_that_claim_the_same_run_wins(self, store: ContextStore, other: ContextStore) -> None:
        await kept(store)
        owners = [f"owner{number}" for number in range(12)]
        calls = [
            one.claim("run", owner=owner, lease=LONG) for owner, one in zip(owners, [store, other] * 6, strict=True)
        ]

        results, errors = await outcomes(*calls)
        read, _ = await store.read("run")

        assert [run.owner for run in results] == [read.owner]
        assert {type(error) for error in errors} == {RunOwnedError}
        assert read.epoch == 1

    async def test_one_of_many_that_append_the_same_version_wins(
        self, store: ContextStore, other: ContextStore
    ) -> None:
        claim = await claimed(store)
        calls = [
            one.append(steps(2, 2 + number), claim=claim, version=1, status=RUNNING)
            for number in range(6)
            for one in (store, other)
        ]

        results, errors = await outcomes(*calls)
        read, events = await store.read("run")

        assert len(results) == 1
        assert {type(error) for error in errors} == {LeaseLostError}
        assert events == steps(1, read.version)

    async def test_of_a_new_owner_and_an_old_one_only_the_new_one_writes_afterwards(
        self, store: ContextStore, other: ContextStore
    ) -> None:
        old = await claimed(store, owner="ann")

        _, errors = await outcomes(
            grow(store, old, 8), other.claim("run", owner="bob", lease=LONG, dead_owner="ann"), grow(other, old, 8)
        )
        read, events = await store.read("run")
        with pytest.raises(LeaseLostError):
            await store.append(
                steps(read.version + 1, read.version + 1), claim=old, version=read.version, status=RUNNING
            )

        assert {type(error) for error in errors} <= {LeaseLostError}
        assert (read.owner, events) == ("bob", steps(1, read.version))

    async def test_appends_of_many_runs_at_once_are_all_kept(self, store: ContextStore, other: ContextStore) -> None:
        claims = [await claimed(store, f"run{number}") for number in range(20)]

        await asyncio.gather(*(grow(one, claim, 5) for one, claim in zip([store, other] * 10, claims, strict=True)))

        for claim in claims:
            read, events = await store.read(claim.run_id)
            assert (read.version, events) == (11, steps(1, 11, run_id=claim.run_id))

    async def test_a_refused_write_does_not_harm_those_beside_it(self, store: ContextStore) -> None:
        claims = [await claimed(store, f"run{number}") for number in range(10)]
        good = [
            store.append(steps(2, 2, run_id=claim.run_id), claim=claim, version=1, status=RUNNING) for claim in claims
        ]
        bad = [
            store.append(steps(9, 9), claim=claims[0], version=8, status=RUNNING),
            kept(store, "run1"),
            store.claim("run2", owner="bob", lease=LONG),
            store.claim("nobody", owner="bob", lease=LONG),
            store.send(message("nobody")),
            store.delete("run3"),
        ]

        _, errors = await outcomes(*(call for pair in zip(good, bad, strict=False) for call in pair), *good[len(bad) :])

        assert len(errors) == len(bad)
        for claim in claims:
            read, events = await store.read(claim.run_id)
            assert (read.version, numbers(events)) == (2, [1, 2])

    async def test_a_read_shows_record_and_events_of_one_moment(self, store: ContextStore, other: ContextStore) -> None:
        claim = await claimed(store)
        growing = asyncio.create_task(grow(store, claim, 40))

        while not growing.done():
            for one in (store, other):
                read, events = await one.read("run")
                assert numbers(events) == list(range(1, read.version + 1))
                assert read.updated_at == events[-1].at
            # A store in memory answers without letting others go on.
            await asyncio.sleep(0)
        await growing

    async def test_what_has_been_kept_is_seen_by_the_next_read(self, store: ContextStore, other: ContextStore) -> None:
        claim = await claimed(store)

        for version in range(1, 15):
            await store.append(steps(version + 1, version + 1), claim=claim, version=version, status=RUNNING)
            seen = [(await one.read("run"))[0].version for one in (store, other)]
            assert seen == [version + 1, version + 1]

    async def test_messages_that_are_sent_at_once_are_numbered_without_gaps(
        self, store: ContextStore, other: ContextStore
    ) -> None:
        await kept(store)

        sent, errors = await outcomes(*(one.send(message()) for _ in range(10) for one in (store, other)))
        received = await store.receive({"run": 0})

        assert errors == []
        assert sorted(one.number for one in sent) == list(range(1, 21))
        assert [one.number for one in received] == list(range(1, 21))

    async def test_one_of_many_messages_with_the_same_key_counts(
        self, store: ContextStore, other: ContextStore
    ) -> None:
        await kept(store)
        calls = [one.send(message(name=f"n{number}", key="k")) for number in range(6) for one in (store, other)]

        results, errors = await outcomes(*calls)

        assert {type(error) for error in errors} == {MessageExistsError}
        assert await store.receive({"run": 0}) == results
        assert [one.number for one in results] == [1]

    async def test_a_run_that_is_deleted_while_others_use_it_is_gone_for_all(
        self, store: ContextStore, other: ContextStore
    ) -> None:
        await kept(store)
        calls = [store.send(message()), other.delete("run"), store.read("run"), other.send(message())]

        _, errors = await outcomes(*calls)

        assert {type(error) for error in errors} <= {RunNotFoundError}
        assert await store.find(RunQuery()) == []
        assert await store.receive({"run": 0}) == []

    async def test_renewals_and_appends_do_not_hinder_each_other(self, store: ContextStore) -> None:
        claims = [await claimed(store, f"run{number}") for number in range(8)]

        lost = await asyncio.gather(
            *(grow(store, claim, 4) for claim in claims), *(store.renew(claims, lease=LONG) for _ in range(4))
        )

        assert lost[len(claims) :] == [[], [], [], []]
        assert [(await store.read(claim.run_id))[0].version for claim in claims] == [9] * 8


class CancellationTests:
    """A caller that is cancelled leaves the store usable and its write kept or not, never half."""

    @pytest.mark.parametrize("turns", range(6))
    async def test_an_append_that_is_cancelled_is_kept_or_not(self, store: ContextStore, turns: int) -> None:
        claim = await claimed(store)
        task = asyncio.create_task(store.append(steps(2, 40), claim=claim, version=1, status=RunStatus.WAITING))

        await self.cancel_after(task, turns)
        read, events = await store.read("run")
        await store.append(steps(read.version + 1, read.version + 1), claim=claim, version=read.version, status=RUNNING)

        assert (read.version, read.status) in ((1, RUNNING), (40, RunStatus.WAITING))
        assert events == steps(1, read.version)

    @pytest.mark.parametrize("turns", range(6))
    async def test_an_append_that_is_cancelled_changes_nothing_afterwards(
        self, store: ContextStore, turns: int
    ) -> None:
        claim = await claimed(store)
        task = asyncio.create_task(store.append(steps(2, 2), claim=claim, version=1, status=RUNNING))

        await self.cancel_after(task, turns)
        at_once = await store.read("run")
        await kept(store, "another")
        later = await store.read("run")

        assert later == at_once

    @pytest.mark.parametrize("turns", range(4))
    async def test_a_creation_that_is_cancelled_is_kept_or_not(self, store: ContextStore, turns: int) -> None:
        task = asyncio.create_task(store.create(record(version=9), steps(1, 9)))

        await self.cancel_after(task, turns)
        found = await store.find(RunQuery())
        complete = [numbers((await store.read(run.run_id))[1]) for run in found]

        assert complete in ([], [list(range(1, 10))])

    async def test_an_append_that_is_cancelled_again_and_again_is_kept_or_not(self, store: ContextStore) -> None:
        claim = await claimed(store)
        task = asyncio.create_task(store.append(steps(2, 9), claim=claim, version=1, status=RUNNING))
        await asyncio.sleep(0)

        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        read, events = await store.read("run")

        assert read.version in (1, 9)
        assert events == steps(1, read.version)

    async def test_one_that_is_cancelled_does_not_stop_those_beside_it(self, store: ContextStore) -> None:
        claims = [await claimed(store, f"run{number}") for number in range(10)]
        tasks = [asyncio.create_task(grow(store, claim, 5)) for claim in claims]
        await asyncio.sleep(0)

        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        versions = [(await store.read(claim.run_id))[0].version for claim in claims]

        assert versions[1::2] == [11] * 5
        assert set(versions[::2]) <= {1, 3, 5, 7, 9, 11}

    async def test_a_read_that_is_cancelled_leaves_the_store_usable(self, store: ContextStore) -> None:
        await kept(store, version=500)

        for turns in range(5):
            task = asyncio.create_task(store.read("run"))
            await self.cancel_after(task, turns)
        read, events = await store.read("run")

        assert (read.version, len(events)) == (500, 500)

    @staticmethod
    async def cancel_after(task: asyncio.Task[Any], turns: int) -> None:
        """Cancel a task after so many turns of the loop, and wait until it has ended."""
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
