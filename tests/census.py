"""Who is alive: the processes that a test has caused, and waiting until there are as many as there should be."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MARK", "contents", "is_running", "parent_of", "processes", "until"]

MARK = "DAGFLOW_TEST_MARK"
"""Environment variable by which a test finds all processes that it has caused."""


def processes(mark: str) -> list[str]:
    """Return the command lines of all living processes that have a mark in their environment, but this one."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def is_running(process: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return _stat(process)[0] != "Z"
    except OSError:
        return False


def parent_of(process: int) -> int:
    """Return the parent of a process."""
    return int(_stat(process)[1])


def _stat(process: int) -> list[str]:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def contents(path: Path) -> str:
    """Return what somebody has written to a file so far."""
    return path.read_text() if path.exists() else ""


async def until(condition: Callable[[], object]) -> None:
    """Look again and again until something is so."""
    while not condition():  # noqa: ASYNC110 - other processes set no event
        await asyncio.sleep(0.01)
