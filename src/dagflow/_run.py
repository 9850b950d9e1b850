"""What users see of a run: frozen snapshots, made from its state."""

from __future__ import annotations

from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import NodeStatus
from dagflow._node import ItemError
from dagflow._pictures import mimebundle, to_mermaid
from dagflow.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from dagflow._events import ErrorInfo, Payload, RunRecord, RunStatus
    from dagflow._state import NodeState, RunState
    from dagflow.protocols import Codec

__all__ = ["NodeRun", "Run", "RunSummary", "decode", "node_output"]


@attrs.frozen
class NodeRun:
    """Where one node of a run stands.

    Attributes:
        name: The node; an item of a map is ``count[0]``, or ``count[key]``.
        status: Its status.
        attempts: How many attempts have been started.
        output: What it returned; ``None`` until it completed.
        error: What its last failed attempt raised.
        reason: Why it was skipped, blocked or cancelled.
        started_at: When its first attempt started, aware UTC.
        ended_at: When it ended, aware UTC.
        due_at: When its next attempt is due, aware UTC.
    """

    name: str
    status: NodeStatus
    attempts: int
    output: Any
    error: ErrorInfo | None
    reason: Mapping[str, Any] | None
    started_at: datetime | None
    ended_at: datetime | None
    due_at: datetime | None

    @property
    def duration(self) -> float | None:
        """Seconds from the start of the first attempt to the end; ``None`` until it ended. Never negative."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, (self.ended_at - self.started_at).total_seconds())


@attrs.frozen(eq=False)
class Run:
    """A run as it is at one version; values are decoded when they are first asked for.

    Attributes:
        run_id: The run.
        workflow: Name of its workflow.
        status: Its status.
        version: Number of its last event.
        created_at: When it was created, aware UTC.
        updated_at: When its last event was recorded, aware UTC.
        error: Why it failed: the first failure.
    """

    run_id: str
    workflow: str
    status: RunStatus
    version: int
    created_at: datetime
    updated_at: datetime
    error: ErrorInfo | None
    _state: RunState = attrs.field(repr=False)
    _codec: Codec = attrs.field(repr=False)

    @classmethod
    def of(cls, state: RunState, codec: Codec) -> Run:
        """Return the snapshot of a state that does not change any more."""
        return cls(
            state.run_id,
            state.workflow,
            state.status,
            state.version,
            state.created_at,
            state.updated_at,
            state.error,
            state,
            codec,
        )

    @cached_property
    def inputs(self) -> Mapping[str, Any]:
        """The named values that the run was started with."""
        return decode(self._state.inputs, self._codec, self.run_id, None) or {}

    @cached_property
    def outputs(self) -> Mapping[str, Any]:
        """What each completed node returned, by its name; a map gives the list of its items' outputs.

        Raises:
            SerializationError: What was kept is damaged, or of a type that the executor's codec does not allow.
        """
        completed = [node for node in self._state.nodes if node.status is NodeStatus.COMPLETED]
        return {node.name: node_output(self._state, node, self._codec) for node in completed}

    @cached_property
    def nodes(self) -> Mapping[str, NodeRun]:
        """Every node, and every item of every map, by its name."""
        return {node.name: self._node_run(node) for node in self._state.by_name.values()}

    def to_mermaid(self) -> str:
        """Return the graph of the run as a Mermaid flowchart, coloured by the statuses of its nodes."""
        return to_mermaid(self._state.shape, {node.name: node.status for node in self._state.nodes})

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Show the run in a notebook."""
        del include, exclude
        return mimebundle(repr(self), self.to_mermaid())

    def _node_run(self, node: NodeState) -> NodeRun:
        return NodeRun(
            node.name,
            node.status,
            node.attempts,
            node_output(self._state, node, self._codec) if node.status is NodeStatus.COMPLETED else None,
            node.error,
            node.reason,
            node.started_at,
            node.ended_at,
            node.due_at,
        )


@attrs.frozen
class RunSummary:
    """What a list of runs says of one of them.

    Attributes:
        run_id: The run.
        workflow: Name of its workflow.
        status: Its status.
        version: Number of its last event.
        created_at: When it was created, aware UTC.
        updated_at: When its last event was recorded, aware UTC.
        owner: The executor that drives it, ``None`` when nobody does.
        parent: The run that started it as a sub-workflow.
    """

    run_id: str
    workflow: str
    status: RunStatus
    version: int
    created_at: datetime
    updated_at: datetime
    owner: str | None
    parent: str | None

    @classmethod
    def of(cls, record: RunRecord) -> RunSummary:
        """Return what a store's record says."""
        return cls(
            record.run_id,
            record.workflow,
            record.status,
            record.version,
            record.created_at,
            record.updated_at,
            record.owner,
            record.parent,
        )


def node_output(state: RunState, node: NodeState, codec: Codec) -> Any:
    """Return a new copy of what a completed node returned; of a map, the list that its items make."""
    if node.items is None:
        try:
            return None if node.output is None else codec.decode(node.output)
        except SerializationError as exc:
            raise attrs.evolve(exc, run_id=state.run_id, node=node.name) from exc
    outputs = [_item_output(state, item, codec) for item in node.items]
    return outputs if node.layout is None else _nested(node.layout, iter(outputs))


def _nested(layout: Any, outputs: Iterator[Any]) -> list[Any]:
    """Put the outputs of the items of nested lists back where the items lay."""
    if isinstance(layout, int):
        return list(islice(outputs, layout))
    return [_nested(inner, outputs) for inner in layout]


def _item_output(state: RunState, item: NodeState, codec: Codec) -> Any:
    if item.status is NodeStatus.FAILED and item.error is not None:
        return ItemError(item.key or "", item.error.type, item.error.message, item.error.traceback)
    return decode(item.output, codec, state.run_id, item.name)


def decode(payload: Payload | None, codec: Codec, run_id: str, node: str | None) -> Any:
    """Return a new copy of a kept value.

    Raises:
        SerializationError: With the run and the node.
    """
    if payload is None:
        return None
    try:
        return codec.decode(payload)
    except SerializationError as exc:
        raise attrs.evolve(exc, run_id=run_id, node=node) from exc
