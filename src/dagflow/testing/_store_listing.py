"""Lists say which runs there are, and which ones wait to be driven."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from dagflow._events import RunQuery, RunStatus
from dagflow.errors import RunNotFoundError
from dagflow.testing._store_facts import LONG, SHORT, START, claimed, kept, message, steps

if TYPE_CHECKING:
    from dagflow.protocols import Clock, ContextStore

__all__ = ["ClaimableTests", "ListingTests"]

ENDED = [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED]


async def ids(store: ContextStore, **query: Any) -> list[str]:
    """Return the ids that a query finds."""
    return [run.run_id for run in await store.find(RunQuery(**query))]


async def several(store: ContextStore, count: int, **facts: Any) -> list[str]:
    """Create runs that are one second apart and return their ids, the newest first."""
    for number in range(count):
        await kept(store, f"run{number:03}", created_at=START + timedelta(seconds=number), **facts)
    return [f"run{number:03}" for number in reversed(range(count))]


class ListingTests:
    """What `find` finds."""

    async def test_an_empty_store_lists_nothing(self, store: ContextStore) -> None:
        assert await store.find(RunQuery()) == []

    async def test_the_newest_runs_come_first(self, store: ContextStore) -> None:
        expected = await several(store, 12)

        assert await ids(store) == expected

    async def test_a_list_holds_the_records_as_they_are_now(self, store: ContextStore) -> None:
        claim = await claimed(store)
        await store.append(steps(2, 3), claim=claim, version=1, status=RunStatus.WAITING, wake_at=START, received=1)

        [listed] = await store.find(RunQuery())
        read, _ = await store.read("run")

        assert listed == read

    async def test_runs_are_listed_by_workflow(self, store: ContextStore) -> None:
        for run_id, workflow in (("a", "etl"), ("b", "report"), ("c", "etl"), ("d", "etl2")):
            await kept(store, run_id, workflow=workflow)

        assert sorted(await ids(store, workflow="etl")) == ["a", "c"]
        assert await ids(store, workflow="et") == []

    async def test_runs_are_listed_by_status(self, store: ContextStore) -> None:
        for status in RunStatus:
            await kept(store, status.value, status=status)

        assert await ids(store, statuses=frozenset({RunStatus.FAILED})) == ["failed"]
        assert sorted(await ids(store, statuses=frozenset({RunStatus.RUNNING, RunStatus.PAUSED}))) == [
            "paused",
            "running",
        ]

    async def test_runs_are_listed_by_the_status_that_they_have_now(self, store: ContextStore) -> None:
        claim = await claimed(store)
        await store.append(steps(2, 2), claim=claim, version=1, status=RunStatus.COMPLETED)

        assert await ids(store, statuses=frozenset({RunStatus.COMPLETED})) == ["run"]
        assert await ids(store, statuses=frozenset({RunStatus.RUNNING})) == []

    async def test_runs_are_listed_by_parent(self, store: ContextStore) -> None:
        await kept(store, "up")
        for run_id in ("up/a", "up/b"):
            await kept(store, run_id, parent="up")
        await kept(store, "up2/a", parent="up2")

        assert sorted(await ids(store, parent="up")) == ["up/a", "up/b"]

    async def test_a_run_has_to_fit_all_that_is_asked(self, store: ContextStore) -> None:
        for number, (workflow, status, parent) in enumerate(
            [
                ("etl", RunStatus.FAILED, "up"),
                ("etl", RunStatus.FAILED, None),
                ("etl", RunStatus.RUNNING, "up"),
                ("report", RunStatus.FAILED, "up"),
            ]
        ):
            await kept(store, f"run{number}", workflow=workflow, status=status, parent=parent)
        failed = frozenset({RunStatus.FAILED})

        assert await ids(store, workflow="etl", statuses=failed, parent="up") == ["run0"]
        assert sorted(await ids(store, statuses=failed, parent="up")) == ["run0", "run3"]
        assert sorted(await ids(store, workflow="etl", parent="up")) == ["run0", "run2"]

    @pytest.mark.parametrize("limit", [1, 3, 5, 50])
    async def test_a_list_is_no_longer_than_its_limit(self, store: ContextStore, limit: int) -> None:
        expected = await several(store, 5)

        assert await ids(store, limit=limit) == expected[:limit]

    async def test_pages_show_every_run_once(self, store: ContextStore) -> None:
        expected = await several(store, 11)

        pages, after = [], None
        while page := await ids(store, limit=4, after=after):
            pages.append(page)
            after = page[-1]

        assert pages == [expected[:4], expected[4:8], expected[8:]]

    async def test_pages_go_on_behind_a_run_that_does_not_fit_itself(self, store: ContextStore) -> None:
        for number, workflow in enumerate(["etl", "report", "etl", "report", "etl"]):
            at = START + timedelta(seconds=number)
            await kept(store, f"run{number}", workflow=workflow, created_at=at)

        assert await ids(store, workflow="etl", after="run3") == ["run2", "run0"]

    async def test_pages_stay_as_they_are_when_new_runs_come(self, store: ContextStore) -> None:
        expected = await several(store, 6)
        first = await ids(store, limit=3)
        await kept(store, "new", created_at=START + timedelta(days=1))

        second = await ids(store, limit=3, after=first[-1])

        assert first + second == expected

    async def test_nothing_comes_after_the_last_run(self, store: ContextStore) -> None:
        expected = await several(store, 3)

        assert await ids(store, after=expected[-1]) == []

    async def test_nothing_can_come_after_a_run_that_does_not_exist(self, store: ContextStore) -> None:
        await several(store, 3)

        with pytest.raises(RunNotFoundError):
            await store.find(RunQuery(after="nobody"))


class ClaimableTests:
    """What `find` offers to an executor that has time."""

    @pytest.mark.parametrize("status", [RunStatus.PENDING, RunStatus.RUNNING])
    async def test_runs_that_nobody_drives_are_offered(self, store: ContextStore, status: RunStatus) -> None:
        await kept(store, status=status)

        assert await ids(store, claimable=True) == ["run"]

    @pytest.mark.parametrize("status", [RunStatus.WAITING, RunStatus.PAUSED, *ENDED])
    async def test_runs_that_wait_or_have_ended_are_not_offered(self, store: ContextStore, status: RunStatus) -> None:
        await kept(store, status=status)

        assert await ids(store, claimable=True) == []

    async def test_a_run_under_a_living_lease_is_not_offered(self, store: ContextStore) -> None:
        await claimed(store)

        assert await ids(store, claimable=True) == []

    async def test_a_run_whose_lease_has_lapsed_is_offered(self, store: ContextStore, clock: Clock) -> None:
        await claimed(store, lease=SHORT)
        await clock.sleep(2 * SHORT)

        assert await ids(store, claimable=True) == ["run"]

    async def test_a_run_that_was_released_is_offered_at_once(self, store: ContextStore) -> None:
        await store.release([await claimed(store)])

        assert await ids(store, claimable=True) == ["run"]

    async def test_a_waiting_run_is_offered_when_its_timer_is_due(self, store: ContextStore, clock: Clock) -> None:
        now = clock.now()
        await kept(store, "due", status=RunStatus.WAITING, wake_at=now - timedelta(seconds=5))
        await kept(store, "later", status=RunStatus.WAITING, wake_at=now + timedelta(hours=1))

        assert await ids(store, claimable=True) == ["due"]

    async def test_a_waiting_run_is_offered_when_a_message_waits(self, store: ContextStore) -> None:
        await kept(store, "called", status=RunStatus.WAITING)
        await kept(store, "silent", status=RunStatus.WAITING)
        await store.send(message("called"))

        assert await ids(store, claimable=True) == ["called"]

    async def test_a_paused_run_is_offered_when_a_message_waits(self, store: ContextStore) -> None:
        await kept(store, status=RunStatus.PAUSED)
        await store.send(message())

        assert await ids(store, claimable=True) == ["run"]

    async def test_a_message_that_the_journal_has_taken_in_wakes_nobody(self, store: ContextStore) -> None:
        claim = await claimed(store)
        await store.send(message())
        await store.append(steps(2, 2), claim=claim, version=1, status=RunStatus.WAITING, received=1, release=True)
        taken_in = await ids(store, claimable=True)

        await store.send(message())

        assert (taken_in, await ids(store, claimable=True)) == ([], ["run"])

    @pytest.mark.parametrize("status", ENDED)
    async def test_nothing_wakes_a_run_that_has_ended(
        self, store: ContextStore, clock: Clock, status: RunStatus
    ) -> None:
        await kept(store, status=status, wake_at=clock.now() - timedelta(seconds=5))
        await store.send(message())

        assert await ids(store, claimable=True) == []

    @pytest.mark.parametrize("status", ENDED)
    async def test_a_run_that_comes_to_its_end_is_no_longer_offered(
        self, store: ContextStore, status: RunStatus
    ) -> None:
        claim = await claimed(store)
        await store.append(steps(2, 2), claim=claim, version=1, status=status, release=True)

        assert await ids(store, claimable=True) == []

    async def test_a_run_that_was_opened_again_is_offered_again(self, store: ContextStore) -> None:
        claim = await claimed(store)
        await store.append(steps(2, 2), claim=claim, version=1, status=RunStatus.FAILED)
        await store.append(steps(3, 3), claim=claim, version=2, status=RunStatus.RUNNING)
        await store.append(steps(4, 4), claim=claim, version=3, status=RunStatus.RUNNING)

        await store.release([claim])

        assert await ids(store, claimable=True) == ["run"]

    async def test_an_ended_run_that_is_claimed_and_goes_on_is_offered_when_its_owner_dies(
        self, store: ContextStore, clock: Clock
    ) -> None:
        await kept(store, status=RunStatus.FAILED)
        claim = (await store.claim("run", owner="ann", lease=SHORT)).claim
        await store.append(steps(2, 2), claim=claim, version=1, status=RunStatus.RUNNING)
        await clock.sleep(2 * SHORT)

        assert await ids(store, claimable=True) == ["run"]

    async def test_the_highest_priority_comes_first_and_then_the_oldest_run(self, store: ContextStore) -> None:
        for number, priority in enumerate([0, 5, -1, 5, 0]):
            at = START + timedelta(seconds=number)
            await kept(store, f"run{number}", priority=priority, created_at=at)

        assert await ids(store, claimable=True) == ["run1", "run3", "run0", "run4", "run2"]
        assert await ids(store, claimable=True, limit=3) == ["run1", "run3", "run0"]

    async def test_an_offer_can_be_narrowed(self, store: ContextStore) -> None:
        await kept(store, "a", workflow="etl", status=RunStatus.RUNNING)
        await kept(store, "b", workflow="etl", status=RunStatus.PENDING, parent="up")
        await kept(store, "c", workflow="report")

        assert await ids(store, claimable=True, workflow="etl", statuses=frozenset({RunStatus.PENDING})) == ["b"]
        assert await ids(store, claimable=True, parent="up") == ["b"]

    async def test_what_is_offered_can_be_claimed(self, store: ContextStore) -> None:
        await several(store, 3)

        for run_id in await ids(store, claimable=True):
            await store.claim(run_id, owner="ann", lease=LONG)

        assert await ids(store, claimable=True) == []
