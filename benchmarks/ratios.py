"""Holds dagflow against the floors, both in one process and by turns, and prints the ratios.

::

    python benchmarks/ratios.py             # about three minutes
    python benchmarks/ratios.py --quick     # fewer rounds, smaller graphs
    python benchmarks/ratios.py --only sqlite --json ratios.json --check

A machine that others use changes its speed from second to second, so times are not compared over rounds: each round
gives one ratio of two neighbouring measurements, and the median of these is what counts. Only ``--check`` makes a
ratio beyond its limit an error.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import functools
import gc
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import psycopg

import floors
import workloads
from dagflow import DAGExecutor
from dagflow.stores import MemoryStore, SQLiteStore
from dagflow.stores.postgres import PostgresStore

# The tests know how to start a server.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

import postgres_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from dagflow.protocols import ContextStore, Observer
    from workloads import Workload

__all__ = ["Row", "measure", "rows"]

AT_A_TIME = 50


def _each(times: float | list[float]) -> tuple[float, ...]:
    return tuple(times) if isinstance(times, list) else (times,)


@attrs.frozen
class Pair:
    """Neighbouring measurements, in the same unit: microseconds a node, unless the row says otherwise.

    Attributes:
        floors: Of each way in which the floor can be built, in the same order every time.
        ours: Of dagflow.
    """

    floors: tuple[float, ...] = attrs.field(converter=_each)
    ours: float


@attrs.frozen
class Row:
    """One line of the table.

    Attributes:
        limit: The highest ratio that is good enough, ``None`` when it is only shown.
        aim: The ratio to aim for.
        pair: Measures once; gets an empty folder.
        times: How many measurements a round has; more where one is short beside the moods of a shared machine.
    """

    limit: float | None
    aim: float | None
    pair: Callable[[Path], Awaitable[Pair]]
    times: int = 1


@attrs.frozen
class Result:
    """What all rounds of a row came to."""

    name: str
    limit: float | None
    aim: float | None
    ratio: float
    lowest: float
    highest: float
    floor: float
    ours: float
    rounds: int

    @classmethod
    def of(cls, name: str, row: Row, pairs: Sequence[Pair]) -> Result:
        """Return the medians of a row, beside the floor that is mostly the lowest.

        The lowest of each round would be the one that chance was kind to, and dagflow has no second try either.
        """
        floors = min(zip(*(pair.floors for pair in pairs), strict=True), key=statistics.median)
        ratios = [pair.ours / floor for pair, floor in zip(pairs, floors, strict=True)]
        return cls(
            name,
            row.limit,
            row.aim,
            statistics.median(ratios),
            min(ratios),
            max(ratios),
            statistics.median(floors),
            statistics.median(pair.ours for pair in pairs),
            len(pairs),
        )

    @property
    def is_within(self) -> bool:
        """Whether the ratio is good enough."""
        return self.limit is None or self.ratio <= self.limit


# -- one measurement ------------------------------------------------------------------------------


async def timed(
    nodes: int, work: Callable[[], Awaitable[object]], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the microseconds a node that ``work`` takes."""
    gc.collect()
    begun = clock()
    await work()
    return (clock() - begun) / nodes * 1e6


async def ours(store: ContextStore, nodes: int, work: Callable[[DAGExecutor], Awaitable[object]]) -> float:
    """Return the microseconds a node that dagflow takes; opening and closing are not counted."""
    async with DAGExecutor(store) as executor:
        return await timed(nodes, lambda: work(executor))


async def by_hand(path: Path, nodes: int, work: Callable[[floors.DurableLoop], Awaitable[object]]) -> list[float]:
    """Return the microseconds a node of the durable loops: that which commits on the loop, and that with a thread."""
    times = []
    for threaded in (False, True):
        with floors.database(path / f"floor-{threaded}.db") as connection:
            loop = floors.DurableLoop(connection, threaded=threaded)
            times.append(await timed(nodes, lambda loop=loop: work(loop)))  # type: ignore[misc]
            loop.close()
    return times


