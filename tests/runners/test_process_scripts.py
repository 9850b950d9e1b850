"""Process runners in programs of their own: whose functions they find, and what is left when the program dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from census import contents, processes, until

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """
import sys
from dagflow import DAGExecutor, Workflow
from dagflow.runners import ProcessRunner

print("loaded", __name__)
"""

WORKFLOW = """
class Pair:
    def __init__(self, first, second):
        self.first, self.second = first, second

workflow = Workflow("w")

def pair(first, second):
    return Pair(first, second)

@workflow.node(runner="process")
def swap(a: int, b: int) -> list[int]:
    both = pair(a, b)
    return [both.second, both.first]
"""

RUN = """
{guard}
    with DAGExecutor("sqlite:///runs.db", runners={{"process": ProcessRunner(1)}}) as executor:
        print(executor.run(workflow, {{"a": 1, "b": 2}}, run_id="r").outputs["swap"])
"""

GUARDED = RUN.format(guard='if __name__ == "__main__":')
BARE = RUN.format(guard="if True:")

HANG = """
import asyncio, sys
from dagflow.runners import ProcessRunner
import misbehaving

async def main():
    runner = ProcessRunner(2)
    calls = [runner.call(misbehaving.hang_with_family, {"path": path}, timeout=None, node="a") for path in sys.argv[1:]]
    await asyncio.gather(*calls)
"""
DIES_BY_SIGNAL = HANG + "\nasyncio.run(main())\n"
HAS_FORKED = """
import os, time

async def fork_when_all_hang():
    while not all(map(os.path.exists, sys.argv[1:])):
        await asyncio.sleep(0.01)
    if os.fork() == 0:
        with open("fork", "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
    await asyncio.sleep(600)

async def both():
    await asyncio.gather(main(), fork_when_all_hang())

asyncio.run(both())
"""


@pytest.fixture
def folder(mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where programs are; what is imported here can be imported there."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    return tmp_path


def run(folder: Path, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=100, check=False)


class TestFunctionsOfTheProgram:
    def test_a_function_of_the_main_module_is_found(self, folder: Path) -> None:
        (folder / "program.py").write_text(HEAD + WORKFLOW + GUARDED)

        shown = run(folder, "program.py")

        assert shown.stderr == ""
        assert shown.stdout.splitlines() == ["loaded __main__", "loaded __mp_main__", "[2, 1]"]

    def test_so_is_one_of_a_program_that_was_named_as_a_module(self, folder: Path) -> None:
        (folder / "package").mkdir()
        (folder / "package" / "program.py").write_text(HEAD + WORKFLOW + GUARDED)

        shown = run(folder, "-m", "package.program")

        assert shown.stderr == ""
        assert shown.stdout.splitlines()[-1] == "[2, 1]"

    def test_a_program_without_a_guard_is_told_what_to_do(self, folder: Path) -> None:
        (folder / "program.py").write_text(HEAD + WORKFLOW + BARE)

        shown = run(folder, "program.py")

        assert shown.returncode == 1
        assert "put what runs under 'if __name__ == \"__main__\":'" in shown.stderr.splitlines()[-1]
        assert shown.stdout.splitlines() == ["loaded __main__", "loaded __mp_main__"]

    def test_it_needs_none_when_the_functions_are_in_another_module(self, folder: Path) -> None:
        (folder / "work.py").write_text("from dagflow import Workflow\n" + WORKFLOW)
        (folder / "program.py").write_text(HEAD + "from work import workflow\n" + BARE)

        shown = run(folder, "program.py")

        assert shown.stderr == ""
        assert shown.stdout.splitlines() == ["loaded __main__", "[2, 1]"]

    def test_a_function_that_is_in_no_file_is_refused(self, folder: Path) -> None:
        shown = run(folder, "-", stdin=HEAD + WORKFLOW + GUARDED)

        assert "define it at the top level of a module that can be imported" in shown.stderr.splitlines()[-1]

    def test_flags_and_arguments_of_the_program_hold_in_its_workers(self, folder: Path) -> None:
        (folder / "work.py").write_text("import sys\ndef shown(): return sys.flags.optimize, sys.argv[1:]\n")
        program = (
            "import asyncio, work\nfrom dagflow.runners import ProcessRunner\n"
            "async def main():\n"
            "    runner = ProcessRunner(1)\n"
            "    print(await runner.call(work.shown, {}, timeout=None, node='a'))\n"
            "    await runner.close()\n"
            "asyncio.run(main())\n"
        )
        (folder / "program.py").write_text(program)

        assert run(folder, "-O", "program.py", "x").stdout == "(1, ['x'])\n"


class TestDeathOfTheProgram:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
    async def test_nothing_outlives_the_program(self, folder: Path, mark: str, number: signal.Signals) -> None:
        (folder / "program.py").write_text(DIES_BY_SIGNAL)
        program = await start(folder, "a", "b")
        # Two families of six, and the program.
        await settles(mark, 13)

        program.send_signal(number)
        await program.wait()

        await settles(mark, 0)

    async def test_neither_when_a_fork_of_it_lives_on(self, folder: Path, mark: str) -> None:
        (folder / "program.py").write_text(HANG + HAS_FORKED)
        program = await start(folder, "a")
        await settles(mark, 8)
        await until(lambda: contents(folder / "fork"))

        program.kill()
        await program.wait()

        await settles(mark, 1)
        os.kill(int(contents(folder / "fork")), signal.SIGKILL)
        await settles(mark, 0)


async def start(folder: Path, *paths: str) -> asyncio.subprocess.Process:
    program = await asyncio.create_subprocess_exec(sys.executable, "program.py", *paths, cwd=folder)
    await until(lambda: all(contents(folder / path) for path in paths))
    return program


async def settles(mark: str, count: int) -> None:
    """Wait until so many marked processes are alive."""
    await until(lambda: len(processes(mark)) == count)
