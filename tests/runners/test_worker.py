"""The program of a worker process, spoken to as its runner speaks to it, and left to end by itself."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import attrs
import pytest

import misbehaving
from census import contents
from dagflow.runners._answers import unpack_error, unpack_result
from dagflow.runners._frames import HEADER, Kind
from dagflow.runners._travel import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BufferedRWPair
    from pathlib import Path

PROGRAM = "from dagflow.runners._worker import main; main({})"


@attrs.frozen
class Line:
    """The runner's end of the line to a worker.

    Attributes:
        worker: Its process.
        stream: What it is told and says; the line ends when this is closed.
    """

    worker: subprocess.Popen[bytes]
    stream: BufferedRWPair
    socket: socket.socket

    def say(self, kind: Kind, what: object) -> None:
        body = what if isinstance(what, bytes) else pack(what)
        self.stream.write(HEADER.pack(len(body), kind) + body)
        self.stream.flush()

    def set_up(self, **settings: Any) -> tuple[Kind, bytes]:
        usual: dict[str, Any] = {"argv": ["program", "word"], "main": {}, "memory_limit_bytes": None}
        self.say(Kind.SETUP, {**usual, "initializer": b"", "needs_main": False, **settings})
        return self.hear()

    def begin(self, function: Callable[..., Any], /, **arguments: Any) -> None:
        """Make a call that can be made."""
        self.say(Kind.CALL, ("a", False, False))
        self.say(Kind.LOAD, (function, arguments))
        assert self.hear() == (Kind.STARTED, b"")

    def call(self, function: Callable[..., Any], /, **arguments: Any) -> tuple[Kind, bytes]:
        """Make a call that can be made, and return the answer."""
        self.begin(function, **arguments)
        return self.hear()

    def hear(self) -> tuple[Kind, bytes]:
        size, kind = HEADER.unpack(self.stream.read(HEADER.size))
        return Kind(kind), self.stream.read(size)

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


@pytest.fixture
def line(mark: str) -> Iterator[Line]:
    """A worker that has not been set up; it ends when the line does."""
    with contextlib.ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        number = theirs.fileno()
        # Modules of the tests are found by the process as by this one.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-c", PROGRAM.format(number)]
        worker = stack.enter_context(subprocess.Popen(command, pass_fds=[number], env=environment))
        theirs.close()
        line = Line(worker, ours.makefile("rwb"), ours)
        stack.callback(line.close)
        yield line


def test_a_worker_answers_calls_until_its_line_ends(line: Line) -> None:
    assert line.set_up() == (Kind.READY, b"%d" % line.worker.pid)

    kind, body = line.call(misbehaving.add, x=1, y=2)

    assert (kind, unpack_result(body, node="a")) == (Kind.RETURNED, 3)
    line.close()
    assert line.worker.wait() == 0


def test_a_worker_that_is_never_set_up_ends_with_its_line(line: Line) -> None:
    line.close()

    assert line.worker.wait() == 0


def test_a_worker_whose_runner_is_gone_before_the_answer_ends_in_silence(line: Line, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    line.set_up()
    line.begin(contents, path=gate)

    line.close()
    gate.write_text("open")

    assert line.worker.wait() == 0


def test_an_initializer_that_fails_is_answered_and_ends_the_worker(line: Line) -> None:
    kind, body = line.set_up(initializer=pack(misbehaving.refuse))

    assert kind is Kind.RAISED
    assert isinstance(unpack_error(body, node="initializer"), ValueError)
    assert line.worker.wait() == 0


def test_an_initializer_may_stand_in_the_main_module(line: Line, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"from pathlib import Path\ndef begin():\n    Path({str(tmp_path / 'begun')!r}).touch()\n")
    begin = b"c__main__\nbegin\n."

    answer = line.set_up(main={"init_main_from_path": str(program)}, needs_main=True, initializer=begin)

    assert answer[0] is Kind.READY
    assert (tmp_path / "begun").exists()


def test_a_fork_keeps_the_handlers_that_the_function_has_set(line: Line) -> None:
    line.set_up()

    assert unpack_result(line.call(misbehaving.handle_in_fork)[1], node="a") == "heard"
