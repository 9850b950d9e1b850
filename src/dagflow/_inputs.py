"""The inputs of a run, checked before anything is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._names import near_miss
from dagflow.errors import InputError, SerializationError

if TYPE_CHECKING:
    from collections.abc import Container

    from dagflow._events import Payload
    from dagflow._plan import Plan
    from dagflow.protocols import Codec

__all__ = ["encode_inputs"]


def encode_inputs(
    plan: Plan, inputs: Mapping[str, Any] | None, *, resources: Container[str], codec: Codec, run_id: str | None
) -> Payload:
    """Check the inputs of a run and return them as one payload, in the order of their names.

    Raises:
        InputError: Some are missing, or nothing takes them.
        SerializationError: One of them cannot be kept.
    """
    inputs = {} if inputs is None else inputs
    if not isinstance(inputs, Mapping):
        reason = f"inputs are a dictionary by name, not {type(inputs).__name__}: pass {{'name': value}}"
        raise InputError(plan.workflow, reason=reason)
    if inputs.keys() != plan.inputs.keys():
        _check_names(plan, inputs, resources)
    try:
        return codec.encode({name: inputs[name] for name in sorted(inputs)})
    except SerializationError as exc:
        raise attrs.evolve(exc, run_id=run_id) from None


def _check_names(plan: Plan, inputs: Mapping[str, Any], resources: Container[str]) -> None:
    known = [*plan.inputs, *plan.shape.names]
    unexpected = tuple(_explain(name, plan, known) for name in inputs if name not in plan.inputs)
    needed = (name for name, optional in plan.inputs.items() if not optional and name not in resources)
    missing = tuple(f"{name!r}{near_miss(name, plan.shape.names)}" for name in needed if name not in inputs)
    if unexpected or missing:
        raise InputError(plan.workflow, missing, unexpected)


def _explain(name: object, plan: Plan, known: list[str]) -> str:
    if not isinstance(name, str):
        return f"{name!r}, which is no name"
    if name in plan.shape.names:
        return f"{name!r}, which is the name of a node"
    return f"{name!r}{near_miss(name, known)}"
