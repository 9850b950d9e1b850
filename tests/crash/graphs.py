"""The reference workflows of the crash tests, and the log that their nodes write by themselves.

The log knows nothing of dagflow: each node appends a line when it starts and when it ends, with ``O_APPEND`` and
fsync, so that what it says can be held against what the store says.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

from dagflow import Node, NodeContext, RetryPolicy, Workflow

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["GRAPHS", "Log", "random_graph"]


class Log:
    """An append-only file of facts, one a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, fact: str) -> None:
        """Append one fact; it is on the disk when this returns."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, f"{fact}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self) -> list[str]:
        """Return all facts in the order in which they were written."""
        return self._path.read_text().splitlines() if self._path.exists() else []


def _logged(log: Log, name: str, value: Any) -> Any:
    async def call(context: NodeContext) -> Any:
        log.write(f"start {context.node}")
        result = value(context) if callable(value) else value
        log.write(f"end {context.node}")
        return result

    call.__name__ = name
    return call


def _chain(log: Log) -> Workflow:
    names = [f"n{i}" for i in range(6)]
    nodes = [Node(name, _logged(log, name, i), names[max(i - 1, 0) : i]) for i, name in enumerate(names)]
    return Workflow("chain", nodes)


def _diamond(log: Log) -> Workflow:
    workflow = Workflow("diamond")
    workflow.add(Node("top", _logged(log, "top", [1, 2])))
    workflow.add(Node("left", _logged(log, "left", lambda c: sum(c.outputs["top"])), "top"))
    workflow.add(Node("right", _logged(log, "right", lambda c: len(c.outputs["top"])), "top"))
    workflow.add(Node("end", _logged(log, "end", lambda c: sorted(c.outputs.values())), ("left", "right")))
    return workflow


def _fan_out(log: Log) -> Workflow:
    workflow = Workflow("fan_out", [Node("source", _logged(log, "source", "x"))])
    names = [f"leaf{i}" for i in range(20)]
    for i, name in enumerate(names):
        workflow.add(Node(name, _logged(log, name, i), "source"))
    workflow.add(Node("sink", _logged(log, "sink", lambda c: sum(c.outputs.values())), names))
    return workflow


def _map(log: Log) -> Workflow:
    workflow = Workflow("map", [Node("items", _logged(log, "items", list(range(8))))])

    @workflow.map(over={"item": "items"}, limit=3)
    async def square(item: int, context: NodeContext) -> int:
        log.write(f"start {context.node}")
        log.write(f"end {context.node}")
        return item * item

    workflow.add(Node("total", _logged(log, "total", lambda c: sum(c.outputs["square"])), "square"))
    return workflow


def _retry(log: Log) -> Workflow:
    def flaky(context: NodeContext) -> int:
        if context.attempt < 3:
            raise ValueError("not yet")
        return context.attempt

    policy = RetryPolicy(max_attempts=3, delay=0.001, jitter=0)
    workflow = Workflow("retry", [Node("flaky", _logged(log, "flaky", flaky), retry=policy)])
    workflow.add(Node("after", _logged(log, "after", lambda c: c.outputs["flaky"] + 1), "flaky"))
    return workflow


def _when(log: Log) -> Workflow:
    workflow = Workflow("when", [Node("number", _logged(log, "number", 4))])
    workflow.add(Node("even", _logged(log, "even", "even"), "number", when=lambda number: number % 2 == 0))
    workflow.add(Node("odd", _logged(log, "odd", "odd"), "number", when=lambda number: number % 2 == 1))
    workflow.add(Node("any", _logged(log, "any", "done"), ("even", "odd"), join="any_success"))
    return workflow


def random_graph(seed: int, log: Log) -> Workflow:
    """Return a workflow of 5 to 40 nodes, the same one for the same seed."""
    chance = random.Random(seed)
    workflow = Workflow(f"random{seed}")
    names: list[str] = []
    for i in range(chance.randint(5, 40)):
        sources = chance.sample(names, min(len(names), chance.randint(0, 3)))
        workflow.add(Node(f"r{i}", _logged(log, f"r{i}", lambda c, i=i: [i, len(c.outputs)]), sources))
        names.append(f"r{i}")
    return workflow


GRAPHS = {
    "chain": _chain,
    "diamond": _diamond,
    "fan_out": _fan_out,
    "map": _map,
    "retry": _retry,
    "when": _when,
}
