"""The questions that a graph is asked."""

from __future__ import annotations

import itertools

from dagflow import _graph

DIAMOND: dict[str, list[str]] = {"top": [], "left": ["top"], "right": ["top"], "bottom": ["left", "right"], "alone": []}


def test_a_graph_has_the_nodes_and_the_arrows_between_them() -> None:
    graph = _graph.build(DIAMOND)

    assert set(graph) == set(DIAMOND)
    assert set(graph.edges) == {("top", "left"), ("top", "right"), ("left", "bottom"), ("right", "bottom")}


def test_a_graph_without_a_circle_has_none() -> None:
    assert _graph.find_cycle(_graph.build(DIAMOND)) is None


def test_a_circle_is_a_path_that_comes_back_to_its_first_name() -> None:
    graph = _graph.build({"a": ["c"], "b": ["a"], "c": ["b"], "d": ["c"]})

    cycle = _graph.find_cycle(graph)

    assert cycle is not None
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {"a", "b", "c"}
    assert all(graph.has_edge(*arrow) for arrow in itertools.pairwise(cycle))


def test_a_node_that_waits_for_itself_is_a_circle() -> None:
    assert _graph.find_cycle(_graph.build({"a": ["a"]})) == ("a", "a")


def test_each_name_comes_after_everything_that_it_depends_on() -> None:
    order = _graph.topological_order(_graph.build(DIAMOND))

    assert sorted(order) == sorted(DIAMOND)
    assert all(order.index(source) < order.index(name) for name, sources in DIAMOND.items() for source in sources)


def test_generations_are_layers_that_depend_only_on_earlier_ones() -> None:
    layers = _graph.generations(_graph.build(DIAMOND))

    assert [set(layer) for layer in layers] == [{"top", "alone"}, {"left", "right"}, {"bottom"}]


def test_ancestors_and_descendants_reach_all_the_way() -> None:
    graph = _graph.build(DIAMOND)

    assert _graph.ancestors(graph, "bottom") == {"top", "left", "right"}
    assert _graph.descendants(graph, "top") == {"left", "right", "bottom"}
    assert _graph.descendants(graph, "alone") == set()
