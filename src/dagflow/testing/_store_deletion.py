"""A run that was deleted is gone, and whoever gets its id next finds nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagflow._events import RunQuery, RunStatus
from dagflow.errors import LeaseLostError, RunNotFoundError, RunOwnedError
from dagflow.testing._store_facts import LONG, SHORT, claimed, kept, message, numbers, steps

if TYPE_CHECKING:
    from dagflow.protocols import Clock, ContextStore

__all__ = ["DeletionTests"]

RUNNING = RunStatus.RUNNING


class DeletionTests:
    """Forgetting runs."""

    async def test_a_deleted_run_is_gone(self, store: ContextStore) -> None:
        await kept(store, version=3)
        await store.send(message())

        await store.delete("run")

        assert await store.find(RunQuery()) == []
        assert await store.receive({"run": 0}) == []
        with pytest.raises(RunNotFoundError):
            await store.read("run")
        with pytest.raises(RunNotFoundError):
            await store.claim("run", owner="ann", lease=LONG)
        with pytest.raises(RunNotFoundError):
            await store.send(message())

    async def test_a_run_that_does_not_exist_cannot_be_deleted(self, store: ContextStore) -> None:
        with pytest.raises(RunNotFoundError):
            await store.delete("nobody")

    async def test_a_run_is_deleted_once(self, store: ContextStore) -> None:
        await kept(store)
        await store.delete("run")

        with pytest.raises(RunNotFoundError):
            await store.delete("run")

    async def test_a_run_under_a_living_lease_is_not_deleted(self, store: ContextStore) -> None:
        await claimed(store, owner="ann")
        before = await store.read("run")

        with pytest.raises(RunOwnedError) as refusal:
            await store.delete("run")

        assert refusal.value.owner == "ann"
        assert await store.read("run") == before

    async def test_a_run_whose_lease_has_lapsed_is_deleted(self, store: ContextStore, clock: Clock) -> None:
        await claimed(store, lease=SHORT)
        await clock.sleep(2 * SHORT)

        await store.delete("run")

        with pytest.raises(RunNotFoundError):
            await store.read("run")

    async def test_a_run_that_was_released_is_deleted(self, store: ContextStore) -> None:
        await store.release([await claimed(store)])

        await store.delete("run")

        with pytest.raises(RunNotFoundError):
            await store.read("run")

    async def test_a_new_run_with_the_id_of_a_deleted_one_has_nothing_of_it(self, store: ContextStore) -> None:
        claim = await claimed(store)
        await store.append(steps(2, 9), claim=claim, version=1, status=RunStatus.FAILED, release=True)
        await store.send(message(key="review"))
        await store.delete("run")

        new = await kept(store, version=2, workflow="other")
        read, events = await store.read("run")
        sent = await store.send(message(key="review"))

        assert read == new
        assert (read.workflow, read.epoch, read.received, events) == ("other", 0, 0, steps(1, 2))
        assert (sent.number, await store.receive({"run": 0})) == (1, [sent])

    async def test_other_runs_are_not_touched(self, store: ContextStore) -> None:
        await kept(store, "run")
        await kept(store, "run/child", version=3, parent="run")
        await kept(store, "run2", version=2)
        sent = await store.send(message("run2"))

        await store.delete("run")
        child, events = await store.read("run/child")

        assert (child.parent, numbers(events)) == ("run", [1, 2, 3])
        assert numbers((await store.read("run2"))[1]) == [1, 2]
        assert await store.receive({"run2": 0}) == [sent]

    async def test_a_late_append_does_not_bring_a_deleted_run_back(self, store: ContextStore, clock: Clock) -> None:
        claim = await claimed(store, lease=SHORT)
        await clock.sleep(2 * SHORT)
        await store.delete("run")

        with pytest.raises(LeaseLostError):
            await store.append(steps(2, 2), claim=claim, version=1, status=RUNNING)
        with pytest.raises(RunNotFoundError):
            await store.read("run")

    async def test_the_owner_of_a_deleted_run_does_not_write_to_its_successor(
        self, store: ContextStore, clock: Clock
    ) -> None:
        old = await claimed(store, owner="ann", lease=SHORT)
        await clock.sleep(2 * SHORT)
        await store.delete("run")
        await claimed(store, owner="bob")

        with pytest.raises(LeaseLostError):
            await store.append(steps(2, 2), claim=old, version=1, status=RUNNING)
        read, events = await store.read("run")

        assert (read.owner, numbers(events)) == ("bob", [1])

    async def test_claims_of_a_deleted_run_are_lost(self, store: ContextStore, clock: Clock) -> None:
        claim = await claimed(store, lease=SHORT)
        await clock.sleep(2 * SHORT)
        await store.delete("run")

        await store.release([claim])

        assert await store.renew([claim], lease=LONG) == [claim]

    async def test_a_run_with_a_long_journal_is_deleted(self, store: ContextStore) -> None:
        await kept(store, version=3000)

        await store.delete("run")
        await kept(store)
        _, events = await store.read("run")

        assert numbers(events) == [1]
