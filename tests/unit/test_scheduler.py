"""The rules of scheduling: joins, retries, failures, clean-up, maps, what waits, and how runs are taken up again."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import Node, RetryPolicy, Workflow
from dagflow._events import ErrorInfo, EventKind
from dagflow._facts import Decided, Elapsed, Expanded, Judged, Parked, Raised, Returned
from dagflow._scheduler import draining, failures, resolve
from dagflow.errors import IllegalMoveError
from pure_run import NOTHING, START, PureRun, nodes, payload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dagflow._events import Event
    from dagflow._facts import Fact

K = EventKind
JOINS = ["all_success", "all_done", "any_success", "none_failed"]
ENDS = ["completed", "failed", "skipped", "blocked", "cancelled"]


def kinds(events: Sequence[Event]) -> list[str]:
    return [f"{event.kind} {event.node}" if event.node else str(event.kind) for event in events]


def end(run: PureRun, name: str, status: str) -> None:
    """Bring a node to its end; one that shall be blocked needs the node ``broken``."""
    ends: dict[str, Callable[[], object]] = {
        "completed": lambda: run.complete(name),
        "failed": lambda: run.fail(name),
        "skipped": lambda: run.judged(name),
        "blocked": lambda: None,
        "cancelled": lambda: run.apply(run.event(K.NODE_CANCELLED, name)),
    }
    ends[status]()
    run.advance()
    assert run[name].status == status


# -- joins ----------------------------------------------------------------------------------------


def verdict(join: str, ends: Sequence[str]) -> str:
    """The table of the design, said in another way than the scheduler says it."""
    bad = {"failed", "blocked", "cancelled"} & set(ends)
    if join == "all_success":
        return "pending" if set(ends) == {"completed"} else "blocked" if bad else "skipped"
    if join == "any_success":
        return "pending" if "completed" in ends else "blocked" if bad else "skipped"
    return "blocked" if join == "none_failed" and bad else "pending"


def joined(join: str, ends: Sequence[str], **options: Any) -> PureRun:
    """A node ``z`` whose dependencies have come to these ends."""
    names = [f"d{number}" for number in range(len(ends))]
    workflow = Workflow("w", nodes("broken"), on_failure="continue")
    for name, status in zip(names, ends, strict=True):
        depends_on = ["broken"] if status == "blocked" else []
        workflow.add(Node(name, lambda: None, depends_on, when=(lambda: True) if status == "skipped" else None))
    workflow.add(Node("z", lambda: None, names, join=join, **options))  # type: ignore[arg-type]
    run = PureRun(workflow)
    run.fail("broken")
    for name, status in zip(names, ends, strict=True):
        end(run, name, status)
    return run


@pytest.mark.parametrize(
    ("join", "ends"),
    [(join, ends) for join in JOINS for n in (1, 2, 3) for ends in itertools.combinations_with_replacement(ENDS, n)],
)
def test_the_ends_of_its_dependencies_decide_about_a_node(join: str, ends: tuple[str, ...]) -> None:
    run = joined(join, ends)

    expected = verdict(join, ends)
    assert run["z"].status == expected
    assert ("z" in run.ready) == (expected == "pending")
    if expected != "pending":
        culprits = {f"d{number}": status for number, status in enumerate(ends) if status != "completed"}
        assert run["z"].reason == {"reason": "dependencies", "join": join, "dependencies": culprits}
        assert run["z"].ended_at == run.now


@pytest.mark.parametrize("join", JOINS)
def test_a_node_that_depends_on_nothing_starts_with_the_run(join: str) -> None:
    assert PureRun(Workflow("w", nodes("a", join=join))).ready == ["a"]


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("ends", ["completed", "failed", "skipped"])
def test_nothing_is_decided_before_all_dependencies_have_ended(join: str, ends: str) -> None:
    workflow = Workflow("w", on_failure="continue")
    workflow.add(Node("a", lambda: None, when=lambda: True))
    workflow.add(Node("b", lambda: None))
    workflow.add(Node("z", lambda: None, ["a", "b"], join=join))  # type: ignore[arg-type]
    run = PureRun(workflow)

    end(run, "a", ends)

    assert (run["z"].status, "z" in run.ready) == ("pending", False)


@pytest.mark.parametrize("status", ENDS)
def test_only_a_skip_is_tolerated_by_a_parameter_with_a_default(status: str) -> None:
    workflow = Workflow("w", nodes("broken"), on_failure="continue")
    depends_on = ["broken"] if status == "blocked" else []
    workflow.add(Node("a", lambda: None, depends_on, when=(lambda: True) if status == "skipped" else None))
    workflow.add(Node("b", lambda: None))
    workflow.add(Node("z", lambda b, a=None: None))
    run = PureRun(workflow)
    run.fail("broken")
    run.complete("b")
    end(run, "a", status)

    assert run["z"].status == ("pending" if status in ("completed", "skipped") else "blocked")


def test_a_skip_is_not_tolerated_by_a_default_of_another_parameter() -> None:
    workflow = Workflow("w", [Node(name, lambda: None, when=lambda: True) for name in "ab"])
    workflow.add(Node("y", lambda a, b=1: None))
    workflow.add(Node("z", lambda b=1: None, ["b"]))
    run = PureRun(workflow)
    run.complete("a")
    run.judged("b")
    assert (run["y"].status, run["z"].status) == ("pending", "skipped")

    other = PureRun(workflow)
    other.judged("a")
    other.complete("b")
    assert (other["y"].status, other["z"].status) == ("skipped", "pending")


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_what_a_node_comes_to_goes_all_the_way_down(status: str) -> None:
    workflow = Workflow("w", [Node("a", lambda: None, when=lambda: True)])
    workflow.add(Node("b", lambda a: None))
    workflow.add(Node("c", lambda b: None))
    run = PureRun(workflow)

    end(run, "a", status)

    below = "blocked" if status == "failed" else "skipped"
    assert (run["b"].status, run["c"].status) == (below, below)


# -- facts ----------------------------------------------------------------------------------------


class TestFacts:
    def test_a_value_that_was_returned_is_kept(self) -> None:
        run = PureRun(Workflow("w", nodes("a")))
        run.start("a")

        (event,) = run.returns("a", value="1")

        assert (event.kind, event.node, event.attempt, event.payload) == (K.NODE_COMPLETED, "a", 1, payload("1"))
        assert run["a"].output == payload("1")

    def test_an_error_that_is_not_worth_another_attempt_fails_the_node(self) -> None:
        run = PureRun(Workflow("w", nodes("a", retry=3)))
        run.start("a")

        (event,) = run.raises("a", retryable=False)

        assert event.kind == K.NODE_FAILED
        assert event.data == {"error": {"type": "ValueError", "message": "no", "traceback": ""}}

    def test_a_node_is_tried_again_until_its_attempts_are_used_up(self) -> None:
        run = PureRun(Workflow("w", nodes("a", retry=RetryPolicy(max_attempts=3, delay=1.0, jitter=0.0))))
        seen = []
        for _ in range(3):
            run.start("a")
            (event,) = run.raises("a", retryable=True)
            seen.append((event.kind, event.attempt, (event.data or {}).get("delay")))

        assert seen == [(K.NODE_RETRY, 1, 1.0), (K.NODE_RETRY, 2, 2.0), (K.NODE_FAILED, 3, None)]

    def test_a_retry_says_when_it_is_due(self) -> None:
        run = PureRun(Workflow("w", nodes("a", retry=RetryPolicy(delay=10.0, jitter=0.5))))
        run.start("a")
        (event,) = run.raises("a", retryable=True, chance=-1.0)

        assert event.data is not None
        assert event.data["due_at"] == (START + timedelta(seconds=5)).isoformat()
        assert run["a"].due_at == START + timedelta(seconds=5)
        assert (run["a"].status, run["a"].waits_for) == ("waiting", "retry")

    def test_a_result_that_comes_too_late_is_refused(self) -> None:
        run = PureRun(Workflow("w", nodes("a", retry=2)))
        run.start("a")
        run.raises("a", retryable=True)
        error = ErrorInfo("ValueError", "late")
        late: list[Fact] = [Returned(run["a"], 1, NOTHING), Raised(run["a"], 1, error), Parked(run["a"], 1, "r/a")]

        assert run.advance(*late) == []
        run.start("a")
        assert run.advance(*late) == []
        run.returns("a")
        assert run.advance(*late, Returned(run["a"], 2, NOTHING), Raised(run["a"], 2, error)) == []
        assert (run["a"].status, run["a"].attempts) == ("completed", 2)

    def test_the_first_of_two_results_counts(self) -> None:
        run = PureRun(Workflow("w", nodes("a")))
        run.start("a")

        events = run.advance(Returned(run["a"], 1, payload("1")), Returned(run["a"], 1, payload("2")))

        assert [event.payload for event in events] == [payload("1")]

    def test_a_node_that_cannot_be_started_fails_without_an_attempt(self) -> None:
        run = PureRun(Workflow("w", nodes("a", when=lambda: True, retry=3)))

        (event,) = run.raises("a")

        assert (event.kind, event.attempt, run["a"].attempts) == (K.NODE_FAILED, 0, 0)

    def test_a_condition_that_says_no_skips_the_node_and_says_what_it_saw(self) -> None:
        run = PureRun(Workflow("w", nodes("a", when=lambda: True)))

        (event,) = run.judged("a")

        assert event.data == {"reason": "condition", "condition": "is_wanted", "values": {"x": "1"}}
        assert run["a"].status == "skipped"

    def test_a_judgement_or_an_expansion_of_a_node_that_has_started_is_refused(self) -> None:
        run = PureRun(Workflow("w", nodes("a")))
        run.start("a")

        assert run.advance(Judged(run["a"], "is_wanted", {}), Expanded(run["a"], 2), Elapsed(run["a"])) == []

    def test_many_facts_are_taken_in_at_once(self) -> None:
        run = PureRun(Workflow("w", [*nodes("a", "b"), Node("z", lambda a, b: None)]))
        run.start("a", "b")

        events = run.returns("a", "b")

        assert kinds(events) == ["node_completed a", "node_completed b"]
        assert run.ready == ["z"]


# -- drain and continue ---------------------------------------------------------------------------


def two_branches(on_failure: str, **options: Any) -> PureRun:
    workflow = Workflow("w", nodes("a", "b", **options), on_failure=on_failure)  # type: ignore[arg-type]
    workflow.add(Node("a2", lambda a: None))
    workflow.add(Node("b2", lambda b: None))
    return PureRun(workflow)


class TestFailure:
    def test_under_drain_nothing_new_starts_and_what_runs_may_end(self) -> None:
        run = two_branches("drain")
        run.start("b")
        run.fail("a")
        run.returns("b")

        assert run.ready == ["b2"]
        assert not run.may_start("b2")
        assert run.statuses == {"a": "failed", "a2": "blocked", "b": "completed", "b2": "pending"}

    def test_under_continue_other_branches_go_on(self) -> None:
        run = two_branches("continue")
        run.fail("a")
        assert run.may_start("b")
        run.complete("b")
        assert run.may_start("b2")
        run.complete("b2")

        event = run.finish()

        assert event is not None
        assert not isinstance(event, list)
        assert (event.kind, run.statuses["a2"]) == (K.RUN_FAILED, "blocked")

    def test_a_run_fails_with_its_first_failure(self) -> None:
        run = two_branches("drain")
        run.start("a", "b")
        run.raises("b")
        run.raises("a")
        run.finish()

        assert (run.status, run.state.culprits) == ("failed", ("b", "a"))
        assert run.state.error == ErrorInfo("ValueError", "no")

    def test_a_node_that_may_fail_stops_nothing(self) -> None:
        workflow = Workflow("w", [*nodes("a", allow_failure=True), *nodes("b"), Node("a2", lambda a: None)])
        run = PureRun(workflow)
        run.fail("a")

        assert run.may_start("b")
        run.complete("b")
        run.finish()
        assert (run.status, run.statuses) == ("completed", {"a": "failed", "b": "completed", "a2": "blocked"})

    def test_under_drain_a_node_that_has_started_keeps_its_retries(self) -> None:
        run = two_branches("drain", retry=2)
        run.start("a", "b")
        run.raises("b", retryable=True)
        run.raises("a")

        assert run.may_start("b")

    def test_a_run_without_failures_completes(self) -> None:
        run = PureRun(Workflow("w", nodes("a")))
        run.complete("a")

        assert getattr(run.finish(), "kind", None) == K.RUN_COMPLETED
        assert run.status == "completed"

    def test_a_run_is_not_said_to_be_complete_while_a_node_is_left(self) -> None:
        run = PureRun(Workflow("w", nodes("a")))

        with pytest.raises(IllegalMoveError, match="'a' is pending"):
            run.finish()

    def test_many_failures_that_are_allowed_are_looked_at_once(self) -> None:
        workflow = Workflow("w", nodes("z"))
        workflow.map(over={"x": "xs"}, name="m", on_error="collect")(lambda x: None)
        run = PureRun(workflow)
        run.expand("m", 3)
        run.fail("m[0]")

        assert not draining(run.plan, run.state)
        run.fail("m[1]")
        assert not draining(run.plan, run.state)
        assert list(failures(run.plan, run.state)) == []
        run.fail("z")
        assert draining(run.plan, run.state)
        assert [node.name for node in failures(run.plan, run.state)] == ["z"]


class TestCleanUp:
    def workflow(self, on_failure: str = "drain") -> Workflow:
        workflow = Workflow("w", nodes("a", "b"), on_failure=on_failure)  # type: ignore[arg-type]
        workflow.add(Node("c", lambda b: None))
        workflow.add(Node("tidy", lambda: None, ["a", "c"], join="all_done"))
        workflow.add(Node("report", lambda: None, ["tidy"], join="all_done"))
        return workflow

    def test_a_clean_up_starts_when_its_dependencies_have_ended(self) -> None:
        run = PureRun(Workflow("w", [*nodes("a"), Node("tidy", lambda: None, "a", join="all_done")]))
        run.fail("a")

        assert run.ready == ["tidy"]
        assert run.may_start("tidy")

    def test_under_drain_a_clean_up_starts_when_the_rest_never_will(self) -> None:
        run = PureRun(self.workflow())
        run.start("a", "b")
        run.raises("a")
        run.returns("b")

        assert run.finish() == ["tidy"]
        run.complete("tidy")
        assert run.ready == ["c", "report"]
        run.complete("report")
        assert getattr(run.finish(), "kind", None) == K.RUN_FAILED
        assert run.statuses == {
            "a": "failed",
            "b": "completed",
            "c": "pending",
            "tidy": "completed",
            "report": "completed",
        }

    def test_clean_ups_keep_their_order(self) -> None:
        workflow = Workflow("w", nodes("a", "b"))
        workflow.add(Node("last", lambda: None, ["first", "b"], join="all_done"))
        workflow.add(Node("first", lambda: None, ["b"], join="all_done"))
        run = PureRun(workflow)
        run.fail("a")

        assert run.finish() == ["first"]
        run.complete("first")
        assert run.finish() == ["last"]

    def test_a_clean_up_waits_for_what_another_one_may_block(self) -> None:
        workflow = Workflow("w", nodes("a", "b"))
        workflow.add(Node("first", lambda: None, "b", join="all_done"))
        workflow.add(Node("between", lambda: None, "first"))
        workflow.add(Node("last", lambda: None, "between", join="all_done"))
        run = PureRun(workflow)
        run.fail("a")

        assert run.finish() == ["first"]
        run.complete("first")
        assert run.finish() == ["last"]

    def test_a_clean_up_that_fails_adds_to_the_failures(self) -> None:
        run = PureRun(Workflow("w", [*nodes("a"), Node("tidy", lambda: None, "a", join="all_done")]))
        run.fail("a")
        run.fail("tidy")
        run.finish()

        assert run.state.culprits == ("a", "tidy")

    def test_a_clean_up_that_waits_holds_no_run_that_drains(self) -> None:
        workflow = Workflow("w", nodes("a"))
        workflow.sleep("s", 5, depends_on="a", join="all_done")
        run = PureRun(workflow)
        run.fail("a")
        run.start("s")

        assert getattr(run.finish(), "kind", None) == K.RUN_FAILED
        assert run["s"].status == "pending"


# -- maps -----------------------------------------------------------------------------------------


def mapped(on_failure: str = "drain", **options: Any) -> PureRun:
    workflow = Workflow("w", nodes("b"), on_failure=on_failure)  # type: ignore[arg-type]
    workflow.map(over={"x": "xs"}, name="m", **options)(lambda x: None)
    workflow.add(Node("z", lambda m: None))
    return PureRun(workflow)


class TestMaps:
    def test_a_map_completes_when_all_its_items_have(self) -> None:
        run = mapped()
        assert kinds(run.expand("m", 2)) == ["map_expanded m"]
        run.complete("m[1]")
        assert run["m"].status == "running"

        run.start("m[0]")
        events = run.returns("m[0]")

        assert kinds(events) == ["node_completed m[0]", "node_completed m"]
        assert run.ready == ["b", "z"]

    def test_a_map_without_items_completes_at_once(self) -> None:
        run = mapped()

        assert kinds(run.expand("m", 0)) == ["map_expanded m", "node_completed m"]
        assert "z" in run.ready

    @pytest.mark.parametrize("layout", [[], [0], [0, 0]])
    def test_a_nested_map_without_items_completes_at_once(self, layout: list[int]) -> None:
        run = mapped(depth=2)

        assert kinds(run.expand("m", layout)) == ["map_expanded m", "node_completed m"]

    def test_under_drain_a_map_starts_no_more_items_after_a_failure_and_fails(self) -> None:
        run = mapped()
        run.expand("m", 4)
        run.start("m[0]", "m[1]")
        run.raises("m[0]")
        assert run["m"].status == "running"
        assert not run.may_start("m[2]")

        events = run.returns("m[1]")

        assert kinds(events) == ["node_completed m[1]", "node_failed m", "node_blocked z"]
        assert run["m"].error == ErrorInfo(
            "dagflow.errors.MapError", "map 'm': 1 of 4 items failed, the first is 'm[0]': ValueError: no"
        )
        assert [run[f"m[{i}]"].status for i in range(4)] == ["failed", "completed", "pending", "pending"]

    def test_a_map_whose_failure_is_allowed_stops_its_items_but_not_the_run(self) -> None:
        run = mapped(allow_failure=True)
        run.expand("m", 2)
        run.fail("m[0]")

        assert (run["m"].status, run.may_start("m[1]"), run.may_start("b")) == ("failed", False, True)
        run.complete("b")
        run.finish()
        assert run.status == "completed"

    def test_under_continue_a_map_calls_all_its_items_and_then_fails(self) -> None:
        run = mapped("continue")
        run.expand("m", 3)
        run.fail("m[0]")
        assert run.may_start("m[1]")
        run.complete("m[1]")
        assert run["m"].status == "running"

        run.fail("m[2]")

        assert (run["m"].status, run["z"].status) == ("failed", "blocked")
        assert "2 of 3 items failed" in str(run["m"].error)

    @pytest.mark.parametrize("on_failure", ["drain", "continue"])
    def test_a_map_that_collects_errors_completes_with_them(self, on_failure: str) -> None:
        run = mapped(on_failure, on_error="collect")
        run.expand("m", 2)
        run.fail("m[0]")
        assert run.may_start("m[1]")
        run.complete("m[1]")

        assert (run["m"].status, "z" in run.ready) == ("completed", True)
        run.complete("b", "z")
        run.finish()
        assert run.status == "completed"

    def test_an_item_is_retried_by_itself(self) -> None:
        run = mapped(retry=2)
        run.expand("m", 2)
        run.start("m[0]", "m[1]")
        run.returns("m[1]")
        run.raises("m[0]", retryable=True)

        assert (run["m[0]"].status, run["m"].status, run["m"].active_items) == ("waiting", "running", 1)
        run.complete("m[0]")
        assert run["m"].status == "completed"

    def test_under_drain_an_item_that_waits_for_its_next_attempt_gets_it(self) -> None:
        run = mapped(retry=2)
        run.expand("m", 2)
        run.start("m[0]", "m[1]")
        run.raises("m[0]", retryable=True)
        run.raises("m[1]")

        assert run.may_start("m[0]")

    def test_a_map_that_cannot_be_expanded_fails(self) -> None:
        run = mapped()

        run.raises("m")

        assert (run["m"].status, run["z"].status, run["m"].items) == ("failed", "blocked", None)

    def test_items_of_a_clean_up_start_under_drain(self) -> None:
        workflow = Workflow("w", nodes("a"))
        workflow.map(over={"x": "xs"}, name="m", depends_on="a", join="all_done")(lambda x: None)
        run = PureRun(workflow)
        run.fail("a")
        run.expand("m", 2)

        assert run.may_start("m[0]")
        run.complete("m[0]", "m[1]")
        assert run["m"].status == "completed"


# -- what waits -----------------------------------------------------------------------------------


def waiting(**options: Any) -> Workflow:
    workflow = Workflow("w")
    workflow.sleep("timer", 10)
    workflow.wait_for_signal("paid", timeout=options.get("timeout"))
    workflow.review(
        "check",
        deadline=options.get("deadline"),
        assignees=["ada"],
        on_reject=options.get("on_reject", "fail"),
    )
    return workflow


class TestTimers:
    def test_a_timer_completes_when_its_time_has_come_and_not_before(self) -> None:
        run = PureRun(waiting())
        (event,) = run.start("timer")
        assert event.data == {"for": "timer", "due_at": (START + timedelta(seconds=10)).isoformat()}

        run.wait(9.999)
        assert run.elapsed("timer") == []
        run.wait(0.001)
        assert kinds(run.elapsed("timer")) == ["node_completed timer"]
        assert run.elapsed("timer") == []

    def test_a_run_that_waits_is_not_finished(self) -> None:
        run = PureRun(waiting())
        run.start("timer", "paid", "check")

        assert (run.finish(), run.status) == (None, "waiting")

    def test_a_run_that_drains_does_not_wait(self) -> None:
        workflow = waiting()
        workflow.add(nodes("a")[0])
        run = PureRun(workflow)
        run.start("timer", "paid", "check")
        run.fail("a")
        run.finish()

        assert run.status == "failed"
        assert {run[name].status.value for name in ("timer", "paid", "check")} == {"pending"}
        assert run.state.waiting == 0

    def test_under_continue_a_run_waits_although_something_failed(self) -> None:
        workflow = Workflow("w", nodes("a"), on_failure="continue")
        workflow.sleep("s", 5)
        run = PureRun(workflow)
        run.start("s")
        run.fail("a")

        assert run.finish() is None


class TestSignals:
    def test_a_signal_completes_the_node_that_waits_for_it(self) -> None:
        run = PureRun(waiting())
        run.start("paid")

        events = run.signal("paid", "5", message=7)

        assert kinds(events) == ["signal_received paid", "node_completed paid"]
        assert (events[0].data, run["paid"].output) == ({"message": 7}, payload("5"))

    def test_a_signal_that_comes_early_is_kept(self) -> None:
        run = PureRun(waiting())
        assert kinds(run.signal("paid", "5")) == ["signal_received paid"]

        assert kinds(run.start("paid")) == ["node_waiting paid", "node_completed paid"]
        assert run["paid"].output == payload("5")

    def test_a_node_takes_one_signal_and_leaves_the_next(self) -> None:
        run = PureRun(waiting())
        run.signal("paid", "1")
        run.signal("paid", "2")
        run.start("paid")

        assert run["paid"].output == payload("1")
        assert run.state.signals == {"paid": [payload("2")]}

    def test_a_signal_that_an_owner_before_has_recorded_is_passed_over(self) -> None:
        run = PureRun(waiting())
        run.signal("paid", "1", message=3)

        assert run.signal("paid", "1", message=3) == []
        assert kinds(run.signal("paid", "2", message=4)) == ["signal_received paid"]

    def test_a_signal_for_nobody_is_kept_and_changes_nothing(self) -> None:
        run = PureRun(waiting())

        assert kinds(run.signal("other")) == ["signal_received other"]

    def test_a_signal_that_does_not_come_in_time_fails_the_node(self) -> None:
        run = PureRun(waiting(timeout=3))
        run.start("paid")
        run.wait(3)
        run.elapsed("paid")

        assert run["paid"].error == ErrorInfo(
            "dagflow.errors.NodeTimeoutError", "node 'paid' took longer than 3 seconds"
        )

    def test_without_a_timeout_a_signal_is_awaited_for_ever(self) -> None:
        run = PureRun(waiting())
        run.start("paid")
        run.wait(1e9)

        assert run.elapsed("paid") == []


class TestReviews:
    def test_a_review_asks_its_assignees(self) -> None:
        run = PureRun(waiting(deadline=60))

        (event,) = run.start("check")

        assert event.kind == K.REVIEW_REQUESTED
        assert event.data == {
            "for": "review",
            "assignees": ["ada"],
            "on_deadline": "reject",
            "due_at": (START + timedelta(seconds=60)).isoformat(),
        }
        assert run["check"].requested == event.version

    def test_an_approval_completes_the_review(self) -> None:
        run = PureRun(waiting())
        run.start("check")

        events = run.decide("check", approved=True, by="ada")

        assert kinds(events) == ["review_decided check", "node_completed check"]
        assert run["check"].output == payload('"decided"')

    def test_a_rejection_fails_the_review(self) -> None:
        run = PureRun(waiting())
        run.start("check")
        run.decide("check", approved=False, by="ada", comment="too late")

        assert run["check"].status == "failed"
        assert "rejected by ada: too late" in str(run["check"].error)

    def test_a_rejection_completes_the_review_when_the_workflow_says_so(self) -> None:
        run = PureRun(waiting(on_reject="continue"))
        run.start("check")
        run.decide("check", approved=False, by="ada")

        assert (run["check"].status, run["check"].output) == ("completed", payload('"decided"'))

    def test_only_the_first_decision_of_the_present_request_counts(self) -> None:
        run = PureRun(waiting())
        assert run.decide("check", approved=True, requested=1) == []
        run.start("check")

        assert run.decide("check", approved=False, requested=run["check"].requested - 1) == []
        assert len(run.decide("check", approved=True)) == 2
        assert run.decide("check", approved=False) == []
        assert run.advance(Decided("other", 1, {"approved": True}, NOTHING, 1)) == []

    def test_a_deadline_may_fail_the_review(self) -> None:
        run = PureRun(waiting(deadline=60))
        run.start("check")
        run.wait(60)
        run.elapsed("check")

        assert "took longer than 60 seconds" in str(run["check"].error)


class TestSubworkflows:
    def test_a_node_waits_with_its_run(self) -> None:
        workflow = Workflow("w")
        workflow.subworkflow("c", Workflow("child", nodes("x")))
        run = PureRun(workflow)
        run.start("c")

        (event,) = run.advance(Parked(run["c"], 1, "r/c"))

        assert (event.kind, event.data) == (K.NODE_WAITING, {"for": "run", "run": "r/c"})
        assert run.status == "waiting"
        assert run.elapsed("c") == []

    def test_under_drain_a_node_whose_run_waits_may_go_on(self) -> None:
        workflow = Workflow("w", nodes("a"))
        workflow.subworkflow("c", Workflow("child", nodes("x")))
        run = PureRun(workflow)
        run.start("c")
        run.advance(Parked(run["c"], 1, "r/c"))
        run.fail("a")

        assert run.may_start("c")

    def test_a_map_with_a_failed_item_fails_before_its_run_though_other_items_wait(self) -> None:
        workflow = Workflow("w")
        workflow.subworkflow("m", Workflow("child", [Node("y", lambda x: None)]), over={"x": "xs"})
        workflow.add(Node("after", lambda m: None))
        workflow.add(Node("tidy", lambda: None, "m", join="all_done"))
        run = PureRun(workflow)
        run.expand("m", 3)
        run.start("m[0]", "m[1]", "m[2]")
        run.advance(Parked(run["m[1]"], 1, "r/m/1"))
        run.returns("m[2]")
        run.raises("m[0]")

        event = run.finish()

        assert (getattr(event, "kind", None), run["m"].status) == (K.NODE_FAILED, "failed")
        assert (run["after"].status, run["m[1]"].status, run["m[2]"].status) == ("blocked", "pending", "completed")
        assert run.ready == ["tidy"]
        run.complete("tidy")
        assert getattr(run.finish(), "kind", None) == K.RUN_FAILED
        assert run.state.culprits == ("m[0]", "m")

        run.open(epoch=2)
        assert run.ready == ["m"]
        run.start("m")
        assert run.ready == ["m[0]", "m[1]"]
        run.complete("m[0]", "m[1]")
        assert run["m"].status == "completed"

    def test_what_items_wait_for_when_another_node_fails_the_run_is_asked_anew(self) -> None:
        workflow = Workflow("w", nodes("a"))
        workflow.subworkflow("m", Workflow("child", [Node("y", lambda x: None)]), over={"x": "xs"})
        run = PureRun(workflow)
        run.expand("m", 1)
        run.start("m[0]")
        run.advance(Parked(run["m[0]"], 1, "r/m/0"))
        run.fail("a")

        assert getattr(run.finish(), "kind", None) == K.RUN_FAILED
        assert run.statuses == {"a": "failed", "m": "pending", "m[0]": "pending"}

        run.open(epoch=2)
        run.start("m")
        run.complete("m[0]")
        assert run["m"].status == "completed"


# -- ends and new beginnings ----------------------------------------------------------------------


class TestCancel:
    def test_what_runs_or_waits_is_cancelled_and_the_rest_never_starts(self) -> None:
        workflow = Workflow("w", nodes("a", "b", "c", retry=2))
        workflow.add(Node("z", lambda a: None))
        run = PureRun(workflow)
        run.start("a", "b")
        run.raises("b", retryable=True)

        events = run.cancel()

        assert kinds(events) == ["node_cancelled a", "node_cancelled b", "run_cancelled"]
        assert run.statuses == {"a": "cancelled", "b": "cancelled", "c": "pending", "z": "pending"}
        assert run.status == "cancelled"
        assert run["a"].reason == {"reason": "run"}
        assert run.advance() == []

    def test_a_map_and_its_items_are_cancelled(self) -> None:
        run = mapped()
        run.expand("m", 3)
        run.complete("m[0]")
        run.start("m[1]")
        run.cancel()

        assert [run[name].status for name in ("m", "m[0]", "m[1]", "m[2]")] == [
            "cancelled",
            "completed",
            "cancelled",
            "pending",
        ]

    @pytest.mark.parametrize("status", ["pending", "paused"])
    def test_a_run_that_does_not_go_on_can_be_cancelled(self, status: str) -> None:
        workflow = Workflow("w")
        workflow.sleep("s", 5)
        run = PureRun(workflow, opened=status == "paused")
        if status == "paused":
            run.start("s")
            run.pause()

        run.cancel()

        assert (run.status, run["s"].status) == ("cancelled", "cancelled" if status == "paused" else "pending")


class TestPause:
    def test_a_paused_run_goes_on_where_it_was(self) -> None:
        run = PureRun(Workflow("w", [*nodes("a", "b"), Node("z", lambda a: None)]))
        run.complete("a")
        run.pause()
        assert run.status == "paused"

        events = run.open()

        assert kinds(events) == ["run_resumed"]
        assert sorted(run.ready) == ["b", "z"]

    def test_a_run_is_paused_before_it_starts(self) -> None:
        run = PureRun(Workflow("w", nodes("a")), opened=False)
        run.pause()

        assert kinds(run.open()) == ["run_resumed"]
        assert run.ready == ["a"]


class TestReopen:
    def test_a_new_run_is_started(self) -> None:
        run = PureRun(Workflow("w", nodes("a")), opened=False)

        (event,) = run.open()

        assert (event.kind, event.data) == (K.RUN_STARTED, {"owner": "me", "epoch": 1, "reopened": False})
        assert run.ready == ["a"]

    def test_after_a_crash_what_ran_is_repeated_as_the_same_attempt(self) -> None:
        run = PureRun(Workflow("w", [*nodes("a", "b", retry=3), Node("z", lambda a, b: None)]))
        run.start("a", "b")
        run.raises("a", retryable=True)
        run.start("a")
        run.returns("b")
        run.crash()

        events = run.open(epoch=2)

        assert kinds(events) == ["run_resumed", "node_interrupted a"]
        assert (run.ready, run["a"].attempts, run["a"].interruptions) == (["a"], 1, 1)
        assert events[1].data is None
        run.complete("a")
        assert run.ready == ["z"]

    def test_an_owner_that_let_go_by_itself_interrupted_nothing(self) -> None:
        run = PureRun(Workflow("w", nodes("a")))
        run.start("a")
        run.crash()

        events = run.open(graceful=True)

        assert events[1].data == {"graceful": True}
        assert run["a"].interruptions == 0

    def test_a_node_that_was_cut_off_too_often_fails(self) -> None:
        run = PureRun(Workflow("w", [*nodes("a", max_interruptions=2), Node("z", lambda a: None)]))
        run.start("a")
        run.crash()
        run.open()
        run.start("a")
        run.crash()
        events = run.open()

        assert kinds(events) == ["run_resumed", "node_interrupted a", "node_failed a", "node_blocked z"]
        assert run["a"].error is not None
        assert run["a"].error.type == "dagflow.errors.InterruptedTooOftenError"
        assert "interrupted 2 times" in run["a"].error.message
        run.finish()
        assert run.status == "failed"

    def test_an_item_that_was_cut_off_too_often_fails_its_map(self) -> None:
        run = mapped(max_interruptions=1)
        run.expand("m", 2)
        run.complete("m[1]")
        run.start("m[0]")
        run.crash()

        run.open()

        assert (run["m[0]"].status, run["m"].status) == ("failed", "failed")
        assert run["m"].active_items == 0

    def test_a_retry_that_was_due_survives_a_crash(self) -> None:
        run = PureRun(Workflow("w", nodes("a", retry=RetryPolicy(delay=60.0, jitter=0.0))))
        run.start("a")
        run.raises("a", retryable=True)
        run.crash()
        run.open()

        assert (run["a"].status, run["a"].due_at, run["a"].attempts) == ("waiting", START + timedelta(seconds=60), 1)
        assert run.ready == []

    def test_a_map_goes_on_with_the_items_that_are_left(self) -> None:
        run = mapped()
        run.expand("m", 3)
        run.complete("m[1]")
        run.start("m[2]")
        run.crash()
        run.open()

        assert sorted(run.ready) == ["b", "m[0]", "m[2]"]
        run.complete("m[0]", "m[2]")
        assert run["m"].status == "completed"

    def test_a_map_whose_items_have_all_ended_ends_after_a_crash(self) -> None:
        run = mapped("continue")
        run.expand("m", 1)
        run.start("m[0]")
        run.apply(run.event(K.NODE_COMPLETED, "m[0]", 1))
        run.crash()

        run.open()

        assert run["m"].status == "completed"

    def test_a_failed_run_gets_fresh_attempts_of_what_failed_and_keeps_what_completed(self) -> None:
        run = two_branches("drain", retry=2)
        run.start("a", "b")
        run.raises("a", retryable=True)
        run.start("a")
        run.raises("a", retryable=True)
        run.returns("b")
        run.finish()
        run.crash()

        events = run.open()

        assert events[0].data is not None
        assert events[0].data["reopened"]
        assert sorted(run.ready) == ["a", "b2"]
        assert (run["a"].attempts, run["a"].error, run["a"].started_at) == (0, None, None)
        assert run.statuses == {"a": "pending", "a2": "pending", "b": "completed", "b2": "pending"}
        assert (run.state.error, run.state.culprits, run.state.failed) == (None, (), [])
        run.complete("a", "a2", "b2")
        run.finish()
        assert run.status == "completed"

    def test_what_was_skipped_stays_skipped(self) -> None:
        workflow = Workflow("w", [Node("a", lambda: None, when=lambda: True), *nodes("b"), Node("z", lambda a: None)])
        run = PureRun(workflow)
        run.judged("a")
        run.fail("b")
        run.finish()
        run.open()

        assert run.ready == ["b"]
        assert (run["a"].status, run["z"].status) == ("skipped", "skipped")

    def test_a_failed_map_goes_on_with_the_items_that_have_not_completed(self) -> None:
        run = mapped()
        run.expand("m", 4)
        run.start("m[0]", "m[1]")
        run.returns("m[1]")
        run.raises("m[0]")
        run.finish()
        run.crash()
        run.open()

        assert "m" in run.ready
        events = run.start("m")
        assert (kinds(events), events[0].attempt) == (["node_started m"], 0)
        assert [name for name in run.ready if name.startswith("m[")] == ["m[0]", "m[2]", "m[3]"]
        run.complete("m[0]", "m[2]", "m[3]")
        assert run["m"].status == "completed"

    def test_a_map_that_drained_with_its_run_goes_on(self) -> None:
        run = mapped()
        run.expand("m", 2)
        run.complete("m[0]")
        run.fail("b")
        run.finish()
        assert run["m"].status == "pending"
        run.crash()
        run.open()

        assert run.may_start("m")
        run.start("m")
        assert "m[1]" in run.ready
        run.complete("m[1]", "b")
        assert run["m"].status == "completed"

    def test_a_cancelled_run_goes_on_as_if_it_had_never_tried(self) -> None:
        run = mapped(retry=2)
        run.expand("m", 2)
        run.start("m[0]", "b")
        run.cancel()
        run.crash()
        run.open()

        assert sorted(run.ready) == ["b", "m"]
        run.start("m")
        assert sorted(run.ready) == ["b", "m[0]", "m[1]"]
        assert run["b"].attempts == 0
        run.complete("b", "m[0]", "m[1]", "z")
        run.finish()
        assert run.status == "completed"

    def test_what_waited_when_its_run_failed_waits_anew(self) -> None:
        workflow = waiting(deadline=60)
        workflow.add(nodes("a")[0])
        run = PureRun(workflow)
        run.start("timer", "paid", "check")
        run.fail("a")
        run.finish()
        run.wait(30)
        run.open()
        run.start("check")

        assert run["check"].due_at == START + timedelta(seconds=90)

    def test_a_review_that_was_rejected_is_asked_again(self) -> None:
        run = PureRun(waiting())
        run.start("check")
        first = run["check"].requested
        run.decide("check", approved=False)
        run.finish()
        run.open()
        run.start("check")

        assert run["check"].requested > first
        assert run["check"].decision is None
        run.decide("check", approved=True)
        assert run["check"].status == "completed"


class TestSideEffects:
    def test_a_call_in_doubt_is_not_made_again_when_it_may_be_made_once(self) -> None:
        run = PureRun(Workflow("w", nodes("a", effects="at_most_once")))
        run.start("a")
        run.crash()
        run.open()

        assert run["a"].error is not None
        assert run["a"].error.type == "dagflow.errors.InDoubtError"

    def test_a_call_in_doubt_is_made_again_when_somebody_can_find_out(self) -> None:
        run = PureRun(Workflow("w", nodes("a", effects="at_most_once", reconcile=lambda context: None)))
        run.start("a")
        run.crash()
        run.open()

        assert (run.ready, run["a"].in_doubt) == (["a"], True)


def test_a_map_that_was_cancelled_is_not_in_doubt_itself() -> None:
    workflow = Workflow("w")
    workflow.map(over={"x": "xs"}, name="m", retry=2, effects="at_most_once")(lambda x: None)
    run = PureRun(workflow)
    run.expand("m", 2)
    run.start("m[0]")
    run.raises("m[0]", retryable=True)
    run.cancel()
    run.crash()
    run.open(epoch=2)

    assert run.statuses == {"m": "pending", "m[0]": "pending", "m[1]": "pending"}
    run.start("m")
    run.complete("m[0]", "m[1]")
    assert run["m"].status == "completed"


def test_a_map_that_an_item_in_doubt_has_failed_fails_before_its_run() -> None:
    workflow = Workflow("w")
    workflow.map(over={"x": "xs"}, name="m", effects="at_most_once")(lambda x: None)
    run = PureRun(workflow)
    run.expand("m", 2)
    run.start("m[0]")
    run.cancel()
    run.crash()
    run.open(epoch=2)
    assert (run["m"].status, run["m[0]"].status, run.may_start("m")) == ("pending", "failed", False)

    run.finish()

    assert (run["m"].status, run["m[1]"].status) == ("failed", "pending")
    assert getattr(run.finish(), "kind", None) == K.RUN_FAILED


@pytest.mark.parametrize("items", [1, 2])
def test_a_map_with_an_item_in_doubt_is_ready_once_when_its_run_goes_on(items: int) -> None:
    workflow = Workflow("w", on_failure="continue")
    workflow.map(over={"x": "xs"}, name="m", effects="at_most_once")(lambda x: None)
    run = PureRun(workflow)
    run.expand("m", items)
    run.start("m[0]")
    run.cancel()
    run.crash()
    run.open(epoch=2)

    assert run.ready == ["m"]
    run.start("m")
    for name in run.ready:
        run.complete(name)
    assert run["m"].status == "failed"


def test_a_node_that_has_been_started_is_not_judged_again_by_its_dependencies() -> None:
    workflow = Workflow("w", [*nodes("a", "b"), Node("tidy", lambda: None, ["a", "b"], join="all_done")])
    run = PureRun(workflow)
    run.fail("a")
    run.finish()
    run.start("tidy")
    run.crash()
    run.open()

    assert resolve(run.plan, run.state, run["tidy"], now=run.now) is None
    assert run.ready == ["b", "tidy"]
    assert run.may_start("tidy")
