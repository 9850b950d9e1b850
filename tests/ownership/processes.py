"""What the processes of the ownership tests do. Their nodes write a log by themselves, which knows nothing of dagflow.

A line of the log is ``start run node process``. A node returns its process, so that the journal tells who did what.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from crash.graphs import Log
from dagflow import DAGExecutor, Node, NodeContext, Workflow
from dagflow.errors import RunOwnedError
from dagflow.stores import SQLiteStore
from dagflow.stores.postgres import PostgresStore
from ownership.gates import Gated, Gates
from zygote import tell

if TYPE_CHECKING:
    from dagflow.protocols import ContextStore

__all__ = [
    "LEASE",
    "NODES",
    "POLL",
    "SIGNALS",
    "begin",
    "chain",
    "own",
    "race",
    "serve",
    "serve_one",
    "signals",
    "store_at",
]

NODES = [f"n{number}" for number in range(4)]
SIGNALS = list("cabed")
LEASE, POLL = 0.3, 0.05


def store_at(place: str) -> SQLiteStore | PostgresStore:
    """Return the store of a file, or of a connection string."""
    if "dbname=" in place:
        return PostgresStore(place)
    # The tests do not outlive the machine: a commit need not wait for the disk.
    return SQLiteStore(place, pragmas=["PRAGMA synchronous = OFF"])


def chain(log: Log, *, pause: float = 0.0, hang_in: str = "") -> Workflow:
    """Return a workflow of nodes that take some seconds each; in one of them a process stays for ever."""

    async def work(context: NodeContext) -> int:
        log.write(f"start {context.run_id} {context.node} {os.getpid()}")
        if context.node == hang_in:
            tell("hanging")
            await asyncio.Event().wait()
        await asyncio.sleep(pause)
        log.write(f"end {context.run_id} {context.node} {os.getpid()}")
        return os.getpid()

    return Workflow("chain", [Node(name, work, NODES[max(i - 1, 0) : i]) for i, name in enumerate(NODES)])


def signals(log: Log, gate: Path) -> Workflow:
    """Return a workflow of a node that waits for a file, and of signals that are waited for after it."""

    async def hold(context: NodeContext) -> None:
        log.write(f"start {context.run_id} {context.node} {os.getpid()}")
        while not gate.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
            await asyncio.sleep(0.01)
        log.write(f"end {context.run_id} {context.node} {os.getpid()}")

    workflow = Workflow("signals", [Node("hold", hold)])
    for name in SIGNALS:
        workflow.wait_for_signal(name, depends_on="hold")
    return workflow


def executor(place: str | ContextStore, *workflows: Workflow, owner: str = "", **options: Any) -> DAGExecutor:
    """Return an executor; one with a name of its own is never known to be gone."""
    store = store_at(place) if isinstance(place, str) else place
    made = DAGExecutor(store, workflows=workflows, **options)
    if owner:
        made._engine.owner = owner
    return made


def begin(place: str, log: str, *, runs: list[str], hang_in: str = NODES[1], **options: Any) -> None:
    """Start runs, and stay in one of their nodes until killed."""
    workflow = chain(Log(Path(log)), hang_in=hang_in)

    async def go() -> None:
        async with executor(place, workflow, **options) as opened:
            for run in runs:
                await opened.start(workflow, run_id=run)
            await asyncio.Event().wait()

    asyncio.run(go())


def race(place: str, log: str, runs: list[str], gates: str) -> None:
    """Resume one run after the other, each at the moment when its gate opens; half of them without patience."""
    workflow = chain(Log(Path(log)))

    async def go() -> None:
        async with executor(place, workflow) as opened:
            for number, run in enumerate(runs):
                _pass(Path(gates, run), run)
                try:
                    resumed = await opened.resume(run, wait=number % 2 == 0)
                except RunOwnedError:
                    assert number % 2, "those who wait are told the end"
                else:
                    assert resumed.status == "completed"
                tell(f"raced {run}")

    asyncio.run(go())


def _pass(gate: Path, run: str) -> None:
    with gate.open() as file:
        tell(f"ready {run}")
        fcntl.flock(file, fcntl.LOCK_SH)


def serve(
    place: str, log: str, *, gate: str = "gate", owner: str = "", lease: float = LEASE, pause: float = 0.0
) -> None:
    """Serve until killed."""
    workflows = [chain(Log(Path(log)), pause=pause), signals(Log(Path(log)), Path(gate))]
    asyncio.run(_serve(executor(place, *workflows, owner=owner, lease=lease)))


def serve_one(place: str, log: str, *, gates: str, owner: str) -> None:
    """Serve until killed, one run at a time, and stay at the gates before its appends that are shut."""
    facts = Log(Path(log))
    store = cast("ContextStore", Gated(store_at(place), Gates(Path(gates)), facts))
    made = executor(store, chain(facts, pause=LEASE / 6), owner=owner, lease=LEASE)
    asyncio.run(_serve(made, concurrency=1))


async def _serve(made: DAGExecutor, concurrency: int = 10) -> None:
    async with made as opened:
        tell("serving")
        await opened.serve(poll=POLL, concurrency=concurrency)


def own(place: str, log: str, *, run: str, lease: float, in_thread: float = 0.0, on_loop: float = 0.0) -> None:
    """Drive a run with one node that is slow in a thread, and some that block the loop."""
    facts = Log(Path(log))

    def sleep(context: NodeContext) -> int:
        facts.write(f"start {context.run_id} {context.node} {os.getpid()}")
        time.sleep(in_thread)
        return os.getpid()

    async def block(context: NodeContext) -> int:
        facts.write(f"start {context.run_id} {context.node} {os.getpid()}")
        time.sleep(on_loop)  # noqa: ASYNC251 - that is the point
        return os.getpid()

    functions = [sleep, *([block] * 3)]
    nodes = [Node(name, functions[i], NODES[max(i - 1, 0) : i]) for i, name in enumerate(NODES)]
    workflow = Workflow("chain", nodes)

    async def go() -> None:
        async with executor(place, workflow, owner="owner", lease=lease) as opened:
            await opened.run(workflow, run_id=run)

    asyncio.run(go())
