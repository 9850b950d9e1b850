"""Contracts: what a value that enters or leaves a node has to look like.

A contract is a JSON Schema (a mapping; extra ``schema``), a type (an attrs class, a dataclass, a model of pydantic, a
type hint), or a list of required fields (``["design.api_specification"]``). `Node` takes them as ``input_contract=``
and ``output_contract=``; `check` holds a value against one by itself, for tests.

A contract looks at a value and changes nothing: what is recorded, and what a function gets, is the value itself.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from dagflow._hints import fault_of
from dagflow._schemas import BadSchemaError, compile_schema
from dagflow.errors import ContractError

__all__ = ["Contract", "check"]

Contract = Mapping[str, Any] | Iterable[str] | type
"""A JSON Schema, a list of required fields, or a type; type hints count as types."""

Check = Callable[[Any], tuple[str, str] | None]
"""Tells where a value breaks a contract, and why; ``None``: it keeps it."""

_MISSING = object()


def check(value: Any, contract: Contract, *, node: str = "", direction: str = "output") -> None:
    """Hold a value against a contract.

    Example:
        >>> from dagflow.contracts import check
        >>> check({"words": 3}, {"type": "object", "required": ["words"]})
        >>> check(["a", 2], list[str], node="pages")
        Traceback (most recent call last):
        ...
        dagflow.errors.ContractError: node 'pages': the output breaks its contract at $[1]: it asks for str, not int

    Args:
        value: The value; for an input contract, the mapping of parameters to values.
        contract: What it has to look like.
        node: The node, for the error.
        direction: ``"input"`` or ``"output"``.

    Raises:
        ContractError: It does not.
        ValueError: The contract itself is wrong.
        MissingExtraError: It is a JSON Schema, and jsonschema is not installed.
    """
    fault = compile_contract(contract, direction)(value)
    if fault is not None:
        raise ContractError(node, direction, *fault)


def compile_contract(contract: Any, direction: str) -> Check:
    """Return the function that holds values against a contract.

    Raises:
        ValueError: It is none; the text says why.
        MissingExtraError: It is a JSON Schema, and jsonschema is not installed.
    """
    if isinstance(contract, Mapping):
        try:
            return compile_schema(contract, "a contract that is a JSON Schema")
        except BadSchemaError as exc:
            raise ValueError(f"it is no JSON Schema: {exc}") from None
    fields = required_of(contract)
    if fields is not None:
        return lambda value: missing_field(fields, value)
    if not _is_hint(contract):
        raise ValueError(f"it is a JSON Schema, a type, or a list of required fields, not {contract!r}")
    if direction == "input" and (attrs.has(contract) or dataclasses.is_dataclass(contract)):
        return lambda value: fault_of(contract, _asked_for(contract, value))
    return lambda value: fault_of(contract, value)


def required_of(contract: Any) -> list[list[str]] | None:
    """Return the paths of a contract that is a list of required fields, ``None`` for any other.

    Raises:
        ValueError: They are not what a list of fields holds.
    """
    if not isinstance(contract, list | tuple | set | frozenset):
        return None
    for field in contract:
        if not isinstance(field, str) or not all(field.split(".")):
            raise ValueError(f"a list of required fields holds names such as 'design.tables', not {field!r}")
    return [field.split(".") for field in contract]


def _is_hint(contract: Any) -> bool:
    return (
        isinstance(contract, type)
        or contract is Any
        or typing.get_origin(contract) is not None
        or (type(contract).__module__ in ("typing", "typing_extensions") and not isinstance(contract, str))
    )


def _asked_for(kind: Any, values: Any) -> Any:
    """Return the parameters that a class names: a contract says nothing of others, as in a JSON Schema."""
    if not isinstance(values, Mapping):
        return values
    if attrs.has(kind):
        names = {field.alias or field.name for field in attrs.fields(kind)}
    else:
        names = {field.name for field in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def missing_field(fields: Iterable[list[str]], value: Any) -> tuple[str, str] | None:
    """Return the first of these paths that a value does not have, and what to say of it."""
    for field in fields:
        found = value
        for depth, name in enumerate(field, start=1):
            found = _member(found, name)
            if found is _MISSING:
                return "$." + ".".join(field[:depth]), f"the required field {'.'.join(field)!r} is missing"
    return None


def _member(value: Any, name: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(name, _MISSING)
    if isinstance(value, list | tuple) and name.isdecimal():
        return value[int(name)] if int(name) < len(value) else _MISSING
    return getattr(value, name, _MISSING) if _has_fields(value) else _MISSING


def _has_fields(value: Any) -> bool:
    return attrs.has(type(value)) or dataclasses.is_dataclass(value) or hasattr(type(value), "model_fields")
