"""What is measured: graphs of functions that do nothing, for dagflow and for the floors alike.

Every function returns a dictionary with two keys, so that what is measured is the way to it and back. dagflow binds the
outputs of the dependencies to parameters; a node with very many of them takes them through its `NodeContext`.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import attrs

from dagflow import Node, NodeContext, Workflow
from floors import Graph

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dagflow import DAGExecutor, Run

__all__ = [
    "OUTPUT",
    "Workload",
    "chain",
    "diamond",
    "fan_out",
    "fan_out_map",
    "layers",
    "many_runs",
    "parallel",
    "single",
]

OUTPUT = json.dumps({"count": 1, "ok": True}).encode()
"""What each node returns, as the floors keep it."""

_PARAMETERS = "abc"


async def _none() -> dict[str, Any]:
    return {"count": 1, "ok": True}


async def _one(a: dict[str, Any]) -> dict[str, Any]:
    return {"count": 1, "ok": a["ok"]}


async def _two(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    return {"count": 1, "ok": a["ok"] and b["ok"]}


async def _three(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> dict[str, Any]:
    return {"count": 1, "ok": a["ok"] and b["ok"] and c["ok"]}


async def _all(*outputs: dict[str, Any]) -> dict[str, Any]:
    return {"count": len(outputs), "ok": all(output["ok"] for output in outputs)}


async def _all_of(context: NodeContext) -> dict[str, Any]:
    return await _all(*context.outputs.values())


_BOUND: tuple[Callable[..., Awaitable[Any]], ...] = (_none, _one, _two, _three)


@attrs.frozen(eq=False)
class Workload:
    """The same graph twice.

    Attributes:
        graph: For the floors.
        workflow: For dagflow, compiled.
    """

    graph: Graph
    workflow: Workflow

    @property
    def size(self) -> int:
        """How many nodes it has."""
        return len(self.graph.functions)

    @classmethod
    def of(cls, name: str, predecessors: Sequence[Sequence[int]]) -> Workload:
        """Make both from what each node depends on; a node stands behind all of its dependencies."""
        workflow = define(name, predecessors)
        workflow.compile()
        return cls(_graph(predecessors), workflow)


def define(name: str, predecessors: Sequence[Sequence[int]]) -> Workflow:
    """Return the workflow, not compiled yet."""
    return Workflow(name, [_node(index, sources) for index, sources in enumerate(predecessors)])


def _node(index: int, sources: Sequence[int]) -> Node:
    if len(sources) < len(_BOUND):
        bind = {parameter: f"n{source}" for parameter, source in zip(_PARAMETERS, sources, strict=False)}
        return Node(f"n{index}", _BOUND[len(sources)], bind=bind)
    return Node(f"n{index}", _all_of, depends_on=[f"n{source}" for source in sources])


def _graph(predecessors: Sequence[Sequence[int]]) -> Graph:
    successors: list[list[int]] = [[] for _ in predecessors]
    for index, sources in enumerate(predecessors):
        for source in sources:
            successors[source].append(index)
    functions = tuple(_BOUND[len(s)] if len(s) < len(_BOUND) else _all for s in predecessors)
    return Graph(functions, tuple(map(tuple, predecessors)), tuple(map(tuple, successors)))


# -- graphs ---------------------------------------------------------------------------------------


def single() -> Workload:
    """Return one node."""
    return Workload.of("single", [()])


def chain(length: int) -> Workload:
    """Return nodes that each depend on the one before."""
    return Workload.of("chain", arrows_of_chain(length))


def arrows_of_chain(length: int) -> list[Sequence[int]]:
    """Return the dependencies of a chain."""
    return [(), *((index,) for index in range(length - 1))]


def parallel(width: int) -> Workload:
    """Return nodes that depend on nothing."""
    return Workload.of("parallel", [()] * width)


def diamond() -> Workload:
    """Return four nodes: one, two that depend on it, and one that depends on both."""
    return Workload.of("diamond", ARROWS_OF_DIAMOND)


ARROWS_OF_DIAMOND: list[Sequence[int]] = [(), (0,), (0,), (1, 2)]


def fan_out(width: int) -> Workload:
    """Return one node, many that depend on it, and one that depends on all of those."""
    return Workload.of("fan_out", [(), *[(0,)] * width, range(1, width + 1)])


def layers(count: int, width: int) -> Workload:
    """Return layers of nodes that each depend on three nodes of the layer before."""
    return Workload.of("layers", arrows_of_layers(count, width))


def arrows_of_layers(count: int, width: int) -> list[Sequence[int]]:
    """Return the dependencies of layers."""
    arrows: list[Sequence[int]] = [()] * width
    for start in range(0, (count - 1) * width, width):
        arrows += [tuple(start + (place + step) % width for step in (0, 1, 7)) for place in range(width)]
    return arrows


def fan_out_map(width: int) -> Workflow:
    """Return the fan-out as a map over a list: its items are no nodes of the graph."""
    workflow = Workflow("fan_out_map")
    item = {"count": 1, "ok": True}

    @workflow.node
    async def source() -> list[dict[str, Any]]:
        return [item] * width

    @workflow.map(over={"each": "source"})
    async def middle(each: dict[str, Any]) -> dict[str, Any]:
        return {"count": 1, "ok": each["ok"]}

    @workflow.node
    async def total(middle: list[dict[str, Any]]) -> dict[str, Any]:
        return await _all(*middle)

    workflow.compile()
    return workflow


# -- many at a time -------------------------------------------------------------------------------


async def many_runs(run: Callable[[], Awaitable[object]], *, runs: int, at_a_time: int) -> None:
    """Call ``run`` this often, so many at a time."""
    left = iter(range(runs))

    async def work() -> None:
        for _ in left:
            await run()

    await asyncio.gather(*(work() for _ in range(at_a_time)))


async def run_checked(executor: DAGExecutor, workflow: Workflow) -> Run:
    """Run a workflow and check that it completed."""
    run = await executor.run(workflow)
    assert run.status == "completed", run.status
    return run
