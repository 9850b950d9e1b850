"""Hypothesis strategies: workflows of every shape, whose functions are deterministic.

::

    from hypothesis import given
    from dagflow.testing import workflows


    @given(workflow=workflows())
    async def test_a_law(workflow): ...

What a function returns, and on which of its attempts it fails, follows from its name, its arguments and the number of
the attempt alone, so a run that was interrupted has to end like one that was not. Some functions end only by their
timeout. The workflows need no inputs. An executor that has a resource ``log`` has it called with each `NodeContext`
when a function begins.

With ``waits=True`` there are nodes that wait. Signals without a timeout and reviews without a deadline wait for the
test, which answers them with what `answer` says; the others are to be left to the clock.
"""

from __future__ import annotations

import asyncio
import inspect
import zlib
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

try:
    from hypothesis import strategies as st
except ImportError as exc:
    message = "the strategies need hypothesis: pip install hypothesis"
    raise ImportError(message) from exc

from dagflow._model import Workflow
from dagflow._node import (
    JOINS,
    ChildSpec,
    ItemError,
    MapSpec,
    Node,
    NodeContext,
    RetryPolicy,
    ReviewSpec,
    SignalSpec,
    SleepSpec,
    WaitSpec,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagflow._plan import OnFailure

__all__ = ["answer", "workflows"]

ChoiceT = TypeVar("ChoiceT")

_TIMEOUT = 0.005
"""Seconds of real time that an attempt may take which never ends."""

_BOOLEANS = st.booleans()
_HANGS = (False,) * 15 + (True,)
_FAILURES = st.sampled_from([0, 0, 0, 1, 2])
_SIZES = st.none() | st.integers(0, 3)
_TURNS = st.none() | st.integers(0, 2)
_LIMITS = st.none() | st.integers(1, 2)
_TIMES = st.none() | st.floats(0.5, 1000)
_USUAL_JOINS: st.SearchStrategy[Any] = st.sampled_from([*["all_success"] * 6, *JOINS[1:]])
_REACTIONS: st.SearchStrategy[Any] = st.sampled_from(["fail", "collect"])
_ON_DEADLINE: st.SearchStrategy[Any] = st.sampled_from(["reject", "approve", "fail"])
_ON_REJECT: st.SearchStrategy[Any] = st.sampled_from(["fail", "continue"])


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
        is_constant: Its value and failures do not depend on its arguments.
        hangs: No attempt ends by itself.
    """

    failures: int = 0
    turns: int = 0
    size: int | None = None
    is_constant: bool = False
    hangs: bool = False

    async def __call__(self, context: NodeContext, **arguments: Any) -> Any:
        log = context.resources.get("log")
        if log is not None:
            log(context)
        for _ in range(self.turns):
            await asyncio.sleep(0)
        if self.hangs:
            await asyncio.Event().wait()
        return self.outcome(context, {} if self.is_constant else arguments)

    def outcome(self, context: NodeContext, arguments: Mapping[str, Any]) -> Any:
        """Return what the attempt returns, or raise what it raises."""
        value = _digest(context.node, arguments)
        spared = context.node.endswith("]") and value % 3
        if context.attempt <= self.failures and not spared:
            raise ValueError(f"attempt {context.attempt} of {context.node}")
        return value if self.size is None else [value + number for number in range(self.size)]

    def reconcile(self, context: NodeContext) -> Any:
        """Find out what a call of constant work came to."""
        return self.outcome(context, {})


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


def _digest(name: str, arguments: Mapping[Any, Any]) -> int:
    facts = sorted((key, _plain(value)) for key, value in arguments.items())
    return zlib.crc32(repr((name, facts)).encode()) % 1000


def _plain(value: Any) -> Any:
    """Return what is the same in every run: the time of a decision is not, nor is the traceback of an error."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return sorted((key, _plain(item)) for key, item in value.items() if key != "at")
    if isinstance(value, ItemError):
        # The text of an error of a run names all nodes that failed, in the order in which they did.
        return (value.key, value.type, value.message if value.type == "ValueError" else "")
    return value


def answer(run_id: str, node: str) -> int:
    """Return what a generated workflow is to be answered with: the value of a signal; a review is approved when odd."""
    return zlib.crc32(f"{run_id} {node}".encode()) % 1000


def _key(*items: Any) -> str:
    return f"k{_digest('key', dict(enumerate(map(_plain, items))))}"


def _nothing() -> None:
    """Stand in for the function of a node that waits or runs another workflow."""


@st.composite
def workflows(
    draw: st.DrawFn,
    *,
    max_nodes: int = 8,
    uses: tuple[str, ...] = (),
    waits: bool = False,
    at_most_once: bool = False,
) -> Workflow:
    """Draw a valid workflow with joins, conditions, retries, failures, maps, sub-workflows, priorities and limits.

    Args:
        draw: Of hypothesis.
        max_nodes: How many nodes it has at the most, the items of its maps and sub-workflows not counted.
        uses: Names of limits that nodes may use; the executor must have them.
        waits: Whether nodes may wait for time, signals and reviews.
        at_most_once: Whether calls of nodes may be in doubt, without ``reconcile``, after a crash; how the run ends
            may then depend on the crash.
    """
    return draw(_workflows("generated", (), max_nodes, uses, waits=waits, in_doubt=at_most_once, depth=1))


@st.composite
def _workflows(
    draw: st.DrawFn,
    name: str,
    inputs: tuple[str, ...],
    max_nodes: int,
    uses: tuple[str, ...],
    *,
    waits: bool,
    in_doubt: bool,
    depth: int,
) -> Workflow:
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, max_nodes))):
        kind = _pick(draw, _kinds(waits=waits, depth=depth))
        earlier = _Earlier(nodes, inputs, uses, waits, in_doubt, depth)
        nodes.append(draw(kind(f"n{number}", earlier)))
    # A sub-workflow that drains tells of as many failures as there was time for.
    on_failure: OnFailure = "continue" if bool(inputs) or draw(_BOOLEANS) else "drain"
    return Workflow(name, draw(st.permutations(nodes)), on_failure=on_failure, inputs=inputs)


