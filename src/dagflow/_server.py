"""Taking up runs that nobody drives: once, by `recover`, or until stopped, by a `Server`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import attrs

from dagflow._active import CUT_S, LAST_S, STORE_S, Active, those_late
from dagflow._events import MessageKind, RunQuery, RunStatus
from dagflow._identity import is_gone
from dagflow._log import LOGGER
from dagflow._requests import pages
from dagflow._run import Run
from dagflow.errors import (
    ExecutorError,
    LeaseLostError,
    RunOwnedError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from dagflow.runners.local import ThreadRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dagflow._engine import Engine
    from dagflow._events import RunRecord
    from dagflow._plan import Plan

__all__ = ["Server", "recover"]

_PAGE = 500
_PASSED_S = 60.0
"""Seconds until a run that could not be served is tried again, unless it changes before."""
_BEGUN = frozenset({RunStatus.RUNNING, RunStatus.WAITING})


@attrs.frozen
class _Passed:
    """A run that is passed over: at this version, until this time of the loop."""

    version: int
    until: float


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
        self._passed: dict[str, _Passed] = {}
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
        """Claim what may be claimed and fits, and return how many runs were taken or found to be none for this server.

        When there were any, the next look may find others.
        """
        room = self._concurrency - len(self._serving)
        try:
            offers = await self._offers(room)
        except StoreError:
            LOGGER.warning("the store could not be searched for runs", exc_info=True)
            return 0
        moved = 0
        for record, plan in offers[:room]:
            moved += await self._take(record, plan)
        return moved

    async def _offers(self, room: int) -> list[tuple[RunRecord, Plan]]:
        """Return runs that may be claimed, of all workflows that are served: highest priority first, then oldest."""
        now = asyncio.get_running_loop().time()
        self._passed = {run_id: passed for run_id, passed in self._passed.items() if passed.until > now}
        offers: list[tuple[RunRecord, Plan]] = []
        for name, plan in self._plans().items() if room > 0 else ():
            query = RunQuery(workflow=name, limit=room + len(self._passed), claimable=True)
            records = await self._engine.store.find(query)
            offers += [(record, plan) for record in records if not self._is_passed(record)]
        return sorted(offers, key=lambda offer: (-offer[0].priority, offer[0].created_at))

    async def _take(self, record: RunRecord, plan: Plan) -> bool:
        """Claim a run; return whether it is served now, or is passed over from now on."""
        run_id = record.run_id
        if run_id in self._serving or run_id in self._engine.active:
            return False
        try:
            if record.status is RunStatus.PAUSED and not await self._is_cancelled(record):
                return self._pass_over(record)
            begun = await self._engine.go_on(run_id, plan, reopen_ended=False, wait=False, patience=self._engine.lease)
        except RunOwnedError:
            return False
        except Exception as exc:  # of its journal, which may be damaged; the other runs have to be served
            LOGGER.warning("a run could not be served", exc_info=True, extra={"run_id": run_id})
            return not isinstance(exc, StoreUnavailableError) and self._pass_over(record)
        if not isinstance(begun, Active):
            return False
        begun.background = True
        self._serving.add(run_id)
        task = asyncio.get_running_loop().create_task(self._watch(begun))
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)
        return True

    async def _is_cancelled(self, record: RunRecord) -> bool:
        """Return whether somebody has cancelled a paused run; all else that was sent waits until it is resumed."""
        messages = await self._engine.store.receive({record.run_id: record.received})
        return any(message.kind is MessageKind.CANCEL for message in messages)

    def _pass_over(self, record: RunRecord) -> bool:
        """Keep a run that cannot be served from taking the places of others; return that it is so."""
        self._passed[record.run_id] = _Passed(record.version, asyncio.get_running_loop().time() + _PASSED_S)
        return True

    def _is_passed(self, record: RunRecord) -> bool:
        passed = self._passed.get(record.run_id)
        return passed is not None and passed.version == record.version

    async def _watch(self, active: Active) -> None:
        await active.ended()
        self._serving.discard(active.run_id)
        self._room.set()
        if active.error is not None:
            LOGGER.warning("a run was given up here", exc_info=active.error, extra={"run_id": active.run_id})

    async def _wind_down(self) -> None:
        """Let what is running end, for the grace time at the most, then stop in less than a second."""
        end = asyncio.get_running_loop().time() + self._engine.grace + LAST_S
        served = [self._engine.active[run_id] for run_id in self._serving if run_id in self._engine.active]
        for active in served:
            active.ends_at = end
            active.driver.wind_down()
        looks = list(self._looks)
        looks = await those_late(looks, end - LAST_S)
        for active in served:
            active.driver.stop(grace=CUT_S)
        await those_late(looks, end - STORE_S)
        for runner in self._engine.runners.values():
            if isinstance(runner, ThreadRunner):
                runner.forget_cancelled()


async def recover(engine: Engine, plans: Mapping[str, Plan]) -> list[Run]:
    """Claim and finish every run whose owner is gone; see `DAGExecutor.recover`."""
    runs: list[Run] = []
    seen: set[str] = set()
    # The end of a run may be what another one waits for.
    while orphans := [record for record in await _orphans(engine) if record.run_id not in seen]:
        seen.update(record.run_id for record in orphans)
        asked = [_recover(engine, record, plans) for record in orphans]
        ends = await asyncio.gather(*asked, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        runs += [end for end in ends if isinstance(end, Run)]
    return runs


async def _orphans(engine: Engine) -> list[RunRecord]:
    """Return the runs that nobody owns any more and that should be going on; the store has the last word."""
    begun = [
        record
        async for record in pages(engine, RunQuery(statuses=_BEGUN, limit=_PAGE))
        if record.run_id not in engine.active
    ]
    parked = {r.run_id: r.received for r in begun if r.owner is None and r.status is RunStatus.WAITING}
    messages = await engine.store.receive(parked) if parked else []
    woken = {message.run_id for message in messages if message.kind is MessageKind.WAKE}
    return [record for record in begun if record.run_id in woken or _is_orphan(engine, record)]


def _is_orphan(engine: Engine, record: RunRecord) -> bool:
    now, owner, until = engine.clock.now(), record.owner, record.lease_until
    if owner is None:
        due = record.wake_at is not None and record.wake_at <= now
        return record.status is RunStatus.RUNNING or due
    return until is None or until <= now or is_gone(owner)


async def _recover(engine: Engine, record: RunRecord, plans: Mapping[str, Plan]) -> Run | None:
    facts = {"run_id": record.run_id, "workflow": record.workflow}
    if record.workflow not in plans:
        LOGGER.warning("a run cannot be recovered, its workflow is unknown here", extra=facts)
        return None
    try:
        begun = await engine.go_on(record.run_id, plans[record.workflow], reopen_ended=False, wait=False)
    except RunOwnedError:
        return None
    except (StoreUnavailableError, StoreRefusedError, ExecutorError):
        raise
    except Exception:  # of its journal, which may be damaged; the other runs can be recovered
        LOGGER.warning("a run cannot be recovered", exc_info=True, extra=facts)
        return None
    try:
        return Run.of(await engine.join(begun) if isinstance(begun, Active) else begun, engine.codec)
    except LeaseLostError:
        return None
