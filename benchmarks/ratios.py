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
import gc
import json
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

import floors
import workloads
from dagflow import DAGExecutor
from dagflow.stores import MemoryStore, SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from dagflow.protocols import ContextStore
    from workloads import Workload

__all__ = ["Row", "measure", "rows"]

AT_A_TIME = 50


@attrs.frozen
class Pair:
    """Two neighbouring measurements, in the same unit: microseconds a node, unless the row says otherwise."""

    floor: float
    ours: float


@attrs.frozen
class Row:
    """One line of the table.

    Attributes:
        name: What is measured.
        limit: The highest ratio that is good enough, ``None`` when it is only shown.
        aim: The ratio to aim for.
        pair: Measures once; gets an empty folder.
    """

    name: str
    limit: float | None
    aim: float | None
    pair: Callable[[Path], Awaitable[Pair]]


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
    def of(cls, row: Row, pairs: Sequence[Pair]) -> Result:
        """Return the medians of a row."""
        ratios = [pair.ours / pair.floor for pair in pairs]
        return cls(
            row.name,
            row.limit,
            row.aim,
            statistics.median(ratios),
            min(ratios),
            max(ratios),
            statistics.median(pair.floor for pair in pairs),
            statistics.median(pair.ours for pair in pairs),
            len(pairs),
        )

    @property
    def is_within(self) -> bool:
        """Whether the ratio is good enough."""
        return self.limit is None or self.ratio <= self.limit


# -- one measurement ------------------------------------------------------------------------------


async def timed(nodes: int, work: Callable[[], Awaitable[object]]) -> float:
    """Return the microseconds a node that ``work`` takes."""
    gc.collect()
    begun = time.perf_counter()
    await work()
    return (time.perf_counter() - begun) / nodes * 1e6


async def ours(store: ContextStore, nodes: int, work: Callable[[DAGExecutor], Awaitable[object]]) -> float:
    """Return the microseconds a node that dagflow takes; opening and closing are not counted."""
    async with DAGExecutor(store) as executor:
        return await timed(nodes, lambda: work(executor))


async def by_hand(path: Path, nodes: int, work: Callable[[floors.DurableLoop], Awaitable[object]]) -> float:
    """Return the microseconds a node of the faster durable loop: that which commits on the loop, or in a thread."""
    times = []
    for threaded in (False, True):
        with floors.database(path / f"floor-{threaded}.db") as connection:
            loop = floors.DurableLoop(connection, threaded=threaded)
            times.append(await timed(nodes, lambda loop=loop: work(loop)))  # type: ignore[misc]
            loop.close()
    return min(times)


async def raw(path: Path, rows: int) -> float:
    """Return the microseconds of a row that is committed by itself."""

    async def write() -> None:
        floors.raw_single(connection, [workloads.OUTPUT] * rows)

    with floors.database(path / "raw.db") as connection:
        return await timed(rows, write)


# -- the rows -------------------------------------------------------------------------------------


def in_memory(name: str, workload: Workload, limit: float | None, aim: float | None) -> Row:
    """One run in memory beside the loop with a task for each node."""

    async def pair(_: Path) -> Pair:
        return Pair(
            await timed(workload.size, lambda: floors.in_memory(workload.graph)),
            await ours(MemoryStore(), workload.size, lambda e: workloads.run_checked(e, workload.workflow)),
        )

    return Row(f"memory, {name}", limit, aim, pair)


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

    return Row(f"memory, 6 nodes, {AT_A_TIME} runs at a time", None, None, pair)


def on_sqlite(name: str, workload: Workload, limit: float | None, aim: float | None) -> Row:
    """One run on SQLite beside the durable loop."""

    async def pair(path: Path) -> Pair:
        store = SQLiteStore(path / "ours.db")
        return Pair(
            await by_hand(path, workload.size, lambda loop: loop.run(workload.graph)),
            await ours(store, workload.size, lambda e: workloads.run_checked(e, workload.workflow)),
        )

    return Row(f"sqlite, {name}", limit, aim, pair)


def chain_on_sqlite(length: int) -> Row:
    """A chain on SQLite beside as many rows that are each committed by itself."""
    workload = workloads.chain(length)

    async def pair(path: Path) -> Pair:
        store = SQLiteStore(path / "ours.db")
        return Pair(
            await raw(path, length),
            await ours(store, length, lambda e: workloads.run_checked(e, workload.workflow)),
        )

    return Row(f"sqlite, chain of {length:,}, beside raw commits", 2.0, 1.5, pair)


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

    return Row(f"sqlite, 6 nodes, {AT_A_TIME} runs at a time", 3.0, 1.6, pair)


