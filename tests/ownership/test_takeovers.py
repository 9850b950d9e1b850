"""Owners that stop or die while another process serves the store."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dagflow import EventKind
from ownership.processes import NODES

if TYPE_CHECKING:
    from ownership.accounts import Account
    from zygote import Zygote

PAUSE = 0.05
STOPS = {True: 50, False: 20}
KILLS = {True: 50, False: 15}


def serving(account: Account, zygote: Zygote, owner: str = "") -> int:
    """Return a process that serves."""
    pid = zygote.start("serve", **account.shared, owner=owner, pause=PAUSE)
    zygote.hear("serving")
    return pid


def stop(account: Account, pid: int) -> None:
    """Stop a process while it keeps nobody from writing."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)
        if not account.is_locked():
            return
        os.kill(pid, signal.SIGCONT)


@pytest.mark.timeout(300)
async def test_an_owner_that_was_stopped_for_longer_than_its_lease_writes_nothing_any_more(
    account: Account, zygote: Zygote
) -> None:
    chance, ended_late = random.Random(3), 0
    pids = {serving(account, zygote, owner) for owner in ("one", "two")}

    for number in range(STOPS[account.is_sqlite]):
        run, node = f"r{number:03}", chance.choice(NODES[:-1])
        await account.submit(run)
        stopped = await account.started(run, node)
        (other,) = pids - {stopped}
        stop(account, stopped)
        await account.started(run, by=other)
        os.kill(stopped, signal.SIGCONT)
        await account.ended(run)

        events = await account.check(run)
        assert any(event.kind is EventKind.RUN_RESUMED for event in events)
        ended_late += stopped in account.lines("end", run, node)

    assert ended_late, "no owner had anything to write when it went on"


@pytest.mark.timeout(300)
async def test_the_runs_of_a_server_that_is_killed_are_finished_by_another(account: Account, zygote: Zygote) -> None:
    chance = random.Random(4)
    pids = {serving(account, zygote) for _ in range(2)}

    for number in range(KILLS[account.is_sqlite]):
        run, node = f"r{number:03}", chance.choice(NODES)
        await account.submit(run)
        killed = await account.started(run, node)
        zygote.kill(killed)
        pids.remove(killed)
        await account.ended(run)
        pids.add(serving(account, zygote))

        events = await account.check(run)
        assert any(event.kind is EventKind.RUN_RESUMED for event in events)
