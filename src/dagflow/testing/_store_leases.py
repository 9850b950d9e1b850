"""One owner at a time, and the writes of earlier ones are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from dagflow._events import Claim, RunStatus
from dagflow.errors import LeaseLostError, RunNotFoundError, RunOwnedError
from dagflow.testing._store_facts import LONG, SHORT, START, claimed, event, kept, numbers, steps

if TYPE_CHECKING:
    from dagflow.protocols import Clock, ContextStore

__all__ = ["ClaimTests", "FencingTests", "RenewalTests"]

RUNNING = RunStatus.RUNNING


class ClaimTests:
    """Taking runs over."""

    async def test_a_claim_makes_an_owner_and_raises_the_epoch(self, store: ContextStore) -> None:
        before = await kept(store)

        returned = await store.claim("run", owner="ann", lease=LONG)
        read, _ = await store.read("run")

        assert read == returned
        assert returned.lease_until is not None
        assert returned == attrs.evolve(before, owner="ann", epoch=1, lease_until=returned.lease_until)

    async def test_a_longer_lease_lapses_later(self, store: ContextStore) -> None:
        await kept(store, "short")
        await kept(store, "long")

        short = await store.claim("short", owner="ann", lease=10)
        long = await store.claim("long", owner="ann", lease=LONG)

        assert short.lease_until is not None
        assert long.lease_until is not None
        assert (long.lease_until - short.lease_until).total_seconds() > LONG / 2

    async def test_a_living_lease_refuses_others(self, store: ContextStore) -> None:
        await claimed(store, owner="ann")
        before, _ = await store.read("run")

        with pytest.raises(RunOwnedError) as refusal:
            await store.claim("run", owner="bob", lease=LONG)
        after, _ = await store.read("run")

        assert (refusal.value.run_id, refusal.value.owner) == ("run", "ann")
        assert refusal.value.lease_until == before.lease_until
        assert after == before

    async def test_a_lease_that_has_lapsed_refuses_nobody(self, store: ContextStore, clock: Clock) -> None:
        await claimed(store, owner="ann", lease=SHORT)
        await clock.sleep(2 * SHORT)

        record = await store.claim("run", owner="bob", lease=LONG)

        assert (record.owner, record.epoch) == ("bob", 2)

    async def test_a_lease_lapses_for_a_run_that_was_claimed_later(self, store: ContextStore, clock: Clock) -> None:
        await kept(store)
        await store.claim("run", owner="ann", lease=SHORT)
        await clock.sleep(2 * SHORT)

        record = await store.claim("run", owner="bob", lease=LONG)

        assert (record.owner, record.epoch) == ("bob", 2)

    async def test_the_lease_of_an_owner_that_is_known_to_be_dead_does_not_count(self, store: ContextStore) -> None:
        await claimed(store, owner="ann")

        record = await store.claim("run", owner="bob", lease=LONG, dead_owner="ann")

        assert (record.owner, record.epoch) == ("bob", 2)

    async def test_the_death_of_somebody_else_does_not_matter(self, store: ContextStore) -> None:
        await claimed(store, owner="ann")

        with pytest.raises(RunOwnedError):
            await store.claim("run", owner="bob", lease=LONG, dead_owner="cy")

    async def test_an_owner_may_claim_its_run_again(self, store: ContextStore) -> None:
        await claimed(store, owner="ann")

        record = await store.claim("run", owner="ann", lease=LONG)

        assert (record.owner, record.epoch) == ("ann", 2)

    async def test_a_run_that_does_not_exist_cannot_be_claimed(self, store: ContextStore) -> None:
        with pytest.raises(RunNotFoundError):
            await store.claim("nobody", owner="ann", lease=LONG)

    @pytest.mark.parametrize("status", list(RunStatus))
    async def test_a_run_of_any_status_can_be_claimed(self, store: ContextStore, status: RunStatus) -> None:
        await kept(store, status=status)

        record = await store.claim("run", owner="ann", lease=LONG)

        assert (record.owner, record.status) == ("ann", status)

    async def test_the_epoch_rises_with_every_owner(self, store: ContextStore) -> None:
        await kept(store)
        epochs = []

        for owner in ("ann", "bob", "ann", "cy"):
            record = await store.claim("run", owner=owner, lease=LONG)
            await store.release([record.claim])
            epochs.append(record.epoch)

        assert epochs == [1, 2, 3, 4]


class FencingTests:
    """Refusing what does not come from the owner."""

    async def test_the_owner_appends_as_often_as_it_likes(self, store: ContextStore) -> None:
        await kept(store)
        claim = (await store.claim("run", owner="ann", lease=LONG)).claim

        for version in range(1, 4):
            await store.append(steps(version + 1, version + 1), claim=claim, version=version, status=RUNNING)
        _, events = await store.read("run")

        assert numbers(events) == [1, 2, 3, 4]

    async def test_an_owner_that_was_taken_over_writes_nothing(self, store: ContextStore) -> None:
        old = await claimed(store, owner="ann")
        await store.claim("run", owner="bob", lease=LONG, dead_owner="ann")
        before = await store.read("run")

        with pytest.raises(LeaseLostError) as refusal:
            await store.append(steps(2, 2), claim=old, version=1, status=RunStatus.COMPLETED)
        after = await store.read("run")

        assert (refusal.value.run_id, refusal.value.epoch) == ("run", old.epoch)
        assert after == before

    async def test_an_owner_that_claimed_again_writes_with_its_new_epoch_only(self, store: ContextStore) -> None:
        old = await claimed(store, owner="ann")
        new = (await store.claim("run", owner="ann", lease=LONG)).claim

        with pytest.raises(LeaseLostError):
            await store.append(steps(2, 2), claim=old, version=1, status=RUNNING)
        await store.append(steps(2, 2), claim=new, version=1, status=RUNNING)
        _, events = await store.read("run")

        assert numbers(events) == [1, 2]

    @pytest.mark.parametrize(
        "claim", [Claim("run", "bob", 1), Claim("run", "ann", 2), Claim("run", "ann", 0), Claim("run", "", 1)]
    )
    async def test_a_claim_that_is_not_the_present_one_writes_nothing(self, store: ContextStore, claim: Claim) -> None:
        await claimed(store, owner="ann")
        before = await store.read("run")

        with pytest.raises(LeaseLostError):
            await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)

        assert await store.read("run") == before

    @pytest.mark.parametrize("claim", [Claim("run", "ann", 0), Claim("run", "ann", 1), Claim("run", "", 0)])
    async def test_nobody_writes_to_a_run_that_nobody_owns(self, store: ContextStore, claim: Claim) -> None:
        await kept(store)

        with pytest.raises(LeaseLostError):
            await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)

    async def test_nobody_writes_to_a_run_that_does_not_exist(self, store: ContextStore) -> None:
        with pytest.raises(LeaseLostError):
            await store.append(steps(2, 2), claim=Claim("nobody", "ann", 1), version=1, status=RUNNING)

    @pytest.mark.parametrize("version", [1, 2, 4])
    async def test_a_writer_that_does_not_know_the_last_version_writes_nothing(
        self, store: ContextStore, version: int
    ) -> None:
        claim = await claimed(store)
        await store.append(steps(2, 3), claim=claim, version=1, status=RUNNING)
        before = await store.read("run")

        with pytest.raises(LeaseLostError):
            await store.append([event(version + 1)], claim=claim, version=version, status=RUNNING)

        assert await store.read("run") == before

    async def test_a_refused_append_changes_nothing_at_all(self, store: ContextStore) -> None:
        claim = await claimed(store)
        stale = attrs.evolve(claim, epoch=0)
        before = await store.read("run")

        with pytest.raises(LeaseLostError):
            await store.append(
                steps(2, 900), claim=stale, version=1, status=RunStatus.FAILED, wake_at=START, received=9, release=True
            )

        assert await store.read("run") == before

    async def test_the_same_events_are_kept_once(self, store: ContextStore) -> None:
        claim = await claimed(store)
        await store.append(steps(2, 3), claim=claim, version=1, status=RUNNING)

        with pytest.raises(LeaseLostError):
            await store.append(steps(2, 3), claim=claim, version=1, status=RUNNING)
        _, events = await store.read("run")

        assert numbers(events) == [1, 2, 3]

    async def test_an_owner_whose_lease_lapsed_may_write_until_it_is_taken_over(
        self, store: ContextStore, clock: Clock
    ) -> None:
        claim = await claimed(store, owner="ann", lease=SHORT)
        await clock.sleep(2 * SHORT)

        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)
        await store.claim("run", owner="bob", lease=LONG)
        with pytest.raises(LeaseLostError):
            await store.append(steps(3, 3), claim=claim, version=2, status=RUNNING)
        _, events = await store.read("run")

        assert numbers(events) == [1, 2]

    async def test_an_owner_that_gave_its_claim_up_writes_nothing_more(self, store: ContextStore) -> None:
        claim = await claimed(store)
        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING, release=True)

        with pytest.raises(LeaseLostError):
            await store.append(steps(3, 3), claim=claim, version=2, status=RUNNING)
        await store.claim("run", owner="ann", lease=LONG)
        with pytest.raises(LeaseLostError):
            await store.append(steps(3, 3), claim=claim, version=2, status=RUNNING)

    async def test_a_claim_that_was_given_up_is_free_at_once(self, store: ContextStore) -> None:
        claim = await claimed(store, owner="ann")

        await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING, release=True)
        record = await store.claim("run", owner="bob", lease=LONG)
        await store.append(steps(3, 3), claim=record.claim, version=2, status=RUNNING)
        read, events = await store.read("run")

        assert (read.owner, read.epoch, numbers(events)) == ("bob", 2, [1, 2, 3])


class RenewalTests:
    """Keeping claims, and giving them up."""

    async def test_a_renewed_lease_lapses_later(self, store: ContextStore) -> None:
        claim = await claimed(store, lease=10)
        before, _ = await store.read("run")

        lost = await store.renew([claim], lease=LONG)
        after, _ = await store.read("run")

        assert lost == []
        assert before.lease_until is not None
        assert after.lease_until is not None
        assert (after.lease_until - before.lease_until).total_seconds() > LONG / 2
        assert attrs.evolve(after, lease_until=before.lease_until) == before

    async def test_a_renewed_lease_keeps_others_away(self, store: ContextStore, clock: Clock) -> None:
        claim = await claimed(store, lease=SHORT)

        await store.renew([claim], lease=LONG)
        await clock.sleep(2 * SHORT)

        with pytest.raises(RunOwnedError):
            await store.claim("run", owner="bob", lease=LONG)

    async def test_a_lease_that_lapsed_is_renewed_while_nobody_has_claimed_the_run(
        self, store: ContextStore, clock: Clock
    ) -> None:
        claim = await claimed(store, owner="ann", lease=SHORT)
        await clock.sleep(2 * SHORT)

        lost = await store.renew([claim], lease=LONG)

        assert lost == []
        with pytest.raises(RunOwnedError):
            await store.claim("run", owner="bob", lease=LONG)

    async def test_claims_that_are_lost_are_named_and_the_others_renewed(self, store: ContextStore) -> None:
        mine, taken, given = [await claimed(store, run_id, lease=10) for run_id in ("mine", "taken", "given")]
        await store.claim("taken", owner="bob", lease=LONG, dead_owner="ann")
        await store.release([given])
        gone = Claim("nobody", "ann", 1)
        before = {run_id: (await store.read(run_id))[0] for run_id in ("mine", "taken", "given")}

        lost = await store.renew([taken, mine, gone, given], lease=LONG)
        after = {run_id: (await store.read(run_id))[0] for run_id in ("mine", "taken", "given")}

        assert {claim.run_id for claim in lost} == {"taken", "nobody", "given"}
        assert all(claim in (taken, gone, given) for claim in lost)
        assert (after["taken"], after["given"]) == (before["taken"], before["given"])
        assert after["mine"].lease_until != before["mine"].lease_until

    async def test_an_old_claim_of_the_present_owner_is_lost(self, store: ContextStore) -> None:
        old = await claimed(store, owner="ann")
        new = (await store.claim("run", owner="ann", lease=LONG)).claim

        assert await store.renew([old, new], lease=LONG) == [old]

    async def test_many_claims_are_renewed_at_once(self, store: ContextStore) -> None:
        claims = [await claimed(store, f"run{number}", lease=10) for number in range(50)]

        lost = await store.renew(claims, lease=LONG)

        assert lost == []

    async def test_no_claims_are_renewed(self, store: ContextStore) -> None:
        assert await store.renew([], lease=LONG) == []

    async def test_a_released_run_is_free(self, store: ContextStore) -> None:
        claim = await claimed(store, owner="ann")

        await store.release([claim])
        released, _ = await store.read("run")
        taken = await store.claim("run", owner="bob", lease=LONG)

        assert (released.owner, released.lease_until, released.epoch) == (None, None, 1)
        assert (taken.owner, taken.epoch) == ("bob", 2)

    async def test_a_claim_that_is_lost_already_releases_nothing(self, store: ContextStore) -> None:
        old = await claimed(store, owner="ann")
        await store.claim("run", owner="bob", lease=LONG, dead_owner="ann")
        before, _ = await store.read("run")

        await store.release([old, Claim("nobody", "ann", 1)])
        after, _ = await store.read("run")

        assert after == before

    async def test_claims_are_released_together(self, store: ContextStore) -> None:
        claims = [await claimed(store, f"run{number}") for number in range(5)]

        await store.release(claims[:3])
        owners = [(await store.read(claim.run_id))[0].owner for claim in claims]

        assert owners == [None, None, None, "ann", "ann"]

    async def test_no_claims_are_released(self, store: ContextStore) -> None:
        await claimed(store)

        await store.release([])
        read, _ = await store.read("run")

        assert read.owner == "ann"
