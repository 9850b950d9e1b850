"""What can happen to a run: the facts that the scheduler answers with events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import ErrorInfo
from dagflow.errors import NodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagflow._events import Payload
    from dagflow._state import NodeState

__all__ = ["Decided", "Elapsed", "Expanded", "Fact", "Judged", "Parked", "Raised", "Returned", "Signalled", "describe"]


_MAX_MESSAGE = 20_000


# One is made for every node, and making a frozen one takes three times as long.
@attrs.define
class Returned:
    """An attempt returned a value, which has been encoded."""

    node: NodeState
    attempt: int
    payload: Payload


@attrs.frozen
class Raised:
    """An attempt raised, or its value could not be kept; attempt 0: the node could not even be started.

    Attributes:
        node: The node.
        attempt: Number of the attempt.
        error: What is recorded of it.
        retryable: The node's policy names errors like this one.
        chance: A random number from -1 to 1, for the jitter of the next wait.
        cause: The exception itself, for those who wait in this process.
        contract: What is recorded of the contract that was broken, if one was.
        value: What broke it.
    """

    node: NodeState
    attempt: int
    error: ErrorInfo
    retryable: bool = False
    chance: float = 0.0
    cause: BaseException | None = None
    contract: dict[str, str] | None = None
    value: Payload | None = None


@attrs.frozen
class Judged:
    """The condition of a node said no."""

    node: NodeState
    condition: str
    values: dict[str, str]


@attrs.frozen
class Expanded:
    """A map knows its items: their keys, or how they lie in lists when their positions name them.

    Attributes:
        node: The map.
        keys: A key for each item; or their number; or, for nested lists, the lists of these numbers.
    """

    node: NodeState
    keys: Sequence[Any] | int


@attrs.frozen
class Elapsed:
    """The time that a node has waited for, or its deadline, has come."""

    node: NodeState


@attrs.frozen
class Parked:
    """The run that a node started waits for the outside world, and so does the node."""

    node: NodeState
    attempt: int
    run_id: str


@attrs.frozen
class Signalled:
    """A signal has come for the node of this name."""

    name: str
    payload: Payload | None
    message: int


@attrs.frozen
class Decided:
    """A review was decided.

    Attributes:
        name: The review.
        requested: Number of the event that asked for the review; a decision of an earlier request does not count.
        data: ``approved``, ``by``, ``at`` and ``comment``.
        output: What the review gives to those that wait for it.
        message: Number of the message that brought it.
    """

    name: str
    requested: int
    data: dict[str, Any]
    output: Payload
    message: int


Fact = Returned | Raised | Parked | Judged | Expanded | Elapsed | Signalled | Decided


def describe(error: BaseException, traceback: str = "") -> ErrorInfo:
    """Return what is recorded of an exception: of a very long text the beginning, and none where it cannot be had."""
    if isinstance(error, NodeError):
        # It stands for an exception that could not leave its process.
        return error.error
    cls = type(error)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    try:
        message = str(error)
    except BaseException:  # noqa: BLE001 - the user's __str__, which may even call sys.exit()
        message = "(its text cannot be shown)"
    return ErrorInfo(name, message if len(message) <= _MAX_MESSAGE else f"{message[:_MAX_MESSAGE]}...", traceback)
