"""The process between a runner and a worker: it reports how the worker ended, and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs
import pytest

from census import processes, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GUARDIAN = "from dagflow.runners._guardian import main; main()"
SHELL = "/bin/sh"
LISTS = "import os; listed = os.listdir\ndef listdir(path):"
SLOWLY = """import sys, time; sys.platform = "other"; setsid = os.setsid
def slowly(): time.sleep(0.1); setsid()
os.setsid = slowly"""
PYTHON = [sys.executable, "-S", "-c"]


@attrs.frozen
class Guarded:
    """A worker under guard.

    Attributes:
        guardian: Its guardian.
        leash: What ends it when it is closed, and says how it ended.
        line: What a worker would hear calls from.
    """

    guardian: subprocess.Popen[bytes]
    leash: socket.socket
    line: socket.socket

    def report(self) -> bytes:
        """Wait for the end of guardian and worker."""
        report = b"".join(iter(lambda: self.leash.recv(100), b""))
        self.guardian.wait()
        return report


@pytest.fixture
def guard(mark: str) -> Iterator[Callable[..., Guarded]]:
    """Starts guardians; they have ended at the end of the test."""
    with contextlib.ExitStack() as stack:

        def start(*command: str, parent: int | None = None, before: str = "pass") -> Guarded:
            line, theirs = map(stack.enter_context, socket.socketpair())
            leash, collar = map(stack.enter_context, socket.socketpair())
            numbers = [str(collar.fileno()), str(theirs.fileno()), str(parent or os.getpid())]
            worker = [word.replace("LINE", str(theirs.fileno())) for word in command]
            program = [sys.executable, "-c", f"{before}\n{GUARDIAN}", *numbers, *worker]
            guardian = subprocess.Popen(program, pass_fds=(collar.fileno(), theirs.fileno()))
            stack.enter_context(guardian)
            collar.close()
            theirs.close()
            return Guarded(guardian, leash, line)

        yield start


def status(report: bytes) -> int:
    return os.waitstatus_to_exitcode(int(report))


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9), ("kill -15 $$", -15)])
def test_a_guardian_reports_how_its_worker_ended(guard: Callable[..., Guarded], script: str, code: int) -> None:
    guarded = guard(SHELL, "-c", script)

    assert status(guarded.report()) == code


def test_what_a_worker_has_started_ends_with_it(guard: Callable[..., Guarded], mark: str) -> None:
    guarded = guard(SHELL, "-c", "sleep 600 & setsid sleep 600 & (sleep 600 &) ; exit 4")

    assert status(guarded.report()) == 4
    assert processes(mark) == []


def test_a_worker_that_ignores_signals_is_killed_at_the_end_of_the_leash(
    guard: Callable[..., Guarded], mark: str
) -> None:
    program = (
        "import os, signal, subprocess, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)];"
        "subprocess.Popen(['sleep', '600'], start_new_session=True); os.write(LINE, b'ready'); time.sleep(600)"
    )
    guarded = guard(*PYTHON, program)
    assert guarded.line.recv(100) == b"ready"

    guarded.leash.shutdown(socket.SHUT_WR)

    assert status(guarded.report()) == -signal.SIGKILL
    assert processes(mark) == []


def test_a_worker_whose_parent_is_gone_already_is_killed(guard: Callable[..., Guarded]) -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()

    assert status(guard("/bin/sleep", "600", parent=gone.pid).report()) == -signal.SIGKILL


def test_a_worker_ends_with_the_process_that_it_works_for(guard: Callable[..., Guarded]) -> None:
    with subprocess.Popen(["sleep", "600"]) as parent:
        guarded = guard("/bin/sleep", "600", parent=parent.pid)
        parent.kill()

    assert status(guarded.report()) == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_group_does_not_end_a_guardian(guard: Callable[..., Guarded], number: signal.Signals) -> None:
    guarded = guard(*PYTHON, "import os; os.write(LINE, b'ready'); os.read(LINE, 1); os._exit(5)")
    assert guarded.line.recv(100) == b"ready"

    guarded.guardian.send_signal(number)
    guarded.line.sendall(b"!")

    assert status(guarded.report()) == 5


def test_a_worker_leads_a_session_of_its_own_and_inherits_its_line_alone(guard: Callable[..., Guarded]) -> None:
    program = (
        "import os; found = [n for n in range(3, 50) if os.path.exists(f'/proc/self/fd/{n}')];"
        "os.write(LINE, repr((os.getsid(0) == os.getpid(), found == [LINE])).encode())"
    )

    guarded = guard(*PYTHON, program)

    assert guarded.line.recv(100) == b"(True, True)"


def test_a_worker_that_is_no_program_is_reported(guard: Callable[..., Guarded]) -> None:
    assert status(guard("/no/such/program").report()) == 127


def test_a_guardian_whose_runner_does_not_hear_its_report_ends_all_the_same(
    guard: Callable[..., Guarded], mark: str
) -> None:
    guarded = guard("/bin/sleep", "600")

    guarded.leash.close()

    assert guarded.guardian.wait() == 0
    assert processes(mark) == []


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("import sys; sys.platform = 'other'", id="no subreaper"),
        pytest.param("import sys; sys.modules['ctypes'] = None", id="no ctypes"),
        pytest.param(
            f"{LISTS} time.sleep(0.3); return listed(path)\nos.listdir = listdir\n{SLOWLY}",
            id="no subreaper, and a worker that begins when it is about to be killed",
        ),
        pytest.param("import os; del os.pidfd_open", id="no descriptors of processes"),
        pytest.param(f"{LISTS} raise OSError\nos.listdir = listdir", id="no list of processes"),
        pytest.param(
            f"{LISTS} return ['self', '4194305', *listed(path)]\nos.listdir = listdir",
            id="a process that is gone when it is read",
        ),
    ],
)
async def test_a_guardian_does_what_its_system_lets_it_do(
    guard: Callable[..., Guarded], before: str, mark: str
) -> None:
    guarded = guard(SHELL, "-c", "sleep 600 & sleep 600", before=before)

    guarded.leash.shutdown(socket.SHUT_WR)

    assert status(guarded.report()) == -signal.SIGKILL
    await until(lambda: not processes(mark))


async def test_a_guardian_that_cannot_get_rid_of_its_worker_does_not_say_how_it_ended(
    guard: Callable[..., Guarded], mark: str
) -> None:
    guarded = guard("/bin/sleep", "600", before="import dagflow.runners._guardian as room; room._ROUNDS = 0")

    guarded.leash.shutdown(socket.SHUT_WR)

    assert guarded.report() == b""
    # The kernel ends it for want of its guardian, in its own time.
    await until(lambda: not processes(mark))


def test_a_worker_whose_guardian_is_gone_before_it_begins_does_not_begin(tmp_path: Path) -> None:
    program = (
        f"from dagflow.runners._guardian import _become; _become(['/bin/touch', {str(tmp_path / 'begun')!r}], 0, -1)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 127
    assert not (tmp_path / "begun").exists()
