"""Ctrl-C at any place in the rooms of a store, for loops that do not turn it into a cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["CtrlC", "run_to_its_end"]


class CtrlC:
    """Interrupts the thread of a loop when one of the rooms has called into C for the n-th time.

    Attributes:
        came: It did.
    """

    def __init__(self, number: int, *rooms: str) -> None:
        self.came = False
        self._left = number
        self._rooms = rooms

    def interrupt(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        """Run a loop until the task has ended or the interruption has come."""
        sys.setprofile(self._look)
        try:
            loop.run_until_complete(task)
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, function: Any) -> None:
        # To take a lock that is free takes no time in which a signal could come.
        if event != "c_return" or function.__name__ == "acquire" or not frame.f_code.co_filename.endswith(self._rooms):
            return
        self._left -= 1
        if not self._left:
            self.came = True
            raise KeyboardInterrupt


def run_to_its_end(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> bool:
    """Run a loop that was interrupted on, and return whether the task has ended within a while."""
    end = loop.create_task(asyncio.wait([task], timeout=20))
    while not end.done():
        with contextlib.suppress(KeyboardInterrupt, RuntimeError):
            loop.run_until_complete(end)
    return task.done()
