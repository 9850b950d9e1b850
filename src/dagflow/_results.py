"""What an engine's phase leaves behind, as it is kept in the output of its node."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PhaseResult", "is_fraction", "output_of", "phase_of"]


def is_fraction(value: object) -> bool:
    """Return whether a value is a number from 0 to 1; NaN and booleans are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and 0 <= float(value) <= 1


def _plain(value: Any) -> Any:
    """Return a mapping of any sort as a dictionary, which every codec keeps."""
    if isinstance(value, PhaseResult):
        return value.output
    return dict(value) if isinstance(value, Mapping) else value


def _named(value: Any) -> Any:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return list(value)
    raise TypeError(f"artifacts and contracts are mappings by name, or lists, not {type(value).__name__}")


def _score(value: Any) -> float | None:
    if value is None:
        return None
    if not is_fraction(value):
        raise ValueError(f"quality_score is a fraction from 0 to 1, not {value!r}: divide per cent by 100")
    return float(value)


@attrs.frozen(eq=False)
class PhaseResult(Mapping[str, Any]):
    """What a phase came to; an engine returns it when it has more to say than an output.

    It is the output of the phase's node, kept whole. It reads like its output: ``result["tables"]`` is
    ``result.output["tables"]``, and it is equal to its output.

    Attributes:
        output: What the phase made, usually a dictionary.
        artifacts: Files and the like, by name.
        quality_score: From 0 to 1; ``None`` when nothing was measured.
        contracts: What the phase promises to later ones, by name.
    """

    output: Any = attrs.field(factory=dict, converter=_plain)
    artifacts: Any = attrs.field(default=None, converter=_named)
    quality_score: float | None = attrs.field(default=None, converter=_score)
    contracts: Any = attrs.field(default=None, converter=_named)

    def __getitem__(self, key: Any) -> Any:
        return self.output[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.output)

    def __len__(self) -> int:
        return len(self.output)

    def __bool__(self) -> bool:
        return bool(self.output)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PhaseResult):
            return bool(self.output == other)
        mine = (self.output, self.artifacts, self.quality_score, self.contracts)
        return mine == (other.output, other.artifacts, other.quality_score, other.contracts)

    __hash__ = None  # type: ignore[assignment]


def output_of(value: Any) -> Any:
    """Return the output of a phase's result, and every other value as it is."""
    return value.output if type(value) is PhaseResult else value


def phase_of(function: Any) -> str | None:
    """Return the name of the phase that a function of a node executes, ``None`` for any other function."""
    return function.phase_name if getattr(function, "is_phase", False) is True else None
