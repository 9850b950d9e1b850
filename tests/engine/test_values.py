"""Values on their way from node to node: copies that nobody else can change, faithful or refused by name."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import math
import pathlib
import threading
import uuid
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from dagflow import JsonCodec, Node, NodeContext, Workflow
from dagflow.errors import RunFailedError, SerializationError
from executors import Calls, Held

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagflow import DAGExecutor
    from executors import OpenExecutor

VALUES: list[Any] = [
    None,
    True,
    0,
    -(2**200),
    0.1,
    -0.0,
    math.inf,
    "\x00 \ud800 \U0001f600",
    b"\x00\xff",
    [1, [2, [3]]],
    (1, (2,), []),
    {"a": {"b": [1]}},
    {1: "a", "1": "b", None: "d", (1, 2): "e"},
    {1, 2, 3},
    frozenset({"x"}),
    dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC),
    dt.date(2030, 1, 1),
    dt.timedelta(microseconds=1),
    decimal.Decimal("1.10"),
    uuid.UUID(int=7),
    pathlib.PurePosixPath("/a/b"),
]


class TestFaithful:
    async def test_a_value_arrives_as_it_was_returned(self, executor: DAGExecutor) -> None:
        seen: list[Any] = []
        workflow = Workflow("w")
        workflow.map(over={"x": "xs"}, name="a")(lambda x: x)
        workflow.add(Node("b", lambda a: seen.extend(a)))  # noqa: PLW0108 - bound by its name

        run = await executor.run(workflow, {"xs": VALUES})

        for arrived in (seen, run.outputs["a"], run.inputs["xs"]):
            assert arrived == VALUES
            assert [type(value) for value in arrived] == [type(value) for value in VALUES]
            assert repr(arrived) == repr(VALUES)

    async def test_nan_arrives_as_nan(self, executor: DAGExecutor) -> None:
        run = await executor.run(Workflow("w", [Node("a", lambda: [math.nan]), Node("b", lambda a: math.isnan(a[0]))]))

        assert run.outputs["b"] is True

    async def test_classes_that_the_codec_allows_arrive_too(self, open_executor: OpenExecutor) -> None:
        @attrs.frozen
        class Order:
            number: int
            items: tuple[str, ...]

        executor = await open_executor(codec=JsonCodec([Order]))
        workflow = Workflow("w", [Node("a", lambda: Order(7, ("x",))), Node("b", lambda a: a.items)])

        run = await executor.run(workflow)

        assert run.outputs == {"a": Order(7, ("x",)), "b": ("x",)}


class TestNoAliasing:
    @pytest.mark.parametrize(
        "value", [[1, 2], {"k": 1}, {1, 2}, [[1], [2]], {"k": [1]}, ([1],), [{"k": {"l": [1]}}]], ids=repr
    )
    async def test_a_sibling_does_not_see_what_another_one_does_to_the_value(
        self, executor: DAGExecutor, value: Any
    ) -> None:
        seen: list[str] = []

        def look_and_spoil(a: Any, x: Any) -> None:
            seen.append(f"{a!r} {x!r}")
            spoil(a)
            spoil(x)

        workflow = Workflow("w", [Node("a", lambda x: x)])
        for number in range(4):
            workflow.add(Node(f"b{number}", look_and_spoil, [f"b{number - 1}"] if number else []))
        before = repr(value)

        run = await executor.run(workflow, {"x": value})

        assert set(seen) == {f"{before} {before}"}
        assert (repr(run.outputs["a"]), repr(run.inputs["x"])) == (before, before)

    async def test_a_node_that_keeps_what_it_returned_changes_nothing_with_it(self, executor: DAGExecutor) -> None:
        kept: list[Any] = []

        def give() -> list[int]:
            value = [1]
            kept.append(value)
            return value

        def spoil_the_kept() -> None:
            kept[0].append(2)

        workflow = Workflow("w", [Node("a", give), Node("b", spoil_the_kept, ["a"]), Node("c", lambda a: a, ["b"])])

        assert (await executor.run(workflow)).outputs["c"] == [1]

    async def test_items_and_attempts_get_copies_of_their_own(self, executor: DAGExecutor) -> None:
        seen: list[str] = []
        calls = Calls()

        def function(x: list[int], shared: list[int]) -> None:
            seen.append(f"{x} {shared}")
            x.append(9)
            shared.append(9)
            calls["all"] += 1
            if calls["all"] == 1:
                raise ValueError("again")

        workflow = Workflow("w")
        workflow.map(over={"x": "xs"}, name="m", retry=2, limit=1)(function)

        await executor.run(workflow, {"xs": [[1], [1]], "shared": [0]})

        assert set(seen) == {"[1] [0]"}

    async def test_the_context_and_the_condition_get_copies_of_their_own(self, executor: DAGExecutor) -> None:
        def spoil_in_the_condition(a: list[int], context: NodeContext) -> bool:
            spoil(a)
            spoil(context.outputs["a"])
            spoil(context.inputs["x"])
            return True

        def look(a: list[int], x: list[int], context: NodeContext) -> list[Any]:
            return [a, x, context.outputs["a"], context.inputs["x"]]

        workflow = Workflow("w", [Node("a", lambda x: x), Node("b", look, when=spoil_in_the_condition)])

        assert (await executor.run(workflow, {"x": [1]})).outputs["b"] == [[1], [1], [1], [1]]

    async def test_the_inputs_of_the_caller_may_change_after_the_start(self, executor: DAGExecutor) -> None:
        held = Held()
        inputs = {"x": [1]}
        workflow = Workflow("w", [Node("a", held), Node("b", lambda x: x, ["a"])])
        handle = await executor.start(workflow, inputs)
        inputs["x"].append(2)
        held.gate.set()

        assert (await handle.result()).outputs["b"] == [1]

    async def test_two_snapshots_share_nothing(self, executor: DAGExecutor) -> None:
        run = await executor.run(Workflow("w", [Node("a", lambda: [1])]), run_id="r")
        run.outputs["a"].append(2)

        assert (await executor.get("r")).outputs["a"] == [1]


def spoil(value: Any) -> None:
    """Change a value as far as it can be changed, all the way down."""
    if isinstance(value, dict):
        for inner in value.values():
            spoil(inner)
        value["spoiled"] = True
    elif isinstance(value, list | tuple):
        for inner in value:
            spoil(inner)
        if isinstance(value, list):
            value.append("spoiled")
    elif isinstance(value, set):
        value.add("spoiled")


class TestFirstRunAndResumedRun:
    async def test_a_node_sees_the_same_in_both(self, open_executor: OpenExecutor) -> None:
        seen: list[str] = []

        def look(a: Any, m: Any, x: Any) -> None:
            seen.append(repr((a, m, x)))

        def workflow(*, held: Held | None) -> Workflow:
            workflow = Workflow("w", [Node("a", lambda x: x), Node("hold", held or (lambda: None), ["a", "m"])])
            workflow.map(over={"y": "ys"}, name="m")(lambda y: y)
            workflow.add(Node("b", look, ["hold"]))
            return workflow

        inputs = {"x": VALUES, "ys": VALUES}
        await (await open_executor()).run(workflow(held=None), inputs)
        held = Held()
        first = await open_executor()
        await first.start(workflow(held=held), inputs, run_id="r")
        await held.started.wait()
        await first.__aexit__(None, None, None)

        await (await open_executor(workflow(held=None))).resume("r")

        assert len(seen) == 2
        assert seen[0] == seen[1]


def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


class TestRefused:
    @pytest.mark.parametrize(
        ("value", "path", "kind"),
        [
            (lambda: {"rows": [1, {"when": threading.Lock()}]}, "$.rows[1].when", "_thread.lock"),
            (lambda: [object()], "$[0]", "object"),
            (lambda: {"error": ValueError("x")}, "$.error", "ValueError"),
            (generator, "$", "generator"),
            (async_generator, "$", "async_generator"),
            (lambda: print, "$", "builtin_function_or_method"),
            (lambda: type, "$", "type"),
        ],
    )
    async def test_a_value_that_cannot_be_kept_fails_its_node_with_node_path_and_type(
        self, executor: DAGExecutor, value: Callable[[], Any], path: str, kind: str
    ) -> None:
        workflow = Workflow("w", [Node("a", value), Node("b", lambda: "kept")], on_failure="continue")

        with pytest.raises(RunFailedError) as caught:
            await executor.run(workflow, run_id="r")

        cause = caught.value.__cause__
        assert isinstance(cause, SerializationError)
        assert (cause.run_id, cause.node, cause.path, cause.type) == ("r", "a", path, kind)
        assert caught.value.run.outputs == {"b": "kept"}
        assert caught.value.run.nodes["a"].output is None

    async def test_an_input_that_cannot_be_kept_is_refused_and_nothing_is_recorded(self, executor: DAGExecutor) -> None:
        with pytest.raises(SerializationError) as caught:
            await executor.run(Workflow("w", [Node("a", lambda x: x)]), {"x": {"deep": [object()]}}, run_id="r")

        assert (caught.value.run_id, caught.value.path, caught.value.type) == ("r", "$.x.deep[0]", "object")
        assert await executor.runs() == []

    async def test_a_value_that_contains_itself_fails_its_node(self, executor: DAGExecutor) -> None:
        def function() -> list[Any]:
            value: list[Any] = []
            value.append(value)
            return value

        with pytest.raises(RunFailedError, match="it contains itself"):
            await executor.run(Workflow("w", [Node("a", function)]))

    async def test_a_value_that_is_nested_too_deeply_fails_its_node(self, executor: DAGExecutor) -> None:
        def function() -> list[Any]:
            value: list[Any] = []
            for _ in range(100_000):
                value = [value]
            return value

        with pytest.raises(RunFailedError, match="nested more than"):
            await executor.run(Workflow("w", [Node("a", function)]))

    async def test_a_coroutine_that_comes_back_from_a_plain_function_fails_its_node(
        self, executor: DAGExecutor
    ) -> None:
        async def inner() -> None:
            await asyncio.sleep(0)

        with pytest.raises(RunFailedError, match="returned a coroutine: declare it with 'async def'"):
            await executor.run(Workflow("w", [Node("a", lambda: inner())]))  # noqa: PLW0108 - as users write it
