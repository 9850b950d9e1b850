"""Stores with one fault each: the suite finds every one of them, by the test that is there for it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import pytest

from dagflow._events import RunStatus
from dagflow.errors import LeaseLostError
from dagflow.stores import MemoryStore
from dagflow.testing import ContextStoreSuite, FakeClock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from dagflow._events import Claim, Event, Message, RunQuery, RunRecord

pytest_plugins = ["pytester"]


class NoEpoch(MemoryStore):
    """Lets every claim of the owner's name write, old ones too."""

    async def append(self, events: Sequence[Event], *, claim: Claim, **facts: Any) -> None:
        row = self._rows.get(claim.run_id)
        await super().append(events, claim=attrs.evolve(claim, epoch=row.epoch) if row else claim, **facts)


class NoOwner(MemoryStore):
    """Looks at the epoch alone."""

    async def append(self, events: Sequence[Event], *, claim: Claim, **facts: Any) -> None:
        row = self._rows.get(claim.run_id)
        await super().append(events, claim=attrs.evolve(claim, owner=row.owner or "") if row else claim, **facts)


class LastWriteWins(MemoryStore):
    """Takes an append at any version in the place of what is there."""

    async def append(self, events: Sequence[Event], *, claim: Claim, version: int, **facts: Any) -> None:
        row = self._rows.get(claim.run_id)
        if row is not None and row.version > version:
            del row.events[version:]
            row.version = version
        await super().append(events, claim=claim, version=version, **facts)


class LosesTheSecondEvent(MemoryStore):
    """Keeps the first event of an append and counts all of them."""

    async def append(self, events: Sequence[Event], *, claim: Claim, version: int, **facts: Any) -> None:
        await super().append(events, claim=claim, version=version, **facts)
        del self._rows[claim.run_id].events[version + 1 :]


class HalfAnAppend(MemoryStore):
    """Keeps the events before it looks whether it may."""

    async def append(self, events: Sequence[Event], *, claim: Claim, version: int, **facts: Any) -> None:
        row = self._rows.get(claim.run_id)
        if row is not None:
            row.events.extend(events)
        await super().append(events, claim=claim, version=version, **facts)


class ReadsStale(MemoryStore):
    """Shows each run as it was when it was read first."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._seen: dict[str, Any] = {}

    async def read(self, run_id: str, *, after: int = 0) -> tuple[RunRecord, list[Event]]:
        record, events = self._seen.setdefault(run_id, await super().read(run_id))
        return record, events[after:]


class TornReads(MemoryStore):
    """Reads a record, and some time later its events."""

    async def read(self, run_id: str, *, after: int = 0) -> tuple[RunRecord, list[Event]]:
        record, _ = await super().read(run_id)
        await asyncio.sleep(0)
        return record, (await super().read(run_id, after=after))[1]

    async def append(self, *args: Any, **facts: Any) -> None:
        await super().append(*args, **facts)
        await asyncio.sleep(0)


class ReleasesBeforeItKeeps(MemoryStore):
    """Gives the claim up first, and then writes as nobody."""

    async def append(
        self, events: Sequence[Event], *, claim: Claim, version: int, release: bool = False, **facts: Any
    ) -> None:
        if release:
            await self.release([claim])
        await super().append(events, claim=claim, version=version, release=release, **facts)


class AcknowledgesBeforeItKeeps(MemoryStore):
    """Appends in the background."""

    async def append(self, *args: Any, **facts: Any) -> None:
        async def later() -> None:
            await asyncio.sleep(0)
            with contextlib.suppress(LeaseLostError, ValueError):
                await super(AcknowledgesBeforeItKeeps, self).append(*args, **facts)

        self._task = asyncio.create_task(later())


class LeasesThatNeverLapse(MemoryStore):
    """Refuses every claim of an owned run."""

    async def claim(self, run_id: str, *, owner: str, lease: float, dead_owner: str | None = None) -> RunRecord:
        row = self._rows.get(run_id)
        if row is not None and row.owner not in (None, owner, dead_owner):
            await self.renew([row.record.claim], lease=1000)
        return await super().claim(run_id, owner=owner, lease=lease, dead_owner=dead_owner)


class LeasesThatNeverHold(MemoryStore):
    """Lets anybody claim any run."""

    async def claim(self, run_id: str, *, owner: str, lease: float, dead_owner: str | None = None) -> RunRecord:
        row = self._rows.get(run_id)
        holder = row.owner if row else dead_owner
        return await super().claim(run_id, owner=owner, lease=lease, dead_owner=holder)


class TheEpochStays(MemoryStore):
    """Changes the owner and not the epoch."""

    async def claim(self, run_id: str, **facts: Any) -> RunRecord:
        await super().claim(run_id, **facts)
        self._rows[run_id].epoch = max(1, self._rows[run_id].epoch - 1)
        return self._rows[run_id].record


class RenewsWhatIsLost(MemoryStore):
    """Says that every claim was renewed."""

    async def renew(self, claims: Sequence[Claim], *, lease: float) -> list[Claim]:
        await super().renew(claims, lease=lease)
        return []


class ReleasesForOthers(MemoryStore):
    """Releases a run whoever has it."""

    async def release(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            if claim.run_id in self._rows:
                self._rows[claim.run_id].let_go()


class ForgetsMessages(MemoryStore):
    """Throws messages away when the journal has taken them in."""

    async def append(self, events: Sequence[Event], *, claim: Claim, received: int | None = None, **facts: Any) -> None:
        await super().append(events, claim=claim, received=received, **facts)
        if received is not None:
            del self._rows[claim.run_id].messages[:received]


class ForgetsKeys(MemoryStore):
    """Takes any number of messages with one key."""

    async def send(self, message: Message) -> Message:
        row = self._rows.get(message.run_id)
        if row is not None:
            row.keys.clear()
        return await super().send(message)


class MixesMessages(MemoryStore):
    """Hands out the newest message first."""

    async def receive(self, cursors: Mapping[str, int]) -> list[Message]:
        return (await super().receive(cursors))[::-1]


class OverwritesRuns(MemoryStore):
    """Lets a new run take the place of an old one."""

    async def create(self, run: RunRecord, events: Sequence[Event], **facts: Any) -> RunRecord:
        self._rows.pop(run.run_id, None)
        return await super().create(run, events, **facts)


class LeavesThingsBehind(MemoryStore):
    """Deletes runs and keeps their messages for the next one of that id."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._left: dict[str, list[Message]] = {}

    async def delete(self, run_id: str) -> None:
        messages = await self.receive({run_id: 0})
        await super().delete(run_id)
        self._left[run_id] = messages

    async def create(self, run: RunRecord, events: Sequence[Event], **facts: Any) -> RunRecord:
        record = await super().create(run, events, **facts)
        self._rows[run.run_id].messages.extend(self._left.pop(run.run_id, []))
        return record


