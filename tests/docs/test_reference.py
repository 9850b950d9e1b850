"""The reference leaves nothing out."""

from __future__ import annotations

import pytest

from dagflow import EventKind, NodeStatus, RunStatus, errors
from pages import ROOT

REFERENCE = ROOT / "docs" / "reference"


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_in_the_reference_and_in_the_tree(name: str) -> None:
    assert f"`{name}`" in (REFERENCE / "errors.md").read_text()
    assert name in (errors.__doc__ or "")


@pytest.mark.parametrize("word", [*EventKind, *NodeStatus, *RunStatus])
def test_every_status_and_event_is_in_the_reference(word: str) -> None:
    assert f"`{word}`" in (REFERENCE / "states-and-events.md").read_text()
