"""Functions that tests call in other processes: most of them do there what no function should."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from dagflow import NodeContext

loaded: list[str] = []
"""What has happened in this process."""


# -- what should work -----------------------------------------------------------------------------


def add(x: int, y: int) -> int:
    return x + y


async def add_slowly(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


def process_id() -> int:
    return os.getpid()


def thread_name() -> str:
    return threading.current_thread().name


def size(data: bytes) -> int:
    return len(data)


def bulk(length: int) -> bytes:
    return b"x" * length


def note(word: str) -> list[str]:
    """Remember a word in this process, and return all that it remembers."""
    loaded.append(word)
    return loaded


def greet() -> None:
    """The initializer of a worker."""
    loaded.append("hello")


def refuse() -> None:
    """An initializer that fails."""
    raise ValueError("not today")


def facts(context: NodeContext) -> dict[str, Any]:
    """Return what the context of a node says."""
    context.logger.debug("hello")
    return {
        "run_id": context.run_id,
        "node": context.node,
        "attempt": context.attempt,
        "inputs": dict(context.inputs),
        "outputs": dict(context.outputs),
        "config": dict(context.config),
        "extra": getattr(context.logger, "extra", None),
    }


def resource(context: NodeContext, name: str) -> Any:
    assert name in context.resources
    return context.resources[name]


def count_resources(context: NodeContext) -> int:
    return len(list(context.resources))


def beat(context: NodeContext, seconds: float) -> str:
    """Be busy and say so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.02)
        context.heartbeat()
    return "done"


def beat_in_fork(context: NodeContext) -> str:
    """Let a fork say that the node is alive."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            context.heartbeat()
        except RuntimeError as exc:
            os.write(writing, str(exc).encode())
        os._exit(0)
    os.wait()
    return os.read(reading, 1000).decode()


def hang_in_silence(context: NodeContext) -> None:
    time.sleep(600)


# -- what should fail -----------------------------------------------------------------------------


class NeedsTwoError(Exception):
    """An exception whose class cannot be called with its ``args``."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.lock = threading.Lock()


class UnspeakableError(Exception):
    """An exception that cannot leave its process in any form."""

    def __init__(self) -> None:
        super().__init__(threading.Lock())

    def __str__(self) -> str:
        return "unspeakable"


class OneWay:
    """A value that can be packed and never unpacked."""

    def __reduce__(self) -> tuple[object, ...]:
        return _never, ()


def nap(length: float) -> None:
    time.sleep(length)


def _never() -> NoReturn:
    raise ValueError("this far and no further")


def boom() -> None:
    _deeper()


def _deeper() -> None:
    raise ValueError("no")


def raise_needs_two() -> None:
    raise NeedsTwoError(7, "seven")


def raise_unspeakable() -> None:
    raise UnspeakableError


def leave() -> None:
    sys.exit(3)


def return_lock() -> object:
    return threading.Lock()


def return_one_way() -> object:
    return OneWay()


def take(value: object) -> None:
    """Take a value."""


def devour(length: int) -> int:
    """Need much memory."""
    data = [bytes(2**20) for _ in range(length // 2**20)]
    return len(data)


def limit_of_memory() -> tuple[int, int]:
    import resource  # noqa: PLC0415

    return resource.getrlimit(resource.RLIMIT_AS)


# -- what should not harm anybody -----------------------------------------------------------------


def exit_at_once(number: int) -> None:
    os._exit(number)


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(600)


def die_once(path: str) -> str:
    """End the process at the first call."""
    with contextlib.suppress(FileExistsError):
        Path(path).touch(exist_ok=False)
        os._exit(9)
    return "second time"


def close_all_descriptors() -> None:
    os.closerange(3, 1000)


def forget_fork() -> int:
    """Return twice, once in a fork that should have ended."""
    os.fork()
    return os.getpid()


def handle_in_fork() -> str:
    """Handle a signal, and let a fork of this process hear it."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    fork = os.fork()
    if fork == 0:
        signal.raise_signal(signal.SIGTERM)
    return "heard" if os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == 7 else "deaf"


def terminate_fork() -> int | None:
    """Start a fork and, when it runs, tell it to end."""
    context = multiprocessing.get_context("fork")
    runs = context.Event()
    fork = context.Process(target=_run, args=(runs,))
    fork.start()
    runs.wait()
    fork.terminate()
    fork.join()
    return fork.exitcode


def _run(runs: Event) -> None:
    runs.set()
    time.sleep(600)


def beat_for_ever(context: NodeContext, path: str) -> None:
    """Leave a thread behind that says that the node is alive, and writes a letter to a file each time."""

    def go_on() -> None:
        with contextlib.suppress(ValueError, OSError), Path(path).open("w", buffering=1) as file:
            while True:
                context.heartbeat()
                file.write("x\n")
                time.sleep(0.001)

    threading.Thread(target=go_on, daemon=True).start()


def leave_process() -> int:
    """Start a process and leave it running."""
    return subprocess.Popen(["sleep", "600"]).pid


def hang(path: str = "") -> None:
    """Do nothing for ten minutes, after saying so in a file."""
    if path:
        Path(path).write_text(str(os.getpid()))
    time.sleep(600)


def found_family() -> None:
    """Start a child, a grandchild, a child with a session of its own, and an orphaned daemon."""
    subprocess.Popen(["sh", "-c", "sleep 600 & wait"])
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    subprocess.run([sys.executable, "-c", _DAEMON], check=True)


def hang_with_family(path: str) -> None:
    found_family()
    hang(path)


_DAEMON = """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "600"])
"""


def hang_and_refuse_to_end(path: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    hang(path)
