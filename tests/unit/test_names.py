"""Names of nodes, workflows and runs."""

from __future__ import annotations

from typing import Any

import pytest

from dagflow._names import check_node_name, check_run_id, check_workflow_name, near_miss
from dagflow.errors import InputError, WorkflowError

NO_NAMES = ["", " ", "a b", "a/b", "ä", "a\x00", "a\n", "\n", "x" * 129, "count[0]", None, 7, b"a"]
NO_RUN_IDS = ["", " ", "a b", "ä", "a\x00", "a\n", "\x1b[31m", "x" * 256, "a\u2028", None, 7, b"a"]


@pytest.mark.parametrize("name", ["a", "A-b_c.9", "x" * 128, ".", "-"])
def test_letters_digits_and_three_signs_make_a_name(name: Any) -> None:
    check_node_name(name)
    check_workflow_name(name)


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_no_node_can_have_is_refused_with_what_it_may_be(name: Any) -> None:
    with pytest.raises(WorkflowError, match="no name for a node: use 1 to 128 letters") as caught:
        check_node_name(name)

    assert caught.value.node == str(name)


@pytest.mark.parametrize("name", ["", " ", "a\x00", "a\n", "x" * 129, None, 7, b"a"])
def test_a_name_that_no_workflow_can_have_is_refused_with_what_it_may_be(name: Any) -> None:
    with pytest.raises(WorkflowError, match="no name for a workflow: use 1 to 128 printable characters") as caught:
        check_workflow_name(name)

    assert caught.value.workflow == str(name)


def test_a_workflow_may_have_any_printable_name() -> None:
    check_workflow_name("Bestellungen für Juli")


@pytest.mark.parametrize("run_id", ["a", "2030-01-01T00:00/parent/child.1_x", "x" * 255])
def test_a_run_id_may_be_a_path_and_a_time(run_id: Any) -> None:
    check_run_id(run_id, workflow="w")


@pytest.mark.parametrize("run_id", NO_RUN_IDS)
def test_an_id_that_no_run_can_have_is_refused_with_what_it_may_be(run_id: Any) -> None:
    with pytest.raises(InputError, match="no run id: use 1 to 255 letters") as caught:
        check_run_id(run_id, workflow="w")

    assert caught.value.workflow == "w"
    assert "\x1b" not in str(caught.value)


def test_a_near_miss_is_named() -> None:
    assert near_miss("extrat", ["load", "extract"]) == ", did you mean 'extract'?"


def test_nothing_is_suggested_when_nothing_looks_like_it() -> None:
    assert near_miss("zebra", ["load", "extract"]) == ""


def test_what_is_no_name_is_near_to_nothing() -> None:
    assert near_miss(print, ["print"]) == ""
