"""Why a node is where it is: each reason, in data and in one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagflow import DAGExecutor, Node, RetryPolicy, Workflow
from dagflow.errors import RunFailedError, RunNotFoundError, RunStateError
from executors import Held, fails, until

if TYPE_CHECKING:
    from dagflow.testing import FakeClock
    from executors import OpenExecutor


async def sentence(executor: DAGExecutor, node: str, run_id: str = "r") -> str:
    return (await executor.explain(run_id, node)).sentence


async def run_to_failure(executor: DAGExecutor, workflow: Workflow) -> None:
    with pytest.raises(RunFailedError):
        await executor.run(workflow, run_id="r")


class TestEnded:
    async def test_a_node_that_completed_says_after_how_many_attempts(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1), Node("b", fails(times=1), retry=2)])
        await executor.run(workflow, run_id="r")

        assert await sentence(executor, "a") == "node 'a' completed after 1 attempt"
        assert await sentence(executor, "b") == "node 'b' completed after 2 attempts"

    async def test_a_failed_node_says_with_what(self, executor: DAGExecutor) -> None:
        await run_to_failure(executor, Workflow("w", [Node("a", fails(times=1, error=ValueError("no")))]))

        explanation = await executor.explain("r", "a")

        assert explanation.sentence == "node 'a' failed for good with ValueError: no"
        assert (explanation.status, explanation.attempts) == ("failed", 1)
        assert explanation.error is not None
        assert explanation.error.type == "ValueError"

    async def test_a_skipped_node_says_which_condition_saw_which_values(self, executor: DAGExecutor) -> None:
        def is_large(amount: int) -> bool:
            return amount > 10

        workflow = Workflow("w", [Node("a", lambda: 1, when=is_large), Node("b", lambda a: a)])
        await executor.run(workflow, {"amount": 3}, run_id="r")

        explanation = await executor.explain("r", "a")

        assert explanation.sentence.endswith(".is_large(amount=3) was false")
        assert explanation.reason is not None
        assert explanation.reason["values"] == {"amount": "3"}
        assert await sentence(executor, "b") == (
            "node 'b' is skipped because it needs all_success of its dependencies, and a is skipped"
        )

    async def test_a_blocked_node_says_what_failed(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", fails(times=1)), Node("b", lambda a: a)])
        await run_to_failure(executor, workflow)

        explanation = await executor.explain("r", "b")

        assert explanation.sentence == (
            "node 'b' is blocked because it needs all_success of its dependencies, and a is failed"
        )
        assert explanation.reason == {
            "reason": "dependencies",
            "join": "all_success",
            "dependencies": {"a": "failed"},
        }

    async def test_a_cancelled_node_and_those_that_never_started(self, executor: DAGExecutor) -> None:
        held = Held()
        workflow = Workflow("w", [Node("a", held), Node("z", lambda: 1, when=lambda: False)])
        workflow.add(Node("b", lambda: 1, ["z"], join="none_failed", bind={}))
        workflow.add(Node("c", lambda a: a))
        handle = await executor.start(workflow, run_id="r")
        await held.started.wait()
        await handle.cancel()
        with pytest.raises(Exception, match="cancelled"):
            await handle.result()

        assert await sentence(executor, "a") == "node 'a' is cancelled because its run was cancelled"
        assert (
            await sentence(executor, "c") == "node 'c' is pending: it needs a (cancelled) to end first"
            or (await sentence(executor, "c"))
            == "node 'c' is pending: its run was cancelled before it was started, resume() goes on"
        )


class TestRunning:
    async def test_a_node_that_runs_names_its_owner_and_the_lease(self, open_executor: OpenExecutor) -> None:
        held = Held()
        owner, other = await open_executor(), await open_executor()
        await owner.start(Workflow("w", [Node("a", held)]), run_id="r")
        await held.started.wait()

        explanation = await other.explain("r", "a")

        assert explanation.owner == owner._engine.owner
        assert explanation.lease_until is not None
        until_when = explanation.lease_until.isoformat()
        assert explanation.sentence == (
            f"node 'a' is running attempt 1, called by the owner {explanation.owner!r}, "
            f"whose lease lapses at {until_when}"
        )

    async def test_a_call_that_was_let_go_of_says_that_nobody_drives_it(self, open_executor: OpenExecutor) -> None:
        held = Held()
        owner, other = await open_executor(), await open_executor()
        await owner.start(Workflow("w", [Node("a", held), Node("b", lambda a: a)]), run_id="r")
        await held.started.wait()
        await owner.__aexit__(None, None, None)

        assert await sentence(other, "a") == (
            "node 'a' is running attempt 1, but nobody drives its run: resume() calls it again"
        )
        assert (await other.explain("r", "b")).missing == {"a": "running"}

    async def test_a_map_counts_its_items(self, executor: DAGExecutor) -> None:
        held = Held()

        async def work(x: int) -> None:
            if x == 1:
                raise ValueError(x)
            if x == 2:
                await held()

        workflow = Workflow("w")
        workflow.map(over={"x": "xs"}, on_error="collect", limit=1)(work)
        await executor.start(workflow, {"xs": [0, 1, 2, 3]}, run_id="r")
        await held.started.wait()

        assert await sentence(executor, "work") == (
            "node 'work' is running its items: 2 of 4 have ended, 1 of them failed"
        )
        waits = await executor.explain("r", "work[3]")
        assert (waits.waits_for, waits.limits) == ("limit", ("limit",))


class TestWaiting:
    async def test_the_next_attempt_says_when_it_is_due_and_why(
        self, open_executor: OpenExecutor, clock: FakeClock
    ) -> None:
        clock.auto = False
        executor = await open_executor()
        policy = RetryPolicy(max_attempts=2, delay=60.0, jitter=0)
        await executor.start(
            Workflow("w", [Node("a", fails(times=1, error=OSError("busy")), retry=policy)]), run_id="r"
        )
        await clock.asleep()

        explanation = await executor.explain("r", "a")

        assert (explanation.waits_for, explanation.attempts) == ("retry", 1)
        assert explanation.due_at is not None
        assert (explanation.due_at - clock.now()).total_seconds() == 60
        assert explanation.sentence == (
            "node 'a' waits for its attempt 2, after attempt 1 failed with OSError: busy, "
            f"due at {explanation.due_at.isoformat()}"
        )

    async def test_a_timer_says_when_its_time_comes(self, open_executor: OpenExecutor, clock: FakeClock) -> None:
        clock.auto = False
        executor = await open_executor()
        workflow = Workflow("w")
        workflow.sleep("night", 3600)
        await executor.start(workflow, run_id="r")
        await clock.asleep()

        explanation = await executor.explain("r", "night")

        assert explanation.due_at is not None
        assert explanation.sentence == f"node 'night' waits for its time, due at {explanation.due_at.isoformat()}"

    async def test_a_signal_is_named(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w")
        workflow.wait_for_signal("paid")
        await executor.run(workflow, run_id="r")

        explanation = await executor.explain("r", "paid")

        assert explanation.sentence == "node 'paid' waits for the signal 'paid'"
        assert (explanation.waits_for, explanation.due_at, explanation.owner) == ("signal", None, None)

    async def test_a_review_says_whose_decision_is_missing_and_until_when(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w")
        workflow.review("approval", assignees=["ada", "bo"], deadline=60.0)
        workflow.review("anybody")
        await executor.run(workflow, run_id="r")

        explanation = await executor.explain("r", "approval")

        assert explanation.assignees == ("ada", "bo")
        assert explanation.due_at is not None
        assert explanation.sentence == (
            f"node 'approval' waits for a decision of ada or bo, due at {explanation.due_at.isoformat()}"
        )
        assert await sentence(executor, "anybody") == "node 'anybody' waits for a decision of anybody"

    async def test_a_sub_workflow_names_the_run_that_waits(self, executor: DAGExecutor) -> None:
        child = Workflow("child")
        child.wait_for_signal("paid")
        workflow = Workflow("w")
        workflow.subworkflow("bill", child)
        await executor.run(workflow, run_id="r")

        explanation = await executor.explain("r", "bill")

        assert (explanation.waits_for, explanation.child_run_id) == ("run", "r/bill")
        assert explanation.sentence == "node 'bill' waits for the run 'r/bill' that it started, which waits itself"


class TestPending:
    async def test_a_node_says_which_dependencies_have_not_ended(self, executor: DAGExecutor) -> None:
        held = Held()
        workflow = Workflow("w", [Node("a", held), Node("b", lambda a: a), Node("c", lambda a, b: 1)])
        await executor.start(workflow, run_id="r")
        await held.started.wait()

        explanation = await executor.explain("r", "c")

        assert explanation.missing == {"a": "running", "b": "pending"}
        assert explanation.sentence == "node 'c' is pending: it needs a (running), b (pending) to end first"

    async def test_a_ready_node_says_of_which_limits_it_waits_for_a_slot(self, open_executor: OpenExecutor) -> None:
        held = Held()
        executor = await open_executor(max_concurrency=1, limits={"gpu": 1, "disk": 1})
        await executor.start(Workflow("w", [Node("a", held, uses="gpu")]), run_id="first")
        await held.started.wait()
        await executor.start(Workflow("w2", [Node("a", lambda: 1, uses=["gpu", "disk"])]), run_id="r")

        async def waits() -> bool:
            return (await executor.explain("r", "a")).limits != ()

        await until(waits)
        explanation = await executor.explain("r", "a")

        assert (explanation.waits_for, explanation.limits) == ("limit", ("max_concurrency", "gpu"))
        assert explanation.sentence == (
            "node 'a' is pending: it is ready and waits for a free slot of max_concurrency and gpu"
        )

    async def test_a_run_that_nobody_has_taken_up(self, executor: DAGExecutor) -> None:
        await executor.submit(Workflow("w", [Node("a", lambda: 1)]), run_id="r")

        assert await sentence(executor, "a") == "node 'a' is pending: nobody has taken up its run yet"

    async def test_a_paused_run(self, executor: DAGExecutor) -> None:
        await executor.submit(Workflow("w", [Node("a", lambda: 1)]), run_id="r")
        await executor.pause("r")

        assert await sentence(executor, "a") == "node 'a' is pending: its run is paused, resume() goes on"

    async def test_a_cancelled_run(self, executor: DAGExecutor) -> None:
        await executor.submit(Workflow("w", [Node("a", lambda: 1)]), run_id="r")
        await executor.cancel("r")

        assert await sentence(executor, "a") == (
            "node 'a' is pending: its run was cancelled before it was started, resume() goes on"
        )

    async def test_a_failed_run(self, open_executor: OpenExecutor) -> None:
        executor = await open_executor(max_concurrency=1)
        await run_to_failure(executor, Workflow("w", [Node("a", fails(times=1), priority=1), Node("b", lambda: 1)]))

        assert await sentence(executor, "b") == (
            "node 'b' is pending: its run failed before it was started, resume() goes on"
        )

    async def test_a_run_that_a_failure_has_stopped(self, open_executor: OpenExecutor) -> None:
        held = Held()
        executor = await open_executor(max_concurrency=2)
        workflow = Workflow("w", [Node("long", held, priority=1), Node("bad", fails(times=1)), Node("z", lambda: 1)])
        await executor.start(workflow, run_id="r")

        async def failed() -> bool:
            return (await executor.get("r")).nodes["bad"].status == "failed"

        await until(failed)

        assert await sentence(executor, "z") == "node 'z' is pending: nothing new starts in its run since 'bad' failed"

    async def test_a_map_that_a_failed_item_has_stopped(self, open_executor: OpenExecutor) -> None:
        held = Held()

        async def work(item: int) -> None:
            if item:
                raise ValueError
            await held()

        workflow = Workflow("w", [Node("items", lambda: [0, 1, 2])])
        workflow.map(over={"item": "items"}, name="work", allow_failure=True)(work)
        executor = await open_executor(max_concurrency=2)
        handle = await executor.start(workflow, run_id="r")

        async def failed() -> bool:
            return (await executor.get("r")).nodes["work[1]"].status == "failed"

        await until(lambda: held.calls == 1)
        await until(failed)
        while_it_runs = await sentence(executor, "work[2]")
        held.gate.set()
        run = await handle.result()

        assert run.status == "completed"
        assert while_it_runs == "node 'work[2]' is pending: nothing new starts in its map since 'work[1]' failed"
        assert await sentence(executor, "work[2]") == (
            "node 'work[2]' is pending: its map 'work' ended before it was started"
        )

    async def test_a_run_whose_owner_has_let_go(self, open_executor: OpenExecutor) -> None:
        held = Held()
        owner, other = await open_executor(max_concurrency=1), await open_executor()
        await owner.start(Workflow("w", [Node("a", held, priority=1), Node("b", lambda: 1)]), run_id="r")
        await held.started.wait()
        elsewhere = await sentence(other, "b")
        await owner.__aexit__(None, None, None)

        assert elsewhere.startswith(f"node 'b' is pending: it is ready to start by the owner {owner._engine.owner!r}")
        assert await sentence(other, "b") == "node 'b' is pending: it is ready, but nobody drives its run"


async def test_what_does_not_exist_is_named(executor: DAGExecutor) -> None:
    await executor.run(Workflow("w", [Node("letter", lambda: 1)]), run_id="r")

    with pytest.raises(RunStateError, match="it has no node 'leter', did you mean 'letter'"):
        await executor.explain("r", "leter")
    with pytest.raises(RunNotFoundError):
        await executor.explain("s", "letter")
