"""Defining and compiling workflows."""

from __future__ import annotations

from typing import Any

import workloads


def test_create_a_workflow_of_10_nodes(benchmark: Any) -> None:
    arrows = workloads.arrows_of_chain(10)

    benchmark(lambda: workloads.define("ten", arrows).validate())


def test_resolve_the_dependencies_of_a_diamond_100_times(benchmark: Any) -> None:
    def resolve() -> None:
        for _ in range(100):
            workloads.define("diamond", workloads.ARROWS_OF_DIAMOND).compile()

    benchmark(resolve)


def test_look_at_the_dependencies_of_a_compiled_diamond_100_times(benchmark: Any) -> None:
    workflow = workloads.diamond().workflow

    def look() -> None:
        for _ in range(100):
            shape = workflow.compile().shape
            assert shape.predecessors[3] == (1, 2)
            assert shape.successors[0] == (1, 2)

    benchmark(look)


def test_compile_10000_nodes_in_layers(benchmark: Any) -> None:
    arrows = workloads.arrows_of_layers(100, 100)

    benchmark.pedantic(lambda: workloads.define("layers", arrows).compile(), rounds=5)
