"""What sort of node a node is, when it is more than one call of a function: a map, a wait, a run of another workflow.

Each is data that says of itself what is wrong with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dagflow._model import Workflow

__all__ = [
    "KINDS",
    "LONGEST_S",
    "ChildSpec",
    "MapSpec",
    "ReviewSpec",
    "SignalSpec",
    "SleepSpec",
    "WaitSpec",
    "between",
    "map_faults",
    "wait_faults",
    "whole",
]

LONGEST_S = 100 * 365 * 86_400.0
"""No wait is longer than a hundred years: a date beyond the year 9999 cannot be kept."""


def whole(value: object) -> bool:
    """Return whether a value is a whole number of at least 1."""
    return type(value) is int and value >= 1


def between(least: float, value: object, most: float) -> bool:
    """Return whether a value is a number in a range; NaN is in none."""
    return isinstance(value, int | float) and least <= value <= most


def _copied(over: Mapping[str, str]) -> Mapping[str, str]:
    return dict(over) if isinstance(over, Mapping) else over


@attrs.frozen
class MapSpec:
    """How a map makes its items.

    Attributes:
        over: For each parameter of the function, the node or input whose list it is taken from.
        limit: How many items run at a time, ``None`` for no limit.
        key: Function of an item that names it; the position names it otherwise.
        on_error: ``"fail"``: a failed item fails the map; ``"collect"``: an `ItemError` stands at its place.
        depth: How many levels of lists lie around an item.
    """

    over: Mapping[str, str] = attrs.field(converter=_copied)
    limit: int | None = None
    key: Callable[[Any], object] | None = None
    on_error: Literal["fail", "collect"] = "fail"
    depth: int = 1


@attrs.frozen
class SleepSpec:
    """A node that waits for a time, in seconds."""

    seconds: float


@attrs.frozen
class SignalSpec:
    """A node that waits for a signal of its own name, for ``timeout`` seconds at the most."""

    timeout: float | None = None


@attrs.frozen
class ReviewSpec:
    """A node that waits for a person; see ``Workflow.review`` for the fields."""

    form: Mapping[str, Any] | type | None = None
    assignees: tuple[str, ...] = ()
    deadline: float | None = None
    on_deadline: Literal["reject", "approve", "fail"] = "reject"
    on_reject: Literal["fail", "continue"] = "fail"

    def to_journal(self) -> dict[str, Any]:
        """Return what a process that does not know the workflow has to know to take a decision."""
        facts: dict[str, Any] = {"for": "review", "assignees": list(self.assignees)}
        if self.deadline is not None:
            facts["on_deadline"] = self.on_deadline
        if isinstance(self.form, type):
            facts["form_class"] = self.form.__qualname__
        elif self.form is not None:
            facts["form"] = dict(self.form)
        return facts


WaitSpec = SleepSpec | SignalSpec | ReviewSpec


@attrs.frozen
class ChildSpec:
    """A node whose work is a run of another workflow.

    Attributes:
        workflow: What is run.
        output: The node of it whose output is taken; ``None`` for all outputs by name.
    """

    workflow: Workflow
    output: str | None = None


KINDS: dict[type, str] = {SleepSpec: "timer", SignalSpec: "signal", ReviewSpec: "review"}


def map_faults(spec: MapSpec) -> Iterator[str]:
    """Yield what is wrong with a map, each as a sentence with the way out."""
    if not isinstance(spec.over, Mapping):
        yield f"over= takes a dictionary, for example {{'page': 'pages'}}, not {spec.over!r}"
        return
    if not spec.over:
        yield "over= must name at least one parameter"
    if not all(isinstance(name, str) for name in spec.over.values()):
        yield f"over= takes names, not {tuple(spec.over.values())!r}"
    if spec.limit is not None and not whole(spec.limit):
        yield f"limit= must be at least 1, or None for no limit, not {spec.limit!r}"
    if spec.key is not None and not callable(spec.key):
        yield f"key= must be callable, not {spec.key!r}"
    if not whole(spec.depth):
        yield f"depth= must be at least 1, not {spec.depth!r}"
    elif spec.depth > 1 and spec.key is not None:
        yield "key= names the items of one list: it does not go with depth="
    if spec.on_error not in ("fail", "collect"):
        yield f"on_error= must be 'fail' or 'collect', not {spec.on_error!r}"


def wait_faults(wait: WaitSpec) -> Iterator[str]:
    """Yield what is wrong with a node that waits, each as a sentence with the way out."""
    if not between(0, _wait_s(wait), LONGEST_S):
        seconds = _wait_s(wait)
        yield f"it cannot wait for fewer than 0 seconds, or for more than a hundred years, and not for {seconds!r}"
    if not isinstance(wait, ReviewSpec):
        return
    if wait.on_deadline not in ("reject", "approve", "fail") or wait.on_reject not in ("fail", "continue"):
        yield "on_deadline= must be 'reject', 'approve' or 'fail', and on_reject= 'fail' or 'continue'"
    if not all(isinstance(name, str) and name for name in wait.assignees):
        yield f"assignees= takes names, not {wait.assignees!r}"
    if not (wait.form is None or isinstance(wait.form, type) or _is_json_object(wait.form)):
        yield f"form= must be an attrs class, a dataclass or a JSON Schema, not {wait.form!r}"


def _is_json_object(value: object) -> bool:
    try:
        return isinstance(value, Mapping) and bool(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError):
        return False


def _wait_s(wait: WaitSpec) -> float:
    """Return the seconds that a node waits at the most, 0 for no limit."""
    if isinstance(wait, SleepSpec):
        return wait.seconds
    return (wait.timeout if isinstance(wait, SignalSpec) else wait.deadline) or 0.0
