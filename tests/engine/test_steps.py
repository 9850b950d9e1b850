"""A run in which one call follows another goes on where the store answers, and is as exact there as anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor, Node, Workflow
from dagflow.errors import ExecutorError, RunCancelledError, StoreError
from dagflow.stores import SQLiteStore, _sqlite_writer
from executors import Calls, Held
from stores.sqlite_faults import Faults, Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CALLER: ContextVar[str] = ContextVar("CALLER")


@pytest.fixture(params=["loop", "thread"])
def committer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let groups be committed on the loop's thread, or by the writer's."""
    monkeypatch.setattr(_sqlite_writer, "_QUICK", 1e9 if request.param == "loop" else 0.0)


@pytest.fixture
def by_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_writer, "_QUICK", 0.0)


@contextlib.asynccontextmanager
async def opened(path: Path, *workflows: Workflow, at: Any = None) -> AsyncIterator[DAGExecutor]:
    async with DAGExecutor(SQLiteStore(path, at=at), workflows=workflows) as executor:
        yield executor


def chain(calls: Calls, length: int = 5) -> Workflow:
    names = [f"n{number}" for number in range(length)]

    def node(name: str) -> Any:
        async def call() -> str:
            calls.of(name)()
            return name

        return call

    return Workflow("w", [Node(name, node(name), depends_on=names[:at][-1:]) for at, name in enumerate(names)])


@pytest.mark.usefixtures("committer")
async def test_every_call_has_the_context_of_whoever_asked_for_its_run(tmp_path: Path) -> None:
    async def who() -> str:
        before = CALLER.get()
        CALLER.set("another node")
        return before

    workflow = Workflow("w", [Node("a", who), Node("b", who, ["a"]), Node("c", who, ["b"])])

    async with opened(tmp_path / "runs.db") as executor:

        async def ask(name: str) -> set[str]:
            CALLER.set(name)
            return set((await executor.run(workflow)).outputs.values())

        seen = await asyncio.gather(*(asyncio.create_task(ask(f"caller {n}")) for n in range(20)))

    assert seen == [{f"caller {n}"} for n in range(20)]


@pytest.mark.usefixtures("committer")
async def test_every_call_is_a_task_of_its_own(tmp_path: Path) -> None:
    tasks: list[asyncio.Task[Any] | None] = []

    async def call() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)

    workflow = Workflow("w", [Node("a", call), Node("b", call, ["a"]), Node("c", call, ["b"])])
    async with opened(tmp_path / "runs.db") as executor:
        await executor.run(workflow)

    assert [task.get_name() for task in tasks if task is not None] == ["a", "b", "c"]
    assert len(set(tasks)) == 3


@pytest.mark.parametrize("point", ["before INSERT events", "before COMMIT", "after COMMIT"])
@pytest.mark.parametrize("skipped", range(6))
@pytest.mark.usefixtures("committer")
async def test_a_store_that_fails_between_two_calls_ends_the_run_and_loses_nothing(
    tmp_path: Path, point: str, skipped: int
) -> None:
    faults, calls = Faults(), Calls()
    workflow = chain(calls)

    class Failing(Faults):
        """Lets a point pass for so many times, and from then on fail for a while."""

        def __call__(self, passed: str) -> None:
            if passed == point and len([p for p in self.passed if p == point]) == 2 + skipped:
                faults.add(point, sqlite3.SQLITE_FULL, times=20)
            self.passed.append(passed)
            faults(passed)

    async with opened(tmp_path / "runs.db", workflow, at=Failing()) as executor:
        with contextlib.suppress(StoreError):
            await executor.run(workflow, run_id="r")
        faults.clear()
        if not await executor.runs():
            return
        told = dict(calls)
        run = await executor.resume("r")

    assert run.status == "completed"
    # What was called twice is what was cut off: the last call, or the one whose end was not kept.
    assert sum(calls.values()) - 5 <= 1
    assert list(told) == [f"n{number}" for number in range(len(told))]


@pytest.mark.usefixtures("by_thread")
class TestWhileItIsWritten:
    """The end of a call is being written; what follows from it is decided, and nobody knows of it yet."""

    @pytest.fixture
    def gate(self) -> Gate:
        return Gate("before COMMIT")

    async def begun(self, executor: DAGExecutor, gate: Gate, calls: Calls, third: Any = None) -> Any:
        async def second() -> None:
            calls.of("second")()
            gate.shut()

        names = [Node("first", calls.of("first")), Node("second", second, ["first"])]
        workflow = Workflow("w", [*names, Node("third", third or calls.of("third"), ["second"])])
        handle = await executor.start(workflow, run_id="r")
        await asyncio.to_thread(gate.reached.wait, 10)
        assert calls == {"first": 1, "second": 1}
        return workflow, handle

    async def test_a_run_that_is_cancelled_ends_as_cancelled(self, tmp_path: Path, gate: Gate) -> None:
        calls = Calls()
        async with opened(tmp_path / "runs.db", at=gate) as executor:
            _, handle = await self.begun(executor, gate, calls, Held())
            cancelling = asyncio.create_task(executor.cancel("r"))
            await asyncio.sleep(0.02)
            gate.open()
            await cancelling

            with pytest.raises(RunCancelledError) as caught:
                await handle.result()

        nodes = caught.value.run.nodes
        assert (nodes["second"].status, nodes["third"].status) == ("completed", "cancelled")

    async def test_a_run_that_is_closed_can_be_resumed(self, tmp_path: Path, gate: Gate) -> None:
        calls = Calls()
        async with opened(tmp_path / "runs.db", at=gate) as executor:
            workflow, handle = await self.begun(executor, gate, calls)
            waiting = asyncio.create_task(handle.result())
            asyncio.get_running_loop().call_later(0.02, gate.open)
        with pytest.raises(ExecutorError):
            await waiting

        async with opened(tmp_path / "runs.db", workflow) as other:
            assert [run.owner for run in await other.runs()] == [None]
            run = await other.resume("r")

        assert run.status == "completed"
        assert (calls["first"], calls["second"]) == (1, 1)

    async def test_a_driver_that_is_cancelled_waits_for_what_it_has_asked_for(self, tmp_path: Path, gate: Gate) -> None:
        calls = Calls()
        async with opened(tmp_path / "runs.db", at=gate) as executor:
            workflow, _ = await self.begun(executor, gate, calls)
            [task] = [task for task in asyncio.all_tasks() if task.get_name() == "dagflow-run-r"]
            task.cancel()
            await asyncio.sleep(0.02)
            assert not task.done()
            gate.open()
            await asyncio.wait([task])

            assert (await executor.get("r")).nodes["second"].status == "completed"
            run = await executor.run(workflow, run_id="r")

        assert run.status == "completed"
        assert (calls["first"], calls["second"]) == (1, 1)
