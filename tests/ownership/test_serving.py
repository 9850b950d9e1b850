"""Servers: which runs they take, how they stop, and that two in one process do not know each other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from crash.graphs import Log
from dagflow import Node, Workflow
from executors import until
from ownership.accounts import Account
from ownership.processes import NODES, chain, executor, signals, store_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


MODULE = """
from pathlib import Path
from crash.graphs import Log
from ownership.accounts import Account
from ownership.processes import executor, signals

def make():
    return executor({place!r}, signals(Log(Path({log!r})), Path({gate!r})), grace=20.0)
"""

STUCK = """
import time
from pathlib import Path
from dagflow import DAGExecutor, Workflow

stuck = Workflow("stuck")

@stuck.node
def sleep():
    Path("begun").touch()
    time.sleep(60)

def make():
    return DAGExecutor("sqlite:///runs.db", workflows=[stuck], grace=60.0)
"""

STUBBORN = """
import asyncio
from pathlib import Path
from dagflow import DAGExecutor, Workflow

stuck = Workflow("stuck")

@stuck.node
async def sleep():
    Path("begun").touch()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

def make():
    return DAGExecutor("sqlite:///runs.db", workflows=[stuck], grace=0.1)
"""


async def test_higher_priority_comes_first_and_then_the_oldest(account: Account) -> None:
    workflow = chain(Log(account.path))
    async with executor(account.place, workflow) as opened:
        priorities = [0, 5, 0, -1, 5]
        handles = [await opened.submit(workflow, run_id=f"r{n}", priority=p) for n, p in enumerate(priorities)]
        serving = asyncio.create_task(opened.serve(concurrency=1, poll=0.05))
        for handle in handles:
            await handle.result()
        serving.cancel()
        await asyncio.wait([serving])

    order = dict.fromkeys(line.split()[1] for line in Log(account.path).read())
    assert list(order) == ["r1", "r4", "r0", "r2", "r3"]


async def test_two_executors_in_one_process_on_two_stores_do_not_know_each_other(
    account: Account, tmp_path: Path
) -> None:
    accounts = [account, Account(str(tmp_path / "other.db"), tmp_path / "other.log", is_sqlite=True)]
    workflows = [chain(Log(each.path), pause=0.01) for each in accounts]
    opening = [executor(each.place, workflow) for each, workflow in zip(accounts, workflows, strict=True)]
    async with opening[0] as first, opening[1] as second:
        serving = [asyncio.create_task(each.serve(poll=0.05)) for each in (first, second)]
        handles = [
            await first.submit(workflows[0], run_id="same"),
            await second.submit(workflows[1], run_id="same"),
            await first.submit(workflows[0], run_id="only-here"),
        ]
        for handle in handles:
            assert (await handle.result()).status == "completed"
        serving[0].cancel()
        await asyncio.wait(serving[:1])
        await (await second.submit(workflows[1], run_id="later")).result()
        serving[1].cancel()
        await asyncio.wait(serving[1:])
        lists = [{run.run_id for run in await each.runs()} for each in (first, second)]

    assert lists == [{"same", "only-here"}, {"same", "later"}]
    assert [each.starts("same") for each in accounts] == [Counter(NODES)] * 2


@pytest.fixture
def server(account: Account, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process of the command line that serves one run at a time."""
    facts = {"place": account.place, "log": str(account.path), "gate": str(tmp_path / "gate")}
    yield from serving(tmp_path, MODULE.format(**facts))


@pytest.fixture
def stuck_server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another one, whose calls do not end."""
    yield from serving(tmp_path, STUCK)


@pytest.fixture
def stubborn_server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another one, whose calls ignore that they are cancelled."""
    yield from serving(tmp_path, STUBBORN)


def serving(tmp_path: Path, module: str) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "application.py").write_text(module)
    command = [sys.executable, "-m", "dagflow", "serve", "application:make", "--concurrency", "1", "--poll", "0.05"]
    # Modules of the tests are found by the process as by this one.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
    yield process
    process.kill()
    process.communicate()


async def test_sigterm_stops_claiming_and_lets_what_runs_end(
    account: Account, server: subprocess.Popen[str], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    workflow = signals(Log(account.path), gate)
    async with executor(account.place, workflow) as opened:
        for run in ("driven", "pending"):
            await opened.submit(workflow, run_id=run)
    await account.started("driven")

    server.send_signal(signal.SIGTERM)
    gate.touch()
    _, complaints = await asyncio.to_thread(server.communicate, timeout=30)

    assert (server.returncode, complaints) == (0, "")
    async with store_at(account.place) as store:
        driven, _ = await store.read("driven")
        waits, _ = await store.read("pending")
    assert (driven.owner, waits.owner, waits.status) == (None, None, "pending")
    assert account.starts("driven") == {"hold": 1}
    assert len(account.lines("end", "driven", "hold")) == 1
    async with executor(account.place, workflow) as opened:
        assert (await opened.get("driven")).nodes["hold"].status == "completed"


async def test_a_second_signal_does_not_wait_for_calls_that_do_not_end(
    stuck_server: subprocess.Popen[str], tmp_path: Path
) -> None:
    workflow = Workflow("stuck", [Node("sleep", lambda: None)])
    async with executor(str(tmp_path / "runs.db"), workflow) as opened:
        await opened.submit(workflow, run_id="r")
        await until(lambda: _exists(tmp_path / "begun"))

        stuck_server.send_signal(signal.SIGTERM)
        stuck_server.send_signal(signal.SIGINT)
        _, complaints = await asyncio.to_thread(stuck_server.communicate, timeout=30)

        assert (stuck_server.returncode, complaints) == (0, "")
        (summary,) = await opened.runs()
        assert (summary.status, summary.owner) == ("running", None)


async def test_a_call_that_ignores_its_cancellation_does_not_keep_the_command_from_ending(
    stubborn_server: subprocess.Popen[str], tmp_path: Path
) -> None:
    workflow = Workflow("stuck", [Node("sleep", lambda: None)])
    async with executor(str(tmp_path / "runs.db"), workflow) as opened:
        await opened.submit(workflow, run_id="r")
        await until(lambda: _exists(tmp_path / "begun"))

        stubborn_server.send_signal(signal.SIGTERM)
        await asyncio.to_thread(stubborn_server.communicate, timeout=30)

        assert stubborn_server.returncode == 0
        (summary,) = await opened.runs()
        assert (summary.status, summary.owner) == ("running", None)


async def _exists(path: Path) -> bool:
    return await asyncio.to_thread(path.exists)
