"""The calls of one run that are under way: each in a task of its own, in a copy of the context of the run."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING

from dagflow._active import those_late
from dagflow._facts import Raised, describe
from dagflow._log import LOGGER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dagflow._attempt import Attempts
    from dagflow._facts import Fact
    from dagflow._leases import Leases
    from dagflow._state import NodeState

__all__ = ["Calls"]


class Calls:
    """Starts calls, and ends them.

    It is told with each call whom to tell what came of it, so that nothing here points back at its driver.

    Args:
        attempts: Makes the calls.
        leases: Keeps the claims of the executor's runs alive.

    Attributes:
        under_way: The tasks, by node; whoever is told takes them out.
        is_closing: They are being ended, and their cancellation says nothing about their nodes.
        context: Whoever began to drive the run has called it in this one.
    """

    __slots__ = ("_attempts", "_leases", "_loop", "context", "is_closing", "under_way")

    def __init__(self, attempts: Attempts, leases: Leases) -> None:
        self.under_way: dict[NodeState, asyncio.Task[None]] = {}
        self.is_closing = False
        self._attempts = attempts
        self._leases = leases
        self._loop = asyncio.get_running_loop()
        # The task that goes on with a run may be that of another one; so the context is taken here and now.
        self.context = contextvars.copy_context()

    def start(self, nodes: Iterable[NodeState], told: Callable[[Fact], None]) -> None:
        """Call nodes.

        Args:
            nodes: The nodes.
            told: Gets what came of each call.
        """
        for node in nodes:
            call = self._call(node, node.attempts, told)
            self.under_way[node] = self._loop.create_task(call, name=node.name, context=self.context.copy())

    async def _call(self, node: NodeState, attempt: int, told: Callable[[Fact], None]) -> None:
        try:
            if node not in self.under_way:
                # A task factory of the application's has begun the task at once, before whoever made it knows of it.
                await asyncio.sleep(0)
            if self._leases.is_due(self._loop.time()):
                # A call that blocks the loop must not come between a lease and its renewal.
                await self._leases.ended()
            fact = await self._attempts.call(node, attempt)
        except asyncio.CancelledError as exc:
            if self.is_closing or self._leases.is_cut_off:
                raise
            # Somebody else cancelled the task, perhaps the function itself: an outcome like any other.
            fact = Raised(node, attempt, describe(exc), cause=exc)
        task = self.under_way.get(node)
        if task is not None and task.cancelling() and self._leases.is_cut_off:
            # Whatever the function has made of that: what came of it is not known.
            raise asyncio.CancelledError
        told(fact)

    def stop_asking(self, grace: float) -> None:
        """Wait no longer for the answer of a condition; see `Attempts.stop_asking`."""
        self._attempts.stop_asking(grace)

    def abandon(self) -> None:
        """Cancel the calls that are under way, whose outcomes nobody wants."""
        self.is_closing = True
        for call in self.under_way.values():
            call.cancel()

    async def end(self, *, grace: float, run_id: str) -> None:
        """Cancel the calls that are under way and wait for them.

        Args:
            grace: Seconds to wait at the most.
            run_id: Names the run in the log.
        """
        calls = [call for call in self.under_way.values() if not call.done()]
        if not calls:
            return
        self.abandon()
        if late := await those_late(calls, self._loop.time() + grace):
            facts = {"run_id": run_id, "calls": len(late)}
            LOGGER.warning("cancelled calls do not end, they are abandoned", extra=facts)
        self.is_closing = False
