"""Runs that nobody drives: whether anything can happen in one, and which requests came too late for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagflow._events import MessageKind, NodeStatus, RunStatus
from dagflow._state import fold
from dagflow._states import child_run_id
from dagflow.errors import RunNotFoundError

if TYPE_CHECKING:
    from datetime import datetime

    from dagflow._events import RunRecord
    from dagflow._state import RunState
    from dagflow.protocols import ContextStore

__all__ = ["can_move", "late_requests"]


async def can_move(
    store: ContextStore, record: RunRecord, state: RunState, now: datetime, *, resumes: bool = True
) -> bool:
    """Return whether anything can happen in a waiting run without the outside world.

    Args:
        store: Keeps it.
        record: Its record.
        state: Its state.
        now: The time, aware UTC.
        resumes: Whoever asks would also go on with runs that it has started and that are paused.
    """
    waiting = [node for node in state.by_name.values() if node.status is NodeStatus.WAITING]
    if any(node.waits_for in ("retry", "timer") for node in waiting):
        return True
    if record.wake_at is not None and record.wake_at <= now:
        return True
    if await store.receive({record.run_id: record.received}):
        return True
    for node in waiting:
        if node.waits_for != "run":
            continue
        if await _can_child_move(store, child_run_id(state.run_id, node), now, resumes=resumes):
            return True
    return False


async def _can_child_move(store: ContextStore, run_id: str, now: datetime, *, resumes: bool) -> bool:
    try:
        record, events = await store.read(run_id)
    except RunNotFoundError:
        # Somebody has deleted it: it is started again.
        return True
    state = fold(events)
    if record.owner is None and state.status is RunStatus.PAUSED:
        return resumes
    is_parked = record.owner is None and state.status is RunStatus.WAITING
    return not is_parked or await can_move(store, record, state, now, resumes=resumes)


async def late_requests(
    store: ContextStore, record: RunRecord, state: RunState, *, is_asked_anew: bool
) -> frozenset[int]:
    """Return the numbers of requests that were meant for the run before it ended, was paused, or was asked for anew.

    A parent that was cancelled may leave the cancellation of this run unread; when it is opened again it wants the run.
    """
    is_past = state.status.is_terminal or is_asked_anew
    if not is_past and state.status is not RunStatus.PAUSED:
        return frozenset()
    kinds = {MessageKind.CANCEL, MessageKind.PAUSE} if is_past else {MessageKind.PAUSE}
    messages = await store.receive({record.run_id: record.received})
    return frozenset(message.number for message in messages if message.kind in kinds)
