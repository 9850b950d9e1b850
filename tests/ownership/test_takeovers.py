"""Owners that stop or die while other processes serve the store."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from dagflow import EventKind
from ownership.gates import Gates
from ownership.processes import LEASE, NODES, POLL

if TYPE_CHECKING:
    from ownership.accounts import Account
    from zygote import Zygote

ROUNDS = 50
"""So many processes are stopped, or killed, and lose a run by that."""

AT_A_TIME = 5
"""So many of them at a time, each with a run of its own."""

OTHERS = 4
"""Processes beyond those that are stopped."""

NAMES = ("one", "two", "")
"""What owners are called; it is known of the last one only whether it is gone."""


def stop(account: Account, pid: int) -> None:
    """Stop a process while it keeps nobody from writing."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)
        if not account.is_locked():
            return
        os.kill(pid, signal.SIGCONT)


@attrs.define
class Stop:
    """An owner that is stopped until another process has its run, and what it does when it goes on.

    Attributes:
        account: Where the processes meet.
        gates: Hold them.
        run: The run.
        node: What the owner is about to complete.
        moment: ``in a node``, ``before its write``, or ``before any write``: then the new owner has written nothing
            yet either, so that the write of the old one meets the version that it was meant for.
        pid: The owner.
    """

    account: Account
    gates: Gates
    run: str
    node: str
    moment: str
    pid: int = 0

    def prepare(self) -> None:
        """Hold the owner before it writes that the node has completed."""
        if self.moment != "in a node":
            self.gates.shut(EventKind.NODE_COMPLETED, self.run, self.node)

    async def stop(self) -> None:
        """Stop the owner when it is there."""
        if self.moment == "in a node":
            self.pid = await self.account.started(self.run, self.node)
        else:
            self.pid = await self.account.logged("held", self.run, EventKind.NODE_COMPLETED)
        stop(self.account, self.pid)
        if self.moment == "before any write":
            self.gates.shut(EventKind.RUN_RESUMED, self.run)

    async def go_on(self) -> None:
        """Let the owner go on when another one has the run, and check that it writes nothing."""
        end = time.monotonic() + 30.0
        while not (self.is_held or self.account.lines("start", self.run)[-1] != self.pid):
            assert time.monotonic() < end, f"{self.run} is stuck"
            await asyncio.sleep(0.005)
        self.gates.open(EventKind.NODE_COMPLETED, self.run, self.node)
        os.kill(self.pid, signal.SIGCONT)
        if self.moment != "in a node":
            await self.account.logged("answered", self.run, by=self.pid)
            refused = self.account.lines("answered", self.run, "refused")
            assert self.pid in refused, f"the owner of {self.run} that was stopped {self.moment} was not refused"
        self.gates.open(EventKind.RUN_RESUMED, self.run)

    @property
    def is_held(self) -> bool:
        """Whether the new owner was held, which has then written nothing before the old one did."""
        return bool(self.account.lines("held", self.run, EventKind.RUN_RESUMED))

    async def check(self) -> None:
        """Check that the run has come to its end, each owner in its own time."""
        events = await self.account.check_end(self.run)
        assert EventKind.RUN_RESUMED in [event.kind for event in events]


@pytest.mark.timeout(300)
async def test_an_owner_that_was_stopped_for_longer_than_its_lease_writes_nothing_any_more(
    account: Account, zygote: Zygote, tmp_path: Path
) -> None:
    chance, gates, held = random.Random(3), Gates(tmp_path), 0
    moments = ("before any write", "before its write", "in a node")
    # Of the others, some are held before they write that they have taken a run. Many a run is taken by a namesake of
    # the one that has lost it: nothing but the epoch tells the two apart.
    for number in range(AT_A_TIME + OTHERS):
        zygote.start("serve_one", **account.shared, gates=str(gates.path), owner=NAMES[number % 2])

    for first in range(0, ROUNDS, AT_A_TIME):
        numbers = range(first, first + AT_A_TIME)
        stops = [Stop(account, gates, f"r{n:02}", chance.choice(NODES), moments[n % len(moments)]) for n in numbers]
        for each in stops:
            each.prepare()
        await account.submit(*(each.run for each in stops))
        await asyncio.gather(*(each.stop() for each in stops))
        await asyncio.gather(*(each.go_on() for each in stops))
        await asyncio.gather(*(each.check() for each in stops))
        held += sum(each.is_held for each in stops)

    assert held, "no new owner was held before it had written anything"


async def kill(zygote: Zygote, pid: int, after: float) -> datetime:
    """Kill a process after some seconds, and return when that was."""
    await asyncio.sleep(after)
    killed_at = datetime.now(UTC)
    zygote.kill(pid)
    return killed_at


async def was_taken_over(account: Account, run: str, killed_at: datetime) -> bool:
    """Check that a run whose owner was killed was taken over in time, and has come to its end.

    Return whether it was: a process that got no time may have lost it before it was killed.
    """
    events = await account.check_end(run)
    times = [event.at for event in events if event.kind is EventKind.RUN_RESUMED and event.at > killed_at]
    for at in times[:1]:
        late = (at - killed_at).total_seconds() - LEASE - POLL
        assert late < 1.0, f"{run} was taken over {late} seconds late"
    return bool(times)


@pytest.mark.timeout(300)
async def test_the_runs_of_an_owner_that_is_killed_are_taken_over_in_time(account: Account, zygote: Zygote) -> None:
    chance, rounds, numbers = random.Random(4), 0, itertools.count()
    for owner in ("one", "two"):
        zygote.start("serve", **account.shared, owner=owner)

    while rounds < ROUNDS:
        # Of some owners it is known that they are gone, of the others it is not.
        owners = [
            ([f"r{number}-{each}" for each in range(2)], chance.choice(NODES), NAMES[number % len(NAMES)])
            for number in itertools.islice(numbers, AT_A_TIME)
        ]
        pids = [
            zygote.start("begin", **account.shared, runs=runs, hang_in=node, owner=name, lease=LEASE)
            for runs, node, name in owners
        ]
        for runs, node, _ in owners:
            for run in runs:
                await account.started(run, node)
        times = await asyncio.gather(*(kill(zygote, pid, chance.uniform(0, LEASE / 3)) for pid in pids))
        for (runs, _, _), killed_at in zip(owners, times, strict=True):
            rounds += all([await was_taken_over(account, run, killed_at) for run in runs])
