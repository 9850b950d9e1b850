"""A run that an executor drives now, as those see it who wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import RunStatus
from dagflow.errors import ExecutorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagflow._driver import Driver
    from dagflow._orders import Order

__all__ = ["LAST_S", "Active", "finished", "let_go_of", "those_late"]

LAST_S = 1.0
"""Seconds that runs get, beyond the grace time of their calls, to be let go of when an executor stops."""


@attrs.define(eq=False)
class Active:
    """A run that this executor drives.

    Attributes:
        run_id: The run.
        order: What is being run.
        driver: Drives it.
        task: Ends when the driver has.
        waiters: How many callers wait for its end.
        background: The run goes on when nobody waits for it.
        is_awaited: The node that has started it waits for its end.
        is_leaving: The run is being stopped because nobody waits for it any more.
        error: Why the driver gave up.
    """

    run_id: str
    order: Order
    driver: Driver
    task: asyncio.Task[None] | None = None
    waiters: int = 0
    background: bool = False
    is_awaited: bool = False
    is_leaving: bool = False
    error: BaseException | None = None

    @property
    def is_put_off(self) -> bool:
        """Whether a server has let go of the run because its timer is far away, which others wait for."""
        return self.driver.is_put_off and self.driver.state.status is RunStatus.WAITING

    async def ended(self) -> None:
        """Return when the run is no longer driven here."""
        if self.task is not None:
            await asyncio.wait([self.task])

    async def leave(self) -> None:
        """Stop the run; wait for that even when the waiter is cancelled again: what it does must be known."""
        self.is_leaving = True
        self.driver.stop()
        if self.task is not None:
            await finished(self.task)


async def finished(task: asyncio.Future[Any]) -> None:
    """Return when a task has ended, also when whoever waits is cancelled meanwhile."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])


async def those_late(tasks: Sequence[asyncio.Task[None]], seconds: float) -> list[asyncio.Task[None]]:
    """Wait for tasks, for so long at the most, and return those that have not ended."""
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)
    return [task for task in tasks if not task.done()]


def let_go_of(run_id: str) -> ExecutorError:
    """Return the error for those who wait for a run that stops without having ended."""
    return ExecutorError(f"run {run_id!r} was let go of before its end: resume() goes on with it")
