"""What is asked of a run from outside, by any process: signals, decisions, cancel, pause.

A request is a message in the store, which the owner takes in exactly once and in order. The owner in this process is
told at once; another one finds it when it next looks; a run that nobody owns is changed here when that needs no
workflow.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._decisions import Decision, already, check_decision, decided_before, decision_message, missed
from dagflow._events import EventKind, Message, MessageKind, NodeStatus, RunQuery, RunStatus
from dagflow._names import near_miss
from dagflow._node import ReviewSpec
from dagflow._scheduler import cancel, pause
from dagflow._state import RunState, apply, fold
from dagflow.errors import LeaseLostError, MessageExistsError, RunNotFoundError, RunOwnedError, RunStateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from datetime import datetime

    from dagflow._engine import Engine
    from dagflow._events import Event, RunRecord
    from dagflow._model import Workflow

__all__ = ["Requests", "Review", "assignees_of", "pages"]

_BEYOND_ALL = 2**31 - 1
"""A version that no run has: a record is read without its events."""


@attrs.frozen
class Review:
    """A review that waits for somebody.

    Attributes:
        run_id: The run.
        workflow: Name of its workflow.
        review: Name of the node.
        assignees: Who may decide; everybody when there is none.
        requested_at: Since when it waits, aware UTC.
        deadline_at: When its deadline decides, aware UTC.
    """

    run_id: str
    workflow: str
    review: str
    assignees: tuple[str, ...]
    requested_at: datetime
    deadline_at: datetime | None


class Requests:
    """Sends requests to runs.

    Args:
        engine: Knows the store, and the runs that are driven here.
        workflow: Returns a workflow by its name, ``None`` when it is not known here.
    """

    def __init__(self, engine: Engine, workflow: Callable[[str], Workflow | None]) -> None:
        self._engine = engine
        self._workflow = workflow

    async def signal(self, run_id: str, name: str, value: Any) -> None:
        """Send a signal; see `DAGExecutor.signal`."""
        state, _ = await self._read(run_id)
        names = [state.shape.names[i] for i, kind in state.shape.kinds.items() if kind == "signal"]
        if name not in names:
            reason = f"no node of it waits for a signal {name!r}{near_miss(name, names)}"
            raise RunStateError(run_id, state.status, reason)
        if state.status.is_terminal:
            raise RunStateError(run_id, state.status, "it has ended and takes no signals")
        payload = self._engine.codec.encode(value)
        await self._send(Message(run_id, MessageKind.SIGNAL, name, payload))

    async def decide(self, run_id: str, decision: Decision) -> None:
        """Answer a review; see `DAGExecutor.decide`."""
        state, events = await self._read(run_id)
        before = decided_before(state, events, decision.review)
        if before is not None:
            raise before
        workflow = self._workflow(state.workflow)
        spec = next((n.wait for n in workflow.nodes if n.name == decision.review), None) if workflow else None
        request = _last_request(events, decision.review)
        requested = check_decision(state, spec if isinstance(spec, ReviewSpec) else None, decision, request)
        message = decision_message(run_id, requested, decision, self._engine.codec)
        late = missed(state, decision, request.get("on_deadline"))
        if late is not None:
            # Somebody may have been in time, and the run has not heard of it yet.
            raise await self._first(message, run_id, decision.review) or late
        try:
            await self._send(message)
        except MessageExistsError as exc:
            raise await self._first(message, run_id, decision.review) or exc from None

    async def _first(self, message: Message, run_id: str, review: str) -> Exception | None:
        """Return the error that tells who decided first, when a message has the key of this one."""
        for sent in await self._engine.store.receive({run_id: 0}):
            if sent.key == message.key:
                return already(run_id, review, sent.data or {}, sent.sent_at)
        return None

    async def delete(self, run_id: str) -> None:
        """Forget a run and those that it has started; see `DAGExecutor.delete`."""
        store = self._engine.store
        # One that is owned is refused before anything is forgotten.
        with contextlib.suppress(RunNotFoundError):
            record, _ = await store.read(run_id, after=_BEYOND_ALL)
            if record.owner is None:
                await self._delete_children(run_id)
        await store.delete(run_id)
        await self._delete_children(run_id)

    async def _delete_children(self, run_id: str) -> None:
        for child in [record async for record in pages(self._engine, RunQuery(parent=run_id))]:
            await self.delete(child.run_id)

    async def cancel(self, run_id: str) -> None:
        """Cancel a run; see `DAGExecutor.cancel`."""
        await self._change(run_id, MessageKind.CANCEL)

    async def pause(self, run_id: str) -> None:
        """Pause a run; see `DAGExecutor.pause`."""
        await self._change(run_id, MessageKind.PAUSE)

    async def reviews(self, *, assignee: str | None, limit: int) -> list[Review]:
        """List reviews that wait; see `DAGExecutor.reviews`."""
        reviews: list[Review] = []
        async for record in pages(self._engine, RunQuery(statuses=frozenset({RunStatus.WAITING, RunStatus.RUNNING}))):
            _, events = await self._engine.store.read(record.run_id)
            reviews += [r for r in _waiting(fold(events), events) if assignee is None or assignee in r.assignees]
            if len(reviews) >= limit:
                break
        return reviews[:limit]

    # -- how a request reaches its run ------------------------------------------------------------

    async def _read(self, run_id: str) -> tuple[RunState, list[Event]]:
        _, events = await self._engine.store.read(run_id)
        return fold(events), events

    async def _send(self, message: Message) -> None:
        await self._engine.store.send(message)
        await self._engine.mail.collect(message.run_id)

    async def _change(self, run_id: str, kind: MessageKind) -> None:
        is_changed = False
        while not is_changed:
            # Two callers of one executor would claim the run from each other for ever.
            async with self._engine.lock(run_id):
                is_changed = await self._try_to_change(run_id, kind)

    async def _try_to_change(self, run_id: str, kind: MessageKind) -> bool:
        """Change a run that nobody drives, or ask whoever does; return false when it has to be looked at again."""
        engine = self._engine
        if run_id in engine.active:
            await self._send(Message(run_id, kind))
            return True
        record, _ = await engine.store.read(run_id)
        wanted = RunStatus.CANCELLED if kind is MessageKind.CANCEL else RunStatus.PAUSED
        if record.status is wanted:
            return True
        if record.status.is_terminal:
            raise RunStateError(run_id, record.status, f"there is nothing left to {kind.value}")
        try:
            claimed = await engine.taking.claim(record)
        except RunOwnedError:
            await self._send(Message(run_id, kind))
            return True
        if claimed is None:
            return False
        try:
            return await self._change_claimed(claimed, kind)
        except BaseException:
            with contextlib.suppress(Exception):
                await engine.store.release([claimed.claim])
            raise

    async def _change_claimed(self, record: RunRecord, kind: MessageKind) -> bool:
        """Write the end of a run that nobody drives; its workflow need not be known for that."""
        engine = self._engine
        await self._change_children(record.run_id, kind)
        state, _ = await self._read(record.run_id)
        version, now = state.version, engine.clock.now()
        calls = any(node.status is NodeStatus.RUNNING for node in state.by_name.values())
        if state.status.is_terminal or (kind is MessageKind.PAUSE and calls):
            # Nodes that were cut off are taken up by the next owner, which pauses the run then.
            await engine.store.release([record.claim])
            if not state.status.is_terminal:
                await self._send(Message(record.run_id, kind))
            return True
        events = cancel(state, now=now) if kind is MessageKind.CANCEL else [pause(state, now=now)]
        if kind is MessageKind.PAUSE:
            apply(state, events[0])
        if kind is MessageKind.CANCEL:
            await engine.wake_parent(record)
        try:
            await engine.store.append(events, claim=record.claim, version=version, status=state.status, release=True)
        except LeaseLostError:
            # Somebody has gone on with the run meanwhile, and is asked.
            return False
        workflow = self._workflow(state.workflow)
        plan = workflow.compile() if workflow is not None else None
        # Observers find nodes by their positions.
        known = plan if plan is not None and plan.shape.names == state.shape.names else None
        engine.observers.tell(events, state, known)
        if kind is MessageKind.CANCEL:
            await engine.mail.collect(record.parent)
        return True

    async def _change_children(self, run_id: str, kind: MessageKind) -> None:
        """Change the runs that a run has started before it is changed itself: whoever asks again reaches them too."""
        async for child in pages(self._engine, RunQuery(parent=run_id)):
            if not child.status.is_terminal:
                with contextlib.suppress(RunNotFoundError, RunStateError):
                    await self._change(child.run_id, kind)


async def pages(engine: Engine, query: RunQuery) -> AsyncIterator[RunRecord]:
    """Yield all records that fit, newest first, page by page."""
    after: str | None = None
    while True:
        page = await engine.store.find(attrs.evolve(query, after=after))
        for record in page:
            yield record
        if len(page) < query.limit:
            return
        after = page[-1].run_id


def assignees_of(events: list[Event], review: str) -> list[str]:
    """Return who may decide a review, as its last request says; everybody when there is none."""
    return list(_last_request(events, review).get("assignees", ()))


def _last_request(events: list[Event], review: str) -> Mapping[str, Any]:
    """Return what the journal says of the last request for a review."""
    requests = [e for e in events if e.kind is EventKind.REVIEW_REQUESTED and e.node == review]
    return (requests[-1].data or {}) if requests else {}


def _waiting(state: RunState, events: list[Event]) -> list[Review]:
    by_version = {event.version: event for event in events}
    return [
        Review(
            state.run_id,
            state.workflow,
            node.name,
            tuple((by_version[node.requested].data or {}).get("assignees", ())),
            by_version[node.requested].at,
            node.due_at,
        )
        for node in state.by_name.values()
        if node.status is NodeStatus.WAITING and node.waits_for == "review"
    ]
