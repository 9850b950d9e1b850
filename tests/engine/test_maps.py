"""Maps: one call for each item of a list, each durable and retried by itself."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor, ItemError, Node, NodeContext, Workflow
from dagflow._items import short
from dagflow.errors import InputError, MapError, RunFailedError
from dagflow.stores import MemoryStore
from dagflow.testing import Crash, CrashAfter, FakeClock
from executors import Calls, Held

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dagflow.protocols import ContextStore
    from executors import OpenExecutor


def mapped(function: Callable[..., Any], over: dict[str, str] | None = None, **options: Any) -> Workflow:
    workflow = Workflow("w", on_failure=options.pop("on_failure", "drain"))
    workflow.map(over=over or {"x": "xs"}, name="m", **options)(function)
    return workflow


class TestItems:
    async def test_the_output_is_the_list_of_the_items_outputs_in_their_order(self, executor: DAGExecutor) -> None:
        async def slow_first(x: int) -> int:
            await asyncio.sleep(0.003 * (4 - x))
            return x * x

        workflow = mapped(slow_first)
        workflow.add(Node("total", lambda m: sum(m)))  # noqa: PLW0108 - bound by its name

        run = await executor.run(workflow, {"xs": [0, 1, 2, 3]})

        assert run.outputs == {"m": [0, 1, 4, 9], "total": 14}

    async def test_items_are_nodes_of_the_run(self, executor: DAGExecutor) -> None:
        run = await executor.run(mapped(lambda x: x + 1), {"xs": [1, 2]})

        assert list(run.nodes) == ["m", "m[0]", "m[1]"]
        assert (run.nodes["m[1]"].output, run.nodes["m[1]"].attempts) == (3, 1)
        assert (run.nodes["m"].output, run.nodes["m"].attempts) == ([2, 3], 0)
        assert "m[0]" not in run.outputs

    async def test_the_list_may_come_from_a_node_or_from_an_input(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("pages", lambda count: ["p"] * count)])
        workflow.map(over={"page": "pages"}, name="from_node")(lambda page: page)
        workflow.map(over={"word": "words"}, name="from_input")(lambda word: word.upper())

        run = await executor.run(workflow, {"count": 2, "words": ["a"]})

        assert (run.outputs["from_node"], run.outputs["from_input"]) == (["p", "p"], ["A"])

    async def test_the_list_may_be_a_tuple(self, executor: DAGExecutor) -> None:
        assert (await executor.run(mapped(lambda x: x), {"xs": (1, 2)})).outputs == {"m": [1, 2]}

    async def test_an_empty_list_gives_an_empty_list(self, executor: DAGExecutor) -> None:
        workflow = mapped(lambda x: x)
        workflow.add(Node("z", lambda m: f"{m}"))

        run = await executor.run(workflow, {"xs": []})

        assert run.outputs == {"m": [], "z": "[]"}
        assert run.nodes["m"].status == "completed"

    async def test_items_take_other_parameters_as_well(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("factor", lambda: 10)])

        @workflow.map(over={"x": "xs"})
        def m(x: int, factor: int, offset: int, context: NodeContext) -> str:
            return f"{context.node} {x * factor + offset}"

        run = await executor.run(workflow, {"xs": [1, 2], "offset": 5})

        assert run.outputs["m"] == ["m[0] 15", "m[1] 25"]

    async def test_a_map_may_go_over_the_output_of_a_map(self, executor: DAGExecutor) -> None:
        workflow = mapped(lambda x: x + 1)
        workflow.map(over={"y": "m"}, name="n")(lambda y: y * 10)

        assert (await executor.run(workflow, {"xs": [1, 2]})).outputs["n"] == [20, 30]

    async def test_nested_lists_keep_their_structure(self, executor: DAGExecutor) -> None:
        workflow = mapped(lambda x: x * 2, depth=2)
        workflow.map(over={"row": "m"}, name="sums")(lambda row: sum(row))  # noqa: PLW0108 - bound by its name

        run = await executor.run(workflow, {"xs": [[1, 2], [], [3]]})

        assert run.outputs == {"m": [[2, 4], [], [6]], "sums": [6, 0, 6]}
        assert {name for name in run.nodes if name.startswith("m[")} == {"m[0,0]", "m[0,1]", "m[2,0]"}

    async def test_several_lists_are_zipped(self, executor: DAGExecutor) -> None:
        workflow = mapped(lambda x, y: x + y, {"x": "xs", "y": "ys"})

        assert (await executor.run(workflow, {"xs": ["a", "b"], "ys": ["1", "2"]})).outputs["m"] == ["a1", "b2"]

    async def test_a_thousand_items_are_a_thousand_nodes(self, executor: DAGExecutor) -> None:
        async def double(x: int) -> int:
            return 2 * x

        run = await executor.run(mapped(double), {"xs": list(range(1000))})

        assert run.outputs["m"] == list(range(0, 2000, 2))
        assert len(run.nodes) == 1001

    async def test_an_item_may_be_a_list_or_none(self, executor: DAGExecutor) -> None:
        workflow = mapped(lambda x: [x])
        workflow.map(over={"y": "m"}, name="n")(lambda y: y)

        assert (await executor.run(workflow, {"xs": [None, [], [1]]})).outputs["n"] == [[None], [[]], [[1]]]


class TestKeys:
    async def test_items_are_named_by_their_keys(self, executor: DAGExecutor) -> None:
        workflow = mapped(lambda x: x["size"], key=lambda x: x["name"])

        run = await executor.run(workflow, {"xs": [{"name": "a.py", "size": 1}, {"name": "b c.py", "size": 2}]})

        assert list(run.nodes) == ["m", "m[a.py]", "m[b c.py]"]
        assert run.outputs["m"] == [1, 2]

    async def test_the_key_of_zipped_items_is_a_function_of_them_all(self, executor: DAGExecutor) -> None:
        workflow = mapped(lambda x, y: x, {"x": "xs", "y": "ys"}, key=lambda x, y: f"{x}-{y}")

        assert "m[1-2]" in (await executor.run(workflow, {"xs": [1], "ys": [2]})).nodes

    async def test_two_items_with_one_key_fail_the_map(self, executor: DAGExecutor) -> None:
        with pytest.raises(RunFailedError, match="two items have the key 'a': keys must be unique"):
            await executor.run(mapped(lambda x: x, key=str), {"xs": ["a", "b", "a"]})

    @pytest.mark.parametrize("key", ["", "a\nb", "x" * 129, "\x00", "\ud800"])
    async def test_a_key_that_is_no_name_fails_the_map(self, executor: DAGExecutor, key: str) -> None:
        with pytest.raises(RunFailedError, match="is no key: use 1 to 128 printable characters"):
            await executor.run(mapped(lambda x: x, key=lambda _: key), {"xs": [1]})

    async def test_a_key_function_that_raises_fails_the_map(self, executor: DAGExecutor) -> None:
        with pytest.raises(RunFailedError, match="KeyError: 'name'"):
            await executor.run(mapped(lambda x: x, key=lambda x: x["name"]), {"xs": [{}]})


class TestWrongLists:
    @pytest.mark.parametrize("value", ["abc", 3, None, {"a": 1}, {1, 2}, b"ab"])
    async def test_what_is_no_list_fails_the_map_with_a_way_out(self, executor: DAGExecutor, value: Any) -> None:
        with pytest.raises(RunFailedError) as caught:
            await executor.run(mapped(lambda x: x), {"xs": value})

        cause = caught.value.__cause__
        assert isinstance(cause, MapError)
        assert "over='xs' gave " in str(cause)
        assert f"of type {type(value).__name__}: return a list" in str(cause)
        assert caught.value.run.nodes["m"].status == "failed"

    async def test_a_node_that_gives_no_list_is_named(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("pages", lambda: "abc")])
        workflow.map(over={"page": "pages"}, name="m")(lambda page: page)

        with pytest.raises(RunFailedError, match="over='pages' gave 'abc' of type str: return a list"):
            await executor.run(workflow)

    async def test_lists_of_different_lengths_fail_the_map(self, executor: DAGExecutor) -> None:
        workflow = mapped(lambda x, y: x, {"x": "xs", "y": "ys"})

        with pytest.raises(RunFailedError, match="its lists differ in length"):
            await executor.run(workflow, {"xs": [1, 2], "ys": [1]})

    async def test_a_list_and_the_items_of_a_map_have_to_be_equally_many(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w")
        workflow.map(over={"x": "xs"}, name="doubled")(lambda x: 2 * x)
        workflow.map(over={"x": "doubled", "y": "ys"}, name="m")(lambda x, y: x + y)

        assert (await executor.run(workflow, {"xs": [1, 2], "ys": [3, 4]})).outputs["m"] == [5, 8]
        with pytest.raises(RunFailedError, match=r"its lists differ in length: \{'x': 2, 'y': 1\}"):
            await executor.run(workflow, {"xs": [1, 2], "ys": [3]})

    async def test_nested_lists_of_different_shapes_fail_the_map(self, executor: DAGExecutor) -> None:
        workflow = mapped(lambda x, y: x, {"x": "xs", "y": "ys"}, depth=2)

        with pytest.raises(RunFailedError, match="its lists differ in length"):
            await executor.run(workflow, {"xs": [[1], [2, 3]], "ys": [[1, 2], [3]]})

    async def test_a_list_that_is_not_as_deep_as_said_fails_the_map(self, executor: DAGExecutor) -> None:
        with pytest.raises(RunFailedError, match="of type int: return a list"):
            await executor.run(mapped(lambda x: x, depth=2), {"xs": [[1], 2]})

    async def test_a_missing_list_is_a_missing_input(self, executor: DAGExecutor) -> None:
        with pytest.raises(InputError, match="missing inputs: 'xs'"):
            await executor.run(mapped(lambda x: x))


class TestFailures:
    async def test_a_failed_item_fails_its_map_and_its_run(self, executor: DAGExecutor) -> None:
        workflow = mapped(lambda x: 1 // x)
        workflow.add(Node("z", lambda m: m))

        with pytest.raises(RunFailedError) as caught:
            await executor.run(workflow, {"xs": [1, 0]})

        run = caught.value.run
        assert (run.nodes["m[1]"].status, run.nodes["m"].status, run.nodes["z"].status) == (
            "failed",
            "failed",
            "blocked",
        )
        assert list(caught.value.failures) == ["m[1]", "m"]
        assert isinstance(caught.value.__cause__, ZeroDivisionError)

    async def test_under_drain_no_more_items_start_after_a_failure(self, executor: DAGExecutor) -> None:
        calls = Calls()

        async def function(x: int) -> None:
            calls[str(x)] += 1
            if x == 1:
                raise ValueError(x)

        with pytest.raises(RunFailedError) as caught:
            await executor.run(mapped(function, limit=1), {"xs": [0, 1, 2, 3]})

        assert calls == {"0": 1, "1": 1}
        assert caught.value.run.nodes["m[3]"].status == "pending"
        assert "1 of 4 items failed, the first is 'm[1]': ValueError: 1" in str(caught.value.failures["m"])

    async def test_under_continue_all_items_are_called(self, executor: DAGExecutor) -> None:
        with pytest.raises(RunFailedError) as caught:
            await executor.run(mapped(lambda x: 1 // x, limit=1, on_failure="continue"), {"xs": [0, 1, 0]})

        run = caught.value.run
        assert [run.nodes[f"m[{i}]"].status.value for i in range(3)] == ["failed", "completed", "failed"]

    async def test_collected_errors_stand_at_their_places(self, executor: DAGExecutor) -> None:
        workflow = mapped(lambda x: 1 // x, on_error="collect")
        workflow.add(Node("good", lambda m: [x for x in m if not isinstance(x, ItemError)]))

        run = await executor.run(workflow, {"xs": [1, 0, -1]})

        first, second, third = run.outputs["m"]
        assert (first, third, run.outputs["good"]) == (1, -1, [1, -1])
        assert isinstance(second, ItemError)
        assert (second.key, second.type) == ("1", "ZeroDivisionError")
        assert "division" in second.message
        assert "ZeroDivisionError" in second.traceback
        assert (run.status, run.nodes["m[1]"].status) == ("completed", "failed")

    async def test_one_poisoned_item_of_three_times_three_leaves_eight_results_and_one_error(
        self, executor: DAGExecutor
    ) -> None:
        workflow = Workflow("w", [Node("rows", lambda: [[1, 2, 3], [4, 0, 6], [7, 8, 9]])])
        workflow.map(over={"x": "rows"}, depth=2, on_error="collect", name="shares")(lambda x: 504 // x)

        run = await executor.run(workflow)

        (first, (left, error, right), last) = run.outputs["shares"]
        assert (first, [left, right], last) == ([504, 252, 168], [126, 84], [72, 63, 56])
        assert isinstance(error, ItemError)
        assert (error.key, error.type) == ("1,1", "ZeroDivisionError")
        assert "division" in error.message
        statuses = Counter(node.status.value for name, node in run.nodes.items() if name.startswith("shares["))
        assert (run.status, statuses) == ("completed", {"completed": 8, "failed": 1})

    async def test_a_map_over_a_map_with_collected_errors_gets_them(self, executor: DAGExecutor) -> None:
        workflow = mapped(lambda x: 1 // x, on_error="collect")
        workflow.map(over={"y": "m"}, name="n")(lambda y: y.message if isinstance(y, ItemError) else y)

        run = await executor.run(workflow, {"xs": [1, 0]})

        assert run.outputs["n"][0] == 1
        assert "division" in run.outputs["n"][1]

    async def test_an_item_is_retried_by_itself(self, executor: DAGExecutor) -> None:
        calls = Calls()

        def function(x: int) -> int:
            calls[str(x)] += 1
            if x == 1 and calls["1"] < 3:
                raise ValueError(x)
            return x

        run = await executor.run(mapped(function, retry=3), {"xs": [0, 1, 2]})

        assert run.outputs["m"] == [0, 1, 2]
        assert calls == {"0": 1, "1": 3, "2": 1}
        assert run.nodes["m[1]"].attempts == 3

    async def test_an_item_whose_output_cannot_be_kept_fails_by_name(self, executor: DAGExecutor) -> None:
        with pytest.raises(RunFailedError, match=r"node 'm\[1\]', value at \$"):
            await executor.run(mapped(lambda x: object() if x else x), {"xs": [0, 1]})

    async def test_each_item_has_its_own_key_for_the_outside_world(self, executor: DAGExecutor) -> None:
        def function(x: int, context: NodeContext) -> str:
            return context.idempotency_key

        run = await executor.run(mapped(function), {"xs": [1, 1, 1]})

        assert len(set(run.outputs["m"])) == 3


class TestLimits:
    @pytest.mark.parametrize("limit", [1, 3])
    async def test_no_more_items_run_at_a_time_than_the_limit(self, executor: DAGExecutor, limit: int) -> None:
        running = most = 0

        async def function(x: int) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

        await executor.run(mapped(function, limit=limit), {"xs": list(range(20))})

        assert most == limit

    async def test_the_limit_holds_in_threads_too(self, executor: DAGExecutor) -> None:
        lock, running, most = threading.Lock(), 0, 0

        def function(x: int) -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            threading.Event().wait(0.001)
            with lock:
                running -= 1

        await executor.run(mapped(function, limit=2), {"xs": list(range(10))})

        assert most <= 2

    async def test_an_item_that_waits_for_its_next_attempt_takes_no_place(self, executor: DAGExecutor) -> None:
        calls = Calls()

        def function(x: int) -> int:
            calls[str(x)] += 1
            if x == 0 and calls["0"] == 1:
                raise ValueError
            return x

        run = await executor.run(mapped(function, limit=1, retry=2), {"xs": [0, 1, 2]})

        assert run.outputs["m"] == [0, 1, 2]


class TestRestarts:
    async def test_a_map_goes_on_with_the_items_that_are_left(self, open_executor: OpenExecutor) -> None:
        held, calls = Held("held"), Calls()

        async def function(x: int) -> Any:
            calls[str(x)] += 1
            return await held() if x == 2 else x

        workflow = mapped(function, limit=1)
        workflow.add(Node("z", lambda m: m))
        executor = await open_executor(workflow)
        await executor.start(workflow, {"xs": [0, 1, 2, 3]}, run_id="r")
        await held.started.wait()
        await executor.__aexit__(None, None, None)
        held.gate.set()

        run = await (await open_executor(workflow)).resume("r")

        assert run.outputs["z"] == [0, 1, "held", 3]
        assert calls == {"0": 1, "1": 1, "2": 2, "3": 1}

    @pytest.mark.parametrize(
        ("over", "reason"),
        [("ys", "it was expanded to 2 items and now has 1"), ("zs", "missing inputs: zs")],
    )
    async def test_a_map_that_goes_over_another_list_now_cannot_go_on(
        self, open_executor: OpenExecutor, over: str, reason: str
    ) -> None:
        held = Held()

        async def function(x: int, xs: list[int], ys: list[int]) -> None:
            await held()

        executor = await open_executor()
        await executor.start(mapped(function), {"xs": [0, 1], "ys": [2]}, run_id="r")
        await held.started.wait()
        await executor.__aexit__(None, None, None)
        held.gate.set()

        with pytest.raises(RunFailedError, match=reason):
            await (await open_executor(mapped(function, {"x": over}))).resume("r")

    async def test_the_items_are_an_event_before_any_of_them_starts_and_no_crash_adds_or_loses_one(
        self, store: ContextStore, clock: FakeClock, open_executor: OpenExecutor, lapse: Callable[[], Awaitable[None]]
    ) -> None:
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        workflow = Workflow("w", [Node("xs", lambda: [3, 1, 2])])
        # A key function that answers otherwise after each restart: what it answered first is kept.
        workflow.map(over={"x": "xs"}, name="m", key=lambda x: f"{next(letters)}{x}", limit=2)(lambda x: x * 10)
        for writes in (2, 3, 1, 2):
            with suppress(Crash):
                async with DAGExecutor(CrashAfter(store, writes), clock=clock, grace=0.2) as dying:
                    await dying.run(workflow, run_id="r")
            await lapse()

        run = await (await open_executor(workflow)).run(workflow, run_id="r")

        events = await (await open_executor()).history("r")
        (expanded,) = [event for event in events if event.kind == "map_expanded"]
        starts = [event for event in events if event.kind == "node_started" and (event.node or "").startswith("m[")]
        keys = (expanded.data or {})["keys"]
        assert run.outputs["m"] == [30, 10, 20]
        assert [name for name in run.nodes if name.startswith("m[")] == [f"m[{key}]" for key in keys]
        assert [key[1:] for key in keys] == ["3", "1", "2"]
        assert min(event.version for event in starts) > expanded.version
        assert sum(event.kind == "node_interrupted" for event in events) > 0

    async def test_keyed_and_nested_maps_are_found_again(self, open_executor: OpenExecutor) -> None:
        held = Held("held")

        async def function(x: str) -> Any:
            return await held() if x == "b" else x

        workflow = Workflow("w")
        workflow.map(over={"x": "xs"}, name="keyed", key=lambda x: x)(function)
        workflow.map(over={"x": "ys"}, name="nested", depth=2)(function)
        executor = await open_executor(workflow)
        await executor.start(workflow, {"xs": ["a", "b"], "ys": [["a"], ["b", "c"]]}, run_id="r")
        await held.started.wait()
        await executor.__aexit__(None, None, None)
        held.gate.set()

        run = await (await open_executor(workflow)).resume("r")

        assert run.outputs == {"keyed": ["a", "held"], "nested": [["a"], ["held", "c"]]}


async def test_thousands_of_items_may_fail_and_be_collected() -> None:
    async def function(x: int) -> None:
        raise ValueError(x)

    async with DAGExecutor(MemoryStore()) as executor:
        run = await executor.run(mapped(function, on_error="collect"), {"xs": list(range(2000))})

    assert len(run.outputs["m"]) == 2000


async def test_ten_thousand_items_are_ten_thousand_nodes() -> None:
    async def double(x: int) -> int:
        return 2 * x

    async with DAGExecutor(MemoryStore()) as executor:
        run = await executor.run(mapped(double), {"xs": list(range(10_000))})

    assert run.outputs["m"] == [2 * x for x in range(10_000)]
    assert len(run.nodes) == 10_001


def test_a_value_that_cannot_be_shown_is_told_by_its_class() -> None:
    class Mute:
        def __repr__(self) -> str:
            raise SystemExit(1)

    assert short(Mute()) == "<Mute>"
    assert short("x" * 100) == f"'{'x' * 76}..."
