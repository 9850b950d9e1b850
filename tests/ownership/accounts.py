"""What many processes did with a store, by the journal and by the log that their nodes write."""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from crash.graphs import Log
from dagflow import DAGExecutor, EventKind
from dagflow.serialization import JsonCodec
from ownership.processes import NODES, chain, store_at

if TYPE_CHECKING:
    from dagflow import Event

__all__ = ["Account"]

_TAKES = (EventKind.RUN_STARTED, EventKind.RUN_RESUMED)


@attrs.frozen
class Account:
    """Where the processes of a test meet.

    Attributes:
        place: The file of the store, or its connection string.
        path: The log.
        is_sqlite: The store is a file.
    """

    place: str
    path: Path
    is_sqlite: bool = attrs.field(kw_only=True)

    @property
    def shared(self) -> dict[str, Any]:
        """The arguments that all processes take."""
        return {"place": self.place, "log": str(self.path)}

    def lines(self, kind: str, run: str, node: str = "") -> list[int]:
        """Return the processes that logged this, in their order."""
        wanted = f"{kind} {run} {node}"
        return [int(line.rpartition(" ")[2]) for line in Log(self.path).read() if line.startswith(wanted)]

    def starts(self, run: str) -> Counter[str]:
        """Return how often each node of a run was really started."""
        lines = [line.split() for line in Log(self.path).read()]
        return Counter(node for kind, of, node, _ in lines if kind == "start" and of == run)

    async def started(self, run: str, node: str = "", *, by: int | None = None, within: float = 30.0) -> int:
        """Wait until a node of a run is started, by a certain process or by any; return which one that is."""
        return await self.logged("start", run, node, by=by, within=within)

    async def logged(self, kind: str, run: str, what: str = "", *, by: int | None = None, within: float = 30.0) -> int:
        """Wait until something is logged of a run, by a certain process or by any; return which one that is."""
        end = time.monotonic() + within
        while not (pids := [pid for pid in self.lines(kind, run, what) if by in (None, pid)]):
            assert time.monotonic() < end, f"no {kind} {what} of {run}"
            await asyncio.sleep(0.005)
        return pids[-1]

    def is_locked(self) -> bool:
        """Return whether somebody keeps the file from being written to, for long."""
        if not self.is_sqlite:
            return False
        end = time.monotonic() + 1.0
        while not self._is_free():
            if time.monotonic() > end:
                return True
            time.sleep(0.002)
        return False

    def _is_free(self) -> bool:
        # Writers take the lock of the file beside it first, and may be stopped between the two.
        with Path(f"{self.place}-lock").open("a") as beside:
            try:
                fcntl.lockf(beside, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with closing(sqlite3.connect(self.place, timeout=0, isolation_level=None)) as connection:
                    connection.execute("BEGIN IMMEDIATE")
            except (OSError, sqlite3.OperationalError):
                return False
            return True

    async def submit(self, *runs: str) -> None:
        """Record pending runs of the chain."""
        workflow = chain(Log(self.path))
        async with DAGExecutor(store_at(self.place)) as executor:
            for run in runs:
                await executor.submit(workflow, run_id=run)

    async def ended(self, run: str, status: str = "completed", *, within: float = 30.0) -> list[Event]:
        """Wait until nobody owns a run and it has come to a status; fail after some seconds."""
        end = time.monotonic() + within
        async with store_at(self.place) as store:
            while True:
                record, events = await store.read(run)
                if record.status == status and record.owner is None:
                    return list(events)
                assert time.monotonic() < end, f"{run} is stuck"
                await asyncio.sleep(0.01)

    async def check(self, run: str) -> list[Event]:
        """Check that each owner wrote only while the run was its own, and that the run completed once."""
        async with store_at(self.place) as store:
            record, events = await store.read(run)
        assert record.status == "completed"
        return _checked(events)

    async def check_end(self, run: str) -> list[Event]:
        """Wait for the end of a run, and check it."""
        return _checked(await self.ended(run))


def _checked(events: list[Event]) -> list[Event]:
    kinds = Counter(event.kind for event in events)
    assert kinds[EventKind.RUN_COMPLETED] == 1
    assert events[-1].kind is EventKind.RUN_COMPLETED
    assert [e.node for e in events if e.kind is EventKind.NODE_COMPLETED] == NODES
    assert [event.version for event in events] == list(range(1, len(events) + 1))
    epochs = [(event.data or {})["epoch"] for event in events if event.kind in _TAKES]
    assert epochs == sorted(set(epochs))
    for tenure in _tenures(events):
        assert len(tenure) <= 1, f"processes {tenure} wrote under one epoch"
    return events


def _tenures(events: list[Event]) -> list[set[int]]:
    """Return, for each epoch of a run, the processes whose results were recorded."""
    tenures: list[set[int]] = [set()]
    for event in events:
        if event.kind in _TAKES:
            tenures.append(set())
        elif event.kind is EventKind.NODE_COMPLETED:
            assert event.payload is not None
            tenures[-1].add(JsonCodec().decode(event.payload))
    return tenures
