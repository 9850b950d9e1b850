"""Nodes that wait: for a time, for a signal, for a person."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from dagflow import DAGExecutor, JsonCodec, Node, RetryPolicy, Workflow
from dagflow._events import Message, MessageKind, RunQuery, RunStatus
from dagflow.errors import (
    AlreadyDecidedError,
    DecisionError,
    NodeTimeoutError,
    ReviewRejectedError,
    RunCancelledError,
    RunFailedError,
    RunOwnedError,
    RunStateError,
    SerializationError,
    UnknownWorkflowError,
    WorkflowError,
)
from dagflow.stores import MemoryStore
from dagflow.testing import FakeClock
from executors import Calls, Held, fails, until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagflow.protocols import ContextStore
    from executors import OpenExecutor


def waits_for_signal(**options: Any) -> Workflow:
    workflow = Workflow("w", [Node("before", lambda: 1)])
    workflow.wait_for_signal("paid", depends_on="before", **options)
    workflow.add(Node("after", lambda paid: [paid]))
    return workflow


def reviewed(**options: Any) -> Workflow:
    workflow = Workflow("w", [Node("before", lambda: 1)])
    workflow.review("check", depends_on="before", **options)
    workflow.add(Node("after", lambda check: check["approved"]))
    return workflow


class TestTimers:
    async def test_a_timer_completes_when_its_time_has_passed(self, executor: DAGExecutor, clock: FakeClock) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1)])
        workflow.sleep("night", 3600, depends_on="a")
        workflow.add(Node("b", lambda: 2, ["night"]))

        run = await executor.run(workflow)

        assert run.outputs == {"a": 1, "night": None, "b": 2}
        assert (clock.slept, run.nodes["night"].duration) == ([3600.0], 3600.0)

    async def test_a_timer_goes_on_while_nobody_is_there(self, open_executor: OpenExecutor) -> None:
        clock = FakeClock()
        workflow = Workflow("w")
        workflow.sleep("night", 3600)
        executor = await open_executor(workflow, clock=clock)
        await executor.start(workflow, run_id="r")
        await clock.asleep()
        await executor.__aexit__(None, None, None)
        clock.advance(1800)
        resumed = asyncio.create_task((await open_executor(workflow, clock=clock)).resume("r"))
        await clock.asleep()
        assert clock.slept == [3600.0, 1800.0]
        clock.advance(1800)

        assert (await resumed).status == "completed"


class TestSignals:
    async def test_a_run_waits_without_an_owner_until_its_signal_comes(self, executor: DAGExecutor) -> None:
        run = await executor.run(waits_for_signal(), run_id="r")
        assert (run.status, run.nodes["paid"].status) == ("waiting", "waiting")
        assert [summary.owner for summary in await executor.runs()] == [None]

        await executor.signal("r", "paid", {"euros": 5})

        run = await executor.resume("r")
        assert run.outputs == {"before": 1, "paid": {"euros": 5}, "after": [{"euros": 5}]}

    async def test_a_signal_reaches_a_run_that_is_being_driven_at_once(self, executor: DAGExecutor) -> None:
        gate = asyncio.Event()
        workflow = waits_for_signal()
        workflow.add(Node("beside", gate.wait))
        handle = await executor.start(workflow, run_id="r")
        await executor.signal("r", "paid", 7)
        async for event in handle.events():
            if event.node == "after" and event.kind == "node_completed":
                break
        gate.set()

        assert (await handle.result()).outputs["after"] == [7]

    async def test_a_signal_that_comes_first_is_kept_and_a_second_one_too(self, executor: DAGExecutor) -> None:
        workflow = waits_for_signal()
        await executor.submit(workflow, run_id="r")
        await executor.signal("r", "paid", 1)
        await executor.signal("r", "paid", 2)

        assert (await executor.run(workflow, run_id="r")).outputs["paid"] == 1

    async def test_a_signal_that_does_not_come_in_time_fails_its_node(self, open_executor: OpenExecutor) -> None:
        clock = FakeClock()
        executor = await open_executor(clock=clock)
        workflow = waits_for_signal(timeout=60)
        assert (await executor.run(workflow, run_id="r")).status == "waiting"
        clock.advance(60)

        with pytest.raises(RunFailedError, match="'paid' took longer than 60 seconds") as failed:
            await executor.run(workflow, run_id="r")
        assert isinstance(failed.value.__cause__, NodeTimeoutError)

    async def test_a_signal_that_makes_no_sense_is_refused(self, executor: DAGExecutor) -> None:
        workflow = waits_for_signal()
        await executor.run(workflow, run_id="r")

        with pytest.raises(RunStateError, match=r"no node of it waits for a signal 'payd', did you mean 'paid'\?"):
            await executor.signal("r", "payd")
        with pytest.raises(SerializationError):
            await executor.signal("r", "paid", object())
        await executor.signal("r", "paid")
        await executor.resume("r")
        with pytest.raises(RunStateError, match="it has ended and takes no signals"):
            await executor.signal("r", "paid")


@attrs.frozen
class Form:
    amount: int = attrs.field(validator=attrs.validators.gt(0))


class TestReviews:
    async def test_a_review_waits_for_a_person_and_gives_their_decision(
        self, executor: DAGExecutor, clock: FakeClock
    ) -> None:
        workflow = reviewed(assignees=["ada", "bob"])
        assert (await executor.run(workflow, run_id="r")).status == "waiting"

        (review,) = await executor.reviews()
        assert (review.run_id, review.workflow, review.review) == ("r", "w", "check")
        assert (review.assignees, review.deadline_at) == (("ada", "bob"), None)
        await executor.decide("r", "check", approved=True, by="ada", data={"n": 1}, comment="fine")
        run = await executor.resume("r")

        assert run.outputs["check"] == {
            "approved": True,
            "by": "ada",
            "at": clock.now(),
            "comment": "fine",
            "data": {"n": 1},
        }
        assert await executor.reviews() == []

    async def test_a_rejection_fails_the_review_and_names_who_it_was(self, executor: DAGExecutor) -> None:
        workflow = reviewed()
        await executor.run(workflow, run_id="r")
        await executor.decide("r", "check", approved=False, by="ada", comment="no")

        with pytest.raises(RunFailedError, match="review 'check' was rejected by ada: no") as failed:
            await executor.resume("r")
        cause = failed.value.__cause__
        assert isinstance(cause, ReviewRejectedError)
        assert (cause.by, cause.comment) == ("ada", "no")

    async def test_a_rejection_may_be_an_answer_like_any_other(self, executor: DAGExecutor) -> None:
        workflow = reviewed(on_reject="continue")
        await executor.run(workflow, run_id="r")
        await executor.decide("r", "check", approved=False, by="ada")

        assert (await executor.resume("r")).outputs["after"] is False

    async def test_the_first_decision_counts_and_later_ones_are_told_who_made_it(self, executor: DAGExecutor) -> None:
        workflow = reviewed()
        await executor.run(workflow, run_id="r")

        results = await asyncio.gather(
            *(executor.decide("r", "check", approved=n == 0, by=f"p{n}") for n in range(8)), return_exceptions=True
        )

        late = [result for result in results if isinstance(result, AlreadyDecidedError)]
        assert len(late) == 7
        (winner,) = {error.by for error in late}
        if winner == "p0":
            assert (await executor.resume("r")).outputs["check"]["by"] == "p0"
        else:
            with pytest.raises(RunFailedError, match=f"rejected by {winner}"):
                await executor.resume("r")
        with pytest.raises(AlreadyDecidedError):
            await executor.decide("r", "check", approved=True, by="late")

    @pytest.mark.parametrize(
        ("on_deadline", "expected"),
        [("approve", True), ("reject", "rejected by its deadline"), ("fail", "took longer")],
    )
    async def test_a_deadline_decides_for_those_who_do_not(
        self, open_executor: OpenExecutor, on_deadline: str, expected: Any
    ) -> None:
        clock = FakeClock()
        executor = await open_executor(clock=clock)
        workflow = reviewed(deadline=60, on_deadline=on_deadline)
        await executor.run(workflow, run_id="r")
        (review,) = await executor.reviews()
        assert review.deadline_at == clock.now() + timedelta(seconds=60)
        clock.advance(61)

        if expected is True:
            assert (await executor.resume("r")).outputs["check"]["by"] is None
            return
        with pytest.raises(RunFailedError, match=expected):
            await executor.resume("r")

    async def test_a_decision_that_does_not_fit_is_refused(self, executor: DAGExecutor) -> None:
        workflow = reviewed(assignees="ada", form=Form)
        await executor.submit(workflow, run_id="r")

        async def decide(review: str = "check", by: str = "ada", data: Any = None) -> None:
            await executor.decide("r", review, approved=True, by=by, data=data)

        with pytest.raises(DecisionError, match="it is pending, so there is nothing to decide"):
            await decide()
        await executor.run(workflow, run_id="r")
        with pytest.raises(DecisionError, match=r"it is no review of this run, did you mean 'check'\?"):
            await decide("chek")
        with pytest.raises(DecisionError, match="'eve' may not decide it, only ada"):
            await decide(by="eve")
        with pytest.raises(DecisionError, match="the data does not fit its form"):
            await decide(data={"amount": 0})
        with pytest.raises(DecisionError, match="it asks for the fields of Form, not for list"):
            await decide(data=[1])
        assert len(await executor.reviews(assignee="ada")) == 1
        assert await executor.reviews(assignee="eve") == []
        await decide(data={"amount": 1})
        assert (await executor.resume("r")).outputs["check"]["data"] == {"amount": 1}

    async def test_the_data_may_be_an_object_of_the_class_of_the_form(self, open_executor: OpenExecutor) -> None:
        workflow = reviewed(form=Form)
        executor = await open_executor(workflow, codec=JsonCodec([Form]))
        await executor.run(workflow, run_id="r")

        await executor.decide("r", "check", approved=True, by="ada", data=Form(3))

        assert (await executor.resume("r")).outputs["check"]["data"] == Form(3)

    async def test_a_form_that_is_no_schema_is_named(self, executor: DAGExecutor) -> None:
        await executor.run(reviewed(form={"type": "strnig"}), run_id="r")

        with pytest.raises(DecisionError, match="the form is no JSON Schema"):
            await executor.decide("r", "check", approved=True, by="ada", data=3)

    async def test_a_verdict_is_true_or_false_and_somebody_gives_it(self, executor: DAGExecutor) -> None:
        await executor.run(reviewed(), run_id="r")
        no: Any = "no"
        nobody: Any = None

        with pytest.raises(DecisionError, match="approved= must be True or False, not 'no'"):
            await executor.decide("r", "check", approved=no, by="ada")
        with pytest.raises(DecisionError, match="by= must name who decides, not None"):
            await executor.decide("r", "check", approved=True, by=nobody)

    async def test_the_data_is_checked_where_the_workflow_is_not_known_too(self, open_executor: OpenExecutor) -> None:
        forms = {"class": Form, "schema": {"type": "object", "required": ["amount"]}}
        executor = await open_executor()
        for name, form in forms.items():
            await executor.run(reviewed(form=form), run_id=name)
        stranger = await open_executor()

        with pytest.raises(UnknownWorkflowError):
            await stranger.decide("class", "check", approved=True, by="ada", data={"amount": 1})
        with pytest.raises(DecisionError, match="'amount' is a required property"):
            await stranger.decide("schema", "check", approved=True, by="ada", data={})
        await stranger.decide("schema", "check", approved=True, by="ada", data={"amount": 1})
        await stranger.decide("class", "check", approved=False, by="ada")

    @pytest.mark.parametrize(
        ("on_deadline", "error", "text"),
        [
            ("approve", AlreadyDecidedError, "approved by its deadline"),
            ("reject", AlreadyDecidedError, "rejected by its deadline"),
            ("fail", DecisionError, "its deadline passed"),
        ],
    )
    async def test_who_comes_after_the_deadline_is_refused_though_nobody_has_driven_the_run_since(
        self, open_executor: OpenExecutor, on_deadline: str, error: type[Exception], text: str
    ) -> None:
        clock = FakeClock()
        executor = await open_executor(clock=clock)
        await executor.run(reviewed(deadline=60, on_deadline=on_deadline), run_id="r")
        clock.advance(60)

        with pytest.raises(error, match=text):
            await executor.decide("r", "check", approved=True, by="late")

    async def test_who_was_in_time_is_named_though_the_run_has_not_heard_of_it(
        self, open_executor: OpenExecutor
    ) -> None:
        clock = FakeClock()
        executor = await open_executor(clock=clock)
        await executor.run(reviewed(deadline=60), run_id="r")
        await executor.decide("r", "check", approved=True, by="ada")
        clock.advance(60)

        with pytest.raises(AlreadyDecidedError, match="approved by ada"):
            await executor.decide("r", "check", approved=True, by="late")
        assert (await executor.resume("r")).outputs["check"]["by"] == "ada"

    async def test_what_came_before_a_review_is_not_done_again(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("once", fails(times=0, result="done"))])
        workflow.review("check", depends_on="once")
        workflow.add(Node("after", lambda once, check: once))
        await executor.run(workflow, run_id="r")
        await executor.decide("r", "check", approved=True, by="ada")

        run = await executor.resume("r")

        started = [e.node for e in await executor.history("r") if e.kind == "node_started"]
        assert (run.outputs["after"], started) == ("done", ["once", "after"])

    async def test_a_review_may_be_answered_after_two_weeks_and_two_restarts_and_nothing_runs_twice(
        self, open_executor: OpenExecutor, clock: FakeClock
    ) -> None:
        calls = Calls()
        workflow = Workflow("w", [Node("before", calls.of("before")), Node("beside", calls.of("beside"))])
        workflow.map(over={"x": "xs"}, name="each", depends_on="before")(lambda x: calls.update([f"each {x}"]))
        workflow.review("check", depends_on=["each"], assignees=["ada"])
        workflow.add(Node("after", calls.of("after"), ["check", "beside"]))
        first = await open_executor(workflow)
        assert (await first.run(workflow, {"xs": [1, 2]}, run_id="r")).status == "waiting"
        await first.__aexit__(None, None, None)
        clock.advance(7 * 86_400)
        second = await open_executor(workflow)
        assert (await second.resume("r")).status == "waiting"
        assert [review.run_id for review in await second.reviews(assignee="ada")] == ["r"]
        await second.__aexit__(None, None, None)
        clock.advance(7 * 86_400)
        third = await open_executor(workflow)

        await third.decide("r", "check", approved=True, by="ada")
        run = await third.resume("r")

        assert run.status == "completed"
        assert (run.outputs["check"]["at"] - run.created_at).days == 14
        assert calls == {"before": 1, "beside": 1, "each 1": 1, "each 2": 1, "after": 1}


class TestSubworkflows:
    def child(self) -> Workflow:
        return Workflow("child", [Node("double", lambda x: 2 * x), Node("more", lambda double: double + 1)])

    async def test_a_node_runs_another_workflow_in_a_run_of_its_own(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("x", lambda: 5)])
        workflow.subworkflow("all", self.child())
        workflow.subworkflow("one", self.child(), output="more")

        run = await executor.run(workflow, run_id="r")

        assert (run.outputs["all"], run.outputs["one"]) == ({"double": 10, "more": 11}, 11)
        child = await executor.get("r/one")
        assert (child.workflow, child.status, child.inputs) == ("child", "completed", {"x": 5})
        assert {s.run_id: s.parent for s in await executor.runs()} == {"r": None, "r/one": "r", "r/all": "r"}

    async def test_one_run_for_each_item_of_a_list(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w")
        workflow.subworkflow("each", self.child(), over={"x": "xs"}, output="more", key=str, limit=1)

        run = await executor.run(workflow, {"xs": [1, 2]}, run_id="r")

        assert run.outputs["each"] == [3, 5]
        assert (await executor.get("r/each/2")).outputs["double"] == 4

    async def test_a_run_that_drains_does_not_wait_for_the_other_items_of_a_failed_map(
        self, executor: DAGExecutor
    ) -> None:
        def check(x: int) -> None:
            if x == 1:
                raise ValueError("no")

        inner = Workflow("child", [Node("check", check)])
        inner.wait_for_signal("paid", depends_on="check")
        workflow = Workflow("w")
        workflow.subworkflow("each", inner, over={"x": "xs"}, key=str)
        workflow.add(Node("total", lambda each: each))

        with pytest.raises(RunFailedError) as caught:
            await executor.run(workflow, {"xs": [1, 2]}, run_id="r")

        statuses = {name: node.status.value for name, node in caught.value.run.nodes.items()}
        assert statuses == {"each": "failed", "total": "blocked", "each[1]": "failed", "each[2]": "pending"}
        assert [(e.kind, e.node) for e in await executor.history("r")][-3:] == [
            ("node_failed", "each"),
            ("node_blocked", "total"),
            ("run_failed", None),
        ]
        await executor.signal("r/each/2", "paid", "yes")
        with pytest.raises(RunFailedError) as caught:
            await executor.resume("r")
        assert caught.value.run.nodes["each[2]"].output == {"check": None, "paid": "yes"}

    async def test_an_executor_knows_the_sub_workflows_of_its_workflows(self, open_executor: OpenExecutor) -> None:
        inner = Workflow("inner")
        inner.wait_for_signal("paid")
        middle, outer = Workflow("middle"), Workflow("outer")
        middle.subworkflow("one", inner)
        outer.subworkflow("two", middle)
        executor = await open_executor(outer)
        assert set(executor.workflows) == {"outer", "middle", "inner"}
        await executor.run(outer, run_id="r")
        await executor.signal("r/two/one", "paid", 5)

        assert (await executor.resume("r/two/one")).outputs == {"paid": 5}
        assert (await executor.resume("r")).outputs == {"two": {"one": {"paid": 5}}}

    async def test_a_workflow_that_was_given_comes_before_a_sub_workflow_of_its_name(
        self, open_executor: OpenExecutor
    ) -> None:
        given = Workflow("child", [Node("other", lambda: 1)])
        workflow = Workflow("w")
        workflow.subworkflow("one", self.child(), bind={"x": "y"})

        assert (await open_executor(workflow, given)).workflows["child"] is given
        assert (await open_executor(given, workflow)).workflows["child"] is given

    async def test_what_a_sub_workflow_asks_of_the_executor_is_checked_before_anything_runs(
        self, executor: DAGExecutor
    ) -> None:
        workflow = Workflow("w")
        workflow.subworkflow("one", Workflow("child", [Node("a", lambda: 1, uses="web")]))

        with pytest.raises(WorkflowError, match="workflow 'child', node 'a': uses='web' is none"):
            await executor.run(workflow)
        assert await executor.runs() == []

    async def test_the_nodes_of_the_other_run_get_the_resources_of_the_executor(
        self, open_executor: OpenExecutor
    ) -> None:
        client = object()
        inner = Workflow("inner", [Node("ask", lambda client, item: [client is not None, item])])
        workflow = Workflow("w", [Node("items", lambda: ["a", "b"])])
        workflow.subworkflow("each", inner, over={"item": "items"}, output="ask")
        executor = await open_executor(resources={"client": client})

        run = await executor.run(workflow)

        assert run.outputs["each"] == [[True, "a"], [True, "b"]]

    async def test_a_failure_of_the_other_run_fails_the_node_and_resuming_goes_on_with_it(
        self, executor: DAGExecutor
    ) -> None:
        child = Workflow("child", [Node("a", lambda: 1), Node("b", fails(times=1), ["a"])])
        workflow = Workflow("w")
        workflow.subworkflow("one", child, output="b")
        with pytest.raises(RunFailedError, match="run 'r/one' failed"):
            await executor.run(workflow, run_id="r")

        run = await executor.resume("r")

        assert run.outputs == {"one": "ok"}
        started = [e.node for e in await executor.history("r/one") if e.kind == "node_started"]
        assert started == ["a", "b", "b"]

    async def test_a_run_waits_with_the_run_that_it_started(self, executor: DAGExecutor) -> None:
        child = Workflow("child")
        child.wait_for_signal("paid")
        workflow = Workflow("w")
        workflow.subworkflow("one", child, output="paid")
        assert (await executor.run(workflow, run_id="r")).status == "waiting"

        await executor.signal("r/one", "paid", 5)

        assert (await executor.resume("r")).outputs == {"one": 5}

    async def test_looking_again_at_a_run_that_waits_with_another_one_writes_nothing(
        self, executor: DAGExecutor
    ) -> None:
        inner = Workflow("inner")
        inner.wait_for_signal("go")
        workflow = Workflow("w")
        workflow.subworkflow("child", inner)
        version = (await executor.run(workflow, run_id="r")).version

        for _ in range(3):
            assert (await executor.run(workflow, run_id="r")).version == version

        await executor.signal("r/child", "go", 1)
        assert (await executor.run(workflow, run_id="r")).outputs == {"child": {"go": 1}}

    async def test_another_run_that_was_deleted_is_started_again(self, executor: DAGExecutor) -> None:
        inner = Workflow("inner")
        inner.wait_for_signal("go")
        workflow = Workflow("w")
        workflow.subworkflow("child", inner)
        assert (await executor.run(workflow, run_id="r")).status == "waiting"
        await executor.delete("r/child")

        assert (await executor.run(workflow, run_id="r")).status == "waiting"

        assert (await executor.get("r/child")).status == "waiting"

    async def test_a_server_that_stops_leaves_the_other_run_to_the_run_that_waits_for_it(
        self, open_executor: OpenExecutor, clock: FakeClock
    ) -> None:
        held = Held("done")
        inner = Workflow("inner", [Node("a", held)])
        workflow = Workflow("w")
        workflow.subworkflow("child", inner)
        first = await open_executor(workflow)
        await first.start(workflow, run_id="r")
        await held.started.wait()
        await first.__aexit__(None, None, None)
        held.started.clear()
        executor = await open_executor(workflow, inner)
        server = asyncio.create_task(executor.serve(poll=0.01))
        await held.started.wait()
        resumed = asyncio.create_task(executor.resume("r"))
        await until(lambda: held.calls >= 2)

        server.cancel()
        await asyncio.wait([server])
        held.gate.set()

        assert (await resumed).outputs == {"child": {"a": "done"}}

    async def test_cancelling_a_run_cancels_those_that_it_started(self, executor: DAGExecutor) -> None:
        child = Workflow("child")
        child.wait_for_signal("paid")
        workflow = Workflow("w")
        workflow.subworkflow("one", child)
        await executor.run(workflow, run_id="r")

        await executor.cancel("r")

        assert {s.run_id: s.status.value for s in await executor.runs()} == {"r": "cancelled", "r/one": "cancelled"}

    async def test_cancelling_a_run_ends_the_calls_of_those_that_it_started(self, executor: DAGExecutor) -> None:
        held = Held()
        workflow = Workflow("w")
        workflow.subworkflow("one", Workflow("child", [Node("a", held)]))
        handle = await executor.start(workflow, run_id="r")
        await held.started.wait()

        await handle.cancel()

        with pytest.raises(RunCancelledError):
            await handle.result()
        assert {s.run_id: s.status.value for s in await executor.runs()} == {"r": "cancelled", "r/one": "cancelled"}
        held.gate.set()
        assert (await executor.resume("r")).outputs == {"one": {"a": None}}

    async def test_pausing_a_run_pauses_those_that_it_started(self, executor: DAGExecutor, store: ContextStore) -> None:
        held = Held("a")
        workflow = Workflow("w")
        workflow.subworkflow("one", Workflow("child", [Node("a", held), Node("b", lambda a: a)]), output="b")
        handle = await executor.start(workflow, run_id="r")
        await held.started.wait()

        await handle.pause()

        async def reached() -> bool:
            return bool(await store.receive({"r/one": 0}))

        await until(reached)
        await asyncio.sleep(0.01)
        held.gate.set()

        assert (await handle.result()).status == "paused"
        assert (await executor.get("r/one")).status == "paused"
        assert (await executor.resume("r")).outputs == {"one": "a"}

    async def test_closing_in_the_middle_leaves_both_runs_to_be_resumed(self, open_executor: OpenExecutor) -> None:
        held = Held("a")
        workflow = Workflow("w")
        workflow.subworkflow("one", Workflow("child", [Node("a", held)]), output="a")
        executor = await open_executor(workflow)
        await executor.start(workflow, run_id="r")
        await held.started.wait()
        await executor.__aexit__(None, None, None)
        held.gate.set()

        run = await (await open_executor(workflow)).resume("r")

        assert (run.outputs, held.calls) == ({"one": "a"}, 2)

    async def test_the_end_of_the_other_run_wakes_the_run_that_waits_for_it(self, open_executor: OpenExecutor) -> None:
        child = Workflow("child")
        child.wait_for_signal("paid")
        workflow = Workflow("w")
        workflow.subworkflow("one", child, output="paid")
        server = await open_executor(workflow)  # which knows the other one by that
        handle = await server.submit(workflow, run_id="r")
        serving = asyncio.create_task(server.serve(poll=0.01))

        async def waits() -> bool:
            return [s.status.value for s in await server.runs()] == ["waiting", "waiting"]

        await until(waits)
        await server.signal("r/one", "paid", 5)

        assert (await asyncio.wait_for(handle.result(), 20)).outputs == {"one": 5}
        serving.cancel()
        await asyncio.wait([serving])

    async def test_what_came_for_the_other_run_while_its_parent_was_let_go_of_is_not_left_to_the_next_caller(
        self,
    ) -> None:
        asked, gate = asyncio.Event(), asyncio.Event()

        class Slow(MemoryStore):
            async def receive(self, cursors: Mapping[str, int]) -> list[Message]:
                if "r" in cursors and (await self.find(RunQuery(statuses=frozenset({RunStatus.WAITING})))):
                    asked.set()
                    await gate.wait()
                return await super().receive(cursors)

        child = Workflow("child")
        child.wait_for_signal("paid")
        workflow = Workflow("w")
        workflow.subworkflow("one", child, output="paid")
        async with DAGExecutor(Slow()) as executor:
            handle = await executor.start(workflow, run_id="r")
            await asked.wait()
            await executor.signal("r/one", "paid", 5)
            waiting = asyncio.create_task(handle.result())
            await asyncio.sleep(0)
            gate.set()

            assert (await waiting).outputs == {"one": 5}

    async def test_waiting_for_a_run_does_not_go_on_with_one_that_it_has_started_and_somebody_has_paused(
        self, executor: DAGExecutor
    ) -> None:
        held, calls = Held(), Calls()
        workflow = Workflow("w")
        workflow.subworkflow("one", Workflow("child", [Node("a", held), Node("b", calls.of("b"), ["a"])]))
        handle = await executor.start(workflow, run_id="r")
        await held.started.wait()

        await executor.pause("r/one")
        held.gate.set()

        assert (await handle.result()).status == "waiting"
        assert ((await executor.get("r/one")).status, calls) == ("paused", {})

    @pytest.mark.parametrize("end", ["reject", "cancel"])
    async def test_what_the_other_run_came_to_elsewhere_fails_the_node_that_waits_for_it(
        self, open_executor: OpenExecutor, end: str
    ) -> None:
        child = Workflow("child")
        child.review("check")
        workflow = Workflow("w")
        workflow.subworkflow("one", child)
        server = await open_executor(workflow)
        handle = await server.submit(workflow, run_id="r")
        serving = asyncio.create_task(server.serve(poll=0.01))

        async def rests() -> bool:
            return [(s.status.value, s.owner) for s in await server.runs()] == [("waiting", None)] * 2

        await until(rests)
        if end == "reject":
            await server.decide("r/one", "check", approved=False, by="ada")
        else:
            await server.cancel("r/one")

        with pytest.raises(RunFailedError, match="rejected by ada" if end == "reject" else "run 'r/one' was cancelled"):
            await asyncio.wait_for(handle.result(), 20)
        assert [e.kind.value for e in await server.history("r/one")].count("review_requested") == 1
        serving.cancel()
        await asyncio.wait([serving])
        assert (await server.resume("r")).status == "waiting"
        await server.decide("r/one", "check", approved=True, by="ada")
        assert (await server.resume("r")).status == "completed"

    async def test_the_next_attempt_opens_a_run_again_that_failed_for_the_last_one(self, executor: DAGExecutor) -> None:
        child = Workflow("child", [Node("a", fails(times=3))])
        workflow = Workflow("w")
        workflow.subworkflow("one", child, retry=RetryPolicy(max_attempts=2, delay=1), output="a")

        with pytest.raises(RunFailedError):
            await executor.run(workflow, run_id="r")

        assert (await executor.resume("r")).outputs == {"one": "ok"}
        kinds = [event.kind.value for event in await executor.history("r/one")]
        assert (kinds.count("run_failed"), kinds.count("node_started")) == (3, 4)

    async def test_a_run_says_for_which_attempt_of_its_parent_it_runs(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w")
        workflow.subworkflow("one", Workflow("child", [Node("a", fails(times=9))]), retry=RetryPolicy(max_attempts=2))
        with pytest.raises(RunFailedError):
            await executor.run(workflow, run_id="r")
        with pytest.raises(RunFailedError):
            await executor.resume("r")

        asked = [(event.data or {}).get("asked_by") for event in await executor.history("r/one")]

        assert [attempt for attempt in asked if attempt] == ["0.1", "0.2", "1.1", "1.2"]

    async def test_a_run_that_waits_on_is_taken_over_by_the_next_attempt(self, open_executor: OpenExecutor) -> None:
        child = Workflow("child")
        child.review("check")
        workflow = Workflow("w", [Node("beside", fails(times=1))])
        workflow.subworkflow("one", child)
        executor = await open_executor(workflow)
        with pytest.raises(RunFailedError):
            await executor.run(workflow, run_id="r")
        assert (await executor.resume("r")).status == "waiting"
        await executor.decide("r/one", "check", approved=False, by="ada")
        with pytest.raises(RunFailedError):
            await executor.resume("r/one")

        with pytest.raises(RunFailedError, match="rejected by ada"):
            await executor.run(workflow, run_id="r")

        requests = [event for event in await executor.history("r/one") if event.kind == "review_requested"]
        assert len(requests) == 1

    async def test_a_cancellation_that_was_left_unread_does_not_end_a_run_that_is_asked_for_anew(
        self, open_executor: OpenExecutor
    ) -> None:
        child = Workflow("child")
        child.wait_for_signal("go")
        workflow = Workflow("w", [Node("beside", fails(times=1))])
        workflow.subworkflow("one", child)
        executor = await open_executor(workflow)
        with pytest.raises(RunFailedError):
            await executor.run(workflow, run_id="r")
        await executor._engine.store.send(Message("r/one", MessageKind.CANCEL))

        assert (await executor.resume("r")).status == "waiting"

        await executor.signal("r/one", "go", 1)
        assert (await executor.resume("r")).status == "completed"

    async def test_a_deleted_run_takes_those_that_it_has_started_with_it(self, executor: DAGExecutor) -> None:
        calls = Calls()
        child = Workflow("child", [Node("a", calls.of("a", 1))])
        middle, workflow = Workflow("middle"), Workflow("w")
        middle.subworkflow("inner", child)
        workflow.subworkflow("one", middle)
        await executor.run(workflow, run_id="r")
        await executor.run(child, run_id="r2/one")

        await executor.delete("r")

        assert [summary.run_id for summary in await executor.runs()] == ["r2/one"]
        await executor.run(workflow, run_id="r")
        assert calls["a"] == 3

    async def test_a_run_that_is_driven_is_not_deleted_nor_are_those_that_it_has_started(
        self, executor: DAGExecutor
    ) -> None:
        held = Held()
        workflow = Workflow("w", [Node("beside", held)])
        workflow.subworkflow("one", Workflow("child", [Node("a", lambda: 1)]))
        workflow.add(Node("after", lambda one: one))
        handle = await executor.start(workflow, run_id="r")

        async def went_on() -> bool:
            return (await executor.get("r")).nodes["after"].status == "completed"

        await until(went_on)

        with pytest.raises(RunOwnedError):
            await executor.delete("r")
        assert len(await executor.runs()) == 2
        held.gate.set()
        await handle.result()

    async def test_a_run_that_goes_on_beside_it_is_told_of_the_end_of_the_other_run(
        self, open_executor: OpenExecutor
    ) -> None:
        child, held = Workflow("child"), Held("held")
        child.wait_for_signal("paid")
        workflow = Workflow("w", [Node("beside", held)])
        workflow.subworkflow("one", child, output="paid")
        workflow.add(Node("after", lambda one: [one]))
        executor = await open_executor(workflow, child)
        handle = await executor.start(workflow, run_id="r")

        async def waits() -> bool:
            return (await executor.get("r")).nodes["one"].status == "waiting"

        await until(waits)
        await executor.signal("r/one", "paid", 5)
        assert (await executor.resume("r/one")).status == "completed"

        async def went_on() -> bool:
            return (await executor.get("r")).nodes["after"].status == "completed"

        await asyncio.wait_for(until(went_on), 10)
        held.gate.set()
        assert (await handle.result()).outputs == {"beside": "held", "one": 5, "after": [5]}


class TestMessages:
    async def test_a_store_that_stumbles_over_messages_is_asked_again(
        self, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Stumbles(MemoryStore):
            error: Exception | None = None

            async def receive(self, cursors: Any) -> Any:
                if self.error is not None:
                    raise self.error
                return await super().receive(cursors)

        store, held = Stumbles(clock=clock), Held()
        async with DAGExecutor(store, clock=clock, grace=0.1) as owner, DAGExecutor(store, clock=clock) as other:
            owner._engine.poll = 0.01
            handle = await owner.start(Workflow("w", [Node("a", held)]), run_id="r")
            await held.started.wait()
            store.error = ZeroDivisionError("of a plug-in")
            await until(lambda: "messages to the runs could not be read" in caplog.text)
            store.error = None

            await other.cancel("r")

            with pytest.raises(RunCancelledError):
                await handle.result()


def slept_in(held: Held) -> Workflow:
    """Return a workflow that sleeps for longer than a server waits."""
    workflow = Workflow("slept in", [Node("a", held)])
    workflow.sleep("nap", 3600, depends_on="a")
    workflow.add(Node("after", lambda a: a, ["a", "nap"]))
    return workflow


class TestServing:
    async def serve(self, executor: DAGExecutor, **options: Any) -> asyncio.Task[None]:
        return asyncio.create_task(executor.serve(poll=0.01, **options))

    async def stop(self, server: asyncio.Task[None]) -> None:
        server.cancel()
        await asyncio.wait([server])

    async def test_submitted_runs_are_driven_by_whoever_serves(self, open_executor: OpenExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda x: x + 1)])
        submitter, server = await open_executor(), await open_executor(workflow)
        handles = [await submitter.submit(workflow, {"x": x}) for x in range(10)]
        serving = await self.serve(server, concurrency=3)

        runs = await asyncio.wait_for(asyncio.gather(*(handle.result() for handle in handles)), 20)

        assert [run.outputs["a"] for run in runs] == list(range(1, 11))
        await self.stop(serving)

    async def test_what_is_asked_for_in_the_process_that_serves_does_not_wait_for_the_next_look(
        self, open_executor: OpenExecutor
    ) -> None:
        workflow = Workflow("w")
        workflow.wait_for_signal("go")
        workflow.review("check", depends_on="go")
        server = await open_executor(workflow)
        serving = asyncio.create_task(server.serve(poll=3600))

        async def rests() -> bool:
            return [(s.status.value, s.owner) for s in await server.runs()] == [("waiting", None)]

        async with asyncio.timeout(20):
            await server.submit(workflow, run_id="r")
            await until(rests)
            await server.signal("r", "go", 1)
            await until(lambda: self.is_asked(server))
            await until(rests)
            await server.decide("r", "check", approved=True, by="ada")
            await until(lambda: self.has_completed(server))
        await self.stop(serving)

    async def is_asked(self, server: DAGExecutor) -> bool:
        return len(await server.reviews()) == 1

    async def has_completed(self, server: DAGExecutor) -> bool:
        return (await server.get("r")).status == "completed"

    async def test_runs_of_higher_priority_are_claimed_first(self, open_executor: OpenExecutor) -> None:
        order: list[int] = []
        workflow = Workflow("w", [Node("a", lambda x: order.append(x))])  # noqa: PLW0108 - bound by its name
        server = await open_executor(workflow)
        handles = [await server.submit(workflow, {"x": x}, priority=x) for x in (0, 2, 1)]
        serving = await self.serve(server, concurrency=1)
        await asyncio.wait_for(asyncio.gather(*(handle.result() for handle in handles)), 20)

        assert order == [2, 1, 0]
        await self.stop(serving)

    async def test_a_run_that_got_its_signal_is_taken_up(self, open_executor: OpenExecutor) -> None:
        workflow = waits_for_signal()
        server = await open_executor(workflow)
        handle = await server.submit(workflow, run_id="r")
        serving = await self.serve(server)

        async def waits() -> bool:
            return (await server.get("r")).status == "waiting"

        await until(waits)

        await server.signal("r", "paid", 1)

        assert (await asyncio.wait_for(handle.result(), 20)).outputs["after"] == [1]
        await self.stop(serving)

    async def test_who_waits_for_a_run_waits_for_its_timer_too_when_a_server_lets_go_of_it(
        self, open_executor: OpenExecutor
    ) -> None:
        held = Held("done")
        server = await open_executor(slept_in(held))
        await server.submit(slept_in(held), run_id="r")
        serving = await self.serve(server)
        await held.started.wait()
        waiter = asyncio.create_task(server.resume("r"))
        await until(lambda: server._engine.active["r"].waiters == 1)

        held.gate.set()

        assert (await asyncio.wait_for(waiter, 20)).outputs["after"] == "done"
        await self.stop(serving)

    async def test_a_parent_waits_for_the_timer_of_a_sub_workflow_that_a_server_lets_go_of(
        self, open_executor: OpenExecutor
    ) -> None:
        held = Held("done")
        inner = slept_in(held)
        workflow = Workflow("outer")
        workflow.subworkflow("child", inner, output="after")
        first = await open_executor()
        await first.start(workflow, run_id="r")
        await held.started.wait()
        await first.__aexit__(None, None, None)
        held.started.clear()
        server = await open_executor(inner)
        serving = await self.serve(server)
        await held.started.wait()
        waiter = asyncio.create_task(server.run(workflow, run_id="r"))
        await until(lambda: server._engine.active["r/child"].waiters == 1)

        held.gate.set()

        assert (await asyncio.wait_for(waiter, 20)).outputs == {"child": "done"}
        await self.stop(serving)

    @pytest.mark.parametrize("concurrency", [0, 1.5, "2", True, None])
    async def test_a_number_of_runs_that_is_none_is_refused(self, executor: DAGExecutor, concurrency: Any) -> None:
        with pytest.raises(ValueError, match="concurrency must be a whole number of at least 1, not "):
            await executor.serve(concurrency=concurrency)

    @pytest.mark.parametrize("poll", [0, -1.0, math.nan, math.inf, "1", None])
    async def test_a_time_between_two_looks_that_is_none_is_refused(self, executor: DAGExecutor, poll: Any) -> None:
        with pytest.raises(ValueError, match="poll is in seconds and must be above 0"):
            await executor.serve(poll=poll)
