"""What a run has come to: the fold of its events.

`apply` is the only thing that changes a state, and it holds the table of legal moves. The same fold runs while a run
goes on and when its journal is read back. It does no I/O and knows no clock: everything it needs stands in the event.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from dagflow._events import ErrorInfo, EventKind, NodeStatus, RunStatus
from dagflow._states import NodeState, RunState
from dagflow.errors import IllegalMoveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dagflow._events import Event
    from dagflow._plan import Shape

__all__ = ["ENDED", "NodeState", "RunState", "apply", "fold"]

PENDING, RUNNING, WAITING = NodeStatus.PENDING, NodeStatus.RUNNING, NodeStatus.WAITING
COMPLETED, FAILED, SKIPPED = NodeStatus.COMPLETED, NodeStatus.FAILED, NodeStatus.SKIPPED
BLOCKED, CANCELLED = NodeStatus.BLOCKED, NodeStatus.CANCELLED

ENDED = frozenset({COMPLETED, FAILED, SKIPPED, BLOCKED, CANCELLED})
_REOPENED = frozenset({FAILED, BLOCKED, CANCELLED})

MOVES: dict[EventKind, tuple[frozenset[NodeStatus], NodeStatus]] = {
    EventKind.NODE_STARTED: (frozenset({PENDING, WAITING}), RUNNING),
    EventKind.NODE_COMPLETED: (frozenset({RUNNING, WAITING}), COMPLETED),
    EventKind.NODE_FAILED: (frozenset({PENDING, RUNNING, WAITING}), FAILED),
    EventKind.NODE_RETRY: (frozenset({RUNNING}), WAITING),
    EventKind.NODE_INTERRUPTED: (frozenset({RUNNING}), PENDING),
    EventKind.NODE_SKIPPED: (frozenset({PENDING}), SKIPPED),
    EventKind.NODE_BLOCKED: (frozenset({PENDING}), BLOCKED),
    EventKind.NODE_CANCELLED: (frozenset({PENDING, RUNNING, WAITING}), CANCELLED),
    EventKind.MAP_EXPANDED: (frozenset({PENDING}), RUNNING),
    EventKind.NODE_WAITING: (frozenset({PENDING, RUNNING}), WAITING),
    EventKind.REVIEW_REQUESTED: (frozenset({PENDING}), WAITING),
    EventKind.REVIEW_DECIDED: (frozenset({WAITING}), WAITING),
}
"""For each event of a node: in which statuses it is legal, and the status it leads to."""

# Looking a member of an enumeration up costs more than the rest of a comparison, on the way of every event.
_GOES_ON = RunStatus.RUNNING
_GOING = frozenset({RunStatus.RUNNING})
RUN_MOVES: dict[EventKind, tuple[frozenset[RunStatus], RunStatus]] = {
    EventKind.RUN_STARTED: (frozenset({RunStatus.PENDING}), RunStatus.RUNNING),
    EventKind.RUN_RESUMED: (frozenset(RunStatus) - {RunStatus.PENDING, RunStatus.COMPLETED}, RunStatus.RUNNING),
    EventKind.RUN_PAUSED: (_GOING | {RunStatus.PENDING}, RunStatus.PAUSED),
    EventKind.RUN_COMPLETED: (_GOING, RunStatus.COMPLETED),
    EventKind.RUN_FAILED: (_GOING, RunStatus.FAILED),
    EventKind.RUN_CANCELLED: (
        frozenset(RunStatus) - {RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED},
        RunStatus.CANCELLED,
    ),
}
"""The same for the events of a run."""


def fold(events: Iterable[Event], *, shape: Shape | None = None) -> RunState:
    """Return the state of a run from its journal.

    Args:
        events: All of it.
        shape: The same graph as in the journal, with the positions that nodes shall have.
    """
    journal = iter(events)
    state = RunState.created(next(journal), shape=shape)
    for event in journal:
        apply(state, event)
    return state


def apply(state: RunState, event: Event) -> None:
    """Change the state as the event says.

    Raises:
        IllegalMoveError: The event is not legal in this state, which is then unchanged.
    """
    if event.version != state.version + 1:
        raise IllegalMoveError(state.run_id, event.kind, event.node, f"at version {state.version}, not {event.version}")
    _APPLY.get(event.kind, _illegal)(state, event)
    state.version = event.version
    state.updated_at = event.at


def _illegal(state: RunState, event: Event) -> None:
    raise IllegalMoveError(state.run_id, event.kind, event.node, state.phase)


def _move(state: RunState, event: Event) -> NodeState:
    """Give the node of an event its new status, if that is legal."""
    node = state.by_name.get(event.node or "")
    legal, status = MOVES[event.kind]
    going = state.phase is _GOES_ON or (state.phase is RunStatus.PAUSED and event.kind is EventKind.NODE_CANCELLED)
    if node is None or node.status not in legal or not going:
        raise IllegalMoveError(state.run_id, event.kind, event.node, node.status if node else "unknown")
    before, node.status = node.status, status
    if node.items is None:
        if status is RUNNING:
            state.running += before is not RUNNING
        elif before is RUNNING:
            state.running -= 1
        if status is WAITING:
            state.waiting += before is not WAITING
        elif before is WAITING:
            state.waiting -= 1
    return node


def _end(state: RunState, node: NodeState, event: Event) -> None:
    """Tell those that wait for the node that it has ended."""
    node.ended_at = event.at
    node.due_at = node.waits_for = None
    if node.map is not None:
        _end_item(state, node, node.map)
        return
    state.unfinished -= 1
    nodes = state.nodes
    successors = state.shape.successors[node.index]
    if node.status is not COMPLETED:
        for index in successors:
            nodes[index].unmet += 1
    for index in successors:
        successor = nodes[index]
        successor.open -= 1
        if not successor.open and successor.status is PENDING:
            state.settled.append(successor)


def _end_item(state: RunState, item: NodeState, owner: NodeState) -> None:
    owner.open_items -= 1
    if item.started_at is not None:
        owner.active_items -= 1
    if item.status is FAILED:
        owner.failed_items += 1
    # A map that has to be started again is looked at then.
    if not owner.active_items and owner.status is RUNNING:
        state.settled.append(owner)


def _node_started(state: RunState, event: Event) -> None:
    node = _move(state, event)
    node.attempts = event.attempt
    node.due_at = node.waits_for = None
    if node.items is not None:
        state.settled.extend(item for item in node.items if item.status is PENDING)
        state.settled.append(node)
    if node.started_at is None:
        node.started_at = event.at
        if node.map is not None:
            node.map.active_items += 1


def _node_completed(state: RunState, event: Event) -> None:
    node = _move(state, event)
    if node.waits_for == "signal":
        state.signals[node.name].pop(0)
    node.output = event.payload
    node.error = None
    _end(state, node, event)


def _node_failed(state: RunState, event: Event) -> None:
    node = _move(state, event)
    node.error = _error(event)
    state.failed.append(node)
    for item in node.items or ():
        if item.status is WAITING:
            # The run that it has started waits as well, and its map does not wait for it any more.
            _put_back(state, item)
    _end(state, node, event)


def _node_retry(state: RunState, event: Event) -> None:
    node = _move(state, event)
    node.error = _error(event)
    node.in_doubt = False
    node.waits_for = "retry"
    node.due_at = datetime.fromisoformat(_data(event)["due_at"])


def _node_waiting(state: RunState, event: Event) -> None:
    """Let a node wait; what it waits for may have come already."""
    node = _move(state, event)
    data = _data(event)
    node.waits_for = data["for"]
    node.due_at = datetime.fromisoformat(data["due_at"]) if data.get("due_at") else None
    node.requested = event.version
    if node.waits_for == "run":
        # The attempt is not over: it goes on when the other run does.
        node.attempts = event.attempt - 1
    if node.started_at is None:
        node.started_at = event.at
    state.settled.append(node)


def _review_decided(state: RunState, event: Event) -> None:
    node = _move(state, event)
    state.heard = _data(event).get("message", state.heard)
    node.decision = _data(event)
    node.output = event.payload
    state.settled.append(node)


def _signal_received(state: RunState, event: Event) -> None:
    name = event.node or ""
    state.heard = _data(event).get("message", state.heard)
    state.signals.setdefault(name, []).append(event.payload)
    node = state.by_name.get(name)
    if node is not None and node.status is WAITING:
        state.settled.append(node)


def _node_interrupted(state: RunState, event: Event) -> None:
    node = _move(state, event)
    node.attempts = event.attempt - 1
    node.in_doubt = True
    node.interruptions += 0 if _data(event).get("graceful") else 1
    state.settled.append(node)


def _node_cancelled(state: RunState, event: Event) -> None:
    before = state.by_name.get(event.node or "")
    # Of a map, only its items are called.
    was_called = before is not None and before.status is RUNNING and before.items is None
    _node_ended_otherwise(state, event)
    state.by_name[event.node or ""].in_doubt |= was_called


def _node_ended_otherwise(state: RunState, event: Event) -> None:
    node = _move(state, event)
    node.reason = dict(_data(event))
    _end(state, node, event)


def _map_expanded(state: RunState, event: Event) -> None:
    node = _move(state, event)
    # A map calls nothing itself; its items do.
    state.running -= 1
    node.started_at = event.at
    data = _data(event)
    node.layout = data.get("layout")
    keys = data["keys"] if node.layout is None else list(_coordinates(node.layout))
    if isinstance(keys, int):
        keys = range(keys)
    node.items = [
        NodeState(f"{node.name}[{key}]", node.index, map=node, key=str(key), position=position)
        for position, key in enumerate(keys)
    ]
    node.open_items = len(node.items)
    state.by_name.update((item.name, item) for item in node.items)
    state.settled.extend(node.items or [node])


def _coordinates(layout: Any, prefix: str = "") -> Iterator[str]:
    """Yield the key of each item of nested lists: its positions from the outside in, ``0,2``."""
    if isinstance(layout, int):
        yield from (f"{prefix}{position}" for position in range(layout))
        return
    for position, inner in enumerate(layout):
        yield from _coordinates(inner, f"{prefix}{position},")


def _run_moved(state: RunState, event: Event) -> None:
    legal, phase = RUN_MOVES[event.kind]
    if state.phase not in legal:
        raise IllegalMoveError(state.run_id, event.kind, None, state.phase)
    state.phase = phase


def _run_failed(state: RunState, event: Event) -> None:
    _run_moved(state, event)
    state.error = _error(event)
    state.culprits = tuple(_data(event)["nodes"])
    for node in state.by_name.values():
        if node.status is WAITING or node.status is RUNNING:
            _put_back(state, node)


def _run_resumed(state: RunState, event: Event) -> None:
    """Go on; when the run is re-opened, what failed, was blocked or was cancelled is as if it had never been tried.

    But not the failed items of a map that has completed: their errors are its output.
    """
    _run_moved(state, event)
    state.error = None
    state.culprits = ()
    data = _data(event)
    state.asked_by = data.get("asked_by", state.asked_by)
    if data.get("reopened"):
        state.reopenings += 1
        for node in state.by_name.values():
            if node.status in _REOPENED and (node.map is None or node.map.status is not COMPLETED):
                _reset(node)
    _recount(state)


def _put_back(state: RunState, node: NodeState) -> None:
    """Let a node that the end of the run left unfinished begin again when the run is resumed.

    A map keeps its items and goes on with those that are left; a review or a timer waits anew.
    """
    state.waiting -= node.status is WAITING
    node.status = PENDING
    if node.map is not None:
        node.map.active_items -= 1
    if node.items is None:
        node.started_at = node.due_at = node.waits_for = None


def _reset(node: NodeState) -> None:
    # What a call did that was cancelled under way is as unknown as after a crash.
    node.in_doubt = node.in_doubt and node.status is CANCELLED
    node.status = PENDING
    node.attempts = node.interruptions = 0
    node.started_at = node.ended_at = node.due_at = node.waits_for = None
    node.error = node.reason = node.decision = node.output = None


def _recount(state: RunState) -> None:
    """Count again what every node waits for, and look at all of them anew."""
    nodes = state.nodes
    state.unfinished = sum(node.status not in ENDED for node in nodes)
    state.failed = [node for node in state.failed if node.status is FAILED]
    state.excused = 0
    state.settled = []
    for node, sources in zip(nodes, state.shape.predecessors, strict=True):
        node.open = sum(nodes[index].status not in ENDED for index in sources)
        node.unmet = sum(nodes[index].status in ENDED and nodes[index].status is not COMPLETED for index in sources)
        if node.status is PENDING and not node.open:
            state.settled.append(node)
        if node.items is not None:
            _recount_items(state, node, node.items)


def _recount_items(state: RunState, node: NodeState, items: list[NodeState]) -> None:
    node.open_items = sum(item.status not in ENDED for item in items)
    node.failed_items = sum(item.status is FAILED for item in items)
    node.active_items = sum(item.status not in ENDED and item.started_at is not None for item in items)
    if node.status is RUNNING:
        state.settled.extend(item for item in items if item.status is PENDING)
        if not node.active_items:
            state.settled.append(node)


def _data(event: Event) -> dict[str, Any]:
    return dict(event.data or {})


def _error(event: Event) -> ErrorInfo:
    return ErrorInfo(**_data(event)["error"])


_APPLY: dict[EventKind, Callable[[RunState, Event], None]] = {
    EventKind.NODE_STARTED: _node_started,
    EventKind.NODE_COMPLETED: _node_completed,
    EventKind.NODE_FAILED: _node_failed,
    EventKind.NODE_RETRY: _node_retry,
    EventKind.NODE_INTERRUPTED: _node_interrupted,
    EventKind.NODE_SKIPPED: _node_ended_otherwise,
    EventKind.NODE_BLOCKED: _node_ended_otherwise,
    EventKind.NODE_CANCELLED: _node_cancelled,
    EventKind.MAP_EXPANDED: _map_expanded,
    EventKind.NODE_WAITING: _node_waiting,
    EventKind.REVIEW_REQUESTED: _node_waiting,
    EventKind.REVIEW_DECIDED: _review_decided,
    EventKind.SIGNAL_RECEIVED: _signal_received,
    EventKind.RUN_PAUSED: _run_moved,
    EventKind.RUN_STARTED: _run_moved,
    EventKind.RUN_RESUMED: _run_resumed,
    EventKind.RUN_COMPLETED: _run_moved,
    EventKind.RUN_FAILED: _run_failed,
    EventKind.RUN_CANCELLED: _run_moved,
}
