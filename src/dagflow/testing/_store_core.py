"""What goes into a store comes out of it as it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from dagflow._events import EventKind, RunStatus
from dagflow.errors import RunExistsError, RunNotFoundError
from dagflow.testing._store_facts import LONG, START, claimed, event, kept, numbers, payload, record, steps

if TYPE_CHECKING:
    from dagflow.protocols import ContextStore

__all__ = ["CoreTests"]

RUNNING = RunStatus.RUNNING


class CoreTests:
    """Creating, appending and reading."""

    async def test_a_run_is_read_back_as_it_was_created(self, store: ContextStore) -> None:
        run = record(
            "run/child:1",
            2,
            workflow="reports",
            status=RunStatus.WAITING,
            parent="run",
            priority=7,
            wake_at=START + timedelta(days=1),
            received=3,
        )

        returned = await store.create(run, steps(1, 2, run_id="run/child:1"))
        read, _ = await store.read("run/child:1")

        assert returned == run
        assert read == run

    async def test_a_run_that_nobody_owns_has_no_lease(self, store: ContextStore) -> None:
        returned = await store.create(record(), [event(1)], lease=LONG)
        read, _ = await store.read("run")

        assert (returned.owner, returned.epoch, returned.lease_until) == (None, 0, None)
        assert read == returned

    async def test_a_run_may_be_owned_from_the_start(self, store: ContextStore) -> None:
        returned = await store.create(record(owner="ann", epoch=1), [event(1)], lease=LONG)
        read, _ = await store.read("run")

        assert (returned.owner, returned.epoch) == ("ann", 1)
        assert returned.lease_until is not None
        assert read == returned

    async def test_events_are_read_back_as_they_were_given(self, store: ContextStore) -> None:
        events = [
            event(1, EventKind.RUN_CREATED, node=None, data={"graph": {"a": []}}, payload=payload(b'{"x": 1}')),
            event(2, EventKind.NODE_RETRY, node="load", data={"error": "boom", "due": 1.5}),
            attrs.evolve(event(3, EventKind.NODE_COMPLETED, payload=payload()), attempt=4),
        ]

        await store.create(record(version=3), events)
        _, read = await store.read("run")

        assert read == events

    @pytest.mark.parametrize("kind", list(EventKind))
    async def test_events_of_every_kind_are_kept(self, store: ContextStore, kind: EventKind) -> None:
        await store.create(record(), [event(1, kind)])

        _, [read] = await store.read("run")

        assert read.kind is kind

    @pytest.mark.parametrize("status", list(RunStatus))
    async def test_runs_of_every_status_are_kept(self, store: ContextStore, status: RunStatus) -> None:
        claim = await claimed(store)

        await store.append(steps(2, 2), claim=claim, version=1, status=status)
        read, _ = await store.read("run")

        assert read.status is status

    async def test_an_id_that_is_taken_is_refused(self, store: ContextStore) -> None:
        await kept(store, workflow="first")

        with pytest.raises(RunExistsError) as refusal:
            await kept(store, version=2, workflow="second")
        read, events = await store.read("run")

        assert refusal.value.run_id == "run"
        assert (read.workflow, numbers(events)) == ("first", [1])

    async def test_an_append_moves_the_record_with_its_events(self, store: ContextStore) -> None:
        claim = await claimed(store)

        await store.append(steps(2, 4), claim=claim, version=1, status=RunStatus.WAITING)
        read, events = await store.read("run")

        assert (read.version, read.status, read.updated_at) == (4, RunStatus.WAITING, events[-1].at)
        assert events == steps(1, 4)

    async def test_an_append_leaves_the_rest_of_the_record(self, store: ContextStore) -> None:
        run = record(workflow="reports", parent="up", priority=3, owner="ann", epoch=1, received=2)
        created = await store.create(run, [event(1)], lease=LONG)

        await store.append(steps(2, 2), claim=created.claim, version=1, status=RUNNING)
        read, _ = await store.read("run")

        assert read == attrs.evolve(created, version=2, status=RUNNING, updated_at=steps(2, 2)[0].at)

    @pytest.mark.parametrize("status", [RunStatus.WAITING, RUNNING])
    async def test_an_append_sets_the_wake_up_time_and_the_next_clears_it(
        self, store: ContextStore, status: RunStatus
    ) -> None:
        claim = await claimed(store)
        wake_at = START + timedelta(hours=1, microseconds=1)

        seen = []
        for version, at in enumerate((None, wake_at, wake_at + timedelta(hours=1), None), start=1):
            event = steps(version + 1, version + 1)
            await store.append(event, claim=claim, version=version, status=status if at else RUNNING, wake_at=at)
            seen.append((await store.read("run"))[0].wake_at)

        assert seen == [None, wake_at, wake_at + timedelta(hours=1), None]

    async def test_a_new_owner_clears_the_wake_up_time(self, store: ContextStore) -> None:
        run = record(status=RUNNING, owner="ann", epoch=1, wake_at=START)
        created = await store.create(run, [event(1)], lease=LONG)

        await store.append(steps(2, 2), claim=created.claim, version=1, status=RUNNING)
        cleared, _ = await store.read("run")
        await store.append(steps(3, 3), claim=created.claim, version=2, status=RUNNING, wake_at=START)
        claim = (await store.claim("run", owner="bob", lease=LONG, dead_owner="ann")).claim
        taken, _ = await store.read("run")
        await store.append(steps(4, 4), claim=claim, version=3, status=RUNNING)
        cleared_again, _ = await store.read("run")

        assert [kept.wake_at for kept in (created, cleared, taken, cleared_again)] == [START, None, START, None]

    async def test_an_append_counts_the_messages_that_it_takes_in(self, store: ContextStore) -> None:
        claim = await claimed(store)

        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING, received=5)
        await store.append(steps(3, 3), claim=claim, version=2, status=RUNNING)
        read, _ = await store.read("run")

        assert read.received == 5

    async def test_an_append_may_give_the_claim_up(self, store: ContextStore) -> None:
        claim = await claimed(store)

        await store.append(steps(2, 2), claim=claim, version=1, status=RunStatus.WAITING, release=True)
        read, events = await store.read("run")

        assert (read.owner, read.lease_until, read.epoch) == (None, None, 1)
        assert numbers(events) == [1, 2]

    async def test_an_append_of_no_events_is_a_mistake(self, store: ContextStore) -> None:
        claim = await claimed(store)

        with pytest.raises(ValueError, match="version 1"):
            await store.append([], claim=claim, version=1, status=RUNNING)

    async def test_events_with_a_gap_are_a_mistake(self, store: ContextStore) -> None:
        claim = await claimed(store)

        with pytest.raises(ValueError, match="gaps"):
            await store.append(steps(3, 3), claim=claim, version=1, status=RUNNING)
        read, events = await store.read("run")

        assert (read.version, numbers(events)) == (1, [1])

    async def test_a_run_whose_version_is_not_that_of_its_last_event_is_a_mistake(self, store: ContextStore) -> None:
        with pytest.raises(ValueError, match="gaps"):
            await store.create(record(version=3), steps(1, 2))

        with pytest.raises(RunNotFoundError):
            await store.read("run")

    async def test_reading_a_run_that_does_not_exist_is_refused(self, store: ContextStore) -> None:
        with pytest.raises(RunNotFoundError) as refusal:
            await store.read("nobody")

        assert refusal.value.run_id == "nobody"

    async def test_times_are_kept_to_the_microsecond(self, store: ContextStore) -> None:
        at = datetime(2031, 2, 3, 4, 5, 6, 999999, tzinfo=UTC)

        await store.create(record(created_at=at, updated_at=at), [event(1, at=at)])
        read, [kept_event] = await store.read("run")

        assert (read.created_at, read.updated_at, kept_event.at) == (at, at, at)

    async def test_times_of_other_zones_are_read_back_as_the_same_moment_in_utc(self, store: ContextStore) -> None:
        at = datetime(2031, 2, 3, 4, 5, 6, 7, tzinfo=timezone(timedelta(hours=5, minutes=30)))

        await store.create(record(created_at=at, updated_at=at), [event(1, at=at)])
        _, [read] = await store.read("run")

        assert read.at == at
        assert read.at.utcoffset() in (timedelta(0), at.utcoffset())

    async def test_what_was_read_does_not_change_when_the_run_goes_on(self, store: ContextStore) -> None:
        claim = await claimed(store)
        before, events = await store.read("run")
        copy = (attrs.evolve(before), list(events))

        await store.append(steps(2, 3), claim=claim, version=1, status=RUNNING)

        assert (before, events) == copy

    async def test_what_was_given_may_be_changed_afterwards(self, store: ContextStore) -> None:
        events = steps(1, 2)

        await store.create(record(version=2), events)
        events.clear()
        _, read = await store.read("run")

        assert read == steps(1, 2)

    async def test_data_that_was_given_or_read_may_be_changed_afterwards(self, store: ContextStore) -> None:
        claim = await claimed(store)
        data: dict[str, Any] = {"names": ["a"], "more": {"x": 1}}
        await store.append([event(2, data=data)], claim=claim, version=1, status=RUNNING)

        for _ in range(2):
            data["names"].append("b")
            data.pop("more")
            _, [read] = await store.read("run", after=1)
            assert read.data == {"names": ["a"], "more": {"x": 1}}
            data = dict(read.data)

    async def test_a_store_that_is_opened_twice_is_closed_by_the_second_close(self, store: ContextStore) -> None:
        await store.open()

        await store.close()
        await kept(store)
        read, _ = await store.read("run")

        assert read.run_id == "run"

    async def test_a_store_that_was_closed_can_be_opened_again(self, store: ContextStore) -> None:
        await kept(store)

        await store.close()
        await store.close()
        await store.open()
        read, events = await store.read("run")

        assert (read.version, numbers(events)) == (1, [1])
