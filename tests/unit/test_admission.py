"""Which ready nodes may start: limits of the executor, of named resources, and of maps."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from dagflow import Node, Workflow
from dagflow._admission import Admission, Limits
from pure_run import PureRun, nodes


class Lane:
    """The admission of a pure run."""

    def __init__(self, run: PureRun, limits: Limits | None = None, *, priority: int = 0) -> None:
        self.woken = 0
        self.run = run
        self.admission = Admission(run.plan, run.state, limits or Limits(), self.wake, priority=priority)
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

    def test_slots_that_are_given_back_go_to_the_first_in_line(self) -> None:
        limits = Limits(1)
        woken: list[str] = []
        limits.take(())
        ranks = {"low": (0, 5, 0), "old": (0, 0, 1), "young": (0, 0, 2), "urgent": (-1, 0, 3)}
        tickets = {name: limits.wait((), rank, functools.partial(woken.append, name)) for name, rank in ranks.items()}

        for _ in range(5):
            limits.give_back(())

        assert woken == ["urgent", "old", "young", "low"]
        assert all(ticket.is_granted for ticket in tickets.values())
        assert limits.take(())

    def test_a_slot_that_was_promised_is_not_taken_by_somebody_else(self) -> None:
        limits = Limits(1)
        limits.take(())
        limits.wait((), (0, 0, 0), lambda: None)

        limits.give_back(())

        assert not limits.take(())

    def test_who_leaves_the_line_lets_the_next_one_in(self) -> None:
        limits = Limits(1)
        woken: list[int] = []
        limits.take(())
        tickets = [limits.wait((), (0, 0, age), functools.partial(woken.append, age)) for age in range(3)]
        limits.leave(tickets[1])
        limits.give_back(())

        limits.leave(tickets[0])

        assert woken == [0, 2]

    def test_a_ticket_waits_for_all_that_it_needs(self) -> None:
        limits = Limits(2, {"gpu": 1, "disk": 1})
        woken: list[str] = []
        limits.take(("gpu",))
        limits.take(("disk",))
        limits.wait(("gpu", "disk"), (0, 0, 0), lambda: woken.append("both"))
        limits.wait(("gpu",), (0, 0, 1), lambda: woken.append("gpu"))
        assert limits.full(("gpu", "disk")) == ("max_concurrency", "gpu", "disk")

        limits.give_back(("disk",))
        assert (woken, limits.full(("gpu", "disk"))) == ([], ("gpu",))
        limits.give_back(("gpu",))

        assert woken == ["both"]


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

    def test_of_those_that_wait_the_higher_priority_starts_first_and_then_the_older(self) -> None:
        workflow = Workflow("w", [*nodes("a", uses="gpu"), *nodes("b"), *nodes("c", uses="gpu")])
        workflow.add(Node("last", lambda: None, priority=-1))
        workflow.add(Node("first", lambda: None, uses="gpu", priority=7))
        lane = Lane(PureRun(workflow), Limits(1, {"gpu": 9}))
        order = lane.admit()
        lane.add("a")
        while lane.admission:
            lane.give_back(order[-1])
            order += lane.admit()

        assert (order[0], order[-2:]) == ("first", ["a", "last"])
        assert sorted(order[1:4]) == ["a", "b", "c"]

    def test_a_run_of_higher_priority_overtakes_those_that_wait(self) -> None:
        limits = Limits(1)
        low = Lane(PureRun(Workflow("w", nodes("a", "b", "c"))), limits)
        assert low.admit() == ["a"]
        high = Lane(PureRun(Workflow("w", nodes("x", "y"))), limits, priority=1)
        assert high.admit() == []

        low.give_back("a")
        assert (low.admit(), high.admit()) == ([], ["x"])
        high.give_back("x")
        assert (low.admit(), high.admit()) == ([], ["y"])
        high.give_back("y")

        assert (low.admit(), high.admit()) == (["b"], [])

    def test_a_run_that_may_start_nothing_leaves_the_line(self) -> None:
        limits = Limits(1)
        one = Lane(PureRun(Workflow("w", nodes("a", "b"))), limits)
        other = Lane(PureRun(Workflow("w", nodes("c"))), limits)
        assert (one.admit(), other.admit()) == (["a"], [])
        one.give_back("a")

        one.admission.withdraw()

        assert (other.woken, other.admit()) == (1, ["c"])
        other.give_back("c")
        assert one.admit() == ["b"]

    def test_a_slot_that_was_granted_for_nothing_goes_to_the_next(self) -> None:
        limits = Limits(2)
        run = PureRun(Workflow("w", nodes("a", "b", "c")))
        one, other = Lane(run, limits), Lane(PureRun(Workflow("w", nodes("x"))), limits)
        assert (one.admit(), other.admit()) == (["a", "b"], [])
        run.fail("a")
        one.give_back("a")
        assert other.woken == 0

        assert (one.admit(), other.admit()) == ([], ["x"])

    def test_it_says_which_limits_a_node_waits_for(self) -> None:
        workflow = Workflow("w", nodes("a", "b", uses=["gpu", "disk"]))
        workflow.map(over={"x": "xs"}, name="m", limit=1)(lambda x: None)
        run = PureRun(workflow)
        run.expand("m", 2)
        lane = Lane(run, Limits(2, {"gpu": 1, "disk": 2}))
        assert sorted(lane.admit()) == ["a", "m[0]"]

        awaited = {name: lane.admission.awaited(run[name]) for name in ("a", "b", "m[1]")}

        assert awaited == {"a": (), "b": ("max_concurrency", "gpu"), "m[1]": ("limit", "max_concurrency")}
        assert lane.admission.awaited(None) == ()

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
