"""Holds what enters and leaves a node against its contracts, and keeps what broke one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._results import PhaseResult, output_of
from dagflow.errors import ContractError, SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dagflow._events import Payload
    from dagflow._guards import Guard
    from dagflow.contracts import Check
    from dagflow.protocols import Codec, Meter

__all__ = ["Broken", "enter", "kept", "leave"]

_MOST_BYTES = 64 * 1024
_MOST_PARTS = 200
_MOST_CHARACTERS = 200
_LARGE = 2**63


@attrs.frozen
class Broken:
    """A contract that was broken, and the value that did so."""

    error: ContractError
    value: Any

    @property
    def facts(self) -> dict[str, str]:
        """What its event says of it."""
        error = self.error
        facts = {"node": error.node, "direction": error.direction, "path": error.path, "reason": error.reason}
        return {**facts, "value": _text_of(self.value)}


def enter(
    guard: Guard,
    node: str,
    arguments: Mapping[str, Any],
    outputs: Callable[[Iterable[str]], Mapping[str, Any]],
    meter: Meter | None,
) -> Broken | None:
    """Look at what a function is about to get; ``None``: nothing is wrong with it.

    Args:
        guard: The contracts.
        node: Name of the node or item.
        arguments: By parameter, without the context and the executor's resources.
        outputs: Returns what upstream nodes that completed have returned, by their names.
        meter: Counts the check.
    """
    if guard.input is None:
        return None
    values = {name: output_of(value) for name, value in arguments.items()}
    if guard.upstream:
        more = {name: output_of(value) for name, value in outputs(guard.upstream).items()}
        values = {**more, **values}
    return _held(guard.input, values, node, "input", meter)


def leave(guard: Guard, node: str, value: Any, meter: Meter | None) -> Broken | None:
    """Look at what a function returned; ``None``: nothing is wrong with it. The score of a phase is counted."""
    if meter is not None and guard.phase is not None and type(value) is PhaseResult and value.quality_score is not None:
        meter.record_quality_score(guard.phase, value.quality_score)
    return None if guard.output is None else _held(guard.output, output_of(value), node, "output", meter)


def _held(check: Check, value: Any, node: str, direction: str, meter: Meter | None) -> Broken | None:
    begun = time.perf_counter()
    fault = check(value)
    if meter is not None:
        meter.record_contract_validation(direction, fault is None, time.perf_counter() - begun)
    return None if fault is None else Broken(ContractError(node, direction, *fault), value)


def kept(value: Any, codec: Codec) -> Payload | None:
    """Return a value for the event of its error: whole, or what can be kept of it when it is large or of any type."""
    try:
        payload = codec.encode(value)
        if len(payload.data) <= _MOST_BYTES:
            return payload
    except SerializationError:
        pass
    try:
        return codec.encode(_sketch(value, [_MOST_PARTS]))
    except SerializationError:
        return None


def _sketch(value: Any, budget: list[int]) -> Any:
    budget[0] -= 1
    if isinstance(value, Mapping):
        return {str(key)[:_MOST_CHARACTERS]: _sketch(part, budget) for key, part in value.items() if budget[0] > 0}
    if isinstance(value, list | tuple):
        return [_sketch(part, budget) for part in value if budget[0] > 0]
    if value is None or type(value) in (bool, float) or (type(value) is int and abs(value) < _LARGE):
        return value
    return _text_of(value) if type(value) is not str else _cut(value)


def _text_of(value: Any) -> str:
    """Return a value as a text that fits a few lines."""
    try:
        return _cut(repr(value))
    except Exception:  # noqa: BLE001 - the user's __repr__
        return f"<{type(value).__qualname__}>"


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
