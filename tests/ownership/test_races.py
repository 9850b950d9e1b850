"""Many processes that want one run."""

from __future__ import annotations

import fcntl
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from dagflow import EventKind
from ownership.processes import NODES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ownership.accounts import Account
    from zygote import Zygote

PROCESSES = 8
ROUNDS = 100


@contextmanager
def closed(gate: Path) -> Iterator[None]:
    """Keep a gate closed: all processes pass it at once when it opens."""
    with gate.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.timeout(300)
async def test_of_eight_processes_that_resume_a_run_of_a_dead_owner_one_does(
    account: Account, zygote: Zygote, tmp_path: Path
) -> None:
    runs = [f"r{number:03}" for number in range(ROUNDS)]
    owner = zygote.start("begin", **account.shared, runs=runs)
    zygote.hear("hanging", ROUNDS)
    zygote.kill(owner)

    for run in runs:
        (tmp_path / run).touch()
    for _ in range(PROCESSES):
        zygote.start("race", **account.shared, runs=runs, gates=str(tmp_path))
    winners = set()
    for run in runs:
        with closed(tmp_path / run):
            zygote.hear(f"ready {run}", PROCESSES)
        zygote.hear(f"raced {run}", PROCESSES)

    for run in runs:
        events = await account.check(run)
        assert sum(event.kind is EventKind.RUN_RESUMED for event in events) == 1
        assert account.starts(run) == Counter({name: 1 + (name == NODES[1]) for name in NODES})
        winners.add(account.lines("end", run, NODES[-1])[0])
    assert len(winners) > 1, "the same process won every time: that was no race"