@attrs.frozen
class _Earlier:
    """What a node may be bound to, and how its workflow is to be."""

    nodes: list[Node]
    inputs: tuple[str, ...]
    uses: tuple[str, ...]
    waits: bool
    in_doubt: bool
    depth: int

    @property
    def names(self) -> list[str]:
        return [node.name for node in self.nodes]

    @property
    def lists(self) -> list[tuple[str, int]]:
        """The nodes that return lists, and how many levels of them."""
        return [(node.name, levels) for node in self.nodes if (levels := _levels(node))]


def _kinds(*, waits: bool, depth: int) -> list[Any]:
    return [_nodes] * 6 + [_waits] * 2 * waits + [_children] * depth


def _levels(node: Node) -> int:
    """Return how many levels of lists the output of a node has."""
    return (node.map.depth if node.map else 0) + (getattr(node.function, "size", None) is not None)


@st.composite
def _nodes(draw: st.DrawFn, name: str, earlier: _Earlier) -> Node:
    join = draw(_USUAL_JOINS)
    # A map needs the output of the node that it goes over.
    spec = draw(_maps(earlier)) if join == "all_success" else None
    parameters = draw(_parameters(earlier, needs_defaults=join != "all_success"))
    constant = draw(st.integers(0, 4)) == 0
    hangs = not constant and _pick(draw, _HANGS)
    function = _Work(
        (*parameters, *((item, False) for item in (spec.over if spec else ()))),
        failures=draw(_FAILURES),
        turns=draw(st.integers(0, 3)),
        size=draw(_SIZES),
        is_constant=constant,
        hangs=hangs,
    )
    effects: dict[str, Any] = {}
    if constant and draw(_BOOLEANS):
        effects = {"effects": "at_most_once"}
        if not earlier.in_doubt or draw(_BOOLEANS):
            effects["reconcile"] = function.reconcile
    return Node(
        name,
        function,
        _some(draw, earlier.names),
        map=spec,
        retry=RetryPolicy(max_attempts=draw(st.integers(1, 3)), delay=0.5, jitter=0.0),
        timeout=_TIMEOUT if hangs else None,
        priority=draw(st.integers(-1, 1)),
        uses=_some(draw, earlier.uses),
        **effects,
        **draw(_rules(earlier, join)),
    )


