"""What the same work costs when somebody writes it by hand, without a library: the floors that dagflow is held against.

Each floor does the least that its promise allows. The loop in memory starts a task for each node as soon as its
dependencies are done. The durable ones write one row for each finished node, with the settings of SQLite that dagflow
has, or a server as it comes, and outputs of the same size: `raw_single`, `raw_grouped` and `raw_postgres` only write,
`DurableLoop` schedules as well, and starts a node only when the outputs that it takes are on the disk.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import psycopg

__all__ = ["DurableLoop", "Graph", "database", "in_memory", "raw_grouped", "raw_postgres", "raw_single"]

Row = tuple[int, int, float, bytes]
"""Number of the run, position of the node (-1: the run itself), when it ended, its output as JSON."""

_SCHEMA = (
    "CREATE TABLE rows (run INTEGER, node INTEGER, at REAL, output BLOB, PRIMARY KEY (run, node)) STRICT, WITHOUT ROWID"
)
_INSERT = "INSERT INTO rows VALUES (?, ?, ?, ?)"


@attrs.frozen(eq=False)
class Graph:
    """Nodes as integers, each after those that it depends on.

    Attributes:
        functions: Called with the outputs of the predecessors, in their order.
        predecessors: For each node, the nodes that it depends on.
        successors: For each node, the nodes that depend on it.
    """

    functions: tuple[Callable[..., Awaitable[Any]], ...]
    predecessors: tuple[tuple[int, ...], ...]
    successors: tuple[tuple[int, ...], ...]

    @property
    def levels(self) -> list[int]:
        """How many nodes there are at each distance from the beginning: the fewest commits, and the rows of each."""
        depth: list[int] = []
        for sources in self.predecessors:
            depth.append(1 + max((depth[source] for source in sources), default=-1))
        return [depth.count(level) for level in range(max(depth) + 1)]


# -- in memory ------------------------------------------------------------------------------------


async def in_memory(graph: Graph) -> list[Any]:
    """Run a graph with one task for each node, and return the outputs."""
    functions, predecessors, successors = graph.functions, graph.predecessors, graph.successors
    unmet = [len(sources) for sources in predecessors]
    outputs: list[Any] = [None] * len(functions)
    left = len(functions)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    async def call(index: int) -> None:
        nonlocal left
        outputs[index] = await functions[index](*[outputs[source] for source in predecessors[index]])
        left -= 1
        for successor in successors[index]:
            unmet[successor] -= 1
            if not unmet[successor]:
                loop.create_task(call(successor))  # noqa: RUF006 - the loop holds a task that is ready
        if not left:
            done.set_result(None)

    for index, open_ in enumerate(unmet):
        if not open_:
            loop.create_task(call(index))  # noqa: RUF006
    await done
    return outputs


# -- SQLite ---------------------------------------------------------------------------------------


@contextmanager
def database(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a new database with the settings of dagflow's own."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(_SCHEMA)
        yield connection
    finally:
        connection.close()


def raw_single(connection: sqlite3.Connection, outputs: Sequence[bytes]) -> None:
    """Commit each row by itself."""
    for node, output in enumerate(outputs):
        connection.execute(_INSERT, (0, node, time.time(), output))


def raw_grouped(connection: sqlite3.Connection, groups: Iterable[Sequence[bytes]]) -> None:
    """Commit the rows of each group together."""
    node = 0
    for outputs in groups:
        now = time.time()
        _commit(connection, [(0, node + offset, now, output) for offset, output in enumerate(outputs)])
        node += len(outputs)


def raw_postgres(connection: psycopg.Connection[Any], outputs: Sequence[bytes]) -> None:
    """Commit each row by itself, on a connection that commits each statement, to a table made for it."""
    connection.execute(
        "CREATE TABLE rows (run bigint, node bigint, at double precision, output bytea, PRIMARY KEY (run, node))"
    )
    cursor = connection.cursor(binary=True)
    for node, output in enumerate(outputs):
        cursor.execute("INSERT INTO rows VALUES (%s, %s, %s, %s)", (0, node, time.time(), output), prepare=True)


def _commit(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_INSERT, rows)
    connection.execute("COMMIT")


class DurableLoop:
    """Runs graphs at the same time, commits what has finished together, and then starts what waited for it.

    Args:
        connection: A new database.
        threaded: Commit in a thread of its own instead of on the loop.
    """

    def __init__(self, connection: sqlite3.Connection, *, threaded: bool = False) -> None:
        self.commits = 0
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._rows: list[Row] = []
        self._released: list[Callable[[], None]] = []
        self._flying: list[Callable[[], None]] = []
        self._busy = False
        self._runs = 0
        self._work: queue.SimpleQueue[list[Row] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True) if threaded else None
        if self._thread is not None:
            self._thread.start()

    def close(self) -> None:
        """Let the thread end."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()

    async def run(self, graph: Graph) -> list[Any]:
        """Run a graph and return its outputs; the row of the run goes with the first results."""
        self._runs += 1
        self._rows.append((self._runs, -1, time.time(), b""))
        return await _DurableRun(self, self._runs, graph).ended()

    def keep(self, row: Row, release: Callable[[], None]) -> None:
        """Commit a row with the next group, then call ``release``."""
        self._rows.append(row)
        self._released.append(release)
        if not self._busy:
            self._busy = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        rows, self._rows = self._rows, []
        self._flying, self._released = self._released, []
        self.commits += 1
        if self._thread is not None:
            self._work.put(rows)
        else:
            _commit(self._connection, rows)
            self._landed()

    def _landed(self) -> None:
        self._busy = False
        for release in self._flying:
            release()
        if self._released and not self._busy:
            self._busy = True
            self._loop.call_soon(self._flush)

    def _write(self) -> None:
        while (rows := self._work.get()) is not None:
            _commit(self._connection, rows)
            self._loop.call_soon_threadsafe(self._landed)


class _DurableRun:
    """One run: counters of what each node still waits for."""

    def __init__(self, loop: DurableLoop, number: int, graph: Graph) -> None:
        self._durable = loop
        self._number = number
        self._graph = graph
        self._unmet = [len(sources) for sources in graph.predecessors]
        self._outputs: list[Any] = [None] * len(graph.functions)
        self._left = len(graph.functions)
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def ended(self) -> list[Any]:
        for index, open_ in enumerate(self._unmet):
            if not open_:
                self._loop.create_task(self._call(index))
        await self._done
        return self._outputs

    async def _call(self, index: int) -> None:
        graph, outputs = self._graph, self._outputs
        output = await graph.functions[index](*[outputs[source] for source in graph.predecessors[index]])
        outputs[index] = output
        row = (self._number, index, time.time(), json.dumps(output).encode())
        self._durable.keep(row, lambda: self._release(index))

    def _release(self, index: int) -> None:
        self._left -= 1
        unmet = self._unmet
        for successor in self._graph.successors[index]:
            unmet[successor] -= 1
            if not unmet[successor]:
                self._loop.create_task(self._call(successor))
        if not self._left:
            self._done.set_result(None)
