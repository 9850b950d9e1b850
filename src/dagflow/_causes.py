"""The exception that stands for a failure that was recorded.

What a function raised is kept as text alone, and comes back as a `NodeError`. What dagflow itself decided about a node
is made again from the facts of the run, when these say the very same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dagflow.errors import InDoubtError, InterruptedTooOftenError, NodeError, NodeTimeoutError, ReviewRejectedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagflow._events import ErrorInfo
    from dagflow._state import NodeState

__all__ = ["recorded_cause"]


def recorded_cause(node: NodeState, error: ErrorInfo) -> Exception:
    """Return the exception for a failed node.

    Args:
        node: The node as it failed.
        error: What was recorded of its failure.
    """
    make = _VERDICTS.get(error.type)
    verdict = make(node, error) if make is not None else None
    return verdict if verdict is not None and str(verdict) == error.message else NodeError(node.name, error)


def _timeout(node: NodeState, error: ErrorInfo) -> NodeTimeoutError | None:
    match = _TOO_LONG.search(error.message)
    return None if match is None else NodeTimeoutError(node.name, float(match[1]), match[2] is not None)


def _rejection(node: NodeState, error: ErrorInfo) -> ReviewRejectedError:
    del error
    decision = node.decision or {}
    return ReviewRejectedError(node.name, decision.get("by"), decision.get("comment"))


def _interrupted(node: NodeState, error: ErrorInfo) -> InterruptedTooOftenError:
    del error
    return InterruptedTooOftenError(node.name, node.interruptions)


def _in_doubt(node: NodeState, error: ErrorInfo) -> InDoubtError:
    del error
    return InDoubtError(node.name)


_TOO_LONG = re.compile(r" took longer than (\d[\d.e+-]*) seconds( \(its call cannot be stopped.*)?$")
_VERDICTS: dict[str, Callable[[NodeState, ErrorInfo], Exception | None]] = {
    "dagflow.errors.InDoubtError": _in_doubt,
    "dagflow.errors.InterruptedTooOftenError": _interrupted,
    "dagflow.errors.NodeTimeoutError": _timeout,
    "dagflow.errors.ReviewRejectedError": _rejection,
}
