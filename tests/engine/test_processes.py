"""How processes end that use an executor: forgotten, interrupted, or in the middle of something.

Each process runs in development mode with warnings as errors, and must leave a run that can be resumed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
from psycopg.conninfo import conninfo_to_dict

from dagflow import DAGExecutor, Node, Workflow

if TYPE_CHECKING:
    from pathlib import Path

PRELUDE = """
    import asyncio, os, sys, threading
    from dagflow import DAGExecutor, Node, Workflow
    from dagflow.stores import open_store

    def say(text):
        os.write(1, f"{text}\\n".encode())

    def hang_in_a_thread():
        say("started")
        threading.Event().wait()

    async def hang_on_the_loop():
        say("started")
        await asyncio.Event().wait()

    workflow = Workflow("w", [Node("done", lambda: 1), Node("thread", hang_in_a_thread, ["done"])])
    workflow.add(Node("loop", hang_on_the_loop, ["done"]))
    store = open_store(sys.argv[1] if sys.argv[1:] else "memory://")
"""


class Process:
    """A process that runs a script, in development mode and with warnings as errors."""

    def __init__(self, script: str, *arguments: object) -> None:
        code = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", code, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for(self, word: str, *, times: int = 1) -> None:
        assert self._process.stdout is not None
        for _ in range(times):
            assert self._process.stdout.readline().strip() == word

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def end(self) -> tuple[int, str]:
        """Wait for its end, a few seconds at the most; return its code and what it complained about."""
        try:
            _, complaints = self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            pytest.fail("the process does not end")
        # In development mode a loop says when something took long, such as the first import of a package.
        lines = [line for line in complaints.splitlines() if not line.startswith("Executing <")]
        return self._process.returncode, "\n".join(lines)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the processes of a test keep their runs."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.db'}"
    facts = conninfo_to_dict(request.getfixturevalue("postgres_dsn"))
    return f"postgresql:///?{urlencode(facts)}"


def resumed(url: str) -> dict[str, object]:
    """Go on with the run of the process, whose lease has to be free, with functions that return."""
    workflow = Workflow("w", [Node("done", lambda: "again"), Node("thread", lambda: 2, ["done"])])
    workflow.add(Node("loop", lambda: 3, ["done"]))
    with DAGExecutor(url, workflows=[workflow]) as executor:
        (summary,) = executor.runs()
        assert (summary.status, summary.owner) == ("running", None)
        return dict(executor.resume(summary.run_id, wait=False).outputs)


class TestForgotten:
    def test_a_loop_that_closes_without_the_executor_leaves_no_warning(self) -> None:
        process = Process("""
            async def main():
                executor = DAGExecutor(store)
                await executor.__aenter__()
                await executor.start(workflow)
                while threading.active_count() < 2:
                    await asyncio.sleep(0.01)

            asyncio.run(main())
            say("the end")
        """)

        assert process.end() == (0, "")

    def test_a_loop_that_closes_lets_go_of_its_runs(self, url: str) -> None:
        process = Process(
            """
            async def main():
                await store.open()
                executor = DAGExecutor(store)
                await executor.__aenter__()
                await executor.start(workflow)
                while (await executor.runs())[0].version < 5:
                    await asyncio.sleep(0.01)
                return executor

            async def close():
                await store.close()
                await store.close()

            executor = asyncio.run(main())
            asyncio.run(close())
            """,
            url,
        )

        assert process.end() == (0, "")
        assert resumed(url) == {"done": 1, "thread": 2, "loop": 3}

    def test_a_run_that_nobody_waits_for_leaves_no_warning(self) -> None:
        process = Process("""
            def fail():
                raise ValueError("nobody looks")

            async def main():
                executor = DAGExecutor(store)
                await executor.__aenter__()
                await executor.start(Workflow("bad", [Node("a", fail)]))
                task = asyncio.create_task(executor.run(workflow))
                await asyncio.sleep(0.1)

            asyncio.run(main())
        """)

        assert process.end() == (0, "")

    def test_an_executor_that_is_never_opened_leaves_no_warning(self) -> None:
        assert Process("DAGExecutor(store); DAGExecutor('sqlite:///nowhere.db')").end() == (0, "")

    def test_a_blocking_executor_that_is_never_closed_ends_with_its_process(self) -> None:
        process = Process("""
            executor = DAGExecutor(store).__enter__()
            executor.start(workflow)
        """)

        assert process.end() == (0, "")


class TestExceptions:
    def test_an_error_in_the_application_is_all_that_is_shown(self, url: str) -> None:
        process = Process(
            """
            async def main():
                async with DAGExecutor(store, grace=0.2) as executor:
                    await executor.start(workflow)
                    while (await executor.runs())[0].version < 5:
                        await asyncio.sleep(0.01)
                    raise LookupError("of the application")

            asyncio.run(main())
            """,
            url,
        )

        code, complaints = process.end()

        assert (code, complaints.splitlines()[-1]) == (1, "LookupError: of the application")
        assert complaints.count("Traceback") == 1
        assert resumed(url) == {"done": 1, "thread": 2, "loop": 3}

    def test_sys_exit_in_the_application_ends_the_process(self, url: str) -> None:
        process = Process(
            """
            with DAGExecutor(store, grace=0.2) as executor:
                executor.start(workflow)
                while executor.runs()[0].version < 5:
                    pass
                sys.exit(7)
            """,
            url,
        )

        assert process.end() == (7, "")
        assert resumed(url) == {"done": 1, "thread": 2, "loop": 3}

    def test_nodes_that_want_to_end_the_process_only_fail(self) -> None:
        process = Process("""
            from dagflow.errors import RunFailedError

            def exit_in_a_thread():
                sys.exit(3)

            async def exit_on_the_loop():
                sys.exit(4)

            async def interrupt_on_the_loop():
                raise KeyboardInterrupt

            functions = [exit_in_a_thread, exit_on_the_loop, interrupt_on_the_loop]
            bad = Workflow("bad", [Node(f.__name__, f) for f in functions], on_failure="continue")
            with DAGExecutor(store) as executor:
                try:
                    executor.run(bad)
                except RunFailedError as error:
                    assert set(error.failures) == {f.__name__ for f in functions}
            sys.exit(5)
        """)

        assert process.end() == (5, "")


class TestInterrupted:
    def test_ctrl_c_stops_a_blocking_call_and_leaves_the_run_to_be_resumed(self, url: str) -> None:
        process = Process(
            """
            with DAGExecutor(store, grace=0.2) as executor:
                executor.run(workflow)
            """,
            url,
        )
        process.wait_for("started", times=2)

        process.interrupt()
        code, complaints = process.end()

        assert (code, complaints.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
        assert "never" not in complaints
        assert resumed(url) == {"done": 1, "thread": 2, "loop": 3}

    def test_ctrl_c_stops_a_loop_and_leaves_the_run_to_be_resumed(self, url: str) -> None:
        process = Process(
            """
            async def main():
                async with DAGExecutor(store, grace=0.2) as executor:
                    await executor.run(workflow)

            asyncio.run(main())
            """,
            url,
        )
        process.wait_for("started", times=2)

        process.interrupt()
        code, complaints = process.end()

        assert (code, complaints.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
        assert "never" not in complaints
        assert resumed(url) == {"done": 1, "thread": 2, "loop": 3}

    def test_ctrl_c_stops_a_server_and_leaves_its_runs(self, url: str) -> None:
        process = Process(
            """
            with DAGExecutor(store, workflows=[workflow], grace=0.2) as executor:
                executor.submit(workflow)
                executor.serve(poll=0.05)
            """,
            url,
        )
        process.wait_for("started", times=2)

        process.interrupt()
        code, complaints = process.end()

        assert (code, complaints.splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
        assert resumed(url) == {"done": 1, "thread": 2, "loop": 3}

    def test_an_application_may_survive_ctrl_c(self) -> None:
        process = Process("""
            with DAGExecutor(store, grace=0.2) as executor:
                try:
                    executor.run(workflow, run_id="r")
                except KeyboardInterrupt:
                    (summary,) = executor.runs()
                    assert (summary.status, summary.owner) == ("running", None), summary
                    say("caught")
        """)
        process.wait_for("started", times=2)

        process.interrupt()
        process.wait_for("caught")

        assert process.end() == (0, "")


def test_a_node_that_kills_its_process_each_time_fails_in_the_end(url: str) -> None:
    script = """
        def kill():
            say("called")
            os.kill(os.getpid(), 9)

        workflow = Workflow("w", [Node("a", kill, retry=9, max_interruptions=3)])
        with DAGExecutor(store) as executor:
            try:
                executor.run(workflow, run_id="r")
            except BaseException as exc:
                say(type(exc).__name__)
    """
    for _ in range(3):
        process = Process(script, url)
        process.wait_for("called")
        assert process.end()[0] == -signal.SIGKILL

    last = Process(script, url)
    last.wait_for("RunFailedError")

    assert last.end() == (0, "")
    with DAGExecutor(url) as executor:
        run = executor.get("r")
    assert run.error is not None
    assert run.error.type == "dagflow.errors.InterruptedTooOftenError"
