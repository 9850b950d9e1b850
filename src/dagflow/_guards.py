"""What is looked at when a node is called: its contracts, and the score of a phase.

A node that has neither has no guard, so that nothing of this is on its way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._binding import SourceKind
from dagflow._names import near_miss
from dagflow._results import phase_of
from dagflow.contracts import compile_contract, missing_field, required_of
from dagflow.errors import WorkflowError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dagflow._binding import Source
    from dagflow._node import Node
    from dagflow.contracts import Check

__all__ = ["Guard", "guard_of", "needs_guard"]


@attrs.frozen(eq=False)
class Guard:
    """What is looked at around the calls of a node.

    Attributes:
        input: Looks at the arguments, by parameter.
        output: Looks at what the function returned.
        upstream: The nodes whose outputs the input contract asks for besides the parameters.
        phase: The phase that the node executes, if it does.
        before: All nodes that end before a phase, which it may know of.
    """

    input: Check | None
    output: Check | None
    upstream: tuple[str, ...]
    phase: str | None = None
    before: tuple[str, ...] = ()

    @property
    def beyond(self) -> tuple[str, ...]:
        """The nodes whose outputs may be read besides those that are bound."""
        return self.before or self.upstream


def needs_guard(node: Node) -> bool:
    """Return whether anything is looked at around the calls of a node."""
    return node.input_contract is not None or node.output_contract is not None or phase_of(node.function) is not None


def guard_of(node: Node, sources: Iterable[Source], before: Callable[[], Iterable[str]]) -> Guard:
    """Return what is looked at around the calls of a node.

    Args:
        node: Its definition.
        sources: Where its parameters get their values.
        before: Returns the names of all nodes that end before it starts, in their order.

    Raises:
        WorkflowError: The input contract asks for a field of what is neither a parameter nor a node before.
    """
    names = [source.parameter for source in sources if source.kind is not SourceKind.CONTEXT]
    enter, upstream = _input_check(node, names, before)
    phase = phase_of(node.function)
    return Guard(enter, _output_check(node), upstream, phase, () if phase is None else tuple(before()))


def _input_check(
    node: Node, names: list[str], before: Callable[[], Iterable[str]]
) -> tuple[Check | None, tuple[str, ...]]:
    """Return what looks at the arguments, and the nodes that it asks for besides them."""
    required = required_of(node.input_contract)
    if required is None:
        contract = node.input_contract
        return None if contract is None else compile_contract(contract, "input"), ()
    fields = [_rooted(field, names, before, node.name) for field in required]
    upstream = dict.fromkeys(field[0] for field in fields if field[0] not in names)
    return lambda value: missing_field(fields, value), tuple(upstream)


def _rooted(field: list[str], names: list[str], before: Callable[[], Iterable[str]], node: str) -> list[str]:
    """Return the path of a field with the parameter or node in front; the name of a node may have dots."""
    known = {*names, *before()} if field[0] not in names else set(names)
    for length in range(len(field), 0, -1):
        if ".".join(field[:length]) in known:
            return [".".join(field[:length]), *field[length:]]
    reason = (
        f"input_contract= asks for {'.'.join(field)!r}, and {field[0]!r} is neither a parameter nor a node before it"
        f"{near_miss(field[0], known)}"
    )
    raise WorkflowError(reason, node=node)


def _output_check(node: Node) -> Check | None:
    contract, name = node.output_contract, node.name
    fields = required_of(contract)
    if not fields:
        return None if contract is None else compile_contract(contract, "output")

    def check(value: Any) -> tuple[str, str] | None:
        # A field may be named as others name it: with the node in front.
        named = {name: value} if not (isinstance(value, Mapping) and name in value) else value
        faults = (missing_field([field], named if field[0] == name else value) for field in fields)
        return next((fault for fault in faults if fault is not None), None)

    return check
