"""Which events follow from a state and a new fact: all rules of scheduling, without I/O, clock or chance.

`react` answers one fact with the event that says so; `resolve` says what becomes of a node when everything it waited
for has ended; `advance` runs both until nothing more follows. Neither looks at the clock: the time comes in as ``now``,
chance comes in with the fact.

=====================  =============================================================================
join                   a node whose dependencies have all ended
=====================  =============================================================================
``all_success``        starts when all completed, or were skipped and its parameter has a default;
                       blocked when one failed, was blocked or cancelled; else skipped
``all_done``           starts
``any_success``        starts when one completed; skipped when all were skipped; else blocked
``none_failed``        starts when none failed, was blocked or cancelled; else blocked
=====================  =============================================================================
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import ErrorInfo, Event, EventKind, NodeStatus, RunStatus
from dagflow._facts import Decided, Elapsed, Fact, Judged, Parked, Raised, Returned, Signalled, describe
from dagflow._node import ReviewSpec, SignalSpec, SleepSpec
from dagflow._state import ENDED, apply
from dagflow.errors import (
    IllegalMoveError,
    InDoubtError,
    InterruptedTooOftenError,
    MapError,
    NodeTimeoutError,
    ReviewRejectedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from dagflow._events import Payload
    from dagflow._node import Node, WaitSpec
    from dagflow._plan import Plan, PlanNode
    from dagflow._state import NodeState, RunState

__all__ = [
    "advance",
    "cancel",
    "draining",
    "failures",
    "finish",
    "may_start",
    "pause",
    "react",
    "reopen",
    "resolve",
    "start",
    "stopped_by",
]

PENDING, RUNNING, WAITING = NodeStatus.PENDING, NodeStatus.RUNNING, NodeStatus.WAITING
COMPLETED, FAILED, SKIPPED = NodeStatus.COMPLETED, NodeStatus.FAILED, NodeStatus.SKIPPED
# Looked up once, because they are on the way of every node.
_NODE_STARTED, _NODE_COMPLETED = EventKind.NODE_STARTED, EventKind.NODE_COMPLETED


# -- one fact -------------------------------------------------------------------------------------


def react(  # noqa: PLR0911 - one for each sort of fact
    plan: Plan, state: RunState, fact: Fact, *, now: datetime
) -> Event | None:
    """Return the event that records a fact, or ``None`` when it comes too late to count.

    Args:
        plan: The workflow.
        state: Where the run stands; not changed.
        fact: What happened.
        now: The time to record, aware UTC.
    """
    if isinstance(fact, Returned):
        node = fact.node
        if node.status is not RUNNING or node.attempts != fact.attempt:
            return None
        return Event(state.run_id, state.version + 1, _NODE_COMPLETED, node.name, fact.attempt, now, None, fact.payload)
    if isinstance(fact, (Signalled, Decided)):
        return _told(state, fact, now)
    node = fact.node
    if isinstance(fact, Raised):
        return _raised(plan.nodes[node.index], state, fact, now)
    if isinstance(fact, Parked):
        parked = {"for": "run", "run": fact.run_id}
        late = node.status is not RUNNING or node.attempts != fact.attempt
        return None if late else _event(state, EventKind.NODE_WAITING, node, fact.attempt, now, parked)
    if isinstance(fact, Elapsed):
        return _elapsed(plan.nodes[node.index], state, node, now)
    if node.status is not PENDING:
        return None
    if isinstance(fact, Judged):
        reason = {"reason": "condition", "condition": fact.condition, "values": fact.values}
        return _event(state, EventKind.NODE_SKIPPED, node, 0, now, reason)
    spec = plan.nodes[node.index].node.map
    nested = spec is not None and spec.depth > 1
    return _event(state, EventKind.MAP_EXPANDED, node, 0, now, {"layout" if nested else "keys": fact.keys})


def _raised(planned: PlanNode, state: RunState, fact: Raised, now: datetime) -> Event | None:
    node = fact.node
    if node.status is not (RUNNING if fact.attempt else PENDING) or (fact.attempt and node.attempts != fact.attempt):
        return None
    data: dict[str, Any] = {"error": attrs.asdict(fact.error)}
    if fact.contract is not None:
        data["contract"] = fact.contract
    policy = planned.node.retry
    if not fact.retryable or fact.attempt >= policy.max_attempts:
        return _event(state, EventKind.NODE_FAILED, node, fact.attempt, now, data, fact.value)
    wait_s = policy.wait_s(fact.attempt, chance=fact.chance)
    data["due_at"] = (now + timedelta(seconds=wait_s)).isoformat()
    data["delay"] = wait_s
    return _event(state, EventKind.NODE_RETRY, node, fact.attempt, now, data, fact.value)


def _told(state: RunState, fact: Signalled | Decided, now: datetime) -> Event | None:
    if fact.message <= state.heard:
        # An owner before has recorded it, and not come to say that it need not be read again.
        return None
    node = state.by_name.get(fact.name)
    if isinstance(fact, Signalled):
        data: dict[str, Any] = {"message": fact.message}
        return Event(state.run_id, state.version + 1, EventKind.SIGNAL_RECEIVED, fact.name, 0, now, data, fact.payload)
    if node is None or node.status is not WAITING or node.requested != fact.requested:
        return None
    data = {**fact.data, "message": fact.message}
    return _event(state, EventKind.REVIEW_DECIDED, node, 0, now, data, fact.output)


def _elapsed(planned: PlanNode, state: RunState, node: NodeState, now: datetime) -> Event | None:
    if node.status is not WAITING or node.due_at is None or node.due_at > now:
        return None
    wait = planned.node.wait
    if isinstance(wait, SleepSpec):
        return _event(state, EventKind.NODE_COMPLETED, node, 0, now)
    timeout = (wait.timeout if isinstance(wait, SignalSpec) else getattr(wait, "deadline", None)) or 0.0
    return _event(state, EventKind.NODE_FAILED, node, 0, now, _error_data(NodeTimeoutError(node.name, timeout)))


# -- what follows ---------------------------------------------------------------------------------


def advance(
    plan: Plan, state: RunState, facts: Iterable[Fact], *, now: datetime
) -> tuple[list[Event], list[NodeState]]:
    """Take facts into a state, and everything that follows from them.

    Args:
        plan: The workflow.
        state: Changed by `apply` with each event.
        facts: What happened, in order.
        now: The time to record, aware UTC.

    Returns:
        The events, and the nodes and items that have become ready.
    """
    events: list[Event] = []
    ready: list[NodeState] = []
    for fact in facts:
        event = react(plan, state, fact, now=now)
        if event is not None:
            apply(state, event)
            events.append(event)
    while state.settled:
        settled, state.settled = state.settled, []
        for node in settled:
            if node.status is PENDING and not node.unmet:
                # All that it needs has completed, as for almost every node.
                ready.append(node)
                continue
            event = resolve(plan, state, node, now=now)
            if event is not None:
                apply(state, event)
                events.append(event)
            elif node.status is PENDING:
                ready.append(node)
    return events, ready


def resolve(plan: Plan, state: RunState, node: NodeState, *, now: datetime) -> Event | None:
    """Return what becomes of a node that has nothing more to wait for; ``None`` means that it may be started.

    A map whose items rest is looked at as well: it completes, fails, or goes on (``None``).
    """
    if node.status is RUNNING and node.items is not None:
        return _map_end(plan, state, node, now)
    if node.status is WAITING:
        return _wait_end(plan.nodes[node.index], state, node, now)
    if not node.unmet or node.status is not PENDING or node.map is not None or node.started_at is not None:
        return None
    planned = plan.nodes[node.index]
    nodes = state.nodes
    sources = [nodes[index] for index in state.shape.predecessors[node.index]]
    kind = _verdict(planned, sources)
    if kind is None:
        return None
    culprits = {source.name: source.status.value for source in sources if source.status is not COMPLETED}
    reason = {"reason": "dependencies", "join": planned.node.join, "dependencies": culprits}
    return _event(state, kind, node, 0, now, reason)


def _verdict(planned: PlanNode, sources: list[NodeState]) -> EventKind | None:
    """Return whether the ends of its dependencies skip or block a node; ``None``: neither."""
    join = planned.node.join
    if join == "all_done":
        return None
    failed = any(source.status is not COMPLETED and source.status is not SKIPPED for source in sources)
    if join == "any_success":
        if any(source.status is COMPLETED for source in sources):
            return None
        return EventKind.NODE_BLOCKED if failed else EventKind.NODE_SKIPPED
    if failed:
        return EventKind.NODE_BLOCKED
    if join == "none_failed":
        return None
    tolerated = all(source.status is COMPLETED or source.index in planned.tolerated for source in sources)
    return None if tolerated else EventKind.NODE_SKIPPED


def _map_end(plan: Plan, state: RunState, node: NodeState, now: datetime) -> Event | None:
    doomed = _doomed(plan, node)
    if node.active_items or (node.open_items and not (doomed and plan.on_failure == "drain")):
        return None
    if not doomed:
        return _event(state, EventKind.NODE_COMPLETED, node, 0, now)
    return _map_failed(state, node, now)


def _map_failed(state: RunState, node: NodeState, now: datetime) -> Event:
    items = node.items or []
    failed = [item for item in items if item.status is FAILED]
    reason = f"{len(failed)} of {len(items)} items failed, the first is {failed[0].name!r}: {failed[0].error}"
    return _event(state, EventKind.NODE_FAILED, node, 0, now, _error_data(MapError(node.name, reason)))


def _wait_end(planned: PlanNode, state: RunState, node: NodeState, now: datetime) -> Event | None:
    """Return how a node that waits ends, when what it waits for has come."""
    if node.waits_for == "signal" and state.signals.get(node.name):
        return _event(state, EventKind.NODE_COMPLETED, node, 0, now, None, state.signals[node.name][0])
    decision, wait = node.decision, planned.node.wait
    if decision is None or not isinstance(wait, ReviewSpec):
        return None
    if decision["approved"] or wait.on_reject == "continue":
        return _event(state, EventKind.NODE_COMPLETED, node, 0, now, None, node.output)
    error = ReviewRejectedError(node.name, decision.get("by"), decision.get("comment"))
    return _event(state, EventKind.NODE_FAILED, node, 0, now, _error_data(error))


def _doomed(plan: Plan, node: NodeState) -> bool:
    """Return whether a failed item has decided that its map fails."""
    spec = plan.nodes[node.index].node.map
    return bool(node.failed_items) and spec is not None and spec.on_error == "fail"


# -- starting and ending --------------------------------------------------------------------------


def draining(plan: Plan, state: RunState) -> bool:
    """Return whether a failure has decided that nothing new starts."""
    failed = state.failed
    # Thousands of items may fail and be collected: each is looked at once.
    while state.excused < len(failed) and not _is_fatal(plan, failed[state.excused]):
        state.excused += 1
    return plan.on_failure == "drain" and state.excused < len(failed)


def stopped_by(plan: Plan, state: RunState, name: str) -> str | None:
    """Return the failed node that has decided that a node does not start, or the failed item, if there is one."""
    node = state.by_name.get(name)
    owner = None if node is None else node.map
    if owner is not None and plan.on_failure == "drain" and _doomed(plan, owner):
        return next(item.name for item in owner.items or () if item.status is FAILED)
    return next(failures(plan, state)).name if draining(plan, state) else None


def failures(plan: Plan, state: RunState) -> Iterator[NodeState]:
    """Yield the failed nodes that fail the run, and the failed items behind them, in the order of failing."""
    for node in state.failed:
        if _is_fatal(plan, node):
            yield node


def _is_fatal(plan: Plan, node: NodeState) -> bool:
    definition = plan.nodes[node.index].node
    collected = node.map is not None and definition.map is not None and definition.map.on_error == "collect"
    return not definition.allow_failure and not collected


def may_start(plan: Plan, state: RunState, node: NodeState) -> bool:
    """Return whether a ready node may still be started, in the light of what has failed since it became ready."""
    if node.waits_for in ("retry", "run") or node.started_at is not None:
        return node.map is None or node.items is not None or node.map.status is RUNNING
    if node.map is not None and plan.on_failure == "drain" and _doomed(plan, node.map):
        return False
    return not draining(plan, state) or plan.nodes[node.index].node.join == "all_done"


def start(plan: Plan, state: RunState, node: NodeState, *, now: datetime) -> Event:
    """Return the event that starts the next attempt of a node, lets it wait, or goes on with an expanded map."""
    wait = plan.nodes[node.index].node.wait
    if wait is not None:
        return _wait(state, node, wait, now)
    attempt = 0 if node.items is not None else node.attempts + 1
    return Event(state.run_id, state.version + 1, _NODE_STARTED, node.name, attempt, now)


def _wait(state: RunState, node: NodeState, wait: WaitSpec, now: datetime) -> Event:
    if isinstance(wait, ReviewSpec):
        data: dict[str, Any] = wait.to_journal()
        limit, kind = wait.deadline, EventKind.REVIEW_REQUESTED
    else:
        timer = isinstance(wait, SleepSpec)
        limit, kind = (wait.seconds if isinstance(wait, SleepSpec) else wait.timeout), EventKind.NODE_WAITING
        data = {"for": "timer" if timer else "signal"}
    if limit is not None:
        data["due_at"] = (now + timedelta(seconds=limit)).isoformat()
    return _event(state, kind, node, 0, now, data)


def finish(plan: Plan, state: RunState, *, now: datetime) -> Event | list[NodeState] | None:
    """Return how a run ends in which nothing runs or is ready, and nothing waits for its next attempt.

    Returns:
        The event, or clean-up nodes to start first, or ``None`` when the run waits for something. A map of which an
        item has failed fails before its run does: what follows from that comes first.
    """
    failed = list(failures(plan, state))
    if state.waiting and not (failed and plan.on_failure == "drain"):
        return None
    if state.unfinished:
        for node in state.nodes if failed else ():
            if node.items is not None and node.status not in ENDED and _doomed(plan, node):
                return _map_failed(state, node, now)
        cleanups = _cleanups(plan, state)
        if cleanups:
            return cleanups
        if not failed:
            # Every pending node waits for something that has ended, or that runs, waits or is ready: this cannot be.
            stuck = next(node for node in state.nodes if node.status not in ENDED)
            raise IllegalMoveError(state.run_id, EventKind.RUN_COMPLETED, stuck.name, stuck.status)
    if not failed:
        return _event(state, EventKind.RUN_COMPLETED, None, 0, now)
    error = failed[0].error or ErrorInfo("", "")
    data = {"nodes": [node.name for node in failed], "error": attrs.asdict(error)}
    return _event(state, EventKind.RUN_FAILED, None, 0, now, data)


def _cleanups(plan: Plan, state: RunState) -> list[NodeState]:
    """Return the nodes with ``join="all_done"`` whose dependencies will not move any more in a run that drains."""
    hopeful: set[int] = set()
    startable = []
    for node in state.nodes:
        if node.status is not PENDING:
            continue
        is_cleanup = plan.nodes[node.index].node.join == "all_done"
        is_hopeless = hopeful.isdisjoint(state.shape.predecessors[node.index])
        if is_cleanup and is_hopeless:
            startable.append(node)
        if is_cleanup or not is_hopeless:
            # What a clean-up comes to may block or skip those that need it.
            hopeful.add(node.index)
    return startable


def cancel(state: RunState, *, now: datetime, reason: dict[str, Any] | None = None) -> list[Event]:
    """Take the cancellation of a run into its state and return its events."""
    events: list[Event] = []
    for node in [*state.by_name.values()]:
        if node.status in (RUNNING, WAITING):
            _take(state, events, _event(state, EventKind.NODE_CANCELLED, node, node.attempts, now, {"reason": "run"}))
    _take(state, events, _event(state, EventKind.RUN_CANCELLED, None, 0, now, reason))
    state.settled = []
    return events


def pause(state: RunState, *, now: datetime) -> Event:
    """Return the event that pauses a run in which nothing runs any more."""
    return _event(state, EventKind.RUN_PAUSED, None, 0, now)


def reopen(
    plan: Plan, state: RunState, *, now: datetime, owner: str, epoch: int, graceful: bool, asked_by: str | None = None
) -> list[Event]:
    """Take it into a state that an executor goes on with a run, and return the events.

    Args:
        plan: The workflow.
        state: As the last owner left it.
        now: The time to record, aware UTC.
        owner: The new owner.
        epoch: Its epoch.
        graceful: The last owner let go of the run by itself, so what it was doing counts as no interruption.
        asked_by: The attempt of its parent that it runs for.
    """
    events: list[Event] = []
    data = {"owner": owner, "epoch": epoch, "reopened": state.status.is_terminal}
    kind = EventKind.RUN_STARTED if state.status is RunStatus.PENDING else EventKind.RUN_RESUMED
    if kind is EventKind.RUN_RESUMED and not graceful:
        data["took_over"] = True
    if asked_by is not None:
        data["asked_by"] = asked_by
    _take(state, events, _event(state, kind, None, 0, now, data))
    for node in [*state.by_name.values()]:
        if node.status is RUNNING and node.items is None:
            facts = {"graceful": True} if graceful else None
            _take(state, events, _event(state, EventKind.NODE_INTERRUPTED, node, node.attempts, now, facts))
        if node.in_doubt and node.status is PENDING:
            error = _unrepeatable(plan.nodes[node.index].node, node)
            if error is not None:
                _take(state, events, _event(state, EventKind.NODE_FAILED, node, 0, now, _error_data(error)))
    return events


def _unrepeatable(definition: Node, node: NodeState) -> Exception | None:
    """Return why a call that was cut off must not be made again, if so."""
    if definition.effects == "at_most_once" and definition.reconcile is None:
        return InDoubtError(node.name)
    if node.interruptions >= definition.max_interruptions:
        return InterruptedTooOftenError(node.name, node.interruptions)
    return None


def _take(state: RunState, events: list[Event], event: Event) -> None:
    apply(state, event)
    events.append(event)


def _error_data(error: BaseException) -> dict[str, Any]:
    return {"error": attrs.asdict(describe(error))}


def _event(  # noqa: PLR0917 - the fields of an event, in their order; called for every event of every node
    state: RunState,
    kind: EventKind,
    node: NodeState | None,
    attempt: int,
    now: datetime,
    data: dict[str, Any] | None = None,
    payload: Payload | None = None,
) -> Event:
    name = None if node is None else node.name
    return Event(state.run_id, state.version + 1, kind, name, attempt, now, data, payload)
