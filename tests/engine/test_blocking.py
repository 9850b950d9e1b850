"""The blocking face: the same methods, for scripts, notebooks and threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import TYPE_CHECKING

import pytest

from dagflow import DAGExecutor, Node, Workflow
from dagflow.errors import ExecutorError, RunCancelledError, RunFailedError, StoreUnavailableError
from dagflow.stores import MemoryStore, SQLiteStore
from dagflow.stores.postgres import PostgresStore
from executors import Calls, Held, fails

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dagflow._blocking import BlockingExecutor
    from dagflow.protocols import ContextStore


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BlockingExecutor]:
    stores: dict[str, Callable[[], ContextStore]] = {
        "memory": MemoryStore,
        "sqlite": lambda: SQLiteStore(tmp_path / "runs.db"),
        "postgres": lambda: PostgresStore(request.getfixturevalue("postgres_dsn")),
    }
    with DAGExecutor(stores[request.param](), grace=0.2) as executor:
        yield executor


def simple() -> Workflow:
    return Workflow("w", [Node("a", lambda x: x + 1), Node("b", lambda a: a * 2)])


class TestMethods:
    def test_a_run_is_returned_when_it_has_ended(self, executor: BlockingExecutor) -> None:
        run = executor.run(simple(), {"x": 1}, run_id="r")

        assert run.outputs == {"a": 2, "b": 4}
        assert executor.run(simple(), {"x": 1}, run_id="r").version == run.version

    def test_all_methods_answer(self, executor: BlockingExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1)])
        workflow.wait_for_signal("paid", depends_on="a")
        workflow.review("check", depends_on="paid")

        assert executor.run(workflow, run_id="r").status == "waiting"
        executor.signal("r", "paid", 5)
        assert executor.resume("r").status == "waiting"
        (review,) = executor.reviews()
        executor.decide("r", review.review, approved=True, by="ada")
        assert executor.resume("r").status == "completed"
        assert executor.get("r").outputs["paid"] == 5
        assert executor.get("r", version=1).status == "pending"
        assert [summary.run_id for summary in executor.runs(workflow="w", status="completed")] == ["r"]
        assert executor.history("r", after=2)[0].version == 3
        assert executor.recover() == []
        executor.submit(workflow, run_id="s", priority=1)
        executor.pause("s")
        executor.cancel("s")
        executor.delete("s")
        assert [summary.run_id for summary in executor.runs()] == ["r"]

    def test_a_failed_run_raises_its_error_with_the_cause(self, executor: BlockingExecutor) -> None:
        with pytest.raises(RunFailedError) as caught:
            executor.run(Workflow("w", [Node("a", fails(times=1, error=KeyError("x")))]), run_id="r")

        assert isinstance(caught.value.__cause__, KeyError)
        assert executor.resume("r").outputs == {"a": "ok"}

    def test_a_run_goes_on_in_the_background(self, executor: BlockingExecutor) -> None:
        gate = threading.Event()
        handle = executor.start(Workflow("w", [Node("a", lambda: gate.wait(30))]), run_id="r")
        assert executor.get("r").status == "running"

        gate.set()

        assert handle.result().outputs == {"a": True}
        kinds = [event.kind.value for event in handle.events()]
        assert (kinds[0], kinds[-1]) == ("run_created", "run_completed")
        assert next(handle.events(after=3)).version == 4

    def test_a_run_in_the_background_is_cancelled(self, executor: BlockingExecutor) -> None:
        gate = threading.Event()
        handle = executor.start(Workflow("w", [Node("a", lambda: gate.wait(30))]), run_id="r")

        handle.cancel()

        with pytest.raises(RunCancelledError):
            handle.result()
        gate.set()

    def test_a_run_in_the_background_is_paused(self, executor: BlockingExecutor) -> None:
        gate = threading.Event()
        workflow = Workflow("w", [Node("a", lambda: gate.wait(30)), Node("b", lambda a: None)])
        handle = executor.start(workflow, run_id="r")
        handle.pause()
        gate.set()

        assert handle.result().status == "paused"
        assert executor.resume("r").status == "completed"

    def test_a_run_is_gone_on_with_in_the_background(self, executor: BlockingExecutor) -> None:
        workflow = Workflow("w", [Node("a", fails(times=1))])
        with pytest.raises(RunFailedError):
            executor.run(workflow, run_id="r")

        handle = executor.go_on("r")

        assert handle.result().outputs == {"a": "ok"}
        assert (repr(handle), handle.is_new) == ("<BlockingHandle 'r'>", True)

    def test_both_faces_have_the_same_methods(self, executor: BlockingExecutor) -> None:
        awaited = {name for name in vars(DAGExecutor) if not name.startswith("_")} - {
            "copy",
            "follow",
            "is_driving",
            "lease",
            "lease_age",
            "observers",
        }

        assert awaited <= set(dir(executor))
        assert (executor.is_open, list(executor.workflows)) == (True, [])


class TestWhere:
    async def test_it_works_where_a_loop_is_running(self) -> None:
        with DAGExecutor("memory://") as executor:
            assert executor.run(simple(), {"x": 1}).outputs["b"] == 4

    def test_several_threads_may_use_it(self, executor: BlockingExecutor) -> None:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            runs = list(pool.map(lambda x: executor.run(simple(), {"x": x}), range(40)))

        assert [run.outputs["b"] for run in runs] == [(x + 1) * 2 for x in range(40)]

    def test_several_threads_may_run_the_same_run(self, executor: BlockingExecutor) -> None:
        calls = Calls()
        workflow = Workflow("w", [Node("a", calls.of("a", 1))])
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            runs = list(pool.map(lambda _: executor.run(workflow, run_id="r"), range(20)))

        assert {run.outputs["a"] for run in runs} == {1}
        assert calls == {"a": 1}

    def test_a_sync_node_may_use_it(self, executor: BlockingExecutor) -> None:
        workflow = Workflow("outer", [Node("a", lambda: executor.run(simple(), {"x": 1}).outputs["b"])])

        assert executor.run(workflow).outputs == {"a": 4}

    def test_a_blocking_call_on_the_executors_own_loop_is_an_error_with_a_way_out(
        self, executor: BlockingExecutor
    ) -> None:
        async def node() -> None:
            executor.run(simple(), {"x": 1})

        with pytest.raises(RunFailedError) as caught:
            executor.run(Workflow("outer", [Node("a", node, retry=3)]))

        assert isinstance(caught.value.__cause__, ExecutorError)
        assert "would wait for itself: make the node sync" in str(caught.value.__cause__)
        assert caught.value.run.nodes["a"].attempts == 1

    def test_the_methods_to_await_are_not_for_another_loop(self) -> None:
        executor = DAGExecutor("memory://")
        with executor, pytest.raises(ExecutorError, match="belongs to another event loop"):
            asyncio.run(executor.runs())


class TestClosing:
    def test_every_call_after_the_end_says_so(self) -> None:
        with DAGExecutor("memory://") as executor:
            handle = executor.start(simple(), {"x": 1})

        for call in (lambda: executor.run(simple(), {"x": 1}), executor.runs, handle.result, handle.cancel):
            with pytest.raises(ExecutorError, match="the executor is closed: make another one"):
                call()

    def test_an_executor_is_opened_once(self) -> None:
        executor = DAGExecutor("memory://")
        with executor, pytest.raises(ExecutorError, match="opened once"):
            executor.__enter__()
        with pytest.raises(ExecutorError, match="opened once"), executor:
            pass

    def test_its_thread_ends_with_it(self) -> None:
        before = set(threading.enumerate())
        with DAGExecutor("memory://") as executor:
            executor.run(simple(), {"x": 1})

        for thread in set(threading.enumerate()) - before:
            thread.join(10)
        assert set(threading.enumerate()) <= before

    def test_a_store_that_cannot_be_opened_leaves_no_thread(self) -> None:
        class Broken(MemoryStore):
            async def open(self) -> None:
                raise StoreUnavailableError("no route", "here")

        before = threading.active_count()
        with pytest.raises(StoreUnavailableError), DAGExecutor(Broken()):
            pass

        assert threading.active_count() == before

    def test_those_who_wait_in_other_threads_are_told(self) -> None:
        held = threading.Event()
        raised: list[BaseException] = []

        with DAGExecutor("memory://", grace=0.1) as executor:
            handle = executor.start(Workflow("w", [Node("a", lambda: held.wait(30))]))

            def wait() -> None:
                try:
                    handle.result()
                except BaseException as exc:  # noqa: BLE001 - looked at below
                    raised.append(exc)

            waiter = threading.Thread(target=wait)
            waiter.start()
            while not executor.get(handle.run_id).nodes["a"].attempts:
                pass
        waiter.join(10)

        assert isinstance(raised[0], ExecutorError)
        held.set()

    def test_an_error_in_the_block_leaves_runs_to_be_resumed(self, tmp_path: Path) -> None:
        store = SQLiteStore(tmp_path / "runs.db")
        workflow = Workflow("w", [Node("a", Held())])

        def use() -> None:
            with DAGExecutor(store, grace=0.1) as executor:
                executor.start(workflow, run_id="r")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            use()

        mended = Workflow("w", [Node("a", lambda: 1)])
        with DAGExecutor(store, workflows=[mended]) as executor:
            assert executor.resume("r").outputs == {"a": 1}
