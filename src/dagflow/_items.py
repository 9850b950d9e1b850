"""The values that a run begins with: its inputs, and what the items of its maps are called with."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from dagflow._binding import SourceKind
from dagflow._names import LONGEST_RUN_ID
from dagflow._run import decode, node_output
from dagflow._states import item_run_id
from dagflow.errors import InputError, MapError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dagflow._binding import Source
    from dagflow._events import Payload
    from dagflow._node import Node
    from dagflow._plan import Plan, PlanNode
    from dagflow._state import NodeState, RunState
    from dagflow.protocols import Codec

__all__ = ["Items", "short"]

_MAX_KEY = 128


class Items:
    """The items of the maps of one run, and its inputs.

    Args:
        plan: The workflow.
        state: The run; read, never changed.
        codec: Turns values into payloads and back.
    """

    def __init__(self, plan: Plan, state: RunState, codec: Codec) -> None:
        self._plan = plan
        self._state = state
        self._codec = codec
        self._made: dict[int, list[dict[str, Payload]]] = {}
        self._layouts: dict[int, Any] = {}

    @functools.cached_property
    def inputs(self) -> dict[str, Payload]:
        """The inputs of the run, each by itself, so that a node decodes only what it takes."""
        inputs = decode(self._state.inputs, self._codec, self._state.run_id, None) or {}
        return {name: self._codec.encode(value) for name, value in inputs.items()}

    def of(self, planned: PlanNode) -> Sequence[Any] | int:
        """Return the items of a map as `Expanded` tells them.

        Raises:
            MapError: There is no list, or the keys are none.
        """
        rows, spec = self._of(planned), planned.node.map
        if spec is not None and spec.depth > 1:
            layout: Sequence[Any] | int = self._layouts[planned.index]
            return layout
        return len(rows) if spec is None or spec.key is None else self._keys(planned.node, spec.key, rows)

    def row(self, item: NodeState) -> dict[str, Payload]:
        """Return the encoded arguments of an item."""
        owner = item.map
        if owner is None or owner.items is None:
            raise MapError(item.name, "it is no item of a map")
        rows = self._of(self._plan.nodes[item.index])
        if len(rows) != len(owner.items):
            raise MapError(owner.name, f"it was expanded to {len(owner.items)} items and now has {len(rows)}")
        return rows[item.position]

    def _of(self, planned: PlanNode) -> list[dict[str, Payload]]:
        """Return the encoded arguments of all items of a map: made once, decoded anew for each attempt."""
        rows = self._made.get(planned.index)
        if rows is None:
            columns = {s.parameter: self._column(planned, s) for s in planned.sources if s.kind is SourceKind.ITEM}
            lengths = {parameter: len(column) for parameter, column in columns.items()}
            if len(set(lengths.values())) > 1:
                raise MapError(planned.node.name, f"its lists differ in length: {lengths}")
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            self._made[planned.index] = rows
        return rows

    def _column(self, planned: PlanNode, source: Source) -> Sequence[Payload]:
        upstream = self._state.by_name.get(source.name)
        depth = planned.node.map.depth if planned.node.map else 1
        whole = upstream is not None and upstream.layout is None and not upstream.failed_items and depth == 1
        if upstream is not None and upstream.items is not None and whole:
            return [item.output for item in upstream.items if item.output is not None]
        if upstream is not None:
            value = node_output(self._state, upstream, self._codec)
        elif source.name in self.inputs:
            value = decode(self.inputs[source.name], self._codec, self._state.run_id, None)
        else:
            raise InputError(self._plan.workflow, missing=(source.name,))
        layout, elements = self._laid_out(planned.node.name, source.name, value, depth)
        if self._layouts.setdefault(planned.index, layout) != layout:
            reason = f"its lists differ in length: {self._layouts[planned.index]} and {layout}"
            raise MapError(planned.node.name, reason)
        return [self._codec.encode(element) for element in elements]

    def _laid_out(self, node: str, source: str, value: Any, depth: int) -> tuple[Any, list[Any]]:
        """Return how the elements of nested lists lie, and the elements in order."""
        if not isinstance(value, list | tuple):
            reason = f"over={source!r} gave {short(value)} of type {type(value).__name__}: return a list"
            raise MapError(node, reason)
        if depth == 1:
            return len(value), list(value)
        inner = [self._laid_out(node, source, element, depth - 1) for element in value]
        return [layout for layout, _ in inner], [element for _, elements in inner for element in elements]

    def _keys(self, node: Node, key_of: Callable[..., object], rows: list[dict[str, Payload]]) -> list[str]:
        keys = [str(key_of(*(self._codec.decode(payload) for payload in row.values()))) for row in rows]
        for key in keys:
            if not key or len(key) > _MAX_KEY or not key.isprintable():
                raise MapError(node.name, f"{key!r} is no key: use 1 to {_MAX_KEY} printable characters")
            if node.child is not None and len(item_run_id(self._state.run_id, node.name, key)) > LONGEST_RUN_ID:
                reason = f"the run of item {key!r} would have an id of more than {LONGEST_RUN_ID} characters"
                raise MapError(node.name, f"{reason}: let key= return a shorter one, or give the run a shorter id")
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise MapError(node.name, f"two items have the key {twice!r}: keys must be unique")
        return keys


def short(value: object) -> str:
    """Return the text of a value, cut to fit a line."""
    try:
        text = repr(value)
    except BaseException:  # noqa: BLE001 - the user's __repr__, the same
        return f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 - fits a line