async def raw(path: Path, rows: int) -> float:
    """Return the microseconds of a row that is committed by itself."""

    async def write() -> None:
        floors.raw_single(connection, [workloads.OUTPUT] * rows)

    with floors.database(path / "raw.db") as connection:
        return await timed(rows, write)


# -- the rows -------------------------------------------------------------------------------------


def in_memory(workload: Workload, limit: float | None = None, aim: float | None = None) -> Row:
    """One run in memory beside the loop with a task for each node."""

    async def pair(_: Path) -> Pair:
        return Pair(
            await timed(workload.size, lambda: floors.in_memory(workload.graph)),
            await ours(MemoryStore(), workload.size, lambda e: workloads.run_checked(e, workload.workflow)),
        )

    return Row(limit, aim, pair)


def many_in_memory(runs: int) -> Row:
    """Many short runs in memory, some at a time."""
    six = workloads.chain(6)

    async def pair(_: Path) -> Pair:
        def many(run: Callable[[], Awaitable[object]]) -> Awaitable[None]:
            return workloads.many_runs(run, runs=runs, at_a_time=AT_A_TIME)

        return Pair(
            await timed(6 * runs, lambda: many(lambda: floors.in_memory(six.graph))),
            await ours(MemoryStore(), 6 * runs, lambda e: many(lambda: e.run(six.workflow))),
        )

    return Row(None, None, pair)


def on_sqlite(workload: Workload, limit: float | None = None, aim: float | None = None) -> Row:
    """One run on SQLite beside the durable loop."""

    async def pair(path: Path) -> Pair:
        store = SQLiteStore(path / "ours.db")
        return Pair(
            await by_hand(path, workload.size, lambda loop: loop.run(workload.graph)),
            await ours(store, workload.size, lambda e: workloads.run_checked(e, workload.workflow)),
        )

    return Row(limit, aim, pair)


def chain_on_sqlite(length: int) -> Row:
    """A chain on SQLite beside as many rows that are each committed by itself."""
    workload = workloads.chain(length)

    async def pair(path: Path) -> Pair:
        store = SQLiteStore(path / "ours.db")
        return Pair(
            await raw(path, length),
            await ours(store, length, lambda e: workloads.run_checked(e, workload.workflow)),
        )

    return Row(2.0, 1.5, pair)


def many_on_sqlite(runs: int) -> Row:
    """Many short runs on SQLite, some at a time, beside the durable loop."""
    six = workloads.chain(6)

    async def pair(path: Path) -> Pair:
        def many(run: Callable[[], Awaitable[object]]) -> Awaitable[None]:
            return workloads.many_runs(run, runs=runs, at_a_time=AT_A_TIME)

        return Pair(
            await by_hand(path, 6 * runs, lambda loop: many(lambda: loop.run(six.graph))),
            await ours(SQLiteStore(path / "ours.db"), 6 * runs, lambda e: many(lambda: e.run(six.workflow))),
        )

    return Row(3.0, 1.6, pair, times=3)


@functools.cache
def postgres() -> str:
    """Start a server on the disk, as it comes, and return the connection string; or that of a server that is given."""
    if given := os.environ.get("DAGFLOW_TEST_PG_DSN"):
        return given
    server = postgres_server.OwnServer(Path(tempfile.mkdtemp(prefix="dagflow-ratios-")))
    atexit.register(server.stop)
    return server.dsn


async def ours_on_postgres(dsn: str, workload: Workload) -> float:
    """Return the microseconds a node that dagflow takes when it is connected already."""
    async with DAGExecutor(PostgresStore(dsn)) as executor:
        await workloads.run_checked(executor, workloads.diamond().workflow)
        return await timed(workload.size, lambda: workloads.run_checked(executor, workload.workflow))


def chain_on_postgres(length: int) -> Row:
    """A chain on PostgreSQL beside as many rows that are each committed by itself, over one connection."""
    workload = workloads.chain(length)

    async def pair(_: Path) -> Pair:
        with postgres_server.database(postgres()) as dsn, psycopg.connect(dsn, autocommit=True) as connection:

            async def write() -> None:
                floors.raw_postgres(connection, [workloads.OUTPUT] * length)

            return Pair(
                await timed(length, write),
                await ours_on_postgres(dsn, workload),
            )

    return Row(2.0, None, pair)


