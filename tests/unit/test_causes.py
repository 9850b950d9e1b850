"""The exception that stands for a recorded failure."""

from __future__ import annotations

import pytest

from dagflow import ErrorInfo
from dagflow._causes import recorded_cause
from dagflow._facts import describe
from dagflow._states import NodeState
from dagflow.errors import (
    InDoubtError,
    InterruptedTooOftenError,
    NodeError,
    NodeTimeoutError,
    ReviewRejectedError,
)


@pytest.mark.parametrize(
    "verdict",
    [
        InDoubtError("pay"),
        InterruptedTooOftenError("pay", 5),
        NodeTimeoutError("pay", 0.05),
        NodeTimeoutError("pay", 1e6),
        NodeTimeoutError("pay", 3600, abandoned=True),
        ReviewRejectedError("pay", "ada", "no"),
    ],
)
def test_what_dagflow_decided_is_made_again_from_the_facts(verdict: Exception) -> None:
    node = NodeState("pay", 0, interruptions=5, decision={"by": "ada", "comment": "no"})

    cause = recorded_cause(node, describe(verdict))

    assert (type(cause), str(cause)) == (type(verdict), str(verdict))


@pytest.mark.parametrize(
    "error",
    [
        ErrorInfo("ValueError", "no"),
        ErrorInfo("dagflow.errors.InDoubtError", "of a function that raised it itself"),
        ErrorInfo("dagflow.errors.NodeTimeoutError", "of a function that raised it itself"),
        ErrorInfo("dagflow.errors.ReviewRejectedError", str(ReviewRejectedError("other", "ada", "no"))),
    ],
)
def test_anything_else_is_the_error_of_the_node(error: ErrorInfo) -> None:
    assert isinstance(recorded_cause(NodeState("pay", 0), error), NodeError)
