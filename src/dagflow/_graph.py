"""Names and arrows: the questions that a graph is asked, answered by networkx.

This is the only room that knows networkx, and it is imported when a graph is first built, not by ``import dagflow``.
Graphs are asked once per definition, never while a run goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx as nx

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ancestors", "build", "descendants", "find_cycle", "generations", "topological_order"]


def build(arrows: Mapping[str, Iterable[str]]) -> nx.DiGraph[str]:
    """Return the graph of nodes, each given with the names that it depends on."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(arrows)
    graph.add_edges_from((source, name) for name, sources in arrows.items() for source in sources)
    return graph


def find_cycle(graph: nx.DiGraph[str]) -> tuple[str, ...] | None:
    """Return one circle as a path whose first name is repeated at its end, or ``None``."""
    if nx.is_directed_acyclic_graph(graph):
        return None
    edges = nx.find_cycle(graph)
    return (edges[0][0], *(edge[1] for edge in edges))


def topological_order(graph: nx.DiGraph[str]) -> list[str]:
    """Return the names, each after everything that it depends on."""
    return list(nx.topological_sort(graph))


def generations(graph: nx.DiGraph[str]) -> list[list[str]]:
    """Return the names in layers: each depends only on earlier layers."""
    return [list(layer) for layer in nx.topological_generations(graph)]


def ancestors(graph: nx.DiGraph[str], name: str) -> set[str]:
    """Return everything that ``name`` depends on, directly or not."""
    return nx.ancestors(graph, name)


def descendants(graph: nx.DiGraph[str], name: str) -> set[str]:
    """Return everything that depends on ``name``, directly or not."""
    return nx.descendants(graph, name)
