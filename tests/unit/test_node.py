"""A node as data, and when its failed attempts are repeated."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dagflow import Workflow
from dagflow._node import ChildSpec, MapSpec, Node, NodeType, RetryPolicy, ReviewSpec, SignalSpec, SleepSpec
from dagflow.errors import WorkflowError

# Callers without a type checker.
untyped_map: Any = MapSpec
untyped_review: Any = ReviewSpec
untyped_sleep: Any = SleepSpec


def work() -> None:
    """Do nothing."""


class TestNode:
    def test_a_node_without_options_is_called_once_and_needs_all_that_it_depends_on(self) -> None:
        node = Node("a", work)

        assert (node.retry.max_attempts, node.join, node.kind, node.type) == (1, "all_success", "function", "custom")
        assert node.depends_on == ()

    @pytest.mark.parametrize("option", ["depends_on", "uses"])
    def test_one_name_stands_for_a_list_of_one(self, option: str) -> None:
        one: dict[str, Any] = {option: "load"}
        two: dict[str, Any] = {option: ["load", "save"]}

        assert getattr(Node("a", work, **one), option) == ("load",)
        assert getattr(Node("a", work, **two), option) == ("load", "save")

    def test_a_number_is_short_for_a_retry_policy(self) -> None:
        assert Node("a", work, retry=4).retry == RetryPolicy(max_attempts=4)

    def test_a_policy_is_taken_as_it_is(self) -> None:
        policy = RetryPolicy(max_attempts=2, delay=0.5)

        assert Node("a", work, retry=policy).retry is policy

    def test_a_node_does_not_change_with_the_dictionaries_that_it_was_made_of(self) -> None:
        bind = {"x": "load"}
        node = Node("a", work, bind=bind, config={"k": 1})
        bind["x"] = "other"

        assert node.bind == {"x": "load"}
        with pytest.raises(TypeError):
            node.config["k"] = 2  # type: ignore[index]
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            node.name = "b"  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("options", "kind"),
        [
            ({}, "function"),
            ({"map": MapSpec({"x": "xs"})}, "map"),
            ({"wait": SleepSpec(1)}, "timer"),
            ({"wait": SignalSpec()}, "signal"),
            ({"wait": ReviewSpec()}, "review"),
        ],
    )
    def test_a_node_knows_what_it_is(self, options: dict[str, Any], kind: str) -> None:
        assert Node("a", work, **options).kind == kind

    def test_the_type_is_a_label_that_may_be_any_text(self) -> None:
        assert Node("a", work, type="model").type == "model"
        assert Node("a", work, type=NodeType.PHASE).type == "phase"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"function": "work"}, "its function must be callable, not 'work'"),
            ({"function": None}, "its function must be callable"),
            ({"when": True}, "when= must be callable, not True"),
            ({"timeout": 0}, "timeout= is in seconds and must be above 0"),
            ({"timeout": -1.5}, "timeout= is in seconds and must be above 0"),
            ({"timeout": float("nan")}, "timeout= is in seconds and must be above 0"),
            ({"timeout": "30"}, "timeout= is in seconds and must be above 0"),
            ({"join": "any"}, "join='any' is none of all_success, all_done, any_success, none_failed"),
            ({"effects": "twice"}, "effects='twice' is neither 'idempotent' nor 'at_most_once'"),
            ({"reconcile": work}, "reconcile= is a function, for nodes with effects='at_most_once'"),
            ({"reconcile": 1, "effects": "at_most_once"}, "reconcile= is a function"),
            ({"max_interruptions": 0}, "max_interruptions= must be at least 1, not 0"),
            ({"max_interruptions": "5"}, "max_interruptions= must be at least 1, not '5'"),
            ({"map": untyped_map({})}, "over= must name at least one parameter"),
            ({"map": untyped_map({"x": "xs"}, limit=0)}, "limit= must be at least 1, or None for no limit"),
            ({"map": untyped_map({"x": "xs"}, limit="2")}, "limit= must be at least 1, or None for no limit"),
            ({"map": untyped_map({"x": "xs"}, key="id")}, "key= must be callable, not 'id'"),
            ({"uses": 3}, "uses= takes names, not (3,)"),
            ({"wait": SleepSpec(1), "retry": 3}, "retry= is for nodes that call a function, this one is a timer"),
            ({"wait": SignalSpec(), "runner": "loop"}, "runner= is for nodes that call a function"),
            ({"wait": ReviewSpec(), "timeout": 5}, "this one is a review: use deadline="),
            ({"wait": untyped_review(assignees=("ada", ""))}, "assignees= takes names, not ('ada', '')"),
            ({"wait": untyped_review(form=["amount"])}, "form= must be an attrs class, a dataclass or a JSON Schema"),
            ({"wait": ReviewSpec(form={"enum": {1, 2}})}, "form= must be an attrs class, a dataclass or a JSON Schema"),
            ({"child": ChildSpec(Workflow("c")), "timeout": 5}, "timeout= is for nodes that call a function"),
            ({"wait": SleepSpec(float("inf"))}, "more than a hundred years"),
            ({"map": untyped_map({"x": "xs"}, depth=0)}, "depth= must be at least 1, not 0"),
            ({"map": untyped_map({"x": "xs"}, depth=2, key=str)}, "key= names the items of one list"),
            ({"map": untyped_map({"x": "xs"}, on_error="skip")}, "on_error= must be 'fail' or 'collect'"),
            ({"map": untyped_map({"x": ["xs"]})}, "over= takes names, not"),
            ({"bind": {"x": work}}, "bind= takes names, not"),
            ({"depends_on": [work]}, "depends_on= takes names, not"),
            ({"map": untyped_map(["xs"])}, "over= takes a dictionary, for example {'page': 'pages'}, not ['xs']"),
            ({"wait": untyped_sleep("1")}, "for more than a hundred years, and not for '1'"),
            ({"wait": SleepSpec(-1)}, "cannot wait for fewer than 0 seconds"),
            ({"wait": SignalSpec(-1)}, "cannot wait for fewer than 0 seconds"),
            ({"wait": untyped_review(deadline=-1)}, "cannot wait for fewer than 0 seconds"),
            ({"wait": untyped_review(on_deadline="wait")}, "on_deadline= must be 'reject', 'approve' or 'fail'"),
            ({"wait": untyped_review(on_reject="stop")}, "on_reject= 'fail' or 'continue'"),
        ],
    )
    def test_an_option_out_of_its_range_is_an_error_that_names_the_node(
        self, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(WorkflowError) as caught:
            Node("load", **{"function": work, **options})

        assert message in str(caught.value)
        assert caught.value.node == "load"

    @pytest.mark.parametrize("option", ["bind", "config"])
    def test_what_is_no_dictionary_is_refused(self, option: str) -> None:
        options: dict[str, Any] = {option: ["x"]}

        with pytest.raises(WorkflowError, match=r"take dictionaries by name, not \['x'\]"):
            Node("load", work, **options)

    def test_a_wrong_name_is_refused(self) -> None:
        with pytest.raises(WorkflowError, match="no name for a node"):
            Node("load all", work)


class TestRetryPolicy:
    @pytest.mark.parametrize(
        "options",
        [
            {"max_attempts": 0},
            {"max_attempts": True},
            {"max_attempts": 1.5},
            {"max_attempts": "3"},
            {"delay": -1},
            {"max_delay": -1},
            {"backoff": 0.5},
            {"jitter": 1.1},
            {"jitter": -0.1},
            {"delay": "1"},
            {"delay": float("nan")},
            {"retry_on": ("ValueError",)},
            {"retry_on": int},
        ],
    )
    def test_a_number_out_of_its_range_is_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(WorkflowError):
            RetryPolicy(**options)

    @pytest.mark.parametrize("attempts", [0, -1, "4", True])
    def test_a_wrong_number_of_attempts_is_refused_by_the_node_too(self, attempts: Any) -> None:
        with pytest.raises(WorkflowError, match="max_attempts must be a whole number of at least 1"):
            Node("a", work, retry=attempts)

    def test_one_class_of_errors_stands_for_a_list_of_one(self) -> None:
        assert RetryPolicy(retry_on=OSError).retry_on == (OSError,)
        assert RetryPolicy(retry_on=[OSError, KeyError]).retry_on == (OSError, KeyError)

    def test_the_wait_doubles_until_its_limit(self) -> None:
        policy = RetryPolicy(delay=0.5, backoff=2.0, max_delay=3.0, jitter=0)

        assert [policy.wait_s(attempt) for attempt in range(1, 6)] == [0.5, 1.0, 2.0, 3.0, 3.0]

    @given(
        policy=st.builds(
            RetryPolicy,
            delay=st.floats(0, 1e6),
            backoff=st.floats(1, 1e300),
            max_delay=st.floats(0, 1e6),
            jitter=st.floats(0, 1),
        ),
        attempt=st.integers(1, 1_000_000),
        chance=st.floats(-1, 1),
    )
    @example(policy=RetryPolicy(delay=1.0, backoff=64.0), attempt=172, chance=0.0)
    @example(policy=RetryPolicy(delay=0.0, backoff=64.0), attempt=172, chance=0.0)
    def test_a_wait_stays_within_its_jitter_and_its_limit(
        self, policy: RetryPolicy, attempt: int, chance: float
    ) -> None:
        plain = policy.wait_s(attempt)

        wait_s = policy.wait_s(attempt, chance=chance)

        assert 0 <= wait_s <= policy.max_delay
        assert wait_s <= plain * (1 + policy.jitter) + 1e-9
        assert wait_s >= min(plain * (1 - policy.jitter), policy.max_delay) - 1e-9


class TestArguments:
    def test_a_node_takes_its_options_in_the_order_in_which_they_are_documented(self) -> None:
        def ready() -> bool:
            return True

        named = ((), {"x": "y"}, 4, 2.0, ready, "all_done", "process", ("gpu",), True, 3, {"k": 1}, "etl", "design")
        given: tuple[Any, ...] = (*named, ["y"], list[int])
        node = Node("a", lambda x=1: x, *given)

        assert (node.bind, node.retry, node.timeout) == ({"x": "y"}, RetryPolicy(max_attempts=4), 2.0)
        assert (node.when, node.join, node.runner, node.uses) == (ready, "all_done", "process", ("gpu",))
        assert (node.allow_failure, node.max_interruptions, node.config) == (True, 3, {"k": 1})
        assert (node.type, node.phase_name) == ("etl", "design")
        assert (node.input_contract, node.output_contract) == (["y"], list[int])

    def test_a_retry_policy_takes_its_options_in_the_order_in_which_they_are_documented(self) -> None:
        policy = RetryPolicy(4, 0.5, 3.0, 9.0, 0.2, (OSError,))

        assert policy == RetryPolicy(
            max_attempts=4, delay=0.5, backoff=3.0, max_delay=9.0, jitter=0.2, retry_on=(OSError,)
        )

    @pytest.mark.parametrize(
        "options", [{"allow_failure": "no"}, {"allow_failure": None}, {"type": 5}, {"phase_name": 5}]
    )
    def test_an_option_of_another_sort_is_refused_by_its_name(self, options: dict[str, Any]) -> None:
        with pytest.raises(WorkflowError, match=f"node 'a': {next(iter(options))}="):
            Node("a", lambda: 1, **options)
