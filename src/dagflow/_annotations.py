"""Whether what a node says it returns can be what a parameter says it takes.

Only what is certain counts: a pair of types that no value of the one can satisfy the other, ``list[str]`` and
``list[int]`` among them. What is not annotated, or says ``Any``, fits everything.
"""

from __future__ import annotations

import collections
import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from dagflow._binding import Source, SourceKind
from dagflow._hints import UNIONS, bare, is_typed_dict, name_of
from dagflow.errors import WorkflowError

if TYPE_CHECKING:
    from dagflow._node import Node

__all__ = ["Annotations", "clash"]

_NUMBERS = {int: (float, complex), float: (complex,)}
# What a value may be besides whatever else it is: a list is sized, and one to be iterated over.
_TRAITS = (
    collections.abc.Hashable,
    collections.abc.Sized,
    collections.abc.Iterable,
    collections.abc.Container,
    collections.abc.Reversible,
)
_PAIR = 2


class Annotations:
    """Reads the annotations of functions, each function once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, Mapping[str, Any]]] = {}

    def check(
        self, node: Node, function: Callable[..., Any], sources: Iterable[Source], nodes: Mapping[str, Node]
    ) -> None:
        """Compare the parameters of a function with what they are bound to.

        Args:
            node: The node whose function, or condition, it is.
            function: The function.
            sources: Where its parameters get their values.
            nodes: All nodes by name.

        Raises:
            WorkflowError: A parameter is bound to a node that returns something else.
        """
        for source in sources:
            upstream = nodes.get(source.name)
            if upstream is None or source.kind not in (SourceKind.NODE, SourceKind.ITEM):
                continue
            taken = self._of(function).get(source.parameter, Any)
            if taken is Any:
                continue
            given = self._output(upstream)
            if source.kind is SourceKind.ITEM:
                for _ in range(node.map.depth if node.map else 1):
                    given = _element(given)
            if _certainly_clash(given, taken):
                reason = (
                    f"its parameter {source.parameter!r} takes {name_of(taken)} and is bound to {source.name!r}, "
                    f"which gives {name_of(given)}: correct one of the annotations, or the binding"
                )
                raise WorkflowError(reason, node=node.name)

    def _output(self, node: Node) -> Any:
        """Return the type of a node's output, as far as it is annotated."""
        if node.wait is not None or node.child is not None:
            return Any
        hint = _awaited(self._of(node.function).get("return", Any))
        if node.map is None or hint is Any:
            return hint
        for _ in range(node.map.depth):
            hint = types.GenericAlias(list, (hint,))
        return Any if node.map.on_error == "collect" else hint

    def _of(self, function: Callable[..., Any]) -> Mapping[str, Any]:
        known = self._known.get(id(function))
        if known is None:
            known = self._known[id(function)] = (function, _read(function))
        return known[1]


def _read(function: Any) -> dict[str, Any]:
    target = function
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isroutine(target):
        target = type(target).__call__
    # One that names what does not exist at run time leaves the others as they are.
    scope = getattr(inspect.unwrap(target), "__globals__", {})
    hints = {}
    for name, annotation in getattr(target, "__annotations__", {}).items():
        try:
            alone = types.SimpleNamespace(__annotations__={name: annotation})
            hints[name] = typing.get_type_hints(alone, globalns=scope)[name]
        except Exception:  # noqa: BLE001 - evaluates the user's annotations
            hints[name] = Any
    return hints


def _awaited(hint: Any) -> Any:
    origin = typing.get_origin(hint)
    if not isinstance(origin, type):
        return hint
    if issubclass(origin, Awaitable):
        return typing.get_args(hint)[-1]
    return hint


def _element(hint: Any) -> Any:
    """Return the type of the elements of what a map is over."""
    hint = bare(hint)
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if not isinstance(origin, type) or not issubclass(origin, Iterable) or issubclass(origin, Mapping):
        return Any
    if issubclass(origin, tuple):
        return options[0] if len(options) == _PAIR and options[1] is Ellipsis else Any
    return options[0] if len(options) == 1 else Any


def _certainly_clash(given: Any, taken: Any) -> bool:
    try:
        return clash(given, taken)
    except RecursionError:
        # Two aliases that name themselves.
        return False


def clash(given: Any, taken: Any) -> bool:
    """Return whether no value of one type can be one of the other."""
    given, taken = bare(given), bare(taken)
    if given == taken:
        return False
    ways_in, ways_out = _options(taken), _options(given)
    if len(ways_in) > 1 or len(ways_out) > 1:
        return all(clash(out, into) for out in ways_out for into in ways_in)
    given, taken = ways_out[0], ways_in[0]
    kind, other = _kind(given), _kind(taken)
    if kind is None or other is None:
        return False
    return not _related(kind, other) or _parts_clash((kind, typing.get_args(given)), (other, typing.get_args(taken)))


def _options(hint: Any) -> list[Any]:
    origin = typing.get_origin(hint)
    if origin in UNIONS:
        return list(typing.get_args(hint))
    if origin is typing.Literal:
        return list(dict.fromkeys(type(value) for value in typing.get_args(hint)))
    return [hint]


def _kind(hint: Any) -> type | None:
    """Return the class behind a hint, ``None`` for one that may be anything."""
    kind = typing.get_origin(hint) or hint
    if not isinstance(kind, type) or kind is object or kind is Any or getattr(kind, "_is_protocol", False):
        return None
    return dict if is_typed_dict(kind) else kind


def _related(kind: type, other: type) -> bool:
    if (kind in _TRAITS and inspect.isabstract(other)) or (other in _TRAITS and inspect.isabstract(kind)):
        return True
    try:
        is_number = any(issubclass(kind, number) and other in wider for number, wider in _NUMBERS.items())
        return issubclass(kind, other) or issubclass(other, kind) or is_number
    except TypeError:
        return True


def _parts_clash(given: tuple[type, tuple[Any, ...]], taken: tuple[type, tuple[Any, ...]]) -> bool:
    """Compare what containers contain."""
    (kind, parts), (other, others) = given, taken
    if not parts or not others or not (_is_container(kind) and _is_container(other)):
        return False
    if issubclass(kind, tuple) and issubclass(other, tuple):
        return _tuples_clash(parts, others)
    if issubclass(kind, tuple):
        return all(clash(part, others[0]) for part in parts if part is not Ellipsis)
    return any(clash(part, wanted) for part, wanted in zip(parts, others, strict=False))


def _tuples_clash(parts: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    if Ellipsis in parts or Ellipsis in others:
        pairs = [(p, o) for p in parts for o in others if p is not Ellipsis and o is not Ellipsis]
        return all(clash(part, wanted) for part, wanted in pairs)
    return len(parts) != len(others) or any(clash(p, o) for p, o in zip(parts, others, strict=True))


def _is_container(kind: type) -> bool:
    """Return whether the parameters of a type are those of its elements, or of its keys and values."""
    is_known = kind.__module__ in ("builtins", "collections", "collections.abc")
    return is_known and issubclass(kind, collections.abc.Iterable) and kind is not collections.ChainMap
