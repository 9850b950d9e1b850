"""Conditions: `when=` decides whether a node is called or skipped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor, EventKind, Node, NodeContext, Workflow
from dagflow.errors import RunFailedError
from dagflow.stores import MemoryStore
from executors import Calls, Held

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagflow import Event
    from executors import OpenExecutor


async def test_a_condition_decides_whether_a_node_is_called(executor: DAGExecutor) -> None:
    calls = Calls()
    workflow = Workflow("w", [Node("load", lambda x: x)])
    workflow.add(Node("big", calls.of("big"), when=lambda load: load > 10))
    workflow.add(Node("small", calls.of("small"), when=lambda load: load <= 10))

    run = await executor.run(workflow, {"x": 3})

    assert (run.nodes["big"].status, run.nodes["small"].status) == ("skipped", "completed")
    assert calls == {"small": 1}
    assert run.status == "completed"


async def test_a_skipped_node_says_why(executor: DAGExecutor) -> None:
    def is_wanted(x: int, y: str = "z") -> bool:
        return False

    run = await executor.run(Workflow("w", [Node("a", lambda: 1, when=is_wanted)]), {"x": 3})

    reason = run.nodes["a"].reason
    assert reason is not None
    assert reason["reason"] == "condition"
    assert reason["condition"].endswith("is_wanted")
    assert reason["values"] == {"x": "3"}
    assert (run.nodes["a"].attempts, run.nodes["a"].output, "a" in run.outputs) == (0, None, False)


async def test_a_condition_may_be_async(executor: DAGExecutor) -> None:
    async def yes() -> bool:
        return True

    async def no() -> bool:
        return False

    run = await executor.run(Workflow("w", [Node("a", lambda: 1, when=yes), Node("b", lambda: 1, when=no)]))

    assert (run.nodes["a"].status, run.nodes["b"].status) == ("completed", "skipped")


@pytest.mark.parametrize("verdict", [0, "", [], None])
async def test_anything_false_skips_the_node(executor: DAGExecutor, verdict: Any) -> None:
    run = await executor.run(Workflow("w", [Node("a", lambda: 1, when=lambda: verdict)]))

    assert run.nodes["a"].status == "skipped"


@pytest.mark.parametrize("verdict", [1, "no", [False]])
async def test_anything_true_starts_the_node(executor: DAGExecutor, verdict: Any) -> None:
    run = await executor.run(Workflow("w", [Node("a", lambda: 1, when=lambda: verdict)]))

    assert run.nodes["a"].status == "completed"


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt()])
async def test_a_condition_that_raises_fails_its_node(executor: DAGExecutor, error: BaseException) -> None:
    def stumble() -> bool:
        raise error

    with pytest.raises(RunFailedError) as caught:
        await executor.run(Workflow("w", [Node("a", lambda: 1, when=stumble, retry=3), Node("b", lambda a: 1)]))

    run = caught.value.run
    assert (run.nodes["a"].status, run.nodes["a"].attempts, run.nodes["b"].status) == ("failed", 0, "blocked")
    assert caught.value.failures["a"].type == type(error).__name__
    assert "stumble" in caught.value.failures["a"].traceback
    assert caught.value.__cause__ is error


async def test_an_async_condition_that_raises_fails_its_node(executor: DAGExecutor) -> None:
    async def stumble() -> bool:
        raise ValueError("no")

    with pytest.raises(RunFailedError, match="ValueError: no"):
        await executor.run(Workflow("w", [Node("a", lambda: 1, when=stumble)]))


async def test_a_condition_whose_verdict_has_no_truth_fails_its_node(executor: DAGExecutor) -> None:
    class Undecided:
        def __bool__(self) -> bool:
            raise TypeError("neither")

    with pytest.raises(RunFailedError, match="TypeError: neither"):
        await executor.run(Workflow("w", [Node("a", lambda: 1, when=Undecided)]))


async def test_a_skip_goes_down_to_what_needs_the_node(executor: DAGExecutor) -> None:
    workflow = Workflow("w", [Node("a", lambda: 1, when=lambda: False)])
    workflow.add(Node("b", lambda a: 1))
    workflow.add(Node("c", lambda b: 1))
    workflow.add(Node("d", lambda: "d", ["a"], join="all_done"))

    run = await executor.run(workflow)

    assert {name: node.status.value for name, node in run.nodes.items()} == {
        "a": "skipped",
        "b": "skipped",
        "c": "skipped",
        "d": "completed",
    }
    assert run.nodes["b"].reason == {
        "reason": "dependencies",
        "join": "all_success",
        "dependencies": {"a": "skipped"},
    }


async def test_a_default_stands_in_for_the_output_of_a_skipped_node(executor: DAGExecutor) -> None:
    workflow = Workflow("w", [Node("a", lambda: "given", when=lambda flag: flag)])
    workflow.add(Node("b", lambda a="default": a))

    assert (await executor.run(workflow, {"flag": True})).outputs["b"] == "given"
    assert (await executor.run(workflow, {"flag": False})).outputs == {"b": "default"}


async def test_the_context_of_a_condition_is_that_of_its_node(executor: DAGExecutor) -> None:
    def about(context: NodeContext, a: int) -> bool:
        return (context.node, dict(context.outputs), context.inputs["x"]) == ("b", {"a": 1}, 5)

    workflow = Workflow("w", [Node("a", lambda x: 1), Node("b", lambda: 1, when=about)])

    assert (await executor.run(workflow, {"x": 5})).nodes["b"].status == "completed"


async def test_a_condition_is_judged_once_for_a_map_and_once_for_all_attempts(executor: DAGExecutor) -> None:
    calls = Calls()
    workflow = Workflow("w")

    @workflow.map(over={"x": "xs"}, when=calls.of("when", result=True), retry=2)
    def each(x: int) -> int:
        calls[f"x{x}"] += 1
        if calls[f"x{x}"] == 1:
            raise ValueError(x)
        return x

    run = await executor.run(workflow, {"xs": [1, 2, 3]})

    assert run.outputs["each"] == [1, 2, 3]
    assert calls["when"] == 1


async def test_a_map_may_be_skipped_by_its_list(executor: DAGExecutor) -> None:
    workflow = Workflow("w", [Node("xs", list)])

    @workflow.map(over={"x": "xs"}, when=lambda xs: len(xs) > 0)
    def each(x: int) -> int:
        return x

    assert (await executor.run(workflow)).nodes["each"].status == "skipped"


async def test_a_node_that_was_started_is_not_judged_again_after_a_restart(open_executor: OpenExecutor) -> None:
    calls, held = Calls(), Held()
    workflow = Workflow("w", [Node("a", held, when=calls.of("when", result=True))])
    executor = await open_executor()
    await executor.start(workflow, run_id="r")
    await held.started.wait()
    await executor.__aexit__(None, None, None)
    held.gate.set()

    assert (await (await open_executor(workflow)).resume("r")).status == "completed"
    assert calls == {"when": 1}


async def test_a_signal_that_comes_while_a_condition_is_judged_is_counted_when_it_is_written() -> None:
    counted: list[tuple[int, list[EventKind]]] = []

    class Watched(MemoryStore):
        """A store that notes how many messages each append takes in, and with which events."""

        async def append(self, events: Sequence[Event], **options: Any) -> None:
            counted.append((options["received"], [event.kind for event in events]))
            await super().append(events, **options)

    asked, gate = asyncio.Event(), asyncio.Event()

    async def judge() -> bool:
        asked.set()
        await gate.wait()
        return True

    workflow = Workflow("w", [Node("a", lambda: 1), Node("b", lambda a: a, when=judge)])
    workflow.wait_for_signal("paid")
    async with DAGExecutor(Watched()) as executor:
        handle = await executor.start(workflow, run_id="r")
        await asked.wait()
        await executor.signal("r", "paid", 5)
        gate.set()
        run = await handle.result()

    assert run.outputs == {"a": 1, "b": 1, "paid": 5}
    written = [EventKind.SIGNAL_RECEIVED in kinds for _, kinds in counted]
    before = written.index(True)
    assert [received for received, _ in counted] == [0] * before + [1] * (len(counted) - before)
