"""Graphs as text that other programs draw: Mermaid and DOT. Nothing is drawn here, and nothing is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagflow._events import NodeStatus

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagflow._plan import Shape

__all__ = ["mimebundle", "to_dot", "to_mermaid"]

_BRACKETS = {
    "function": ('["', '"]'),
    "map": ('[["', '"]]'),
    "subworkflow": ('[/"', '"/]'),
    "timer": ('(["', '"])'),
    "signal": ('>"', '"]'),
    "review": ('{{"', '"}}'),
}
_COLOURS = {
    NodeStatus.PENDING: "#eeeeee",
    NodeStatus.RUNNING: "#9ecbff",
    NodeStatus.WAITING: "#ffe08a",
    NodeStatus.COMPLETED: "#a6e3a1",
    NodeStatus.FAILED: "#ff9e9e",
    NodeStatus.SKIPPED: "#dddddd",
    NodeStatus.BLOCKED: "#f3c6f1",
    NodeStatus.CANCELLED: "#cccccc",
}


def to_mermaid(shape: Shape, statuses: Mapping[str, NodeStatus] | None = None) -> str:
    """Return a Mermaid flowchart, the nodes coloured by their statuses when these are given.

    Maps, sub-workflows, timers, signals and reviews have shapes of their own. The language is that of
    https://mermaid.js.org/syntax/flowchart.html.
    """
    lines = ["flowchart TD"]
    for index, name in enumerate(shape.names):
        left, right = _BRACKETS[shape.kinds.get(index, "function")]
        status = f":::{statuses[name]}" if statuses else ""
        lines.append(f"    n{index}{left}{name}{right}{status}")
    for index, sources in enumerate(shape.predecessors):
        lines += [f"    n{source} --> n{index}" for source in sources]
    if statuses:
        used = dict.fromkeys(statuses[name] for name in shape.names)
        lines += [f"    classDef {status} fill:{_COLOURS[status]},stroke:#555,color:#111" for status in used]
    return "\n".join(lines)


def to_dot(name: str, shape: Shape) -> str:
    """Return the graph in DOT, the language of Graphviz."""
    lines = [f'digraph "{name}" {{']
    lines += [f'    "{node}";' for node in shape.names]
    for index, sources in enumerate(shape.predecessors):
        lines += [f'    "{shape.names[source]}" -> "{shape.names[index]}";' for source in sources]
    return "\n".join([*lines, "}"])


def mimebundle(plain: str, mermaid: str) -> dict[str, str]:
    """Return what a notebook shows: the picture where it can draw Mermaid, and the text elsewhere."""
    return {"text/plain": plain, "text/vnd.mermaid": mermaid}
