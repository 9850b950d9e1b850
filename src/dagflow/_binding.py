"""Where the parameters of a function get their values: from an upstream node, an input, an item, or the context.

Functions are read here once, when a workflow is checked; nothing on the way of a run looks at a signature.
"""

from __future__ import annotations

import enum
import functools
import inspect
import types
import typing
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._names import near_miss
from dagflow._node import Node, NodeContext
from dagflow.errors import WorkflowError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from dagflow._specs import ChildSpec

__all__ = ["Parameter", "Signatures", "Source", "SourceKind", "bind_condition", "bind_node", "is_async"]


class SourceKind(enum.Enum):
    """What a parameter is bound to."""

    NODE = "node"
    INPUT = "input"
    ITEM = "item"
    CONTEXT = "context"


@attrs.frozen
class Source:
    """Where one parameter gets its value.

    Attributes:
        parameter: Name of the parameter.
        kind: An input that the run was not given may also be one of the executor's resources.
        name: Name of the node or input; for an item, of the one whose list it is taken from.
        optional: The parameter has a default, so the source may be missing.
    """

    parameter: str
    kind: SourceKind
    name: str
    optional: bool = False


@attrs.frozen
class Parameter:
    """One parameter of a function, as far as binding needs it."""

    name: str
    optional: bool
    is_context: bool


class Signatures:
    """Reads the parameters of functions, each function once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Callable[..., Any], tuple[Parameter, ...]]] = {}

    def of(self, function: Callable[..., Any], *, node: str) -> tuple[Parameter, ...]:
        """Return the parameters of a function.

        Raises:
            WorkflowError: It takes ``*args``, ``**kwargs`` or positional-only parameters, or cannot be inspected.
        """
        known = self._known.get(id(function))
        if known is None:
            known = self._known[id(function)] = (function, _parameters(function, node))
        return known[1]


def _parameters(function: Callable[..., Any], node: str) -> tuple[Parameter, ...]:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError) as exc:
        reason = f"the parameters of {function!r} cannot be read: wrap it in a function of its own"
        raise WorkflowError(reason, node=node) from exc
    contexts = _context_parameters(function, signature)
    # One that has no name and need not be given stays unbound.
    parameters = [p for p in signature.parameters.values() if p.kind is not p.POSITIONAL_ONLY or p.default is p.empty]
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            reason = f"parameter {str(parameter)!r} cannot be bound by name: give each parameter a name of its own"
            raise WorkflowError(reason, node=node)
    return tuple(Parameter(p.name, p.default is not p.empty, p.name in contexts) for p in parameters)


def _context_parameters(function: Callable[..., Any], signature: inspect.Signature) -> set[str]:
    """Return the names of the parameters that are annotated ``NodeContext``, as a class or as a string."""
    annotations = {name: p.annotation for name, p in signature.parameters.items() if p.annotation is not p.empty}
    if any(isinstance(annotation, str) for annotation in annotations.values()):
        annotations |= _resolved(function)
    return {name for name, annotation in annotations.items() if _is_context(annotation) or _says_context(annotation)}


def _resolved(function: Callable[..., Any]) -> dict[str, Any]:
    target = function if inspect.isroutine(function) else getattr(function, "func", type(function).__call__)
    try:
        return typing.get_type_hints(target)
    except Exception:  # noqa: BLE001 - evaluates the user's annotations, which may name what is imported for types only
        return {}


def _is_context(annotation: object) -> bool:
    """Return whether an annotation is ``NodeContext``, perhaps one of several, or with something said about it."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        return any(map(_is_context, typing.get_args(annotation)))
    return annotation is NodeContext