@st.composite
def _waits(draw: st.DrawFn, name: str, earlier: _Earlier) -> Node:
    limit = draw(_TIMES)
    kind = draw(st.integers(0, 2))
    wait: WaitSpec = SleepSpec(limit or 0.0) if kind == 0 else SignalSpec(limit)
    if kind == 2:  # noqa: PLR2004 - the third of three
        wait = ReviewSpec(None, (), limit, draw(_ON_DEADLINE), draw(_ON_REJECT))
    return Node(name, _nothing, _some(draw, earlier.names), wait=wait, **draw(_rules(earlier, draw(_USUAL_JOINS))))


@st.composite
def _children(draw: st.DrawFn, name: str, earlier: _Earlier) -> Node:
    lists = earlier.lists
    inputs = ("x",) if bool(lists) and draw(_BOOLEANS) else ("x", "y")
    bound = [*earlier.names, *earlier.inputs]
    workflow = draw(
        _workflows(
            f"{name}-{earlier.depth}",
            inputs if bound else (),
            3,
            earlier.uses,
            waits=earlier.waits,
            in_doubt=earlier.in_doubt,
            depth=earlier.depth - 1,
        )
    )
    over: dict[str, str] = {}
    if bool(lists) and draw(_BOOLEANS):
        over = {"x": _pick(draw, lists)[0]}
    spec = MapSpec(over, draw(_LIMITS), None, draw(_REACTIONS)) if over else None
    return Node(
        name,
        _nothing,
        _some(draw, earlier.names),
        map=spec,
        bind={parameter: _pick(draw, bound) for parameter in workflow.inputs if parameter not in over},
        child=ChildSpec(workflow, _pick(draw, workflow.nodes).name if draw(_BOOLEANS) else None),
        retry=RetryPolicy(max_attempts=draw(st.integers(1, 2)), delay=0.5, jitter=0.0),
        **draw(_rules(earlier, "all_success")),
    )


@st.composite
def _maps(draw: st.DrawFn, earlier: _Earlier) -> MapSpec | None:
    lists = [*earlier.lists, *((name, 1) for name in earlier.inputs)]
    if not lists or draw(_BOOLEANS):
        return None
    name, levels = _pick(draw, lists)
    depth = draw(st.integers(1, levels))
    over = {"item": name}
    if draw(st.integers(0, 3)) == 0:
        over["other"] = _pick(draw, [other for other, depth in lists if depth == levels])
    key = _key if depth == 1 and draw(st.integers(0, 3)) == 0 else None
    return MapSpec(over, draw(_LIMITS), key, draw(_REACTIONS), depth)


@st.composite
def _rules(draw: st.DrawFn, earlier: _Earlier, join: str) -> dict[str, Any]:
    return {
        "join": join,
        "when": draw(_conditions(earlier, needs_defaults=join != "all_success")),
        "allow_failure": draw(st.integers(0, 3)) == 0,
    }


def _pick(draw: st.DrawFn, choices: Sequence[ChoiceT]) -> ChoiceT:
    """Draw one of these; a strategy of its own for each list would take longer than everything else."""
    return choices[draw(st.integers(0, len(choices) - 1))]


def _some(draw: st.DrawFn, names: Sequence[str]) -> list[str]:
    """Draw two different names at the most."""
    count = draw(st.integers(0, 2)) if names else 0
    return list(dict.fromkeys(_pick(draw, names) for _ in range(count)))


@st.composite
def _parameters(draw: st.DrawFn, earlier: _Earlier, *, needs_defaults: bool) -> tuple[tuple[str, bool], ...]:
    names = _some(draw, [*earlier.names, *earlier.inputs])
    return tuple((name, needs_defaults or draw(_BOOLEANS)) for name in names)


@st.composite
def _conditions(draw: st.DrawFn, earlier: _Earlier, *, needs_defaults: bool) -> _Condition | None:
    if draw(st.integers(0, 2)):
        return None
    return _Condition(draw(_parameters(earlier, needs_defaults=needs_defaults)), draw(_TURNS))
