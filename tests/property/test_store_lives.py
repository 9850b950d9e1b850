"""Two stores on one file answer as one store in memory does, whatever owners, old and new, ask of them in any order."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from dagflow._events import RunRecord, RunStatus
from dagflow.errors import StoreError
from dagflow.stores import MemoryStore, SQLiteStore
from dagflow.testing import FakeClock
from dagflow.testing._store_facts import LONG, START, record, steps

if TYPE_CHECKING:
    from dagflow._events import Claim
    from dagflow.protocols import ContextStore

RUNS = ["a", "b", "c"]
OWNERS = [None, "ann", "bob"]
LEASES = [0, 5, LONG]
STATUSES = [*[RunStatus.RUNNING] * 5, RunStatus.WAITING, RunStatus.PAUSED, RunStatus.COMPLETED]
ACTIONS = ["create", "claim", "claim", *["append"] * 6, "group", "renew", "release", "delete", "wait"]
STEPS = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.sampled_from([0, 0, 0, 1]), st.integers(0, 2**24)), min_size=4, max_size=40
)


@attrs.define
class Lives:
    """A few runs in memory and on a file, and the claims that were given out on them."""

    memory: ContextStore
    files: list[ContextStore]
    clock: FakeClock
    claims: list[Claim] = attrs.field(factory=list)
    versions: dict[str, int] = attrs.field(factory=dict)

    async def step(self, action: str, place: int, chance: int) -> None:
        """Ask both sides for the same, and compare what they answer and what they have then."""
        file = self.files[place]
        if action == "wait":
            self.clock.advance((1, 40)[chance % 2])
            return
        calls = self.calls(action, chance)
        # Those of one group are of different runs, so that none has to come before another.
        answers = await asyncio.gather(*(answer(file, *call) for call in calls))
        assert answers == [await answer(self.memory, *call) for call in calls]
        self.claims += [record.claim for record in answers if isinstance(record, RunRecord) and record.owner]
        for run_id in RUNS:
            kept = await answer(self.memory, "read", (run_id,), {})
            assert [await answer(store, "read", (run_id,), {}) for store in self.files] == [kept, kept]
            self.versions[run_id] = kept[0].version if isinstance(kept, tuple) else 1

    def calls(self, action: str, chance: int) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
        run_id, chance = pick(RUNS, chance)
        if action == "create":
            owner, chance = pick(OWNERS, chance)
            status = RunStatus.RUNNING if owner else RunStatus.PENDING
            run = record(run_id, status=status, owner=owner, epoch=1 if owner else 0)
            return [("create", (run, steps(1, 1, run_id=run_id)), {"lease": LEASES[chance % 3]})]
        if action == "claim":
            owner, chance = pick(OWNERS[1:], chance)
            dead, chance = pick(OWNERS, chance)
            return [("claim", (run_id,), {"owner": owner, "lease": LEASES[chance % 3], "dead_owner": dead})]
        if action == "delete" or not self.claims:
            return [("delete", (run_id,), {})]
        claim, chance = pick(self.claims[-4:], chance)
        if action == "append":
            return [self.append(claim, chance)]
        if action == "group":
            last = {claim.run_id: claim for claim in self.claims}
            return [self.append(claim, chance) for claim in last.values()]
        return [(action, ([claim],), {"lease": LEASES[chance % 3]} if action == "renew" else {})]

    def append(self, claim: Claim, chance: int) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        shift, chance = pick([0, 0, 0, 0, 0, 0, -1, 1], chance)
        version = max(1, self.versions.get(claim.run_id, 1) + shift)
        status, chance = pick(STATUSES, chance)
        wake_at, chance = pick([None, None, None, START], chance)
        received, chance = pick([None, 0, 0, 1], chance)
        facts = {"version": version, "status": status, "wake_at": wake_at, "received": received}
        events = steps(version + 1, version + 1 + chance % 2, run_id=claim.run_id)
        return "append", (events,), {"claim": claim, **facts, "release": chance % 6 == 5}


def pick(values: list[Any], chance: int) -> tuple[Any, int]:
    """Return one of the values, and what is left of chance."""
    return values[chance % len(values)], chance // len(values)


async def answer(store: ContextStore, name: str, place: tuple[Any, ...], facts: dict[str, Any]) -> Any:
    """Return what a store answers, the type of an error for an error."""
    try:
        return await getattr(store, name)(*place, **facts)
    except StoreError as exc:
        return type(exc)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_two_stores_on_a_file_answer_as_one_in_memory(life: list[tuple[str, int, int]]) -> None:
    async def live() -> None:
        clock = FakeClock()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "runs.db"
            async with (
                SQLiteStore(path, clock=clock) as one,
                SQLiteStore(path, clock=clock) as other,
                MemoryStore(clock=clock) as memory,
            ):
                lives = Lives(memory, [one, other], clock)
                # Ann's, for long, so that every life begins with something that can be written to.
                for chance in (21, 22, 23):
                    await lives.step("create", 0, chance)
                for action, place, chance in life:
                    await lives.step(action, place, chance)

    asyncio.run(live())
