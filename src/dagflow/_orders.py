"""What a caller wants to be run, and whether a run that exists is that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from dagflow.errors import RunExistsError, WorkflowChangedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagflow._events import Payload
    from dagflow._plan import Plan, Shape
    from dagflow._state import RunState

__all__ = ["Order", "check_priority", "check_same", "check_wanted", "inputs_of", "is_asked_anew"]

_HIGHEST_PRIORITY = 2**31 - 1


# One is made for every run, and making a frozen one takes three times as long.
@attrs.define(eq=False)
class Order:
    """What a caller wants to be run; never changed after it was made.

    Attributes:
        plan: The workflow.
        inputs: Its inputs.
        priority: How urgent it is.
        asked_by: The attempt of a node that it is run for, as a sub-workflow.
    """

    plan: Plan
    inputs: Payload
    priority: int = 0
    asked_by: str | None = None

    def to_journal(self) -> Mapping[str, Any]:
        """Return what a journal says of it at its beginning."""
        opening = self.plan.opening
        return opening if self.asked_by is None else {**opening, "asked_by": self.asked_by}


def check_priority(priority: object) -> None:
    """Refuse what is no priority.

    Raises:
        ValueError: It is no whole number that every store can keep.
    """
    if type(priority) is not int or abs(priority) > _HIGHEST_PRIORITY:
        message = f"priority must be a whole number from -{_HIGHEST_PRIORITY} to {_HIGHEST_PRIORITY}, not {priority!r}"
        raise ValueError(message)


def inputs_of(state: RunState) -> Payload:
    """Return the inputs that a run was created with.

    Raises:
        RunExistsError: Its journal holds none.
    """
    if state.inputs is None:
        raise RunExistsError(state.run_id, "its journal holds no inputs")
    return state.inputs


def check_wanted(run_id: str, state: RunState, wanted: Order | Plan) -> Plan:
    """Return the plan, when the run is one of it."""
    if isinstance(wanted, Order):
        check_same(run_id, None, state, wanted)
        return wanted.plan
    change = _change(wanted.shape, state.shape)
    if change is not None:
        raise WorkflowChangedError("", wanted.workflow, None, run_id, *change)
    return wanted


def is_asked_anew(state: RunState, wanted: Order | Plan) -> bool:
    """Return whether another attempt of the parent's node wants the run than the one in its journal."""
    return isinstance(wanted, Order) and wanted.asked_by not in (None, state.asked_by)


def check_same(run_id: str, active: Order | None, state: RunState, wanted: Order) -> None:
    """Refuse to take a run for one of another workflow or with other inputs."""
    if state.workflow != wanted.plan.workflow:
        raise RunExistsError(run_id, f"it is a run of workflow {state.workflow!r}, not of {wanted.plan.workflow!r}")
    change = _change(wanted.plan.shape, state.shape)
    if change is not None and (active is None or active.plan is not wanted.plan):
        raise RunExistsError(run_id, str(WorkflowChangedError("", state.workflow, None, run_id, *change)))
    if state.inputs != wanted.inputs:
        raise RunExistsError(run_id, "it was started with other inputs: choose another run_id, or pass the same inputs")


def _change(new: Shape, old: Shape) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] | None:
    """Return which nodes were added, removed and rewired; ``None`` when nothing has changed."""
    if new is old:
        return None
    before, after = _arrows(old), _arrows(new)
    added = tuple(name for name in after if name not in before)
    removed = tuple(name for name in before if name not in after)
    rewired = tuple(name for name in after if name in before and before[name] != after[name])
    return (added, removed, rewired) if added or removed or rewired else None


def _arrows(shape: Shape) -> dict[str, tuple[str, frozenset[str]]]:
    return {
        name: (shape.kinds.get(index, ""), frozenset(shape.names[i] for i in sources))
        for index, (name, sources) in enumerate(zip(shape.names, shape.predecessors, strict=True))
    }
