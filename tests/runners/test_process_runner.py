"""Calls in processes of our own."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
import types
from typing import TYPE_CHECKING, Any, Protocol

import pytest

import misbehaving
from census import contents, is_running, parent_of, processes, until
from dagflow import DAGExecutor, Node, RetryPolicy, Workflow
from dagflow.errors import (
    ExecutorError,
    NodeError,
    NodeTimeoutError,
    RunCancelledError,
    RunFailedError,
    SerializationError,
    WorkerDiedError,
    WorkflowError,
)
from dagflow.protocols import Runner
from dagflow.runners import ProcessRunner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

MIB = 2**20


class OpenRunner(Protocol):
    """Makes runners that are closed at the end of the test."""

    def __call__(self, max_processes: int | None = None, **options: Any) -> ProcessRunner: ...


@pytest.fixture
async def open_runner(mark: str) -> AsyncIterator[OpenRunner]:
    runners = []

    def open_one(max_processes: int | None = None, **options: Any) -> ProcessRunner:
        runners.append(ProcessRunner(max_processes, **options))
        return runners[-1]

    yield open_one
    for runner in runners:
        await runner.close()


@pytest.fixture
def runner(open_runner: OpenRunner) -> ProcessRunner:
    return open_runner(1)


async def call(
    runner: ProcessRunner, function: Callable[..., Any], timeout: float | None = None, /, **arguments: Any
) -> Any:
    return await runner.call(function, arguments, timeout=timeout, node="a")


async def appears(path: Path) -> int:
    """Wait until a function says that it hangs, and return its process."""
    await until(lambda: contents(path))
    return int(contents(path))


class TestCalls:
    async def test_a_function_is_called_in_another_process(self, runner: ProcessRunner) -> None:
        assert isinstance(runner, Runner)
        assert await call(runner, misbehaving.add, x=1, y=2) == 3
        assert await call(runner, misbehaving.process_id) != os.getpid()

    async def test_it_is_called_in_the_main_thread(self, runner: ProcessRunner) -> None:
        assert await call(runner, misbehaving.thread_name) == "MainThread"

    async def test_an_async_function_gets_a_loop_of_its_own(self, runner: ProcessRunner) -> None:
        assert await call(runner, misbehaving.add_slowly, 60.0, x=1, y=2) == 3

    async def test_large_values_go_both_ways(self, runner: ProcessRunner) -> None:
        assert await call(runner, misbehaving.size, data=b"x" * 20 * MIB) == 20 * MIB
        assert len(await call(runner, misbehaving.bulk, length=20 * MIB)) == 20 * MIB

    async def test_a_process_serves_one_call_after_the_other(self, runner: ProcessRunner) -> None:
        first = await call(runner, misbehaving.process_id)

        assert await call(runner, misbehaving.process_id) == first

    async def test_no_more_calls_run_at_a_time_than_there_are_processes(self, open_runner: OpenRunner) -> None:
        two = open_runner(2)

        served = await asyncio.gather(*(call(two, misbehaving.process_id) for _ in range(12)))

        assert 1 <= len(set(served)) <= 2

    async def test_a_process_is_replaced_after_its_share_of_calls(self, open_runner: OpenRunner) -> None:
        fleeting = open_runner(1, reuse=2)

        served = [await call(fleeting, misbehaving.process_id) for _ in range(4)]

        assert served[0] == served[1] != served[2] == served[3]
        assert not any(map(is_running, served))

    async def test_the_initializer_is_called_once_in_each_process(self, open_runner: OpenRunner) -> None:
        greeted = open_runner(1, initializer=misbehaving.greet)

        assert await call(greeted, misbehaving.note, word="a") == ["hello", "a"]
        assert await call(greeted, misbehaving.note, word="b") == ["hello", "a", "b"]

    async def test_what_a_call_leaves_running_ends_with_its_process(self, open_runner: OpenRunner) -> None:
        once = open_runner(1, reuse=1)

        left = await call(once, misbehaving.leave_process)

        assert not is_running(left)

    async def test_a_signal_to_the_group_does_not_end_a_process(self, runner: ProcessRunner) -> None:
        process = await call(runner, misbehaving.process_id)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(process, number)

        assert await call(runner, misbehaving.process_id) == process

    async def test_a_fork_of_a_process_hears_signals(self, runner: ProcessRunner) -> None:
        assert await call(runner, misbehaving.terminate_fork) == -signal.SIGTERM

    async def test_a_thread_that_a_call_has_left_behind_does_not_disturb_the_next_one(
        self, open_runner: OpenRunner, tmp_path: Path
    ) -> None:
        beats = tmp_path / "beats"
        workflow = Workflow("w", [Node("a", misbehaving.beat_for_ever, runner="p", heartbeat_timeout=60)])
        runner = open_runner(1)
        async with DAGExecutor("memory://", runners={"p": runner}) as executor:
            await executor.run(workflow, {"path": str(beats)})
            await until(lambda: len(contents(beats)) > 100)

            for _ in range(20):
                assert await call(runner, misbehaving.add, x=1, y=2) == 3


class TestContext:
    async def run(
        self, function: Callable[..., Any], inputs: Any = None, *, resources: Any = None, **options: Any
    ) -> Any:
        nodes = [Node("up", misbehaving.process_id), Node("a", function, ["up"], runner="p", **options)]
        async with DAGExecutor("memory://", runners={"p": ProcessRunner(1)}, resources=resources) as executor:
            run = await executor.run(Workflow("w", nodes), inputs)
        return run.outputs["a"]

    async def test_a_context_travels_as_a_plain_copy(self, mark: str) -> None:
        shown = await self.run(misbehaving.facts, config={"size": 3})

        assert (shown["node"], shown["attempt"], shown["config"]) == ("a", 1, {"size": 3})
        assert shown["outputs"] == {"up": os.getpid()}
        assert shown["extra"] == {"run_id": shown["run_id"], "node": "a", "attempt": 1}

    async def test_resources_that_can_travel_come_along(self, mark: str) -> None:
        resources = {"rate": [1, 2], "lock": threading.Lock()}

        assert await self.run(misbehaving.resource, {"name": "rate"}, resources=resources) == [1, 2]
        assert await self.run(misbehaving.count_resources, resources=resources) == 2

    async def test_a_resource_that_cannot_travel_is_refused_by_name(self, mark: str) -> None:
        with pytest.raises(RunFailedError, match="resource 'rate' cannot travel to another process"):
            await self.run(misbehaving.resource, {"name": "rate"}, resources={"rate": threading.Lock()})

    async def test_heartbeats_are_heard_from_another_process(self, mark: str) -> None:
        assert await self.run(misbehaving.beat, {"seconds": 1.2}, heartbeat_timeout=1.0) == "done"

    async def test_a_fork_cannot_speak_for_its_parent(self, mark: str) -> None:
        assert "call it there" in await self.run(misbehaving.beat_in_fork, heartbeat_timeout=60.0)

    async def test_a_silent_process_is_killed(self, mark: str) -> None:
        with pytest.raises(RunFailedError) as caught:
            await self.run(misbehaving.hang_in_silence, heartbeat_timeout=0.2)

        assert str(caught.value.__cause__) == "node 'a' gave no sign of life for 0.2 seconds"
        assert processes(mark) == []


class TestErrors:
    async def test_an_exception_comes_back_with_the_traceback_of_its_process(self, runner: ProcessRunner) -> None:
        with pytest.raises(ValueError, match="no") as caught:
            await call(runner, misbehaving.boom)

        (note,) = caught.value.__notes__
        assert "in _deeper" in note
        assert "_worker.py" not in note

    async def test_its_traceback_is_recorded(self, mark: str) -> None:
        workflow = Workflow("w", [Node("a", misbehaving.boom, runner="p")])
        async with DAGExecutor("memory://", runners={"p": ProcessRunner(1)}) as executor:
            with pytest.raises(RunFailedError) as caught:
                await executor.run(workflow)

        error = caught.value.failures["a"]
        assert (error.type, error.message) == ("ValueError", "no")
        assert "in _deeper" in error.traceback

    async def test_an_exception_with_a_constructor_of_its_own_keeps_its_type(self, runner: ProcessRunner) -> None:
        with pytest.raises(misbehaving.NeedsTwoError, match=r"seven \(7\)") as caught:
            await call(runner, misbehaving.raise_needs_two)

        assert caught.value.code == 7
        assert not hasattr(caught.value, "lock")

    async def test_an_exception_that_cannot_travel_is_told(self, runner: ProcessRunner) -> None:
        with pytest.raises(NodeError) as caught:
            await call(runner, misbehaving.raise_unspeakable)

        error = caught.value.error
        assert (error.type, error.message) == ("misbehaving.UnspeakableError", "unspeakable")
        assert "in raise_unspeakable" in error.traceback

    async def test_it_is_recorded_as_what_it_is(self, mark: str) -> None:
        workflow = Workflow("w", [Node("a", misbehaving.raise_unspeakable, runner="p")])
        async with DAGExecutor("memory://", runners={"p": ProcessRunner(1)}) as executor:
            with pytest.raises(RunFailedError) as caught:
                await executor.run(workflow)

        assert caught.value.failures["a"].type == "misbehaving.UnspeakableError"

    async def test_leaving_the_interpreter_is_an_exception_like_any_other(self, runner: ProcessRunner) -> None:
        with pytest.raises(SystemExit):
            await call(runner, misbehaving.leave)

        assert await call(runner, misbehaving.add, x=1, y=2) == 3

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            (misbehaving.return_lock, "value at \\$ of type lock: what it returned cannot leave its process"),
            (misbehaving.return_one_way, "what it returned does not survive the way from its process"),
        ],
    )
    async def test_a_result_that_cannot_travel_is_refused(
        self, runner: ProcessRunner, function: Callable[..., Any], reason: str
    ) -> None:
        with pytest.raises(SerializationError, match=reason):
            await call(runner, function)


class TestWhatCannotTravel:
    async def test_a_function_without_a_place_in_a_module_is_refused_by_name(self, runner: ProcessRunner) -> None:
        def local() -> None: ...

        with pytest.raises(WorkflowError, match=r"node 'a': its function .*local cannot travel to another process"):
            await call(runner, local)
        with pytest.raises(WorkflowError, match=r"<lambda> cannot travel .*: define it with 'def' at the top level"):
            await call(runner, lambda: 1)

    async def test_it_is_not_tried_again(self, mark: str) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1, runner="p", retry=3)])
        async with DAGExecutor("memory://", runners={"p": ProcessRunner(1)}) as executor:
            handle = await executor.start(workflow)
            with pytest.raises(RunFailedError):
                await handle.result()
            run = await executor.get(handle.run_id)

        assert run.nodes["a"].attempts == 1

    async def test_an_argument_that_cannot_travel_is_refused_by_name(self, runner: ProcessRunner) -> None:
        with pytest.raises(SerializationError, match=r"node 'a', value at \$\.value of type lock: it cannot travel"):
            await call(runner, misbehaving.take, value=threading.Lock())

    async def test_a_function_that_the_process_cannot_find_is_refused(
        self, runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def function() -> None: ...

        module = types.ModuleType("only_here")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(module, "function", function, raising=False)
        function.__module__, function.__qualname__ = module.__name__, "function"

        with pytest.raises(WorkflowError, match=r"a worker process cannot find its function, .*only_here"):
            await call(runner, function)
        assert await call(runner, misbehaving.add, x=1, y=2) == 3

    async def test_an_argument_that_cannot_be_unpacked_is_an_error_of_its_own(self, runner: ProcessRunner) -> None:
        with pytest.raises(ValueError, match="this far and no further"):
            await call(runner, misbehaving.take, value=misbehaving.OneWay())


class TestTimeout:
    async def test_a_call_that_is_too_slow_is_killed(self, runner: ProcessRunner, mark: str) -> None:
        with pytest.raises(NodeTimeoutError, match=r"node 'a' took longer than 0\.2 seconds$") as caught:
            await call(runner, misbehaving.hang, 0.2)

        assert not caught.value.abandoned
        assert processes(mark) == []

    async def test_a_node_that_sleeps_for_a_minute_ends_after_its_second_and_leaves_no_process(self, mark: str) -> None:
        node = Node("nap", misbehaving.nap, timeout=1, runner="process")
        async with DAGExecutor("memory://", runners={"process": ProcessRunner(1)}) as executor:
            with pytest.raises(RunFailedError) as caught:
                await executor.run(Workflow("w", [node]), {"length": 60})

            duration = caught.value.run.nodes["nap"].duration
            assert duration is not None
            assert duration < 2
            assert processes(mark) == []
        assert isinstance(caught.value.__cause__, NodeTimeoutError)

    async def test_all_that_its_process_has_started_is_killed_with_it(self, runner: ProcessRunner, mark: str) -> None:
        await call(runner, misbehaving.found_family)
        # The guardian, the worker, a shell and its child, the one with its own session, the daemon.
        await until(lambda: len(processes(mark)) == 6)

        with pytest.raises(NodeTimeoutError):
            await call(runner, misbehaving.hang, 0.2)

        assert processes(mark) == []

    async def test_another_process_takes_its_place(self, runner: ProcessRunner) -> None:
        with pytest.raises(NodeTimeoutError):
            await call(runner, misbehaving.hang, 0.05)

        assert await call(runner, misbehaving.add, 60.0, x=1, y=2) == 3

    async def test_a_process_that_does_not_become_ready_is_killed(self, open_runner: OpenRunner, mark: str) -> None:
        hasty = open_runner(1, start_timeout=0.001)

        with pytest.raises(NodeTimeoutError, match=r"node 'a' was not ready to be called after 0\.001 seconds"):
            await call(hasty, misbehaving.add, x=1, y=2)

        assert processes(mark) == []


class TestCancellation:
    async def test_a_call_that_is_cancelled_is_killed(self, runner: ProcessRunner, mark: str, tmp_path: Path) -> None:
        seen = tmp_path / "hangs"
        task = asyncio.ensure_future(call(runner, misbehaving.hang_and_refuse_to_end, path=str(seen)))
        await appears(seen)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert processes(mark) == []

    async def test_a_call_that_is_cancelled_before_it_began_leaves_nothing(
        self, runner: ProcessRunner, mark: str
    ) -> None:
        task = asyncio.ensure_future(call(runner, misbehaving.hang))
        await asyncio.sleep(0)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        assert processes(mark) == []

    async def test_who_does_not_wait_for_the_kill_finds_it_done_after_closing(
        self, runner: ProcessRunner, mark: str, tmp_path: Path
    ) -> None:
        seen = tmp_path / "hangs"
        task = asyncio.ensure_future(call(runner, misbehaving.hang, path=str(seen)))
        await appears(seen)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        await runner.close()

        assert processes(mark) == []

    async def test_cancelling_a_run_kills_its_calls(self, mark: str, tmp_path: Path) -> None:
        seen = tmp_path / "hangs"
        workflow = Workflow("w", [Node("a", misbehaving.hang, runner="p")])
        async with DAGExecutor("memory://", runners={"p": ProcessRunner(1)}) as executor:
            handle = await executor.start(workflow, {"path": str(seen)}, run_id="r")
            await appears(seen)
            await handle.cancel()
            with pytest.raises(RunCancelledError):
                await handle.result()

            assert processes(mark) == []


class TestClosing:
    async def test_closing_ends_idle_processes(self, runner: ProcessRunner, mark: str) -> None:
        await call(runner, misbehaving.add, x=1, y=2)
        assert len(processes(mark)) == 2

        await runner.close()

        assert processes(mark) == []

    async def test_closing_kills_what_is_running(self, runner: ProcessRunner, mark: str, tmp_path: Path) -> None:
        seen = tmp_path / "hangs"
        task = asyncio.ensure_future(call(runner, misbehaving.hang, path=str(seen)))
        await appears(seen)

        await runner.close()

        with pytest.raises(ExecutorError, match="the process runner was closed in the middle of a call"):
            await task
        assert processes(mark) == []

    async def test_a_closed_runner_takes_no_calls(self, runner: ProcessRunner) -> None:
        await runner.close()
        await runner.close()

        with pytest.raises(ExecutorError, match="the process runner is closed"):
            await call(runner, misbehaving.add, x=1, y=2)

    async def test_closing_without_a_call_starts_nothing(self, runner: ProcessRunner, mark: str) -> None:
        await runner.close()

        assert processes(mark) == []


class TestDeath:
    @pytest.mark.parametrize(
        ("function", "number", "how"),
        [
            (misbehaving.exit_at_once, 3, (3, None, "exited with code 3")),
            (misbehaving.exit_at_once, 0, (0, None, "exited with code 0")),
            (
                misbehaving.kill_itself,
                signal.SIGKILL,
                (None, "SIGKILL", "was ended by SIGKILL, by somebody or for want of memory,"),
            ),
            (misbehaving.kill_itself, signal.SIGSEGV, (None, "SIGSEGV", "was ended by SIGSEGV")),
            (misbehaving.kill_itself, signal.SIGRTMIN + 1, (None, "signal 35", "was ended by signal 35")),
        ],
    )
    async def test_a_process_that_dies_is_an_error_that_says_how(
        self, runner: ProcessRunner, function: Callable[..., Any], number: int, how: tuple[int | None, str | None, str]
    ) -> None:
        with pytest.raises(WorkerDiedError) as caught:
            await call(runner, function, number=number)

        error = caught.value
        assert (error.exit_code, error.signal) == how[:2]
        assert str(error) == f"node 'a': its process {how[2]} before the call had returned"
        assert await call(runner, misbehaving.add, x=1, y=2) == 3

    async def test_the_retry_policy_counts_it_as_a_failed_attempt(self, mark: str, tmp_path: Path) -> None:
        retry = RetryPolicy(max_attempts=2, delay=0, retry_on=WorkerDiedError)
        workflow = Workflow("w", [Node("a", misbehaving.die_once, runner="p", retry=retry)])
        async with DAGExecutor("memory://", runners={"p": ProcessRunner(1)}) as executor:
            run = await executor.run(workflow, {"path": str(tmp_path / "died")})

        assert run.outputs["a"] == "second time"
        assert run.nodes["a"].attempts == 2

    async def test_a_process_that_died_while_it_was_idle_harms_no_call(self, runner: ProcessRunner) -> None:
        process = await call(runner, misbehaving.process_id)
        os.kill(process, signal.SIGKILL)

        assert await call(runner, misbehaving.process_id) != process

    async def test_a_process_that_loses_its_line_is_dead_to_us(self, runner: ProcessRunner, mark: str) -> None:
        with pytest.raises(WorkerDiedError):
            await call(runner, misbehaving.close_all_descriptors)

        assert processes(mark) == []

    async def test_a_fork_that_comes_back_from_its_function_is_ended(self, runner: ProcessRunner, mark: str) -> None:
        process = await call(runner, misbehaving.process_id)

        assert await call(runner, misbehaving.forget_fork) == process
        assert await call(runner, misbehaving.process_id) == process

    async def test_a_process_dies_with_its_guardian(self, runner: ProcessRunner, mark: str, tmp_path: Path) -> None:
        seen = tmp_path / "hangs"
        task = asyncio.ensure_future(call(runner, misbehaving.hang, path=str(seen)))
        worker = await appears(seen)

        os.kill(parent_of(worker), signal.SIGKILL)

        with pytest.raises(WorkerDiedError, match="its process died before the call had returned"):
            await task
        await until(lambda: not is_running(worker))

    async def test_a_process_that_loses_its_guardian_before_it_is_ready_is_dead_to_us(
        self, open_runner: OpenRunner, mark: str, tmp_path: Path
    ) -> None:
        seen = tmp_path / "hangs"
        slow = open_runner(1, initializer=functools.partial(misbehaving.hang, str(seen)))
        task = asyncio.ensure_future(call(slow, misbehaving.add, x=1, y=2))
        worker = await appears(seen)

        os.kill(parent_of(worker), signal.SIGKILL)

        with pytest.raises(WorkerDiedError, match="its process died before the call had returned"):
            await task
        await until(lambda: not is_running(worker))


class TestMemory:
    async def test_a_call_beyond_the_limit_raises_a_memory_error(self, open_runner: OpenRunner) -> None:
        small = open_runner(1, memory_limit_bytes=512 * MIB)

        assert await call(small, misbehaving.devour, length=10 * MIB) == 10
        with pytest.raises(MemoryError):
            await call(small, misbehaving.devour, length=1024 * MIB)
        assert await call(small, misbehaving.devour, length=10 * MIB) == 10

    async def test_a_process_whose_memory_ran_out_is_not_used_again(self, open_runner: OpenRunner) -> None:
        small = open_runner(1, memory_limit_bytes=512 * MIB)
        process = await call(small, misbehaving.process_id)
        with pytest.raises(MemoryError):
            await call(small, misbehaving.devour, length=1024 * MIB)

        assert await call(small, misbehaving.process_id) != process

    async def test_the_function_cannot_raise_its_limit(self, open_runner: OpenRunner) -> None:
        small = open_runner(1, memory_limit_bytes=512 * MIB)

        assert await call(small, misbehaving.limit_of_memory) == (512 * MIB, 512 * MIB)


class TestOptions:
    @pytest.mark.parametrize("option", ["max_processes", "memory_limit_bytes", "reuse"])
    def test_a_number_below_1_is_refused(self, option: str) -> None:
        options: dict[str, Any] = {option: 0}

        with pytest.raises(ValueError, match=f"{option} must be at least 1, not 0"):
            ProcessRunner(**options)

    def test_an_initializer_without_a_place_in_a_module_is_refused(self) -> None:
        with pytest.raises(ExecutorError, match="the initializer cannot travel to another process"):
            ProcessRunner(initializer=lambda: None)

    async def test_an_initializer_that_ends_its_process_is_a_death(self, open_runner: OpenRunner) -> None:
        deadly = open_runner(1, initializer=functools.partial(misbehaving.exit_at_once, 4))

        with pytest.raises(WorkerDiedError, match="its process exited with code 4"):
            await call(deadly, misbehaving.add, x=1, y=2)

    async def test_an_interpreter_that_does_not_exist_fails_the_call(
        self, runner: ProcessRunner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("multiprocessing.spawn._python_exe", b"/no/such/python")

        with pytest.raises(FileNotFoundError):
            await call(runner, misbehaving.add, x=1, y=2)

    def test_systems_without_process_groups_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dagflow.runners.process.os", types.SimpleNamespace(name="nt"))

        with pytest.raises(ExecutorError, match="ProcessRunner needs a POSIX system: use ThreadRunner"):
            ProcessRunner()

    async def test_an_initializer_that_fails_fails_the_call(self, open_runner: OpenRunner, mark: str) -> None:
        refusing = open_runner(1, initializer=misbehaving.refuse)

        with pytest.raises(ExecutorError, match="the initializer of the process runner failed: not today") as caught:
            await call(refusing, misbehaving.add, x=1, y=2)

        assert isinstance(caught.value.__cause__, ValueError)
        assert processes(mark) == []