def fan_out_as_map(width: int) -> Row:
    """The fan-out as a map: its items are recorded as nodes are."""
    workflow, graph = workloads.fan_out_map(width), workloads.fan_out(width).graph

    async def pair(path: Path) -> Pair:
        return Pair(
            await by_hand(path, width + 2, lambda loop: loop.run(graph)),
            await ours(SQLiteStore(path / "ours.db"), width + 2, lambda e: workloads.run_checked(e, workflow)),
        )

    return Row(f"sqlite, map over {width:,} items", None, None, pair)


def scaling(small: int, large: int) -> Row:
    """A node of a large graph beside one of a small graph, both in memory."""
    graphs = workloads.layers(100, small // 100), workloads.layers(100, large // 100)

    async def one(workload: Workload) -> float:
        return await ours(MemoryStore(), workload.size, lambda e: workloads.run_checked(e, workload.workflow))

    async def pair(_: Path) -> Pair:
        return Pair(await one(graphs[0]), await one(graphs[1]))

    return Row(f"memory, {large:,} nodes beside {small:,}", 1.3, None, pair)


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

    return Row(f"define and compile {len(arrows):,} nodes, beside networkx", None, 2.0, pair)


def importing() -> Row:
    """The milliseconds of ``import dagflow`` in a new interpreter, as parts of the 120 that it may take."""
    code = "import time; t = time.perf_counter(); import dagflow; print((time.perf_counter() - t) * 1e3)"
    command = [sys.executable, "-c", code]

    async def pair(_: Path) -> Pair:
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
        return Pair(120.0, float(done.stdout))

    return Row("import dagflow, milliseconds", 1.0, None, pair)


def rows(*, quick: bool) -> list[Row]:
    """Return the whole table."""
    runs = 200 if quick else 1000
    layers = workloads.layers(100, 100)
    fan_out = workloads.fan_out(1000)
    return [
        in_memory("10,000 nodes in layers", layers, 5.0, 2.0),
        in_memory("chain of 1,000", workloads.chain(1000), None, None),
        in_memory("1 to 1,000 to 1", fan_out, None, None),
        many_in_memory(runs),
        chain_on_sqlite(1000),
        on_sqlite("chain of 1,000, beside the durable loop", workloads.chain(1000), None, None),
        many_on_sqlite(runs),
        on_sqlite("1 to 1,000 to 1", fan_out, 3.0, 1.6),
        fan_out_as_map(1000),
        on_sqlite("10,000 nodes in layers", layers, 3.0, 1.6),
        compiling(workloads.arrows_of_layers(100, 100)),
        importing(),
        *([] if quick else [scaling(10_000, 100_000)]),
    ]


# -- the script -----------------------------------------------------------------------------------


def measure(row: Row, rounds: int) -> Result:
    """Measure a row this often, after one round that does not count."""
    pairs = []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            pairs.append(asyncio.run(_pair(row, Path(folder))))
    return Result.of(row, pairs[1:])


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
    limit = "" if result.limit is None else f"{result.limit:.1f}"
    aim = "" if result.aim is None else f"{result.aim:.1f}"
    spread = f"{result.lowest:.2f} .. {result.highest:.2f}"
    verdict = "" if result.is_within else "  beyond its limit"
    times = f"{result.floor:9.2f} {result.ours:9.2f}"
    return f"{result.name:52} {result.ratio:6.2f} {limit:>6} {aim:>5}  {spread:16} {times}{verdict}"


def main() -> int:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description="Ratios of dagflow to handwritten floors.")
    parser.add_argument("--quick", action="store_true", help="three rounds instead of seven, and smaller graphs")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--rounds", type=int, help="how often each row is measured")
    parser.add_argument("--json", type=Path, help="write everything to this file as well")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a ratio is beyond its limit")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.quick else 7)
    print(f"{'':52} {'ratio':>6} {'limit':>6} {'aim':>5}  {'lowest, highest':16} {'floor':>9} {'dagflow':>9}")
    results = []
    for row in rows(quick=options.quick):
        if options.only in row.name:
            results.append(measure(row, rounds))
            print(_line(results[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(report(results), indent=2) + "\n")
    return int(options.check and not all(result.is_within for result in results))


if __name__ == "__main__":
    sys.exit(main())
