"""A process that is killed anywhere leaves a run that another one finishes, and nothing recorded is done again."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from crash.graphs import GRAPHS, Log, random_graph
from dagflow import DAGExecutor, EventKind, Run
from dagflow.errors import RunNotFoundError
from dagflow.stores import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]
KILLED = -9
RANDOM_KILLS = 200


class Zygote:
    """Starts runs in processes of their own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "crash.zygote"],
            cwd=TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, **command: Any) -> int:
        """Return the exit code of a run: 0 when it has ended, -9 when it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a killed process loses nothing that it wrote, on whatever medium."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="dagflow-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


class Case:
    """One run with its store and its log, and what both say after each process."""

    def __init__(self, folder: Path, graph: str | int, loop: asyncio.Runner) -> None:
        self._loop = loop
        self.store = folder / "runs.db"
        self.log = Log(folder / "log")
        self.graph = graph
        self.kills = 0

    def go(self, zygote: Zygote, **how: Any) -> bool:
        """Run until the process ends or is killed; return whether it was killed."""
        recorded, seen = self.completed(), len(self.log.read())
        code = zygote.run(graph=self.graph, store=str(self.store), log=str(self.log._path), **how)
        assert code in (0, KILLED)
        started = [line.removeprefix("start ") for line in self.log.read()[seen:] if line.startswith("start ")]
        again = recorded.intersection(started)
        assert not again, f"recorded, and executed again: {again}"
        self.check_order()
        self.kills += code == KILLED
        return bool(code == KILLED)

    def check_order(self) -> None:
        """Everything that a node depends on is recorded before the node starts."""
        started = {line.removeprefix("start ") for line in self.log.read() if line.startswith("start ")}
        events = self.events()
        recorded = {e.node for e in events if e.kind in (EventKind.NODE_COMPLETED, EventKind.NODE_SKIPPED)}
        plan = random_graph(self.graph, self.log) if isinstance(self.graph, int) else GRAPHS[self.graph](self.log)
        shape = plan.compile().shape
        for name, sources in zip(shape.names, shape.predecessors, strict=True):
            if name in started:
                missing = {shape.names[i] for i in sources} - recorded
                assert not missing, f"{name} was started before {missing} was recorded"

    def completed(self) -> set[str]:
        """Return what the store says is completed."""
        return {e.node or "" for e in self.events() if e.kind is EventKind.NODE_COMPLETED}

    def events(self) -> list[Any]:
        """Return the journal, empty when there is none yet."""
        if not self.store.exists():
            return []
        assert sqlite3_says_ok(self.store)
        try:
            return self._loop.run(self._events())
        except RunNotFoundError:
            return []

    async def _events(self) -> list[Any]:
        async with SQLiteStore(self.store) as store:
            return (await store.read("r"))[1]

    def end(self) -> Run:
        """Return the run."""

        async def get() -> Run:
            async with DAGExecutor(SQLiteStore(self.store)) as executor:
                return await executor.get("r")

        return self._loop.run(get())


def sqlite3_says_ok(path: Path) -> bool:
    connection = sqlite3.connect(path)
    try:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))
    finally:
        connection.close()


def final(run: Run) -> Any:
    """Return what must not depend on crashes."""
    return run.status, dict(run.outputs), {name: node.status for name, node in run.nodes.items()}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_crash_at_any_statement_changes_nothing(
    graph: str, tmp_path: Path, zygote: Zygote, loop: asyncio.Runner
) -> None:
    (tmp_path / "undisturbed").mkdir()
    undisturbed = Case(tmp_path / "undisturbed", graph, loop)
    assert not undisturbed.go(zygote)
    expected = final(undisturbed.end())

    point, killed = 0, True
    while killed:
        point += 1
        folder = tmp_path / str(point)
        folder.mkdir()
        case = Case(folder, graph, loop)
        killed = case.go(zygote, kill_at=point, opening=graph == "chain")
        if killed:
            assert not case.go(zygote)
        assert final(case.end()) == expected, f"killed at point {point}"

    assert point > 20, "the run passes more points than that"


@pytest.mark.timeout(600)
def test_kills_at_random_moments_change_nothing(tmp_path: Path, zygote: Zygote, loop: asyncio.Runner) -> None:
    kills, seed = 0, 0
    chance = random.Random(7)
    while kills < RANDOM_KILLS:
        seed += 1
        for name in ("undisturbed", "case"):
            (tmp_path / f"{name}{seed}").mkdir()
        undisturbed = Case(tmp_path / f"undisturbed{seed}", seed, loop)
        undisturbed.go(zygote)
        case = Case(tmp_path / f"case{seed}", seed, loop)
        # A node that is cut off every time would be taken for one that brings its process down.
        while case.kills < 4 and case.go(zygote, kill_after=chance.uniform(0.005, 0.06)):
            pass
        case.go(zygote)

        assert final(case.end()) == final(undisturbed.end())
        kills += case.kills
