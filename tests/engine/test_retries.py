"""Attempts that failed and are made again: when, how often, and across restarts."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import Node, NodeContext, RetryPolicy, Workflow
from dagflow.errors import ContractError, RunFailedError
from dagflow.testing import FakeClock
from executors import Held, fails

if TYPE_CHECKING:
    from dagflow import DAGExecutor, Event
    from executors import OpenExecutor


def policy(**options: Any) -> RetryPolicy:
    return RetryPolicy(**{"max_attempts": 4, "delay": 1.0, "backoff": 2.0, "jitter": 0.0, **options})


async def events(executor: DAGExecutor, *kinds: str) -> list[Event]:
    return [event for event in await executor.history("r") if event.kind in kinds]


class TestDelays:
    async def test_a_node_is_tried_again_after_its_delays(self, executor: DAGExecutor, clock: FakeClock) -> None:
        run = await executor.run(Workflow("w", [Node("a", fails(times=3), retry=policy())]), run_id="r")

        assert (run.outputs, run.nodes["a"].attempts) == ({"a": "ok"}, 4)
        assert clock.slept == [1.0, 2.0, 4.0]
        starts = [event.at for event in await events(executor, "node_started")]
        assert [(later - sooner).total_seconds() for sooner, later in pairwise(starts)] == [1.0, 2.0, 4.0]

    async def test_a_delay_has_a_limit(self, executor: DAGExecutor, clock: FakeClock) -> None:
        await executor.run(Workflow("w", [Node("a", fails(times=3), retry=policy(max_delay=1.5))]))

        assert clock.slept == [1.0, 1.5, 1.5]

    async def test_a_delay_is_spread_by_its_jitter(self, executor: DAGExecutor, clock: FakeClock) -> None:
        nodes = [Node(f"n{i}", fails(times=1), retry=policy(jitter=0.5)) for i in range(20)]

        await executor.run(Workflow("w", nodes), run_id="r")

        delays = [(event.data or {})["delay"] for event in await events(executor, "node_retry")]
        assert len(set(delays)) > 10
        assert all(0.5 <= delay <= 1.5 for delay in delays)

    async def test_without_a_delay_the_next_attempt_follows_at_once(self, executor: DAGExecutor) -> None:
        run = await executor.run(Workflow("w", [Node("a", fails(times=3), retry=policy(delay=0.0))]))

        assert run.nodes["a"].attempts == 4

    async def test_other_nodes_go_on_in_the_meantime(self, open_executor: OpenExecutor) -> None:
        clock = FakeClock()
        executor = await open_executor(clock=clock)
        nodes = [Node("a", fails(times=1), retry=policy(delay=60.0)), Node("b", lambda: "b"), Node("c", lambda b: b)]
        handle = await executor.start(Workflow("w", nodes), run_id="r")
        await clock.asleep()
        async for event in handle.events():
            if event.node == "c" and event.kind == "node_completed":
                break
        assert (await executor.get("r")).nodes["a"].status == "waiting"

        clock.advance(60)

        assert (await handle.result()).outputs == {"a": "ok", "b": "b", "c": "b"}

    async def test_a_node_that_waits_says_until_when(self, open_executor: OpenExecutor) -> None:
        clock = FakeClock()
        executor = await open_executor(clock=clock)
        handle = await executor.start(Workflow("w", [Node("a", fails(times=1), retry=policy(delay=60.0))]), run_id="r")
        await clock.asleep()
        run = await executor.get("r")

        assert (run.status, run.nodes["a"].status) == ("waiting", "waiting")
        assert run.nodes["a"].due_at == clock.now() + timedelta(seconds=60)
        assert run.nodes["a"].error is not None
        await handle.cancel()


class TestHowOften:
    async def test_a_node_fails_when_its_attempts_are_used_up(self, executor: DAGExecutor) -> None:
        function = fails(times=99)

        with pytest.raises(RunFailedError) as caught:
            await executor.run(Workflow("w", [Node("a", function, retry=policy(max_attempts=3))]), run_id="r")

        assert caught.value.run.nodes["a"].attempts == 3
        assert [e.kind.value for e in await events(executor, "node_retry", "node_failed")] == [
            "node_retry",
            "node_retry",
            "node_failed",
        ]

    async def test_without_a_policy_there_is_one_attempt(self, executor: DAGExecutor) -> None:
        with pytest.raises(RunFailedError) as caught:
            await executor.run(Workflow("w", [Node("a", fails(times=1))]))

        assert caught.value.run.nodes["a"].attempts == 1

    async def test_only_errors_that_the_policy_names_are_worth_another_attempt(self, executor: DAGExecutor) -> None:
        retry = policy(retry_on=(OSError, KeyError))

        run = await executor.run(Workflow("w", [Node("a", fails(times=2, error=FileNotFoundError("x")), retry=retry)]))
        assert run.nodes["a"].attempts == 3
        with pytest.raises(RunFailedError) as caught:
            await executor.run(Workflow("w", [Node("a", fails(times=2, error=ValueError("x")), retry=retry)]))
        assert caught.value.run.nodes["a"].attempts == 1

    @pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt(), GeneratorExit()])
    async def test_by_default_what_wants_to_end_the_process_is_not_worth_another_attempt(
        self, executor: DAGExecutor, error: BaseException
    ) -> None:
        with pytest.raises(RunFailedError) as caught:
            await executor.run(Workflow("w", [Node("a", fails(times=9, error=error), retry=4)]))

        assert caught.value.run.nodes["a"].attempts == 1
        everything = policy(retry_on=BaseException)
        run = await executor.run(Workflow("w", [Node("a", fails(times=1, error=error), retry=everything)]))
        assert run.nodes["a"].attempts == 2

    async def test_a_value_that_cannot_be_kept_is_tried_again_like_any_failure(self, executor: DAGExecutor) -> None:
        results = iter([object(), "ok"])

        run = await executor.run(Workflow("w", [Node("a", lambda: next(results), retry=2)]))

        assert (run.outputs, run.nodes["a"].attempts) == ({"a": "ok"}, 2)

    async def test_an_exception_group_is_an_error_like_any_other(self, executor: DAGExecutor) -> None:
        error = ExceptionGroup("many", [ValueError("x"), OSError("y")])

        run = await executor.run(Workflow("w", [Node("a", fails(times=1, error=error), retry=2)]))

        assert run.nodes["a"].attempts == 2

    async def test_attempts_are_numbered_and_share_their_key(self, executor: DAGExecutor) -> None:
        seen = []

        def note(context: NodeContext) -> None:
            seen.append((context.attempt, context.idempotency_key))
            if context.attempt < 3:
                raise ContractError("a", "output", "$", "no")

        await executor.run(Workflow("w", [Node("a", note, retry=3)]))

        assert [attempt for attempt, _ in seen] == [1, 2, 3]
        assert len({key for _, key in seen}) == 1


class TestRestarts:
    async def test_the_attempts_of_all_processes_count_together(self, open_executor: OpenExecutor) -> None:
        workflow = Workflow("w", [Node("a", fails(times=99), retry=policy(max_attempts=4, delay=60.0))])
        clock = FakeClock()
        for _ in range(3):
            executor = await open_executor(workflow, clock=clock)
            await executor.start(workflow, run_id="r")
            await clock.asleep()
            await executor.__aexit__(None, None, None)
            clock.advance(3600)

        with pytest.raises(RunFailedError) as caught:
            await (await open_executor(workflow, clock=clock)).run(workflow, run_id="r")

        run = caught.value.run
        assert run.nodes["a"].attempts == 4

    async def test_a_retry_that_was_due_while_nobody_was_there_is_made_at_once(
        self, open_executor: OpenExecutor
    ) -> None:
        workflow = Workflow("w", [Node("a", fails(times=1), retry=policy(delay=60.0))])
        clock = FakeClock()
        executor = await open_executor(workflow, clock=clock)
        await executor.start(workflow, run_id="r")
        await clock.asleep()
        await executor.__aexit__(None, None, None)
        clock.advance(600)

        run = await (await open_executor(workflow, clock=clock)).resume("r")

        assert (run.outputs, clock.slept[1:]) == ({"a": "ok"}, [])

    async def test_a_retry_that_is_due_later_is_waited_for(self, open_executor: OpenExecutor) -> None:
        workflow = Workflow("w", [Node("a", fails(times=1), retry=policy(delay=60.0))])
        clock = FakeClock()
        executor = await open_executor(workflow, clock=clock)
        await executor.start(workflow, run_id="r")
        await clock.asleep()
        await executor.__aexit__(None, None, None)
        clock.advance(20)

        resumed = asyncio.create_task((await open_executor(workflow, clock=clock)).resume("r"))
        await clock.asleep()
        assert clock.slept == [60.0, 40.0]
        clock.advance(40)

        assert (await resumed).outputs == {"a": "ok"}

    async def test_a_call_that_was_cut_off_is_repeated_as_the_same_attempt(self, open_executor: OpenExecutor) -> None:
        held = Held("b")
        seen: list[int] = []

        async def function(context: NodeContext) -> Any:
            seen.append(context.attempt)
            if context.attempt == 1:
                raise ValueError("first")
            return await held()

        workflow = Workflow("w", [Node("a", function, retry=policy(max_attempts=2))])
        executor = await open_executor()
        await executor.start(workflow, run_id="r")
        await held.started.wait()
        await executor.__aexit__(None, None, None)
        held.gate.set()

        run = await (await open_executor(workflow)).resume("r")

        assert (run.outputs, seen, run.nodes["a"].attempts) == ({"a": "b"}, [1, 2, 2], 2)

    async def test_resuming_a_failed_run_gives_fresh_attempts(self, open_executor: OpenExecutor) -> None:
        workflow = Workflow("w", [Node("a", fails(times=5), retry=policy(max_attempts=3))])
        executor = await open_executor()
        with pytest.raises(RunFailedError):
            await executor.run(workflow, run_id="r")

        run = await executor.resume("r")

        assert run.nodes["a"].attempts == 3
