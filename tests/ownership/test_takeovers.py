"""Owners that stop or die while another process serves the store."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dagflow import EventKind
from ownership.processes import LEASE, NODES, POLL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ownership.accounts import Account
    from zygote import Zygote

AT_A_TIME = 8
"""Runs that are under way when a process is stopped or killed."""

TAKEOVERS, ACCIDENTS = 50, 20
"""So many runs are taken over at least, after so many stops or kills at least."""


def serving(account: Account, zygote: Zygote, owner: str = "") -> int:
    """Return a process that serves; of an owner with a name it is not known whether it is gone."""
    pid = zygote.start("serve", **account.shared, owner=owner, pause=LEASE / 6)
    zygote.hear("serving")
    return pid


async def under_way(account: Account, number: int, chance: random.Random) -> tuple[list[str], int]:
    """Submit runs, and wait until one is at a certain node; return them, and the process that drives that one."""
    runs = [f"r{number:03}-{each}" for each in range(AT_A_TIME)]
    await account.submit(*runs)
    return runs, await account.started(chance.choice(runs), chance.choice(NODES))


def stop(account: Account, pid: int) -> None:
    """Stop a process while it keeps nobody from writing."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)
        if not account.is_locked():
            return
        os.kill(pid, signal.SIGCONT)


async def taken_from(account: Account, runs: list[str], owner: str) -> None:
    """Return when an owner has none of the runs any more."""
    while owner in await account.owners(runs):  # noqa: ASYNC110 - another process sets it free
        await asyncio.sleep(0.02)


async def resumed(account: Account, runs: list[str]) -> Mapping[str, datetime]:
    """Wait for the end of runs, check their journals, and say when they were taken over, those that were."""
    times = {}
    for run in runs:
        await account.ended(run)
        for event in await account.check(run):
            if event.kind is EventKind.RUN_RESUMED:
                times[run] = event.at
    return times


@pytest.mark.timeout(300)
async def test_an_owner_that_was_stopped_for_longer_than_its_lease_writes_nothing_any_more(
    account: Account, zygote: Zygote
) -> None:
    chance, stops, taken, ended_late = random.Random(3), 0, 0, 0
    owners = {serving(account, zygote, owner): owner for owner in ("one", "two")}

    while taken < TAKEOVERS or stops < ACCIDENTS:
        stops += 1
        runs, stopped = await under_way(account, stops, chance)
        stop(account, stopped)
        before = {run: len(account.lines("end", run)) for run in runs}
        await taken_from(account, runs, owners[stopped])
        os.kill(stopped, signal.SIGCONT)

        times = await resumed(account, runs)
        taken += len(times)
        ended_late += sum(stopped in account.lines("end", run)[before[run] :] for run in times)

    assert ended_late, "no owner had anything to write when it went on"


@pytest.mark.timeout(300)
async def test_the_runs_of_a_server_that_is_killed_are_taken_over_in_time(account: Account, zygote: Zygote) -> None:
    chance, kills, taken = random.Random(4), 0, 0
    pids = {serving(account, zygote, owner) for owner in ("one", "two")}

    while taken < TAKEOVERS or kills < ACCIDENTS:
        kills += 1
        runs, killed = await under_way(account, kills, chance)
        killed_at = datetime.now(UTC)
        zygote.kill(killed)
        pids.remove(killed)

        times = await resumed(account, runs)
        for run, at in times.items():
            assert (at - killed_at).total_seconds() < LEASE + POLL + 1.0, f"{run} was taken over late"
        taken += len(times)
        # Of every third one it is known that it is gone: its runs are taken over without waiting.
        pids.add(serving(account, zygote, f"of another machine {kills}" if kills % 3 else ""))
