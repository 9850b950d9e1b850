"""The end of an event loop: what is left is cancelled, and what does not end then is not waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["end_tasks", "run_to_end"]

_T = TypeVar("_T")

_LAST_S = 1.0
"""Seconds that tasks get to end when they are cancelled."""

_BRIEF_S = 0.05
"""Seconds for those that were cancelled before, and have had their time."""


async def end_tasks() -> bool:
    """Cancel the other tasks of the loop, so that none is destroyed while it is pending; return whether all ended."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    fresh = [task for task in tasks if not task.cancelling()]
    for task in tasks:
        task.cancel()
    if fresh:
        await asyncio.wait(fresh, timeout=_LAST_S)
    late = [task for task in tasks if not task.done()]
    if late:
        await asyncio.wait(late, timeout=_BRIEF_S)
    await asyncio.get_running_loop().shutdown_asyncgens()
    return all(task.done() for task in tasks)


def run_to_end(main: Coroutine[Any, Any, _T]) -> _T:
    """Run the coroutine of a program, as `asyncio.run`, which waits for calls that ignore their cancellation."""
    runner = asyncio.Runner()
    try:
        return runner.run(main)
    finally:
        if runner.run(end_tasks()):
            runner.close()
