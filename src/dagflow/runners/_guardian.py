"""The process between a runner and one of its workers, which sees to it that nothing outlives either of them.

    the executor's process ── guardian ── worker ── whatever the worker starts

A guardian starts one worker, in a session of its own, and waits. When the worker ends, or the runner says so, or the
runner's process is gone by whatever death, it kills what is left of the worker and all that the worker has started, and
reports how the worker ended. On Linux it is the subreaper of all of them: what loses its parent, and even what has made
itself a session of its own, becomes the guardian's child and is found. The worker in turn is killed by the kernel
when its guardian is. Elsewhere only the worker's process group can be reached.

It is an interpreter without site-packages that imports nothing but what stands below, never has a second thread, and
may therefore fork.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Guardian", "main"]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PAUSE_S = 0.002
_ROUNDS = 2_500
"""After 5 seconds of killing, what still lives hangs in the kernel; it will die without its guardian."""


class Guardian:
    """Guards one worker.

    Args:
        line: The socket to the runner: its end says that the worker shall end; takes the report.
        parent: Id of the runner's process.
    """

    def __init__(self, line: int, parent: int) -> None:
        self._line = line
        self._parent = parent
        self._worker = 0
        self._status: int | None = None

    def start(self, command: list[str], channel: int) -> None:
        """Start the worker, which inherits the descriptor ``channel`` and nothing else."""
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        guardian = os.getpid()
        begun, theirs = os.pipe()
        self._worker = os.fork()
        if self._worker == 0:
            _become(command, channel, guardian)
        os.close(theirs)
        # Until the worker leads its group, what it starts could not be reached through it. Its program closes the pipe.
        os.read(begun, 1)
        os.close(begun)

    def watch(self) -> None:
        """Wait until the worker has ended or shall end."""
        parent = _descriptor_of(self._parent)
        if parent is None:
            return
        alarm = _alarm_of_children()
        poll = select.poll()
        for descriptor in (self._line, alarm, *parent):
            poll.register(descriptor, select.POLLIN)
        while self.reap() and self._status is None:
            if {descriptor for descriptor, _ in poll.poll()} != {alarm}:
                return
            os.read(alarm, 512)

    def reap(self) -> bool:
        """Take note of the children that have ended; return whether any are left."""
        try:
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if ended[0] == self._worker:
                    self._status = ended[1]
        except ChildProcessError:
            return False
        return True

    def end(self) -> int | None:
        """Kill all that is left and return how the worker ended, as ``os.wait`` puts it."""
        for _ in range(_ROUNDS):
            _kill(-self._worker)
            for child in _children():
                _kill(child)
            # Whoever loses its parent here is our child in the next round.
            if not self.reap():
                break
            time.sleep(_PAUSE_S)
        return self._status

    def report(self, status: int | None) -> None:
        """Tell the runner how the worker ended, if the runner is still there."""
        try:
            os.write(self._line, b"" if status is None else b"%d" % status)
        except OSError:
            return


def main() -> None:
    """Guard the worker that the command line asks for: line, channel, parent, and the worker's own command line."""
    line, channel, parent = map(int, sys.argv[1:4])
    # Whoever tells a whole group to end means the executor, which will tell its guardians.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(line, False)  # noqa: FBT003 - the standard library's way
    guardian = Guardian(line, parent)
    guardian.start(sys.argv[4:], channel)
    os.close(channel)
    guardian.watch()
    guardian.report(guardian.end())


def _become(command: list[str], channel: int, guardian: int) -> None:
    """Turn the process that was just forked into the worker."""
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.set_inheritable(channel, True)  # noqa: FBT003 - the standard library's way
        if os.getppid() == guardian:
            os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    finally:
        os._exit(127)


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    try:
        import ctypes  # noqa: PLC0415 - an interpreter may be built without it

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return


def _descriptor_of(process: int) -> tuple[int, ...] | None:
    """Return what can be polled for the end of a process, ``None`` when it is gone, nothing where systems lack this.

    The end of the line says the same, unless somebody else has inherited the runner's end of it.
    """
    try:
        return (os.pidfd_open(process),)
    except ProcessLookupError:
        return None
    except (AttributeError, OSError):
        return ()


def _alarm_of_children() -> int:
    """Return what can be polled for the end of children."""
    alarm, bell = os.pipe()
    os.set_blocking(bell, False)
    signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return alarm


def _children() -> Iterator[int]:
    """Yield our children, where the system shows them."""
    mine = b"%d" % os.getpid()
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - pathlib would double the time that a guardian takes to start
    except OSError:
        return
    for name in filter(str.isdecimal, names):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123 - as above
                parent = file.read().rpartition(b")")[2].split()[1]
        except OSError:
            continue
        if parent == mine:
            yield int(name)


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except OSError:
        return
