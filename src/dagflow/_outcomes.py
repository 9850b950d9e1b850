"""What a run comes to, for those who wait for it: its end, or its events as they are committed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dagflow._active import Active, result_of
from dagflow._events import RunStatus
from dagflow._parked import can_move
from dagflow._state import RunState, fold
from dagflow.errors import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from dagflow._engine import Engine
    from dagflow._events import Event
    from dagflow._plan import Plan
    from dagflow._run import Run

__all__ = ["Outcomes"]


class Outcomes:
    """Waits for runs.

    Args:
        engine: Drives runs, and knows the store.
        plan_of: Returns a workflow by its name; raises `UnknownWorkflowError`.
    """

    def __init__(self, engine: Engine, plan_of: Callable[[str], Plan]) -> None:
        self._engine = engine
        self._plan_of = plan_of

    async def of(self, begun: Active | RunState, plan: Plan) -> Run:
        """Wait for the end of a run, by whomever it is driven, and return or raise what it came to.

        Raises:
            RunFailedError: It failed.
            RunCancelledError: It was cancelled.
        """
        engine = self._engine
        while isinstance(begun, Active):
            try:
                state = await engine.join(begun)
            except LeaseLostError:
                begun = await engine.go_on(begun.run_id, plan, reopen_ended=False)
                continue
            if not begun.is_put_off and not await self._is_called(state):
                return result_of(state, engine.codec, begun.driver.causes)
            begun = await engine.go_on(begun.run_id, plan, reopen_ended=False)
        return result_of(begun, engine.codec, {})

    async def _is_called(self, state: RunState) -> bool:
        """Return whether something came for a run that a waiting one has started, while that was let go of."""
        if state.status is not RunStatus.WAITING or all(node.waits_for != "run" for node in state.by_name.values()):
            return False
        store = self._engine.store
        record, _ = await store.read(state.run_id, after=state.version)
        return record.owner is not None or await can_move(store, record, state, self._engine.clock.now(), resumes=False)

    async def join(self, run_id: str, *, drives: bool) -> Run:
        """Wait for the end of a run that was begun before.

        Args:
            run_id: The run.
            drives: Go on with the run here when nobody does; otherwise wait for somebody else to end it.
        """
        engine = self._engine
        engine.check_open()
        begun: Active | RunState | None = engine.active.get(run_id)
        if begun is None:
            record, events = await engine.store.read(run_id)
            while not drives and not _rests(record.status):
                await asyncio.sleep(engine.poll)
                engine.check_open()
                record, events = await engine.store.read(run_id)
            begun = fold(events)
            if not _rests(record.status):
                begun = await engine.go_on(run_id, self._plan_of(record.workflow), reopen_ended=False)
        if isinstance(begun, Active):
            return await self.of(begun, begun.order.plan)
        return result_of(begun, engine.codec, {})

    async def follow(self, run_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """Yield the events of a run beyond a version as they are committed, until it has ended or is let go of here."""
        engine = self._engine
        while True:
            engine.check_open()
            active = engine.active.get(run_id)
            changed = active.driver.committed.next() if active is not None else None
            record, events = await engine.store.read(run_id, after=after)
            for event in events:
                yield event
            after = record.version
            if changed is None or record.status.is_terminal:
                return
            await changed


def _rests(status: RunStatus) -> bool:
    """Return whether a run stays as it is until somebody says otherwise."""
    return status.is_terminal or status is RunStatus.PAUSED