def fan_out_on_postgres(width: int) -> Row:
    """The microseconds of a node of a fan-out on PostgreSQL, as parts of the 80 that it may take."""
    workload = workloads.fan_out(width)

    async def pair(_: Path) -> Pair:
        with postgres_server.database(postgres()) as dsn:
            return Pair(80.0, await ours_on_postgres(dsn, workload))

    return Row(1.0, None, pair)


def fan_out_as_map(width: int) -> Row:
    """The fan-out as a map: its items are recorded as nodes are."""
    workflow, graph = workloads.fan_out_map(width), workloads.fan_out(width).graph

    async def pair(path: Path) -> Pair:
        return Pair(
            await by_hand(path, width + 2, lambda loop: loop.run(graph)),
            await ours(SQLiteStore(path / "ours.db"), width + 2, lambda e: workloads.run_checked(e, workflow)),
        )

    return Row(None, None, pair)


def scaling(small: Workload, large: Workload, limit: float | None) -> Row:
    """A node of a large graph beside one of a small graph, both in memory."""

    async def one(workload: Workload) -> float:
        return await ours(MemoryStore(), workload.size, lambda e: workloads.run_checked(e, workload.workflow))

    async def pair(_: Path) -> Pair:
        return Pair(await one(small), await one(large))

    return Row(limit, None, pair)


def counting(workload: Workload, limit: float) -> Row:
    """One run in memory with a collector of metrics beside the same run without one.

    Both do the same work on one processor, so its time is taken, and the best of three turns: the difference is smaller
    than what the rest of the machine does to a single measurement.
    """
    from prometheus_client import CollectorRegistry

    from dagflow.metrics import MetricsCollector

    async def one(*observers: Observer) -> float:
        async with DAGExecutor(MemoryStore(), observers=observers) as executor:
            work = functools.partial(workloads.run_checked, executor, workload.workflow)
            return await timed(workload.size, work, time.process_time)

    async def counted() -> float:
        return await one(MetricsCollector(CollectorRegistry()))

    async def pair(_: Path) -> Pair:
        times = [(await one(), await counted()) for _ in range(3)]
        return Pair(min(off for off, _ in times), min(on for _, on in times))

    return Row(limit, None, pair)


def compiling(arrows: Sequence[Sequence[int]]) -> Row:
    """Defining and compiling a workflow beside building the graph with networkx and checking it once."""
    import networkx as nx

    async def bare() -> None:
        graph: nx.DiGraph[int] = nx.DiGraph()
        graph.add_nodes_from(range(len(arrows)))
        graph.add_edges_from((source, index) for index, sources in enumerate(arrows) for source in sources)
        assert nx.is_directed_acyclic_graph(graph)

    async def full() -> None:
        workloads.define("layers", arrows).compile()

    async def pair(_: Path) -> Pair:
        return Pair(await timed(len(arrows), bare), await timed(len(arrows), full))

    return Row(None, 2.0, pair)


def importing() -> Row:
    """The milliseconds of ``import dagflow`` in a new interpreter, as parts of the 120 that it may take."""
    code = "import time; t = time.perf_counter(); import dagflow; print((time.perf_counter() - t) * 1e3)"
    command = [sys.executable, "-c", code]

    async def pair(_: Path) -> Pair:
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
        return Pair(120.0, float(done.stdout))

    return Row(1.0, None, pair)


