"""A run in which one call follows another goes on where the store answers, and is as exact there as anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sqlite3
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor, Node, Workflow
from dagflow.errors import ExecutorError, RunCancelledError, StoreError
from dagflow.stores import SQLiteStore, _sqlite_writer
from executors import Calls, Held, until
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
            executor._engine.active["r"].driver.wake()
            await asyncio.sleep(0)
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

    async def test_a_driver_that_is_cancelled_before_it_comes_leaves_the_run_to_be_resumed(
        self, tmp_path: Path, gate: Gate
    ) -> None:
        calls = Calls()
        async with DAGExecutor(SQLiteStore(tmp_path / "runs.db", at=gate), max_concurrency=1) as executor:
            workflow, handle = await self.begun(executor, gate, calls)
            waiting = asyncio.create_task(handle.result())
            await asyncio.sleep(0)
            executor._engine.active["r"].driver.wake()
            [task] = [task for task in asyncio.all_tasks() if task.get_name() == "dagflow-run-r"]
            task.cancel()
            gate.open()
            with pytest.raises(ExecutorError):
                await waiting
            await until(lambda: has(executor, "r", "second"))
            assert calls["third"] == 0
            # Nothing of it is left that others would have to wait for.
            assert (await executor.run(chain(Calls()))).status == "completed"

        async with opened(tmp_path / "runs.db", workflow) as other:
            run = await other.resume("r")

        assert run.status == "completed"
        assert (calls["first"], calls["second"], calls["third"]) == (1, 1, 1)

    async def test_a_call_that_is_left_without_a_driver_gives_its_slot_back(self, tmp_path: Path) -> None:
        held = Held()
        async with DAGExecutor(SQLiteStore(tmp_path / "runs.db"), max_concurrency=1) as executor:
            await executor.start(Workflow("held", [Node("a", held)]), run_id="r")
            await held.started.wait()
            executor._engine.active["r"].driver.wake()
            [task] = [task for task in asyncio.all_tasks() if task.get_name() == "dagflow-run-r"]
            task.cancel()

            run = await asyncio.wait_for(executor.run(chain(Calls())), 20)

        assert run.status == "completed"

    async def test_an_end_that_nobody_has_seen_written_is_not_told(self, tmp_path: Path, gate: Gate) -> None:
        async with opened(tmp_path / "runs.db", at=gate) as executor:

            async def only() -> None:
                gate.shut()

            handle = await executor.start(Workflow("w", [Node("only", only)]), run_id="r")
            await asyncio.to_thread(gate.reached.wait, 10)
            waiting = asyncio.create_task(handle.result())
            await asyncio.sleep(0)
            executor._engine.active["r"].driver.wake()
            [task] = [task for task in asyncio.all_tasks() if task.get_name() == "dagflow-run-r"]
            task.cancel()

            with pytest.raises(ExecutorError, match="let go of"):
                await waiting
            gate.open()


async def has(executor: DAGExecutor, run_id: str, node: str) -> bool:
    return (await executor.get(run_id)).nodes[node].status == "completed"


@pytest.fixture
def by_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sqlite_writer, "_QUICK", 1e9)


@pytest.mark.usefixtures("by_loop")
@pytest.mark.parametrize("run_id", [None, "r"])
async def test_a_run_that_is_recorded_at_once_is_not_waited_for(tmp_path: Path, run_id: str | None) -> None:
    held = Held("done")
    async with opened(tmp_path / "runs.db") as executor:
        # From now on the store commits at once, because nobody else has written.
        await executor.run(chain(Calls()))

        handle = await asyncio.wait_for(executor.start(Workflow("held", [Node("a", held)]), run_id=run_id), 20)
        await held.started.wait()
        held.gate.set()

        assert (await handle.result()).outputs == {"a": "done"}


@pytest.mark.usefixtures("by_loop")
async def test_a_run_that_is_woken_while_its_end_is_written_ends_once(tmp_path: Path) -> None:
    calls = Calls()
    drivers: list[asyncio.Task[None] | None] = []

    def at(point: str) -> None:
        if point == "before COMMIT" and calls["only"] and not drivers:
            active = executor._engine.active["r"]
            active.driver.wake()
            drivers.append(active.task)

    async with opened(tmp_path / "runs.db", at=at) as executor:
        run = await executor.run(Workflow("w", [Node("only", calls.of("only"))]), run_id="r")
        [driver] = drivers
        assert driver is not None
        await driver

    assert run.status == "completed"


@pytest.mark.usefixtures("committer")
@pytest.mark.parametrize("in_background", [True, False])
@pytest.mark.parametrize("answer", ["cancelled", "raises", "returns"])
def test_a_loop_that_ends_before_the_executor_is_closed_lets_go_of_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, in_background: bool, answer: str
) -> None:
    held, calls, store = Held(), Calls(), SQLiteStore(tmp_path / "runs.db")

    async def second() -> None:
        try:
            await held()
        except asyncio.CancelledError:
            if answer == "cancelled":
                raise
            if answer == "raises":
                raise RuntimeError from None

    nodes = [Node("first", calls.of("first")), Node("second", second, ["first"])]
    workflow = Workflow("w", [*nodes, Node("third", calls.of("third"), ["second"])])

    async def begin() -> None:
        executor = await DAGExecutor(store).__aenter__()
        if in_background:
            await executor.start(workflow, run_id="r")
        else:
            calling = asyncio.create_task(executor.run(workflow, run_id="r"))
            calling.add_done_callback(lambda task: task.cancelled() or task.exception())
        await held.started.wait()

    async def go_on() -> None:
        await store.close()
        held.gate.set()
        async with opened(tmp_path / "runs.db", workflow) as other:
            [summary] = await other.runs()
            run = await other.get("r")
            assert (summary.owner, run.status, run.nodes["second"].status) == (None, "running", "running")
            assert calls["third"] == 0
            assert (await other.resume("r")).status == "completed"

    asyncio.run(begin())
    asyncio.run(go_on())

    assert calls["first"] == 1
    assert not [record for record in caplog.records if record.name == "asyncio"]


@pytest.mark.usefixtures("committer")
def test_whoever_waits_for_a_run_is_told_of_its_end_although_ctrl_c_comes_just_then(tmp_path: Path) -> None:
    pressed: list[str] = []
    tasks: list[asyncio.Task[Any] | None] = []

    async def only() -> None:
        tasks.append(asyncio.current_task())

    class Pressed:
        def follow(self, *_: object) -> None: ...

        def leave(self, *_: object) -> None:
            pressed.append("Ctrl-C")
            raise KeyboardInterrupt

    async def main() -> str:
        async with opened(tmp_path / "runs.db") as executor:
            leave = executor.follow(Pressed())
            running = asyncio.create_task(executor.run(Workflow("w", [Node("only", only)])))
            await until(running.done)
            leave()
            return (await running).status

    with asyncio.Runner() as runner:
        ended = runner.get_loop().create_task(main())
        with pytest.raises(KeyboardInterrupt):
            runner.get_loop().run_until_complete(ended)
        assert runner.get_loop().run_until_complete(asyncio.wait_for(asyncio.shield(ended), 20)) == "completed"

    assert pressed == ["Ctrl-C"]
    # Where the loop's thread commits, it came in the task of the call.
    assert all(isinstance(task.exception(), KeyboardInterrupt | None) for task in tasks if task is not None)


@pytest.mark.usefixtures("by_thread")
def test_ctrl_c_just_before_a_call_begins_keeps_no_slot(tmp_path: Path) -> None:
    class Pressed:
        def follow(self, *_: object) -> None:
            raise KeyboardInterrupt

        def leave(self, *_: object) -> None: ...

    async def main() -> str:
        async with DAGExecutor(SQLiteStore(tmp_path / "runs.db"), max_concurrency=1) as executor:
            leave = executor.follow(Pressed())
            running = asyncio.create_task(executor.run(chain(Calls())))
            await until(running.done)
            leave()
            with pytest.raises(ExecutorError, match="let go of"):
                await running
            return (await asyncio.wait_for(executor.run(chain(Calls())), 20)).status

    with asyncio.Runner() as runner:
        ended = runner.get_loop().create_task(main())
        with pytest.raises(KeyboardInterrupt):
            runner.get_loop().run_until_complete(ended)
        assert runner.get_loop().run_until_complete(asyncio.wait_for(asyncio.shield(ended), 30)) == "completed"


def eagerly(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    """Begin calls and drivers before they are tasks, as `asyncio.eager_task_factory` does from Python 3.12 on."""
    if coroutine.__qualname__ in ("Calls._call", "Engine._run"):
        context = options.get("context") or contextvars.copy_context()
        assert context.run(coroutine.send, None) is None, "it waits for something else than its turn"
    return asyncio.Task(coroutine, loop=loop, **options)


@pytest.mark.usefixtures("committer")
async def test_a_task_factory_may_begin_tasks_before_they_are_known(tmp_path: Path) -> None:
    calls = Calls()
    steps = chain(calls)
    # Whose driver is needed: two calls end side by side.
    wide = Workflow("wide", [Node("a", calls.of("a")), Node("b", calls.of("b")), Node("c", calls.of("c"))])

    async with opened(tmp_path / "runs.db", steps, wide) as executor:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(eagerly)
        try:
            runs = [await executor.run(steps), await executor.run(wide), await executor.run(steps)]
        finally:
            loop.set_task_factory(None)

    assert [run.status for run in runs] == ["completed"] * 3
