"""Which ready nodes may start: limits of the executor, of named resources, and of maps."""

from __future__ import annotations

from typing import Any

import pytest

from dagflow import Node, Workflow
from dagflow._admission import Admission, Limits
from pure_run import PureRun, nodes


class Lane:
    """The admission of a pure run."""

    def __init__(self, run: PureRun, limits: Limits | None = None) -> None:
        self.woken = 0
        self.run = run
        self.admission = Admission(run.plan, run.state, limits or Limits(), self.wake)
        self.add(*run.ready)

    def wake(self) -> None:
        self.woken += 1

    def add(self, *names: str) -> None:
        self.admission.add(self.run[name] for name in names)

    def admit(self) -> list[str]:
        return [node.name for node in self.admission.admit()]

    def give_back(self, *names: str) -> None:
        for name in names:
            self.admission.give_back(self.run[name])


class TestLimits:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0,), "max_concurrency must be at least 1, or None for no limit, not 0"),
            ((-1,), "max_concurrency must be at least 1"),
            (("2",), "max_concurrency must be at least 1"),
            ((None, {"gpu": 0}), r"limits\['gpu'\] must be at least 1, not 0"),
            ((None, {"gpu": "2"}), r"limits\['gpu'\] must be at least 1, not '2'"),
        ],
    )
    def test_a_limit_out_of_its_range_is_refused(self, arguments: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Limits(*arguments)

    def test_without_limits_everything_may_start(self) -> None:
        limits = Limits()

        assert all(limits.take(()) for _ in range(1000))
        limits.give_back(())

    def test_calls_count_against_the_limit_of_the_executor(self) -> None:
        limits = Limits(2)

        assert [limits.take(()) for _ in range(3)] == [True, True, False]
        limits.give_back(())
        assert limits.take(())

    def test_a_call_takes_a_slot_of_everything_or_of_nothing(self) -> None:
        limits = Limits(3, {"gpu": 1, "disk": 2})

        assert limits.names() == {"gpu", "disk"}
        assert limits.take(("gpu", "disk"))
        assert not limits.take(("gpu", "disk"))
        assert limits.take(("disk",))
        assert limits.take(())
        assert not limits.take(())

    def test_those_who_wait_are_woken_once_when_a_slot_is_free(self) -> None:
        limits = Limits(1)
        woken: list[str] = []
        limits.take(())

        def first() -> None:
            woken.append("first")

        def second() -> None:
            woken.append("second")

        for wake in (first, second, first):
            limits.wait(wake)

        limits.give_back(())
        limits.give_back(())

        assert woken == ["first", "second"]


class TestAdmission:
    def test_ready_nodes_start_in_their_order(self) -> None:
        lane = Lane(PureRun(Workflow("w", nodes("a", "b", "c"))))

        assert lane.admission
        assert lane.admit() == ["a", "b", "c"]
        assert not lane.admission
        assert lane.run["a"] not in lane.admission

    def test_a_node_waits_until_a_slot_is_free(self) -> None:
        lane = Lane(PureRun(Workflow("w", nodes("a", "b"))), Limits(1))
        assert lane.admit() == ["a"]
        assert lane.run["b"] in lane.admission
        assert lane.admit() == []

        lane.give_back("a")

        assert lane.woken == 1
        assert lane.admit() == ["b"]

    def test_runs_of_an_executor_share_its_limits(self) -> None:
        limits = Limits(1)
        one = Lane(PureRun(Workflow("w", nodes("a"))), limits)
        other = Lane(PureRun(Workflow("w", nodes("a"))), limits)
        assert (one.admit(), other.admit()) == (["a"], [])

        one.give_back("a")

        assert other.woken == 1
        assert other.admit() == ["a"]

    def test_a_node_that_must_wait_holds_up_only_those_that_wait_for_the_same(self) -> None:
        workflow = Workflow("w", [*nodes("a", "b", uses="gpu"), *nodes("c"), *nodes("d", uses=["gpu", "disk"])])
        lane = Lane(PureRun(workflow), Limits(None, {"gpu": 1, "disk": 1}))

        assert lane.admit() == ["a", "c"]
        lane.give_back("a")
        assert lane.admit() == ["b"]
        lane.give_back("b")
        assert lane.admit() == ["d"]

    def test_a_limit_that_is_named_twice_is_taken_once(self) -> None:
        lane = Lane(PureRun(Workflow("w", nodes("a", "b", uses=["gpu", "gpu"]))), Limits(None, {"gpu": 1}))

        assert lane.admit() == ["a"]
        lane.give_back("a")
        assert lane.admit() == ["b"]

    def test_the_items_of_a_map_respect_its_limit(self) -> None:
        workflow = Workflow("w", nodes("a"))
        workflow.map(over={"x": "xs"}, name="m", limit=2)(lambda x: None)
        run = PureRun(workflow)
        run.expand("m", 5)
        lane = Lane(run)

        assert lane.admit() == ["a", "m[0]", "m[1]"]
        lane.give_back("m[1]")
        assert lane.admit() == ["m[2]"]
        lane.give_back("m[0]", "m[2]")
        assert lane.admit() == ["m[3]", "m[4]"]

    def test_the_limit_of_a_map_goes_with_those_of_the_executor(self) -> None:
        workflow = Workflow("w")
        workflow.map(over={"x": "xs"}, name="m", limit=3, uses="gpu")(lambda x: None)
        run = PureRun(workflow)
        run.expand("m", 5)
        lane = Lane(run, Limits(None, {"gpu": 2}))

        assert lane.admit() == ["m[0]", "m[1]"]

    def test_a_node_that_may_no_longer_start_gives_up_its_place(self) -> None:
        run = PureRun(Workflow("w", [*nodes("a", "b"), Node("tidy", lambda: None, "a", join="all_done")]))
        lane = Lane(run, Limits(1))
        assert lane.admit() == ["a"]
        run.fail("a")
        lane.give_back("a")
        lane.add("tidy")

        assert lane.admit() == ["tidy"]
        assert not lane.admission

    @pytest.mark.parametrize("kind", ["timer", "subworkflow"])
    def test_what_only_waits_takes_no_slot(self, kind: str) -> None:
        workflow = Workflow("w", nodes("a", uses="gpu"))
        if kind == "timer":
            workflow.sleep("w1", 5, uses="gpu")
        else:
            workflow.subworkflow("w1", Workflow("child", nodes("x")), uses="gpu")
        lane = Lane(PureRun(workflow), Limits(1, {"gpu": 1}))

        assert lane.admit() == ["a", "w1"]
        lane.give_back("w1")
        assert lane.admit() == []
