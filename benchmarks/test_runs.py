"""Runs of dagflow and of the floors, in memory and on SQLite; each group has its floor beside it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import floors
import workloads
from dagflow import DAGExecutor
from dagflow.stores import MemoryStore, SQLiteStore

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from timing import Timer
    from workloads import Workload

WORKLOADS: dict[str, Callable[[], Workload]] = {
    "one-node": workloads.single,
    "linear-6": partial(workloads.chain, 6),
    "parallel-6": partial(workloads.parallel, 6),
    "chain-1000": partial(workloads.chain, 1000),
    "fan-out-1000": partial(workloads.fan_out, 1000),
    "layers-10000": partial(workloads.layers, 100, 100),
}


@pytest.fixture(params=WORKLOADS)
def workload(request: pytest.FixtureRequest, benchmark: Any) -> Workload:
    benchmark.group = request.param
    return WORKLOADS[request.param]()


@pytest.fixture
def executor(loop: asyncio.Runner, store: MemoryStore | SQLiteStore) -> Iterator[DAGExecutor]:
    executor = DAGExecutor(store)
    loop.run(executor.__aenter__())
    yield executor
    loop.run(executor.__aexit__(None, None, None))


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MemoryStore | SQLiteStore:
    return MemoryStore() if request.param == "memory" else SQLiteStore(tmp_path / "runs.db")


@pytest.fixture(params=["inline", "thread"])
def durable_loop(request: pytest.FixtureRequest, loop: asyncio.Runner, tmp_path: Path) -> Iterator[floors.DurableLoop]:
    async def make(connection: Any) -> floors.DurableLoop:
        return floors.DurableLoop(connection, threaded=request.param == "thread")

    with floors.database(tmp_path / "floor.db") as connection:
        durable = loop.run(make(connection))
        yield durable
        durable.close()


def test_dagflow(timer: Timer, workload: Workload, executor: DAGExecutor) -> None:
    timer(lambda: workloads.run_checked(executor, workload.workflow))


def test_floor_in_memory(timer: Timer, workload: Workload) -> None:
    timer(lambda: floors.in_memory(workload.graph))


def test_floor_on_sqlite(timer: Timer, workload: Workload, durable_loop: floors.DurableLoop) -> None:
    timer(lambda: durable_loop.run(workload.graph))


def test_floor_raw_single_commits(benchmark: Any, tmp_path: Path) -> None:
    benchmark.group = "chain-1000"
    names = iter(range(1000))

    def write() -> None:
        with floors.database(tmp_path / f"{next(names)}.db") as connection:
            floors.raw_single(connection, [workloads.OUTPUT] * 1000)

    benchmark.pedantic(write, rounds=5)


@pytest.mark.parametrize("name", ["fan-out-1000", "layers-10000"])
def test_floor_raw_grouped_commits(benchmark: Any, tmp_path: Path, name: str) -> None:
    benchmark.group = name
    groups = [[workloads.OUTPUT] * width for width in WORKLOADS[name]().graph.levels]
    names = iter(range(1000))

    def write() -> None:
        with floors.database(tmp_path / f"{next(names)}.db") as connection:
            floors.raw_grouped(connection, groups)

    benchmark.pedantic(write, rounds=5)


class TestManyRuns:
    """1,000 runs of 6 nodes, 50 at a time."""

    @pytest.fixture(autouse=True)
    def _group(self, benchmark: Any) -> None:
        benchmark.group = "6 nodes, 50 runs at a time"

    @pytest.fixture
    def many(self) -> Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]:
        return partial(workloads.many_runs, runs=1000, at_a_time=50)

    def test_dagflow(self, timer: Timer, many: Any, executor: DAGExecutor) -> None:
        workflow = workloads.chain(6).workflow

        timer(lambda: many(lambda: executor.run(workflow)), rounds=3)

    def test_floor_in_memory(self, timer: Timer, many: Any) -> None:
        graph = workloads.chain(6).graph

        timer(lambda: many(lambda: floors.in_memory(graph)), rounds=3)

    def test_floor_on_sqlite(self, timer: Timer, many: Any, durable_loop: floors.DurableLoop) -> None:
        graph = workloads.chain(6).graph

        timer(lambda: many(lambda: durable_loop.run(graph)), rounds=3)


def test_100000_nodes_in_layers(timer: Timer, benchmark: Any) -> None:
    benchmark.group = "layers-100000"
    workload = workloads.layers(100, 1000)

    async def run() -> None:
        async with DAGExecutor(MemoryStore()) as executor:
            await workloads.run_checked(executor, workload.workflow)

    timer(run, rounds=3)