def _says_context(annotation: object) -> bool:
    return isinstance(annotation, str) and annotation.rpartition(".")[2].strip("'\" ") == "NodeContext"


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether calling the function gives a coroutine; an object may say so by an attribute ``is_async``."""
    while isinstance(function, functools.partial):
        function = function.func
    said = getattr(function, "is_async", None)
    if isinstance(said, bool):
        return said
    # Of the class, because a class that makes such objects has their method as an attribute of its own.
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def bind_node(node: Node, nodes: Container[str], signatures: Signatures) -> tuple[Source, ...]:
    """Return where each parameter of the node's function gets its value.

    Raises:
        WorkflowError: A parameter is bound twice or by a name that the function does not have, or may stay without
            a value that it needs.
    """
    parameters = _child_parameters(node.child) if node.child else signatures.of(node.function, node=node.name)
    over: Mapping[str, str] = node.map.over if node.map else {}
    _check_names(node, "bind", node.bind, parameters)
    _check_names(node, "over", over, parameters)
    for name in over:
        if name in node.bind:
            raise WorkflowError(f"parameter {name!r} is bound twice, by bind= and by over=", node=node.name)
    sources = tuple(_source(p, node, nodes, over) for p in parameters)
    _check_defaults(node, sources, nodes)
    if node.heartbeat_timeout is not None and all(source.kind is not SourceKind.CONTEXT for source in sources):
        reason = "heartbeat_timeout= needs a parameter annotated NodeContext, on which to call heartbeat()"
        raise WorkflowError(reason, node=node.name)
    return sources


def _child_parameters(child: ChildSpec) -> tuple[Parameter, ...]:
    """Return the inputs of a sub-workflow, which are bound like the parameters of a function."""
    inputs = child.workflow.compile().inputs
    return tuple(Parameter(name, optional, is_context=False) for name, optional in inputs.items())


def bind_condition(node: Node, nodes: Container[str], signatures: Signatures) -> tuple[Source, ...]:
    """Return where each parameter of the node's ``when=`` gets its value.

    Raises:
        WorkflowError: It asks for an item of the map, which does not exist yet when the condition is judged.
    """
    if node.when is None:
        return ()
    parameters = signatures.of(node.when, node=node.name)
    taken = sorted({p.name for p in parameters} & set(node.map.over if node.map else ()))
    if taken:
        reason = f"when= is judged once for the whole map and cannot take the item {taken[0]!r}: bind the list instead"
        raise WorkflowError(reason, node=node.name)
    sources = tuple(_source(p, node, nodes, {}) for p in parameters)
    _check_defaults(node, sources, nodes)
    return sources


def _source(parameter: Parameter, node: Node, nodes: Container[str], over: Mapping[str, str]) -> Source:
    name, optional = parameter.name, parameter.optional
    if name in over:
        return Source(name, SourceKind.ITEM, over[name])
    if parameter.is_context and name not in node.bind:
        return Source(name, SourceKind.CONTEXT, name)
    target = node.bind.get(name, name)
    kind = SourceKind.NODE if target in nodes else SourceKind.INPUT
    return Source(name, kind, target, optional)


def _check_names(node: Node, option: str, given: Iterable[str], parameters: Iterable[Parameter]) -> None:
    known = [p.name for p in parameters]
    for name in given:
        if name not in known:
            whose = f"input of workflow {node.child.workflow.name!r}" if node.child else "parameter of its function"
            reason = f"{option}= names {name!r}, which is no {whose}{near_miss(name, known)}"
            raise WorkflowError(reason, node=node.name)


def _check_defaults(node: Node, sources: Iterable[Source], nodes: Container[str]) -> None:
    """A join that lets a node run without an output asks for something that stands in for it."""
    if node.join == "all_success":
        return
    for source in sources:
        why = f"because {source.name!r} may end without an output"
        if source.kind is SourceKind.NODE and not source.optional:
            reason = f"with join={node.join!r} parameter {source.parameter!r} needs a default, {why}"
            raise WorkflowError(reason, node=node.name)
        if source.kind is SourceKind.ITEM and source.name in nodes:
            reason = f"with join={node.join!r} it cannot map over a node, {why}: map over one between with a default"
            raise WorkflowError(reason, node=node.name)
