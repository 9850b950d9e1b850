"""Where a run and each of its nodes stand, as data; what changes it is `dagflow._state.apply`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import ErrorInfo, EventKind, NodeStatus, Payload, RunStatus
from dagflow._plan import Shape
from dagflow.errors import IllegalMoveError

if TYPE_CHECKING:
    from datetime import datetime

    from dagflow._events import Event

__all__ = ["NodeState", "RunState", "child_node_name", "child_run_id", "item_run_id"]

_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_.-]+")
_SPELLED = re.compile(r"(?::[0-9a-f]{2})+")

PENDING, RUNNING, WAITING = NodeStatus.PENDING, NodeStatus.RUNNING, NodeStatus.WAITING


@attrs.define(eq=False)
class NodeState:
    """Where one node, or one item of a map, stands.

    Attributes:
        name: The node's name; ``count[0]`` for an item.
        index: Position in the shape; an item has that of its map.
        open: How many of its dependencies have not ended.
        unmet: How many of them have ended otherwise than completed.
        status: Its status.
        attempts: How many attempts have been started.
        in_doubt: Its last call was cut off, and it is not known what it did.
        interruptions: How many of its calls were cut off by the death of a process.
        due_at: When its time has come, while it waits for the next attempt, a timer or a deadline.
        waits_for: ``retry``, ``timer``, ``signal``, ``review`` or ``run`` (one that it has started), while it waits.
        requested: Number of the event that asked for its review.
        decision: The facts of the decision about it.
        started_at: When its first attempt was started.
        ended_at: When it ended.
        output: What it returned; the output of a map is made of those of its items.
        error: What the last failed attempt raised.
        reason: Why it was skipped or blocked, as its event says.
        map: The map that an item belongs to.
        key: What names an item in its map.
        position: Where an item stands in its map, from 0.
        items: The items of a map that has been expanded, in order.
        layout: How they lie in nested lists: the lists of their numbers; ``None`` for one list.
        open_items: How many of them have not ended.
        active_items: How many of them have been started and have not ended.
        failed_items: How many of them have failed.
    """

    name: str
    index: int
    open: int = 0
    unmet: int = 0
    status: NodeStatus = PENDING
    attempts: int = 0
    in_doubt: bool = False
    interruptions: int = 0
    due_at: datetime | None = None
    waits_for: str | None = None
    requested: int = 0
    decision: dict[str, Any] | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    output: Payload | None = None
    error: ErrorInfo | None = None
    reason: dict[str, Any] | None = None
    map: NodeState | None = None
    key: str | None = None
    position: int = 0
    items: list[NodeState] | None = None
    layout: Any = None
    open_items: int = 0
    active_items: int = 0
    failed_items: int = 0


@attrs.define(eq=False)
class RunState:
    """Where a run stands.

    Attributes:
        run_id: The run.
        workflow: Name of its workflow.
        shape: Its graph as it was when it was created.
        inputs: Its inputs, one value: a dictionary by name.
        created_at: When it was created.
        updated_at: When its last event was recorded.
        phase: Its status, but for waiting.
        version: Number of its last event.
        nodes: The nodes by position in the shape.
        by_name: Nodes and items by name.
        unfinished: How many nodes have not ended, items not counted.
        failed: Nodes and items that have failed, in the order in which they did.
        excused: How many of the first of them are known not to fail the run.
        settled: A list of work for the scheduler: nodes, items and maps that events since its last look may have
            made ready or done.
        running: How many nodes and items are running, maps not counted.
        waiting: How many nodes and items wait.
        signals: What has come for nodes that have not taken it yet, by their names.
        heard: Number of the last message that an event tells of.
        error: Why the run failed.
        culprits: The nodes and items whose failure it was.
        reopenings: How often it was opened again after it had ended.
        asked_by: The attempt of its parent that it runs for, as that calls itself.
    """

    run_id: str
    workflow: str
    shape: Shape
    inputs: Payload | None
    created_at: datetime
    updated_at: datetime
    phase: RunStatus = RunStatus.PENDING
    version: int = 1
    nodes: list[NodeState] = attrs.field(init=False)
    by_name: dict[str, NodeState] = attrs.field(init=False)
    unfinished: int = attrs.field(init=False)
    settled: list[NodeState] = attrs.field(init=False)
    failed: list[NodeState] = attrs.field(factory=list)
    excused: int = 0
    running: int = 0
    waiting: int = 0
    signals: dict[str, list[Payload | None]] = attrs.field(factory=dict)
    heard: int = 0
    error: ErrorInfo | None = None
    culprits: tuple[str, ...] = ()
    reopenings: int = 0
    asked_by: str | None = None

    def __attrs_post_init__(self) -> None:
        arrows = zip(self.shape.names, self.shape.predecessors, strict=True)
        self.nodes = [NodeState(name, index, len(sources)) for index, (name, sources) in enumerate(arrows)]
        self.by_name = {node.name: node for node in self.nodes}
        self.unfinished = len(self.nodes)
        self.settled = [node for node in self.nodes if not node.open]

    @property
    def status(self) -> RunStatus:
        """Its status: a run that goes on, but in which nothing runs or could, and something waits, is waiting."""
        if self.waiting and self.phase is RunStatus.RUNNING and not self.running and not self._is_anything_ready():
            return RunStatus.WAITING
        return self.phase

    def _is_anything_ready(self) -> bool:
        pending = NodeStatus.PENDING
        maps = [node.items for node in self.nodes if node.items is not None and node.status is NodeStatus.RUNNING]
        return any(node.status is pending and not node.open for node in self.nodes) or any(
            item.status is pending for items in maps for item in items
        )

    @classmethod
    def created(cls, event: Event, *, shape: Shape | None = None) -> RunState:
        """Return the state after the first event of a journal.

        Args:
            event: The event ``run_created``.
            shape: The graph that the event holds, if it is at hand already.
        """
        data = event.data
        if event.kind is not EventKind.RUN_CREATED or data is None:
            raise IllegalMoveError(event.run_id, event.kind, None, "not yet created")
        shape = shape or Shape.from_journal(data["graph"])
        asked_by = data.get("asked_by")
        return cls(event.run_id, data["workflow"], shape, event.payload, event.at, event.at, asked_by=asked_by)


def child_run_id(parent: str, node: NodeState) -> str:
    """Return the id of the run that a node of a run starts."""
    return f"{parent}/{node.name}" if node.map is None else item_run_id(parent, node.map.name, node.key or "")


def item_run_id(parent: str, name: str, key: str) -> str:
    """Return the id of the run that an item of a map starts: a slash in its key would make it that of another one."""
    return f"{parent}/{name}/{_NOT_PLAIN.sub(_spelled, key)}"


def child_node_name(parent: str, run_id: str) -> str:
    """Return the name of the node that has started a run, whose id is that of `child_run_id`."""
    node, _, key = run_id[len(parent) + 1 :].partition("/")
    return f"{node}[{_SPELLED.sub(_read, key)}]" if key else node


def _spelled(found: re.Match[str]) -> str:
    return "".join(f":{byte:02x}" for byte in found[0].encode())


def _read(found: re.Match[str]) -> str:
    return bytes.fromhex(found[0].replace(":", "")).decode()
