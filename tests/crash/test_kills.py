"""A process that is killed anywhere leaves a run that another one finishes, and nothing recorded is done again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from crash.graphs import GRAPHS, Log
from crash.processes import graph_of, store_at
from dagflow import DAGExecutor, EventKind, Run
from dagflow.errors import RunNotFoundError
from zygote import KILLED, Zygote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dagflow import Event

RANDOM_KILLS = {"sqlite": 200, "postgres": 100}
FEWEST_POINTS = 8


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote("crash.processes") as process:
        yield process


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@attrs.define
class Case:
    """One run with its store and its log, and what both say after each process."""

    place: str
    log: Log
    run: str
    graph: str | int
    zygote: Zygote
    loop: asyncio.Runner
    kills: int = attrs.field(init=False, default=0)

    def go(self, *, kill_after: float | None = None, **how: Any) -> bool:
        """Run until the process ends or is killed; return whether it was killed."""
        recorded, seen = self.completed(), len(self.log.read())
        log = str(self.log._path)
        pid = self.zygote.start("drive", place=self.place, log=log, run=self.run, graph=self.graph, **how)
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)
        code = self.zygote.wait(pid)
        assert code in (0, KILLED)
        started = [line.removeprefix("start ") for line in self.log.read()[seen:] if line.startswith("start ")]
        again = recorded.intersection(started)
        assert not again, f"recorded, and executed again: {again}"
        self.check_order()
        self.kills += code == KILLED
        return code == KILLED

    def check_order(self) -> None:
        """Everything that a node depends on is recorded before the node starts."""
        started = {line.removeprefix("start ") for line in self.log.read() if line.startswith("start ")}
        events = self.events()
        recorded = {e.node for e in events if e.kind in (EventKind.NODE_COMPLETED, EventKind.NODE_SKIPPED)}
        shape = graph_of(self.graph, self.log).compile().shape
        for name, sources in zip(shape.names, shape.predecessors, strict=True):
            if name in started:
                missing = {shape.names[i] for i in sources} - recorded
                assert not missing, f"{name} was started before {missing} was recorded"

    def completed(self) -> set[str]:
        """Return what the store says is completed."""
        completed = [event.node or "" for event in self.events() if event.kind is EventKind.NODE_COMPLETED]
        assert len(completed) == len(set(completed)), "recorded twice"
        return set(completed)

    def events(self) -> list[Event]:
        """Return the journal, empty when there is none yet."""
        if Path(self.place).exists():
            assert sqlite3_says_ok(self.place)
        elif self.place.endswith(".db"):
            return []
        try:
            events = self.loop.run(self._events())
        except RunNotFoundError:
            return []
        assert [event.version for event in events] == list(range(1, len(events) + 1))
        return events

    async def _events(self) -> list[Event]:
        async with store_at(self.place) as store:
            return list((await store.read(self.run))[1])

    def end(self) -> Any:
        """Return what must not depend on crashes."""

        async def get() -> Run:
            async with DAGExecutor(store_at(self.place)) as executor:
                return await executor.get(self.run)

        run = self.loop.run(get())
        return run.status, dict(run.outputs), {name: node.status for name, node in run.nodes.items()}


def sqlite3_says_ok(path: str) -> bool:
    with closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))


@pytest.fixture(params=["sqlite", "postgres"])
def case(
    request: pytest.FixtureRequest, tmp_path: Path, zygote: Zygote, loop: asyncio.Runner
) -> Callable[[str, str | int], Case]:
    """Makes cases: each has a file of its own, or its run lies in the database of the test."""
    dsn = request.getfixturevalue("postgres_dsn") if request.param == "postgres" else None

    def make(name: str, graph: str | int) -> Case:
        return Case(dsn or str(tmp_path / f"{name}.db"), Log(tmp_path / f"{name}.log"), name, graph, zygote, loop)

    return make


@pytest.mark.timeout(600)
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_crash_at_any_statement_changes_nothing(graph: str, case: Callable[[str, str | int], Case]) -> None:
    undisturbed = case("undisturbed", graph)
    assert not undisturbed.go()
    expected = undisturbed.end()

    point, killed = 0, True
    while killed:
        point += 1
        disturbed = case(f"killed-at-{point}", graph)
        # The statements that open a store are the same for every workflow, so one of them is killed there.
        killed = disturbed.go(kill_at=point, opening=graph == "chain")
        if killed:
            assert not disturbed.go()
        assert disturbed.end() == expected, f"killed at point {point}"

    assert point > FEWEST_POINTS


@pytest.mark.timeout(600)
def test_kills_at_random_moments_change_nothing(
    case: Callable[[str, str | int], Case], request: pytest.FixtureRequest
) -> None:
    kills, seed = 0, 0
    chance = random.Random(7)
    while kills < RANDOM_KILLS[request.node.callspec.params["case"]]:
        seed += 1
        undisturbed, disturbed = case(f"undisturbed{seed}", seed), case(f"case{seed}", seed)
        undisturbed.go()
        # A node that is cut off every time would be taken for one that brings its process down.
        while disturbed.kills < 4 and disturbed.go(kill_after=chance.uniform(0.005, 0.06)):
            pass
        disturbed.go()

        assert disturbed.end() == undisturbed.end()
        kills += disturbed.kills
