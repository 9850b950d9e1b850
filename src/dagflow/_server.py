"""Taking up runs that nobody drives: once, by `recover`, or until stopped, by a `Server`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from dagflow._active import Active
from dagflow._events import RunQuery, RunStatus
from dagflow._identity import is_gone
from dagflow._requests import pages
from dagflow._run import Run
from dagflow.errors import DagflowError, LeaseLostError, RunOwnedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dagflow._engine import Engine
    from dagflow._events import RunRecord
    from dagflow._plan import Plan

__all__ = ["Server", "recover"]

_LOGGER = logging.getLogger("dagflow")
_PAGE = 500
_BEGUN = frozenset({RunStatus.RUNNING, RunStatus.WAITING})


class Server:
    """Serves the store of one executor.

    Args:
        engine: Claims and drives.
        plans: Returns the workflows that are served, by name.
        concurrency: How many runs are driven at a time.
        poll: Seconds between two looks at the store.
    """

    def __init__(
        self, engine: Engine, plans: Callable[[], Mapping[str, Plan]], *, concurrency: int, poll: float
    ) -> None:
        self._engine = engine
        self._plans = plans
        self._concurrency = concurrency
        self._poll = poll
        self._serving: set[str] = set()
        self._looks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()

    async def serve(self) -> None:
        """Serve until cancelled; then claim nothing more, and let what is running end within the grace time."""
        try:
            while True:
                self._room.clear()
                found = await self._look()
                if not found or len(self._serving) >= self._concurrency:
                    await self._pause()
        finally:
            await self._wind_down()

    def look_soon(self) -> None:
        """Do not wait for the next look: something was asked for in this process."""
        self._room.set()

    async def _pause(self) -> None:
        # Not `wait_for`: before Python 3.12 it loses a cancellation that comes together with the result.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll):
                await self._room.wait()

    async def _look(self) -> int:
        """Claim what may be claimed and fits; return how many runs that were."""
        taken = 0
        for name, plan in self._plans().items():
            room = self._concurrency - len(self._serving)
            if room <= 0:
                return taken
            try:
                records = await self._engine.store.find(RunQuery(workflow=name, limit=room, claimable=True))
            except StoreError:
                _LOGGER.warning("the store could not be searched for runs", exc_info=True)
                return taken
            for record in records:
                taken += await self._take(record, plan)
        return taken

    async def _take(self, record: RunRecord, plan: Plan) -> bool:
        run_id = record.run_id
        if run_id in self._serving or run_id in self._engine.active:
            return False
        try:
            begun = await self._engine.go_on(run_id, plan, reopen_ended=False, wait=False, patience=self._engine.lease)
        except RunOwnedError:
            return False
        except DagflowError:
            _LOGGER.warning("a run could not be served", exc_info=True, extra={"run_id": run_id})
            return False
        if not isinstance(begun, Active):
            return False
        begun.background = True
        self._serving.add(run_id)
        task = asyncio.get_running_loop().create_task(self._watch(begun))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)
        return True

    async def _watch(self, active: Active) -> None:
        if active.task is not None:
            await asyncio.wait([active.task])
        self._serving.discard(active.run_id)
        self._room.set()
        if active.error is not None:
            _LOGGER.warning("a run was given up here", exc_info=active.error, extra={"run_id": active.run_id})

    async def _wind_down(self) -> None:
        """Let what is running end, then stop."""
        drivers = [self._engine.active[run_id].driver for run_id in self._serving if run_id in self._engine.active]
        for driver in drivers:
            driver.wind_down()
        looks = list(self._looks)
        if looks:
            await asyncio.wait(looks, timeout=self._engine.grace)
        for driver in drivers:
            driver.stop()
        if looks:
            await asyncio.wait(looks)


async def recover(engine: Engine, plans: Mapping[str, Plan]) -> list[Run]:
    """Claim and finish every run whose owner is gone; see `DAGExecutor.recover`."""
    orphans = []
    async for record in pages(engine, RunQuery(statuses=_BEGUN, limit=_PAGE)):
        if record.run_id in engine.active or not _is_orphan(engine, record):
            continue
        if record.workflow in plans:
            orphans.append(record)
        else:
            facts = {"run_id": record.run_id, "workflow": record.workflow}
            _LOGGER.warning("a run cannot be recovered, its workflow is unknown here", extra=facts)
    runs = await asyncio.gather(*(_recover(engine, record, plans[record.workflow]) for record in orphans))
    return [run for run in runs if run is not None]


async def _recover(engine: Engine, record: RunRecord, plan: Plan) -> Run | None:
    try:
        begun = await engine.go_on(record.run_id, plan, reopen_ended=False, wait=False)
        state = await engine.join(begun) if isinstance(begun, Active) else begun
    except (RunOwnedError, LeaseLostError):
        return None
    return Run.of(state, engine.codec)


def _is_orphan(engine: Engine, record: RunRecord) -> bool:
    """Return whether nobody owns a run any more that should be going on; the store has the last word."""
    now, owner, until = engine.clock.now(), record.owner, record.lease_until
    if owner is None:
        due = record.wake_at is not None and record.wake_at <= now
        return record.status is RunStatus.RUNNING or due
    return until is None or until <= now or is_gone(owner)
