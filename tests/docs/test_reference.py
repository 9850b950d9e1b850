"""The reference leaves nothing out."""

from __future__ import annotations

import pytest

from dagflow import EventKind, NodeStatus, RunStatus, errors
from metrics_reference import PAGE, filled
from pages import ROOT

REFERENCE = ROOT / "docs" / "reference"


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_in_the_reference_and_in_the_tree(name: str) -> None:
    assert f"`{name}`" in (REFERENCE / "errors.md").read_text()
    assert name in (errors.__doc__ or "")


@pytest.mark.parametrize("word", [*EventKind, *NodeStatus, *RunStatus])
def test_every_status_and_event_is_in_the_reference(word: str) -> None:
    assert f"`{word}`" in (REFERENCE / "states-and-events.md").read_text()


def test_the_tables_of_metrics_and_alerts_are_those_of_the_collector_and_of_the_rules() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert page == filled(page), "stale: python tests/metrics_reference.py writes it anew"
