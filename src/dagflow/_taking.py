"""Taking up a run that is in the store: what it has come to, whether anything can happen in it, and the claim."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import attrs

from dagflow._active import STORE_S, finished, those_late
from dagflow._events import RunStatus
from dagflow._identity import is_gone
from dagflow._orders import Order, check_wanted, is_asked_anew
from dagflow._parked import can_move, late_requests
from dagflow._state import RunState, fold

if TYPE_CHECKING:
    from dagflow._events import Event, RunRecord
    from dagflow._plan import Plan
    from dagflow.protocols import Clock, ContextStore

__all__ = ["Taken", "Taking"]


@attrs.frozen
class Taken:
    """A run that has just been claimed.

    Attributes:
        plan: Its workflow.
        record: The record with the new claim.
        state: The run as its last owner left it.
        events: Its journal.
        is_graceful: The last owner has let go of it, and did not die.
        late: Numbers of messages that are not for the run as it is now.
    """

    plan: Plan
    record: RunRecord
    state: RunState
    events: list[Event]
    is_graceful: bool
    late: frozenset[int]


@attrs.frozen
class Taking:
    """Claims runs for one executor.

    Attributes:
        store: Keeps them.
        clock: Tells which timers are due.
        owner: Name of the executor.
        lease: Seconds until a claim lapses.
        given_up: What still gives up claims that came too late.
    """

    store: ContextStore
    clock: Clock
    owner: str
    lease: float
    given_up: set[asyncio.Task[None]]

    async def take(self, run_id: str, wanted: Order | Plan, *, reopen_ended: bool) -> Taken | RunState:
        """Claim a run, or return its state when it has ended or nothing can happen in it.

        Args:
            run_id: The run.
            wanted: Its workflow, or what a parent wants of it.
            reopen_ended: Whether a failed or cancelled run is claimed.

        Raises:
            RunOwnedError: Another executor owns it.
            WorkflowChangedError: It was started with another graph.
        """
        while True:
            record, events = await self.store.read(run_id)
            state = fold(events)
            plan = check_wanted(run_id, state, wanted)
            if state.shape.names != plan.shape.names:
                # The code names its nodes in another order: positions are those of the plan.
                state = fold(events, shape=plan.shape)
            if state.status is RunStatus.COMPLETED or (state.status.is_terminal and not reopen_ended):
                return state
            anew = is_asked_anew(state, wanted)
            is_parked = record.owner is None and state.status is RunStatus.WAITING and not anew
            if is_parked and not await can_move(self.store, record, state, self.clock.now()):
                return state
            late = await late_requests(self.store, record, state, is_asked_anew=anew)
            claimed = await self.claim(record)
            if claimed is not None:
                return Taken(plan, claimed, state, events, is_graceful=record.owner is None, late=late)

    async def claim(self, record: RunRecord) -> RunRecord | None:
        """Claim a run as it was read; return ``None`` when somebody has written since.

        A claim whose caller is cancelled meanwhile is given up again: nobody would renew it, or use it. The caller
        waits for that, but not long for a store that does not answer.
        """
        loop = asyncio.get_running_loop()
        claiming = loop.create_task(self._claim(record))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            giving_up = loop.create_task(self._give_up(claiming))
            self.given_up.add(giving_up)
            giving_up.add_done_callback(self.given_up.discard)
            await finished(loop.create_task(those_late([giving_up], loop.time() + STORE_S)))
            raise

    async def _give_up(self, claiming: asyncio.Task[RunRecord | None]) -> None:
        # Nobody is there to be told what goes wrong; the lease lapses then.
        with contextlib.suppress(Exception):
            claimed = await claiming
            if claimed is not None:
                await self.store.release([claimed.claim])

    async def _claim(self, record: RunRecord) -> RunRecord | None:
        dead = record.owner if record.owner is not None and is_gone(record.owner) else None
        claimed = await self.store.claim(record.run_id, owner=self.owner, lease=self.lease, dead_owner=dead)
        if claimed.version == record.version:
            return claimed
        # Look again at what was written.
        await self.store.release([claimed.claim])
        return None
