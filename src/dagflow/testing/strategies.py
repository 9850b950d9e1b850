"""Hypothesis strategies: workflows of every shape, whose functions are deterministic.

::

    from hypothesis import given
    from dagflow.testing import workflows


    @given(workflow=workflows())
    async def test_a_law(workflow): ...

What a function returns, and on which of its attempts it fails, follows from its name, its arguments and the number of
the attempt alone, so a run that was interrupted has to end like one that was not. The workflows need no inputs. An
executor that has a resource ``log`` has it called with each `NodeContext` when a function begins.
"""

from __future__ import annotations

import asyncio
import inspect
import zlib
from typing import TYPE_CHECKING, Any

import attrs

try:
    from hypothesis import strategies as st
except ImportError as exc:
    message = "the strategies need hypothesis: pip install hypothesis"
    raise ImportError(message) from exc

from dagflow._model import Workflow
from dagflow._node import JOINS, ItemError, MapSpec, Node, NodeContext, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagflow._plan import OnFailure

__all__ = ["workflows"]


@attrs.frozen
class _Function:
    """A function with these parameters; a parameter without a default is needed.

    Attributes:
        parameters: Names of upstream nodes, and whether they have a default.
    """

    parameters: tuple[tuple[str, bool], ...] = ()

    @property
    def __signature__(self) -> inspect.Signature:
        kind = inspect.Parameter.KEYWORD_ONLY
        ours = [
            inspect.Parameter(name, kind, default="default" if optional else inspect.Parameter.empty)
            for name, optional in self.parameters
        ]
        return inspect.Signature([inspect.Parameter("context", kind, annotation=NodeContext), *ours])


@attrs.frozen
class _Work(_Function):
    """What a node does.

    Attributes:
        failures: How many attempts fail before one returns; of a map, those of every third item.
        turns: How many turns of the loop an attempt takes.
        size: How many values it returns in a list; ``None`` for one value.
    """

    failures: int = 0
    turns: int = 0
    size: int | None = None

    async def __call__(self, context: NodeContext, **arguments: Any) -> Any:
        log = context.resources.get("log")
        if log is not None:
            log(context)
        for _ in range(self.turns):
            await asyncio.sleep(0)
        value = _digest(context.node, arguments)
        spared = context.node.endswith("]") and value % 3
        if context.attempt <= self.failures and not spared:
            raise ValueError(f"attempt {context.attempt} of {context.node}")
        return value if self.size is None else [value + number for number in range(self.size)]


@attrs.frozen
class _Condition(_Function):
    """What decides about a node; one in four says no."""

    async_turns: int | None = None

    def __call__(self, context: NodeContext, **arguments: Any) -> Any:
        verdict = _digest(context.node, arguments) % 4 > 0
        return verdict if self.async_turns is None else self._later(self.async_turns, verdict=verdict)

    async def _later(self, turns: int, *, verdict: bool) -> bool:
        for _ in range(turns):
            await asyncio.sleep(0)
        return verdict


def _digest(name: str, arguments: Mapping[str, Any]) -> int:
    facts = sorted((key, _plain(value)) for key, value in arguments.items())
    return zlib.crc32(repr((name, facts)).encode()) % 1000


def _plain(value: Any) -> Any:
    """Return what is the same in every run: the traceback of a collected error is not."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return (value.key, value.type, value.message) if isinstance(value, ItemError) else value


@st.composite
def workflows(draw: st.DrawFn, *, max_nodes: int = 8, uses: tuple[str, ...] = ()) -> Workflow:
    """Draw a valid workflow with joins, conditions, retries, failures, maps and limits.

    Args:
        draw: Of hypothesis.
        max_nodes: How many nodes it has at the most, the items of its maps not counted.
        uses: Names of limits that nodes may use; the executor must have them.
    """
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, max_nodes))):
        nodes.append(draw(_nodes(f"n{number}", nodes, uses)))
    on_failure: OnFailure = draw(st.sampled_from(("drain", "continue")))
    return Workflow("generated", draw(st.permutations(nodes)), on_failure=on_failure)


def _gives_list(node: Node) -> bool:
    return node.map is not None or getattr(node.function, "size", None) is not None


@st.composite
def _nodes(draw: st.DrawFn, name: str, nodes: list[Node], uses: tuple[str, ...]) -> Node:
    earlier, lists = [node.name for node in nodes], [node.name for node in nodes if _gives_list(node)]
    join = draw(st.sampled_from(JOINS)) if draw(st.integers(0, 2)) == 0 else "all_success"
    spec = None
    # A map needs the output of the node that it goes over.
    if lists and join == "all_success" and draw(st.booleans()):
        spec = MapSpec(
            {"item": draw(st.sampled_from(lists))},
            limit=draw(st.none() | st.integers(1, 2)),
            on_error=draw(st.sampled_from(["fail", "collect"])),
        )
    parameters = draw(_parameters(earlier, needs_defaults=join != "all_success"))
    function = _Work(
        (*parameters, *([("item", False)] if spec else [])),
        failures=draw(st.sampled_from([0, 0, 0, 1, 2])),
        turns=draw(st.integers(0, 3)),
        size=draw(st.none() | st.integers(0, 3)),
    )
    return Node(
        name,
        function,
        draw(_some(earlier)),
        join=join,
        map=spec,
        when=draw(_conditions(earlier, needs_defaults=join != "all_success")),
        retry=RetryPolicy(max_attempts=draw(st.integers(1, 3)), delay=0.5, jitter=0.0),
        allow_failure=draw(st.integers(0, 3)) == 0,
        uses=draw(_some(uses)),
    )


def _some(names: list[str] | tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(names), max_size=2, unique=True) if names else st.just([])


@st.composite
def _parameters(draw: st.DrawFn, earlier: list[str], *, needs_defaults: bool) -> tuple[tuple[str, bool], ...]:
    return tuple((name, needs_defaults or draw(st.booleans())) for name in draw(_some(earlier)))


@st.composite
def _conditions(draw: st.DrawFn, earlier: list[str], *, needs_defaults: bool) -> _Condition | None:
    if draw(st.integers(0, 2)):
        return None
    return _Condition(draw(_parameters(earlier, needs_defaults=needs_defaults)), draw(st.none() | st.integers(0, 2)))
