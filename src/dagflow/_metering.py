"""How things stand with an executor and its store: looked at every few seconds, while a collector is attached.

The looks are bounded in what they read and in how long they wait, so that a store that is large or dead harms nobody;
what a look could not find out stays as it was.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

from dagflow._events import NodeStatus, RunQuery, RunStatus, StoreFigures
from dagflow._log import LOGGER
from dagflow._state import fold
from dagflow.protocols import MeasuredStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from dagflow._active import Active
    from dagflow._events import RunRecord
    from dagflow._observers import Observers
    from dagflow._state import NodeState, RunState
    from dagflow.protocols import Clock, ContextStore, Observer

__all__ = ["Board", "Figures", "Metering", "boards_of"]

_PATIENCE_S = 2.0
_MOST_QUEUED = 5_000
_MOST_WAITING = 1_000
_MOST_READ = 50
"""Journals of waiting runs that one look reads; what it found is remembered for the next."""


@attrs.frozen
class Figures:
    """How things stand.

    Attributes:
        source: Names the store within this process.
        store: What the store says of itself.
        pending: Runs that wait to be claimed.
        orphaned: Begun runs that could be claimed.
        reviewed: Runs that wait for a review.
        review_s: Seconds that the oldest review has waited.
        quiet_s: Seconds since the last event of the running run that has been quiet longest.
        ready_s: Seconds that the node has waited for a slot which is ready longest.
        backing_off: Nodes that wait for their next attempt.
        dropped: Events that observers have not been told.
    """

    source: object
    store: StoreFigures = attrs.field(factory=StoreFigures)
    pending: int = 0
    orphaned: int = 0
    reviewed: int = 0
    review_s: float = 0.0
    quiet_s: float = 0.0
    ready_s: float = 0.0
    backing_off: int = 0
    dropped: int = 0

    def gauges(self, executor: object) -> dict[str, tuple[object, float]]:
        """Return for each gauge what its figure belongs to, and the figure: what belongs to one thing counts once."""
        runs = self.store.address or self.source
        return {
            "dag_database_connections": (self.source, self.store.connections),
            "dag_database_pool_size": (self.source, self.store.pool_size),
            "dag_journal_size_bytes": (runs, self.store.size_bytes),
            "dag_workflow_queue_depth": (runs, self.pending),
            "dag_runs_orphaned": (runs, self.orphaned),
            "dag_runs_waiting_for_review": (runs, self.reviewed),
            "dag_oldest_review_age_seconds": (runs, self.review_s),
            "dag_quietest_run_age_seconds": (executor, self.quiet_s),
            "dag_oldest_ready_node_age_seconds": (executor, self.ready_s),
            "dag_node_attempts_in_backoff": (executor, self.backing_off),
        }


@runtime_checkable
class Board(Protocol):
    """An observer that is shown how things stand."""

    interval: float

    def look(self, executor: object, figures: Figures | None) -> None:
        """Take the figures of an executor in; ``None`` when it was closed."""


def boards_of(observers: Iterable[Observer]) -> list[Board]:
    """Return the observers that are shown how things stand."""
    return [observer for observer in observers if isinstance(observer, Board)]


class Metering:
    """Looks, for the boards of one executor.

    Args:
        boards: At least one.
        store: What is looked at.
        clock: Tells the time that ages are counted from.
        observers: Know what was dropped.
        active: The runs that are driven now.
    """

    def __init__(
        self,
        boards: Sequence[Board],
        *,
        store: ContextStore,
        clock: Clock,
        observers: Observers,
        active: Mapping[str, Active],
    ) -> None:
        self._boards = tuple(boards)
        self._store = store
        self._clock = clock
        self._observers = observers
        self._active = active
        self._figures = Figures(id(store))
        # For each waiting run, its version and since when its reviews wait.
        self._reviews: dict[str, tuple[int, datetime | None]] = {}

    async def keep(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(min(board.interval for board in self._boards))
            await self.look()

    async def look(self, *, queues: bool = True) -> None:
        """Look once, for a bounded time; at what waits in the store only if that is wanted."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                if isinstance(self._store, MeasuredStore):
                    self._figures = attrs.evolve(self._figures, store=await self._store.measure())
                if queues:
                    await self._read_queues()
        except Exception:  # of the store, which may be a plug-in; the next look may find more
            LOGGER.debug("the store could not be measured", exc_info=True)
        self._look_here()
        self._show(self._figures)

    async def close(self) -> None:
        """Show what has come to pass since the last look, and that the executor is closed."""
        await self.look(queues=False)
        self._show(None)

    def _show(self, figures: Figures | None) -> None:
        for board in self._boards:
            try:
                board.look(self, figures)
            except Exception:  # of the user's observer
                LOGGER.exception("an observer raised, the run goes on", extra={"observer": board})

    async def _read_queues(self) -> None:
        found = await self._store.find(RunQuery(claimable=True, limit=_MOST_QUEUED))
        pending = sum(record.status is RunStatus.PENDING for record in found)
        orphaned = sum(record.status is RunStatus.RUNNING for record in found)
        self._figures = attrs.evolve(self._figures, pending=pending, orphaned=orphaned)
        waiting = await self._store.find(RunQuery(statuses=frozenset({RunStatus.WAITING}), limit=_MOST_WAITING))
        await self._read_reviews(waiting)

    async def _read_reviews(self, waiting: Sequence[RunRecord]) -> None:
        known = {r.run_id: self._reviews[r.run_id] for r in waiting if r.run_id in self._reviews}
        stale = [r for r in waiting if r.run_id not in known or known[r.run_id][0] != r.version]
        # The oldest first: what is asked is how long somebody has waited.
        for record in stale[: -_MOST_READ - 1 : -1]:
            _, events = await self._store.read(record.run_id)
            known[record.run_id] = (record.version, _reviewed_since(fold(events), {e.version: e.at for e in events}))
        self._reviews = known

    def _look_here(self) -> None:
        now = self._clock.now()
        drivers = [active.driver for active in self._active.values()]
        states = [driver.state for driver in drivers]
        # A run that is driven here may wait for a review while other nodes of it run.
        since = {run_id: at for run_id, (_, at) in self._reviews.items() if at is not None}
        since |= {s.run_id: at for s in states if s.waiting and (at := _longest_review(s)) is not None}
        quiet = [s.updated_at for s in states if s.running]
        # The driver is the wrong one to ask: it knows no more of this than its line does.
        lines = [driver._admission for driver in drivers]  # noqa: SLF001 - as the line says
        ready = [at for line in lines if (at := line.first_ready_at()) is not None]
        self._figures = attrs.evolve(
            self._figures,
            reviewed=len(since),
            review_s=_age_s(since.values(), now),
            quiet_s=_age_s(quiet, now),
            ready_s=_age_s(ready, now),
            backing_off=sum(_backing_off(s) for s in states),
            dropped=self._observers.dropped,
        )


def _age_s(times: Iterable[datetime], now: datetime) -> float:
    """Return the seconds since the earliest of some times, 0 when there is none."""
    return max(0.0, (now - min(times, default=now)).total_seconds())


def _reviews(state: RunState) -> list[NodeState]:
    nodes = state.by_name.values() if state.waiting else ()
    return [node for node in nodes if node.status is NodeStatus.WAITING and node.waits_for == "review"]


def _reviewed_since(state: RunState, times: Mapping[int, datetime]) -> datetime | None:
    return min((times[node.requested] for node in _reviews(state)), default=None)


def _longest_review(state: RunState) -> datetime | None:
    return min((node.started_at for node in _reviews(state) if node.started_at is not None), default=None)


def _backing_off(state: RunState) -> int:
    nodes = state.by_name.values() if state.waiting else ()
    return sum(node.status is NodeStatus.WAITING and node.waits_for == "retry" for node in nodes)
