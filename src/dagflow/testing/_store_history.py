"""A journal is complete, in order, and never changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagflow._events import RunStatus
from dagflow.testing._store_facts import START, claimed, event, kept, numbers, steps

if TYPE_CHECKING:
    from dagflow.protocols import ContextStore

__all__ = ["HistoryTests"]

RUNNING = RunStatus.RUNNING


class HistoryTests:
    """Journals that grow."""

    async def test_many_appends_make_one_journal_without_gaps(self, store: ContextStore) -> None:
        claim = await claimed(store)

        for version in range(1, 60, 2):
            await store.append(steps(version + 1, version + 2), claim=claim, version=version, status=RUNNING)
        read, events = await store.read("run")

        assert (read.version, events) == (61, steps(1, 61))

    async def test_ten_thousand_events_are_one_append(self, store: ContextStore) -> None:
        claim = await claimed(store)

        await store.append(steps(2, 10_001), claim=claim, version=1, status=RUNNING)
        read, events = await store.read("run")

        assert read.version == 10_001
        assert events == steps(1, 10_001)

    async def test_a_run_may_start_with_many_events(self, store: ContextStore) -> None:
        await kept(store, version=500)

        _, events = await store.read("run")

        assert events == steps(1, 500)

    @pytest.mark.parametrize(("after", "expected"), [(0, [1, 2, 3, 4]), (1, [2, 3, 4]), (3, [4]), (4, []), (9, [])])
    async def test_a_journal_is_read_from_any_version_on(
        self, store: ContextStore, after: int, expected: list[int]
    ) -> None:
        await kept(store, version=4)

        read, events = await store.read("run", after=after)

        assert (read.version, numbers(events)) == (4, expected)

    async def test_journals_of_different_runs_do_not_mix(self, store: ContextStore) -> None:
        first, second = await claimed(store, "first"), await claimed(store, "second")

        for version in range(1, 6):
            events = steps(version + 1, version + 1, run_id="first")
            await store.append(events, claim=first, version=version, status=RUNNING)
            events = steps(version + 1, version + 1, run_id="second")
            await store.append(events, claim=second, version=version, status=RunStatus.WAITING)

        for run_id, status in (("first", RUNNING), ("second", RunStatus.WAITING)):
            read, events = await store.read(run_id)
            assert (read.status, events) == (status, steps(1, 6, run_id=run_id))

    async def test_events_of_one_moment_stay_in_their_order(self, store: ContextStore) -> None:
        claim = await claimed(store)
        events = [event(number, node=f"node{-number}", at=START) for number in range(2, 30)]

        await store.append(events, claim=claim, version=1, status=RUNNING)
        _, read = await store.read("run", after=1)

        assert read == events

    async def test_events_whose_clock_was_set_back_stay_in_their_order(self, store: ContextStore) -> None:
        claim = await claimed(store)
        later, earlier = event(2, at=START.replace(year=2035)), event(3, at=START.replace(year=2025))

        await store.append([later], claim=claim, version=1, status=RUNNING)
        await store.append([earlier], claim=claim, version=2, status=RUNNING)
        run, read = await store.read("run", after=1)

        assert read == [later, earlier]
        assert run.updated_at == earlier.at

    async def test_old_events_are_the_same_however_long_the_journal_becomes(self, store: ContextStore) -> None:
        claim = await claimed(store)
        seen = [(await store.read("run"))[1]]

        for version in range(1, 10):
            await store.append(steps(version + 1, version + 1), claim=claim, version=version, status=RUNNING)
            seen.append((await store.read("run"))[1])

        assert [seen[-1][: len(events)] for events in seen] == seen

    async def test_a_run_that_has_ended_can_be_opened_again_by_its_owner(self, store: ContextStore) -> None:
        claim = await claimed(store)

        await store.append(steps(2, 2), claim=claim, version=1, status=RunStatus.FAILED)
        await store.append(steps(3, 3), claim=claim, version=2, status=RUNNING)
        read, events = await store.read("run")

        assert (read.status, numbers(events)) == (RUNNING, [1, 2, 3])
