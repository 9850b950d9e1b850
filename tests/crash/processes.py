"""What a process of the crash tests does: it drives one run, and kills itself at a point of the store if told to."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import networkx as nx  # noqa: F401 - takes most of the time of a short run: it is loaded once, before the forks

from crash.graphs import GRAPHS, Log, random_graph
from dagflow import DAGExecutor
from dagflow.stores import SQLiteStore
from dagflow.stores.postgres import PostgresStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagflow import Workflow

__all__ = ["drive", "graph_of", "store_at"]


def store_at(place: str, at: Callable[[str], None] | None = None) -> SQLiteStore | PostgresStore:
    """Return the store of a file, or of a connection string."""
    return PostgresStore(place, at=at) if "dbname=" in place else SQLiteStore(place, at=at)


def graph_of(graph: str | int, log: Log) -> Workflow:
    """Return a reference workflow by its name, or a random one by its seed."""
    return random_graph(graph, log) if isinstance(graph, int) else GRAPHS[graph](log)


def drive(place: str, log: str, run: str, graph: str | int, *, kill_at: int = 0, opening: bool = True) -> None:
    """Drive a run; killed at the ``kill_at``-th point, if any, those of opening the store counted or not."""
    passed, counting = 0, opening

    def at(_point: str) -> None:
        nonlocal passed
        passed += counting
        if passed == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    workflow = graph_of(graph, Log(Path(log)))

    async def go() -> None:
        nonlocal counting
        async with DAGExecutor(store_at(place, at if kill_at else None)) as executor:
            counting = True
            await executor.run(workflow, run_id=run)

    asyncio.run(go())
