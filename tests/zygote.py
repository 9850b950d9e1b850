"""Processes in plenty: a small one that has imported everything forks a fresh one for each call of a function.

Nothing of dagflow is running in the process that forks. The functions lie in a module of the tests; what they `tell`
is heard by the test, line by line.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["KILLED", "Zygote", "tell"]

KILLED = -signal.SIGKILL
_HERE = Path(__file__).parent


class Zygote:
    """Calls the functions of a module in processes of their own.

    Args:
        module: Name of the module.
    """

    def __init__(self, module: str) -> None:
        command = [sys.executable, "-m", "zygote", module]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=_HERE, stdin=pipe, stdout=pipe, text=True)
        self._heard: list[tuple[int, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, function: str, **arguments: Any) -> int:
        """Call a function in a new process; return the process id."""
        return self._ask("started", start=function, arguments=arguments)

    def wait(self, pid: int) -> int:
        """Wait for the end of a process; return its exit code, -9 when it was killed."""
        return self._ask("ended", wait=pid)

    def kill(self, pid: int) -> None:
        """Kill a process, and wait until it is gone."""
        os.kill(pid, signal.SIGKILL)
        assert self.wait(pid) == KILLED

    def hear(self, fact: str, count: int = 1) -> list[int]:
        """Wait until a fact has been told so many times; return by which processes."""
        while len(pids := [pid for pid, told in self._heard if told == fact]) < count:
            self._heard.append(self._line())
        self._heard = [(pid, told) for pid, told in self._heard if told != fact]
        return pids

    def close(self) -> None:
        """Kill all processes that are left."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()

    def _ask(self, answer: str, **command: Any) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        while (line := self._line())[0] != self._process.pid:
            self._heard.append(line)
        word, _, number = line[1].partition(" ")
        assert word == answer
        return int(number)

    def _line(self) -> tuple[int, str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks has died"
        pid, _, told = line.rstrip("\n").partition(" ")
        return int(pid), told


def tell(fact: str) -> None:
    """Tell the test something, from any of the processes."""
    os.write(1, f"{os.getpid()} {fact}\n".encode())


def _fork(function: Callable[..., object], arguments: Mapping[str, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        function(**arguments)
    except BaseException:  # noqa: BLE001 - told to the test by the exit code
        traceback.print_exc()
        code = 3
    os._exit(code)


def _main(module: str) -> None:
    functions = vars(importlib.import_module(module))
    left: set[int] = set()
    for line in sys.stdin:
        command = json.loads(line)
        if "start" in command:
            child = _fork(functions[command["start"]], command["arguments"])
            left.add(child)
            tell(f"started {child}")
        else:
            _, status = os.waitpid(command["wait"], 0)
            left.discard(command["wait"])
            tell(f"ended {os.waitstatus_to_exitcode(status)}")
    for child in left:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    _main(sys.argv[1])