class DeletesWhatIsOwned(MemoryStore):
    """Deletes runs under a living lease."""

    async def delete(self, run_id: str) -> None:
        if run_id in self._rows:
            self._rows[run_id].let_go()
        await super().delete(run_id)


class OffersEndedRuns(MemoryStore):
    """Lets a message wake a run that has ended."""

    async def find(self, query: RunQuery) -> list[RunRecord]:
        found = await super().find(query)
        if query.claimable:
            found += [row.record for row in self._rows.values() if len(row.messages) > row.received]
        return found


class RoundsTimes(MemoryStore):
    """Keeps times to the millisecond."""

    async def create(self, run: RunRecord, events: Sequence[Event], **facts: Any) -> RunRecord:
        return await super().create(run, [attrs.evolve(event, at=self._round(event.at)) for event in events], **facts)

    @staticmethod
    def _round(at: datetime) -> datetime:
        return at.replace(microsecond=at.microsecond // 1000 * 1000)


class FoldsCase(MemoryStore):
    """Takes ids that differ in case for one."""

    async def create(self, run: RunRecord, events: Sequence[Event], **facts: Any) -> RunRecord:
        if run.run_id.lower() in (known.lower() for known in self._rows):
            return self._rows[next(iter(self._rows))].record
        return await super().create(run, events, **facts)


class KeepsTheTimer(MemoryStore):
    """Never clears the time at which a run wants to be woken."""

    async def append(
        self, events: Sequence[Event], *, claim: Claim, wake_at: datetime | None = None, **facts: Any
    ) -> None:
        row = self._rows.get(claim.run_id)
        await super().append(events, claim=claim, wake_at=wake_at or (row.wake_at if row else None), **facts)


class ListsEverything(MemoryStore):
    """Does not know pages."""

    async def find(self, query: RunQuery) -> list[RunRecord]:
        return await super().find(attrs.evolve(query, limit=10**6))


class DropsCancelledWritesHalfway(MemoryStore):
    """Keeps events, lets others go on, and then moves the record."""

    async def append(
        self, events: Sequence[Event], *, claim: Claim, version: int, status: RunStatus, **facts: Any
    ) -> None:
        await super().append(events, claim=claim, version=version, status=status, **facts)
        row = self._rows[claim.run_id]
        row.status, after = RunStatus.RUNNING, status
        await asyncio.sleep(0)
        row.status = after


class SharesWhatItKeeps(MemoryStore):
    """Gives away the very events that it keeps."""

    async def read(self, run_id: str, *, after: int = 0) -> tuple[RunRecord, list[Event]]:
        record, _ = await super().read(run_id, after=after)
        return record, self._rows[run_id].events[after:]


BROKEN = {
    SharesWhatItKeeps: "test_data_that_was_given_or_read_may_be_changed_afterwards",
    NoEpoch: "test_an_owner_that_claimed_again_writes_with_its_new_epoch_only",
    NoOwner: "test_a_claim_that_is_not_the_present_one_writes_nothing",
    LastWriteWins: "test_a_writer_that_does_not_know_the_last_version_writes_nothing",
    LosesTheSecondEvent: "test_an_append_moves_the_record_with_its_events",
    HalfAnAppend: "test_a_refused_append_changes_nothing_at_all",
    ReadsStale: "test_what_has_been_kept_is_seen_by_the_next_read",
    TornReads: "test_a_read_shows_record_and_events_of_one_moment",
    ReleasesBeforeItKeeps: "test_an_append_may_give_the_claim_up",
    AcknowledgesBeforeItKeeps: "test_many_appends_make_one_journal_without_gaps",
    LeasesThatNeverLapse: "test_a_lease_that_has_lapsed_refuses_nobody",
    LeasesThatNeverHold: "test_a_living_lease_refuses_others",
    TheEpochStays: "test_the_epoch_rises_with_every_owner",
    RenewsWhatIsLost: "test_claims_that_are_lost_are_named_and_the_others_renewed",
    ReleasesForOthers: "test_a_claim_that_is_lost_already_releases_nothing",
    ForgetsMessages: "test_messages_stay_when_the_journal_has_taken_them_in",
    ForgetsKeys: "test_the_first_message_with_a_key_counts",
    MixesMessages: "test_messages_are_received_in_the_order_of_their_numbers",
    OverwritesRuns: "test_an_id_that_is_taken_is_refused",
    LeavesThingsBehind: "test_a_new_run_with_the_id_of_a_deleted_one_has_nothing_of_it",
    DeletesWhatIsOwned: "test_a_run_under_a_living_lease_is_not_deleted",
    OffersEndedRuns: "test_nothing_wakes_a_run_that_has_ended",
    RoundsTimes: "test_times_are_kept_to_the_microsecond",
    FoldsCase: "test_ids_that_look_alike_are_different_runs",
    KeepsTheTimer: "test_an_append_sets_the_wake_up_time_and_the_next_clears_it",
    ListsEverything: "test_a_list_is_no_longer_than_its_limit",
    DropsCancelledWritesHalfway: "test_an_append_that_is_cancelled_is_kept_or_not",
}


class Case(NamedTuple):
    """One call of a test of the suite."""

    name: str
    arguments: dict[str, Any]


def cases(name: str) -> list[Case]:
    """Return the calls that pytest makes of a test, one for each set of its parameters."""
    sets: list[dict[str, Any]] = [{}]
    for mark in getattr(getattr(ContextStoreSuite, name), "pytestmark", []):
        names = [mark.args[0]] if isinstance(mark.args[0], str) else list(mark.args[0])
        rows = [row if len(names) > 1 else [row] for row in mark.args[1]]
        sets = [{**one, **dict(zip(names, row, strict=True))} for one in sets for row in rows]
    return [Case(name, arguments) for arguments in sets]


def failed(kind: type[MemoryStore], case: Case) -> bool:
    """Return whether a store fails a test."""
    clock = FakeClock(auto=True)
    test = getattr(ContextStoreSuite(), case.name)
    wanted = inspect.signature(test).parameters

    async def call() -> None:
        async with kind(clock=clock) as store:
            fixtures = {"store": store, "other": store, "clock": clock}
            await test(**{name: value for name, value in fixtures.items() if name in wanted}, **case.arguments)

    try:
        asyncio.run(asyncio.wait_for(call(), timeout=20))
    except (Exception, pytest.fail.Exception):  # noqa: BLE001 - however it fails, it fails
        return True
    return False


@pytest.mark.parametrize("kind", BROKEN, ids=[kind.__name__ for kind in BROKEN])
def test_a_broken_store_fails_the_test_that_is_there_for_its_fault(kind: type[MemoryStore]) -> None:
    assert any(failed(kind, case) for case in cases(BROKEN[kind]))


@pytest.mark.parametrize("name", sorted(set(BROKEN.values())))
def test_a_store_without_faults_passes_the_same_tests(name: str) -> None:
    assert not any(failed(MemoryStore, case) for case in cases(name))


def test_a_suite_without_a_store_says_what_is_missing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from dagflow.testing import ContextStoreSuite

        class TestNothing(ContextStoreSuite):
            pass
        """
    )

    result = pytester.runpytest_subprocess("-o", "asyncio_mode=auto", "-k", "test_an_empty_store_lists_nothing")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TestNothing has to override the fixture 'store'*"])


def test_a_suite_of_one_s_own_shows_what_its_assertions_compared(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from dagflow.stores import MemoryStore
        from dagflow.testing import ContextStoreSuite

        class Forgetful(MemoryStore):
            async def read(self, run_id, *, after=0):
                record, events = await super().read(run_id, after=after)
                return record, events[1:]

        class TestForgetful(ContextStoreSuite):
            @pytest.fixture
            async def store(self, clock):
                async with Forgetful(clock=clock) as store:
                    yield store
        """
    )

    result = pytester.runpytest_subprocess("-o", "asyncio_mode=auto", "-k", "events_are_read_back or empty_store")

    result.assert_outcomes(passed=1, failed=1, deselected=None)
    result.stdout.fnmatch_lines(["*assert * == *"])
