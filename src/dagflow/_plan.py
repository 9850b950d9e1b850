"""A workflow compiled: nodes as integers with tuples of neighbours, shared by all runs of the definition.

The `Shape` is what a journal keeps of it, so that a run can be read back without the code that made it; the `Plan` adds
what only the code knows. Neither changes after it was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import attrs

from dagflow._binding import Source, SourceKind, is_async

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dagflow._guards import Guard
    from dagflow._node import Node

__all__ = ["Lane", "OnFailure", "Plan", "PlanNode", "Shape", "plan_node", "upstream"]

OnFailure = Literal["drain", "continue"]

Lane = tuple[int, tuple[str, ...] | None, int]
"""The position of a map that limits its items, or -1; the names in ``uses=``, ``None`` when it takes no slot; and the
priority."""


@attrs.frozen(eq=False)
class Shape:
    """Names and arrows.

    Attributes:
        names: The nodes, each after everything that it depends on.
        predecessors: For each node, the positions of what it depends on.
        successors: For each node, the positions of what depends on it.
        kinds: By position, what a node is that is no ordinary function: ``map``, ``timer``, ``signal`` or ``review``.
    """

    names: tuple[str, ...]
    predecessors: tuple[tuple[int, ...], ...]
    successors: tuple[tuple[int, ...], ...]
    kinds: Mapping[int, str] = attrs.field(factory=dict)

    @classmethod
    def of(cls, arrows: Mapping[str, Sequence[str]], *, kinds: Mapping[str, str] | None = None) -> Shape:
        """Return the shape of nodes in topological order, each given with the names that it depends on."""
        position = {name: index for index, name in enumerate(arrows)}
        successors: list[list[int]] = [[] for _ in arrows]
        predecessors = []
        for index, sources in enumerate(arrows.values()):
            predecessors.append(tuple(position[source] for source in sources))
            for source in predecessors[-1]:
                successors[source].append(index)
        return cls(
            tuple(arrows),
            tuple(predecessors),
            tuple(map(tuple, successors)),
            {position[name]: kind for name, kind in (kinds or {}).items()},
        )

    @classmethod
    def from_journal(cls, data: Mapping[str, Any]) -> Shape:
        """Return the shape that `to_journal` wrote."""
        return cls.of(data["nodes"], kinds=data.get("kinds"))

    def to_journal(self) -> dict[str, Any]:
        """Return the shape as plain JSON."""
        arrows = zip(self.names, self.predecessors, strict=True)
        data: dict[str, Any] = {"nodes": {name: [self.names[i] for i in sources] for name, sources in arrows}}
        if self.kinds:
            data["kinds"] = {self.names[i]: kind for i, kind in sorted(self.kinds.items())}
        return data


@attrs.frozen(eq=False)
class PlanNode:
    """A node with everything about it that can be known before a run.

    Attributes:
        index: Its position in the shape.
        node: Its definition.
        sources: Where each parameter of its function gets its value.
        condition: Where each parameter of its ``when=`` gets its value.
        upstream: The parameters that are bound to nodes, each with the position of its node.
        others: The sources of all other parameters.
        tolerated: The positions of dependencies that may be skipped, because the parameter has a default.
        is_async: Calling its function gives a coroutine.
        lane: What it counts against when it is called.
        is_plain: It is called as soon as it is ready: it has no condition, is no map, and does not wait.
        guard: Its contracts, if it has any.
    """

    index: int
    node: Node
    sources: tuple[Source, ...]
    condition: tuple[Source, ...]
    upstream: tuple[tuple[str, int], ...]
    others: tuple[Source, ...]
    tolerated: frozenset[int]
    is_async: bool
    is_plain: bool
    lane: Lane
    guard: Guard | None = None


@attrs.frozen(eq=False)
class Plan:
    """A workflow that can be run.

    Attributes:
        workflow: Its name.
        shape: Names and arrows.
        opening: What the journal of each of its runs begins with: the name, and the shape as plain JSON.
        nodes: The nodes by position.
        on_failure: What happens to the rest when a node has failed.
        inputs: For every input that a node or condition takes, or the workflow declares, whether it may be missing.
        is_plain: All its nodes are called as soon as they are ready, and none starts another run.
        is_open: No limit of the workflow's own counts calls of its nodes, and all have the same priority.
    """

    workflow: str
    shape: Shape
    opening: Mapping[str, Any]
    nodes: tuple[PlanNode, ...]
    on_failure: OnFailure
    inputs: Mapping[str, bool]
    is_plain: bool = attrs.field(init=False)
    is_open: bool = attrs.field(init=False)

    @is_plain.default
    def _are_all_plain(self) -> bool:
        return all(planned.is_plain and planned.node.child is None for planned in self.nodes)

    @is_open.default
    def _find_limits(self) -> bool:
        lanes = {planned.lane for planned in self.nodes}
        return len(lanes) <= 1 and not any(index >= 0 or uses for index, uses, _ in lanes)


def lane_of(index: int, node: Node) -> Lane:
    """Return what a node counts against when it is called."""
    # A sub-workflow that held a slot while its own nodes wait for one would wait for itself; what waits calls nothing.
    is_call = node.child is None and node.wait is None
    uses = tuple(dict.fromkeys(node.uses)) if is_call else None
    return (index if node.map is not None and node.map.limit is not None else -1, uses, node.priority)


def plan_node(
    node: Node,
    position: Mapping[str, int],
    sources: tuple[Source, ...],
    condition: tuple[Source, ...],
    guards: Mapping[str, Guard],
) -> PlanNode:
    """Return a node with everything about it that can be known before a run.

    Args:
        node: Its definition.
        position: Of every node in the shape.
        sources: Where each parameter of its function gets its value.
        condition: Where each parameter of its ``when=`` gets its value.
        guards: By the names of the nodes that have one.
    """
    bound = [s for s in (*sources, *condition) if s.name in position and s.kind is not SourceKind.INPUT]
    needed = {s.name for s in bound if not s.optional} | set(node.depends_on)
    tolerated = frozenset(position[s.name] for s in bound if s.name not in needed)
    direct = tuple((s.parameter, position[s.name]) for s in sources if s.kind is SourceKind.NODE)
    others = tuple(s for s in sources if s.kind is not SourceKind.NODE)
    plain = node.when is None and node.map is None and node.wait is None
    return PlanNode(
        position[node.name],
        node,
        sources,
        condition,
        direct,
        others,
        tolerated,
        is_async(node.function),
        plain,
        lane_of(position[node.name], node),
        guards.get(node.name),
    )


def upstream(sources: Iterable[Source], nodes: Mapping[str, Any]) -> Iterable[str]:
    """Return the nodes among the sources, those that the items of a map are taken from included."""
    for source in sources:
        if source.kind is SourceKind.NODE or (source.kind is SourceKind.ITEM and source.name in nodes):
            yield source.name