def rows(*, quick: bool) -> dict[str, Callable[[], Row]]:
    """Return the whole table: what makes each row, by its name.

    A row is made when it is measured, so that the graphs of the others are not in its way: Python's collector looks
    through all that is there.
    """
    runs = 200 if quick else 1000
    layers, chain, fan_out = workloads.layers, workloads.chain, workloads.fan_out
    table: dict[str, Callable[[], Row]] = {
        "memory, 10,000 nodes in layers": lambda: in_memory(layers(100, 100), 5.0, 2.0),
        "memory, chain of 1,000": lambda: in_memory(chain(1000)),
        "memory, 10,000 nodes in layers, metrics on beside off": lambda: counting(layers(100, 100), 1.15),
        "memory, 1 to 1,000 to 1": lambda: in_memory(fan_out(1000)),
        "memory, 6 nodes, 50 runs at a time": lambda: many_in_memory(runs),
        "sqlite, chain of 1,000, beside raw commits": lambda: chain_on_sqlite(1000),
        "sqlite, chain of 1,000, beside the durable loop": lambda: on_sqlite(chain(1000)),
        "sqlite, 6 nodes, 50 runs at a time": lambda: many_on_sqlite(runs),
        "sqlite, 1 to 1,000 to 1": lambda: on_sqlite(fan_out(1000), 3.0, 1.6),
        "sqlite, map over 1,000 items": lambda: fan_out_as_map(1000),
        "sqlite, 10,000 nodes in layers": lambda: on_sqlite(layers(100, 100), 3.0, 1.6),
        "postgres, chain of 1,000, beside raw commits": lambda: chain_on_postgres(1000),
        "postgres, 1 to 1,000 to 1, beside 80 microseconds": lambda: fan_out_on_postgres(1000),
        "define and compile 10,000 nodes, beside networkx": lambda: compiling(workloads.arrows_of_layers(100, 100)),
        "import dagflow, milliseconds": importing,
        "memory, 1,000 layers of 100 beside 100": lambda: scaling(layers(100, 100), layers(1000, 100), 1.3),
        "memory, 100 layers of 1,000 beside 100 of 100": lambda: scaling(layers(100, 100), layers(100, 1000), None),
    }
    return {name: make for name, make in table.items() if not (quick and "layers of" in name)}


# -- the script -----------------------------------------------------------------------------------


def measure(name: str, make: Callable[[], Row], rounds: int) -> Result:
    """Measure a row in so many rounds, after one measurement that does not count."""
    row, pairs = make(), []
    for _ in range(rounds * row.times + 1):
        with tempfile.TemporaryDirectory() as folder:
            pairs.append(asyncio.run(_pair(row, Path(folder))))
    return Result.of(name, row, pairs[1:])


async def _pair(row: Row, folder: Path) -> Pair:
    return await row.pair(folder)


def report(results: Iterable[Result]) -> dict[str, Any]:
    """Return everything as plain data."""
    machine = {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "system": f"{platform.system()} {platform.machine()}",
    }
    return {"machine": machine, "rows": [{**attrs.asdict(result), "within": result.is_within} for result in results]}


def _line(result: Result) -> str:
    limit = "" if result.limit is None else f"{result.limit:.4g}"
    aim = "" if result.aim is None else f"{result.aim:.1f}"
    spread = f"{result.lowest:.2f} .. {result.highest:.2f}"
    verdict = "" if result.is_within else "  beyond its limit"
    times = f"{result.floor:9.2f} {result.ours:9.2f}"
    return f"{result.name:53} {result.ratio:6.2f} {limit:>6} {aim:>5}  {spread:16} {times}{verdict}"


def main() -> int:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description="Ratios of dagflow to handwritten floors.")
    parser.add_argument("--quick", action="store_true", help="three rounds instead of seven, and smaller graphs")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--rounds", type=int, help="how many rounds each row has")
    parser.add_argument("--json", type=Path, help="write everything to this file as well")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a ratio is beyond its limit")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 7)
    print(f"{'':53} {'ratio':>6} {'limit':>6} {'aim':>5}  {'lowest, highest':16} {'floor':>9} {'dagflow':>9}")
    results = []
    for name, make in rows(quick=options.quick).items():
        if options.only in name:
            results.append(measure(name, make, rounds))
            print(_line(results[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(report(results), indent=2) + "\n")
    return int(options.check and not all(result.is_within for result in results))


if __name__ == "__main__":
    sys.exit(main())
