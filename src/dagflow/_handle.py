"""A run that goes on in the background, as those who started it see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dagflow._events import Event
    from dagflow._outcomes import Outcomes
    from dagflow._run import Run

__all__ = ["RunHandle"]


class _Executor(Protocol):
    """What a handle asks of its executor."""

    async def cancel(self, run_id: str) -> None: ...
    async def pause(self, run_id: str) -> None: ...


class RunHandle:
    """A run that was started in the background; it goes on whether or not anybody waits for it.

    Attributes:
        run_id: The run.
        is_new: The call that returned the handle has recorded the run; false when `submit` found it recorded.
    """

    def __init__(
        self, executor: _Executor, outcomes: Outcomes, run_id: str, *, drives: bool = True, is_new: bool = True
    ) -> None:
        self.run_id = run_id
        self.is_new = is_new
        self._executor = executor
        self._outcomes = outcomes
        self._drives = drives

    def __repr__(self) -> str:
        return f"<RunHandle {self.run_id!r}>"

    async def result(self) -> Run:
        """Wait until the run has ended, or waits for the outside world, and return it.

        Raises:
            RunFailedError: The run failed.
            RunCancelledError: The run was cancelled.
        """
        return await self._outcomes.join(self.run_id, drives=self._drives)

    async def events(self, *, after: int = 0) -> AsyncIterator[Event]:
        """Yield the events of the run beyond a version as they are committed, until it has ended or is let go of."""
        async for event in self._outcomes.follow(self.run_id, after=after):
            yield event

    async def cancel(self) -> None:
        """Ask for the run to be cancelled; ``result`` then raises `RunCancelledError`."""
        await self._executor.cancel(self.run_id)

    async def pause(self) -> None:
        """Ask for the run to be paused; ``result`` then returns it as it is."""
        await self._executor.pause(self.run_id)
