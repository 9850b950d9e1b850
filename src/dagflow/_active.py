"""A run that an executor drives now, as those see it who wait for it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import weakref
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._causes import recorded_cause
from dagflow._events import RunStatus
from dagflow._run import Run
from dagflow.errors import ExecutorError, RunCancelledError, RunFailedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagflow._driver import Driver
    from dagflow._orders import Order
    from dagflow._state import RunState
    from dagflow.protocols import Codec

__all__ = ["CUT_S", "LAST_S", "STORE_S", "Active", "Waiters", "finished", "let_go_of", "result_of", "those_late"]

LAST_S = 0.7
"""Seconds beyond the grace time in which an executor ends: runs are let go of, and the store is closed."""

STORE_S = 0.2
"""How much of that is kept for closing a store that does not answer."""

CUT_S = 0.3
"""How much of that a call gets to clean up which a server cancels when the grace time has passed."""


class Waiters:
    """Those who wait for something that happens."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[None]] = []

    def next(self) -> asyncio.Future[None]:
        """Return what is done when it happens for the next time."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        return future

    def tell(self) -> None:
        """Tell everyone that it has happened."""
        if not self._futures:
            return
        futures, self._futures = self._futures, []
        for future in futures:
            if not future.done():
                future.set_result(None)


@attrs.define(eq=False)
class Active:
    """A run that this executor drives.

    Attributes:
        run_id: The run.
        order: What is being run.
        driver: Drives it.
        task: Ends when the driver has; ``None`` as long as the run needs no driver that waits.
        waiters: How many callers wait for its end.
        background: The run goes on when nobody waits for it.
        is_awaited: The node that has started it waits for its end.
        is_leaving: The run is being stopped because nobody waits for it any more.
        ends_at: When it has to be let go of, by the clock of the loop: something is being stopped.
        error: Why the driver gave up.
        has_ended: It is driven here no longer, and nothing is left to do.
        ends: Those who wait for that; they are told before the task has ended.
    """

    run_id: str
    order: Order
    driver: Driver
    task: asyncio.Task[None] | None = None
    waiters: int = 0
    background: bool = False
    is_awaited: bool = False
    is_leaving: bool = False
    ends_at: float = math.inf
    error: BaseException | None = None
    has_ended: bool = False
    ends: Waiters = attrs.field(factory=Waiters, init=False)

    @property
    def is_put_off(self) -> bool:
        """Whether a server has let go of the run because its timer is far away, which others wait for."""
        return self.driver.is_put_off and self.driver.state.status is RunStatus.WAITING

    def drive(self, task: asyncio.Task[None], among: dict[str, Active]) -> None:
        """Go on with a task, whose end takes the run out of those that are driven, even if it never begins."""
        self.task = task
        # A run that has ended, and that nobody waits for, is not kept until the loop turns.
        known = weakref.ref(self)

        def end(_: asyncio.Task[None]) -> None:
            active = known()
            if active is None:
                return
            if among.get(active.run_id) is active:
                del among[active.run_id]
                active.driver.abandon()
                active.error = let_go_of(active.run_id)
            active.end()

        task.add_done_callback(end)

    def end(self) -> None:
        """Tell those who wait that nothing is left to do."""
        self.has_ended = True
        self.ends.tell()

    async def ended(self) -> None:
        """Return when the run is no longer driven here."""
        if not self.has_ended:
            await self.ends.next()

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


async def those_late(tasks: Sequence[asyncio.Task[None]], until: float) -> list[asyncio.Task[None]]:
    """Wait for tasks until then at the latest, by the clock of the loop, and return those that have not ended."""
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.0, until - asyncio.get_running_loop().time()))
    return [task for task in tasks if not task.done()]


def let_go_of(run_id: str) -> ExecutorError:
    """Return the error for those who wait for a run that stops without having ended."""
    return ExecutorError(f"run {run_id!r} was let go of before its end: resume() goes on with it")


def result_of(state: RunState, codec: Codec, causes: Mapping[str, BaseException]) -> Run:
    """Return a run that completed, raise what a failed or cancelled one has recorded.

    Args:
        state: What the run came to.
        codec: Decodes what it has kept.
        causes: What the functions of failed nodes have raised in this process, by node.

    Raises:
        RunFailedError: With the first failure as its cause.
        RunCancelledError: The run was cancelled.
    """
    run = Run.of(state, codec)
    if state.status is RunStatus.CANCELLED:
        raise RunCancelledError(run)
    if state.status is not RunStatus.FAILED:
        return run
    errors = {name: error for name in state.culprits if (error := state.by_name[name].error) is not None}
    first, error = next(iter(errors.items()))
    raise RunFailedError(run, errors) from causes.get(first) or recorded_cause(state.by_name[first], error)
