"""Contracts in a run: checked before anything is recorded, and told with the value that broke them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import attrs
import pydantic
import pytest

from dagflow import DAGExecutor, Event, JsonCodec, Node, NodeContext, Payload, RetryPolicy, Workflow
from dagflow.errors import ContractError, RunFailedError, SerializationError, WorkflowError
from dagflow.serialization import TypeAdapter
from dagflow.testing import Crash, CrashAfter

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagflow import Run
    from dagflow.protocols import ContextStore

REPORT = {"type": "object", "required": ["words"], "properties": {"words": {"type": "integer", "minimum": 0}}}


@attrs.frozen
class Table:
    name: str
    columns: list[str]


class Order(pydantic.BaseModel):
    number: int


async def fails(
    workflow: Workflow,
    inputs: dict[str, Any] | None = None,
    *,
    store: str | ContextStore = "memory://",
    **options: Any,
) -> tuple[ContractError, Event]:
    """Run a workflow of which a contract breaks; return the error, and the last event of its node."""
    async with DAGExecutor(store, **options) as executor:
        with pytest.raises(RunFailedError) as caught:
            await executor.run(workflow, inputs, run_id="r")
        cause = caught.value.__cause__
        assert isinstance(cause, ContractError)
        events = [event for event in await executor.history("r") if event.node == cause.node]
        return cause, events[-1]


async def completes(workflow: Workflow, inputs: dict[str, Any] | None = None, **options: Any) -> Run:
    async with DAGExecutor("memory://", **options) as executor:
        return await executor.run(workflow, inputs)


async def test_an_output_that_keeps_its_contract_is_recorded_as_it_is() -> None:
    run = await completes(Workflow("w", [Node("report", lambda: {"words": 3}, output_contract=REPORT)]))

    assert run.outputs == {"report": {"words": 3}}


async def test_an_output_that_breaks_its_contract_fails_the_node_before_it_is_recorded(
    each_store: Callable[[], ContextStore],
) -> None:
    workflow = Workflow("w", [Node("report", lambda: {"words": "three"}, output_contract=REPORT)])

    error, event = await fails(workflow, store=each_store())

    assert (error.node, error.direction, error.path) == ("report", "output", "$.words")
    assert "'three' is not of type 'integer'" in error.reason
    assert event.kind == "node_failed"
    assert event.data is not None
    assert event.data["error"]["type"] == "dagflow.errors.ContractError"
    assert event.data["contract"] == {
        "node": "report",
        "direction": "output",
        "path": "$.words",
        "reason": error.reason,
        "value": "{'words': 'three'}",
    }


async def test_the_value_that_broke_a_contract_is_in_the_event_and_in_no_output(
    each_store: Callable[[], ContextStore],
) -> None:
    workflow = Workflow("w", [Node("report", lambda: {"words": "three"}, output_contract=REPORT, allow_failure=True)])

    async with DAGExecutor(each_store()) as executor:
        run = await executor.run(workflow, run_id="r")
        [event] = [event for event in await executor.history("r") if event.kind == "node_failed"]

    assert event.payload is not None
    assert JsonCodec().decode(event.payload) == {"words": "three"}
    assert run.outputs == {}
    assert run.nodes["report"].output is None


async def test_of_a_value_that_cannot_be_kept_what_can_be_kept_is_in_the_event(
    each_store: Callable[[], ContextStore],
) -> None:
    value = {"words": "three", "lock": Table("t", []), "long": "x" * 100_000}
    _, event = await fails(Workflow("w", [Node("report", lambda: value, output_contract=REPORT)]), store=each_store())

    assert event.payload is not None
    shown = JsonCodec().decode(event.payload)
    assert shown["words"] == "three"
    assert shown["lock"] == "Table(name='t', columns=[])"
    assert len(event.payload.data) < 2_000


async def test_of_a_large_value_the_beginning_is_in_the_event(each_store: Callable[[], ContextStore]) -> None:
    value = {"words": "three", "rows": [[number, "x" * 50] for number in range(10_000)]}
    _, event = await fails(Workflow("w", [Node("report", lambda: value, output_contract=REPORT)]), store=each_store())

    assert event.payload is not None
    shown = JsonCodec().decode(event.payload)
    assert shown["words"] == "three"
    assert shown["rows"][0] == [0, "x" * 50]
    assert len(event.payload.data) < 64 * 1024


async def test_of_a_value_that_cannot_even_be_shown_its_class_is_told(each_store: Callable[[], ContextStore]) -> None:
    class Mute:
        def __repr__(self) -> str:
            raise RuntimeError("no words")

    error, event = await fails(Workflow("w", [Node("report", Mute, output_contract=REPORT)]), store=each_store())

    assert (error.path, error.reason) == ("$", "looking at it raised RuntimeError")
    assert event.data is not None
    assert event.data["contract"]["value"].endswith("Mute>")
    assert event.payload is not None
    assert JsonCodec().decode(event.payload).endswith("Mute>")


async def test_a_codec_that_can_keep_nothing_of_a_value_leaves_the_event_without_it(
    each_store: Callable[[], ContextStore],
) -> None:
    class Digits(JsonCodec):
        def encode(self, value: Any) -> Payload:
            if "three" in repr(value):
                raise SerializationError("digits only")
            return super().encode(value)

    workflow = Workflow("w", [Node("report", lambda: {"words": "three"}, output_contract=REPORT)])

    error, event = await fails(workflow, codec=Digits(), store=each_store())

    assert error.path == "$.words"
    assert event.payload is None


async def test_an_input_contract_sees_the_arguments_by_parameter_and_not_the_context() -> None:
    schema = {
        "type": "object",
        "properties": {"site": {"type": "string"}, "pages": {"type": "array"}},
        "required": ["site", "pages"],
        "additionalProperties": False,
    }

    def count(site: str, pages: list[str], context: NodeContext) -> int:
        return len(pages)

    workflow = Workflow("w", [Node("pages", lambda: ["a", "b"]), Node("count", count, input_contract=schema)])

    run = await completes(workflow, {"site": "here"})

    assert run.outputs["count"] == 2


async def test_a_resource_is_neither_seen_by_a_contract_nor_kept_when_one_breaks() -> None:
    class Vault:
        def __repr__(self) -> str:
            return "Vault(password='swordfish')"

    node = Node("open", lambda site, vault: site, input_contract={"properties": {"site": {"type": "integer"}}})

    _, event = await fails(Workflow("w", [node]), {"site": "x"}, resources={"vault": Vault()})

    assert event.payload is not None
    assert JsonCodec().decode(event.payload) == {"site": "x"}
    assert "swordfish" not in str(event)


async def test_a_broken_input_contract_fails_the_node_without_calling_its_function() -> None:
    called = []

    def count(site: str) -> None:
        called.append(site)

    node = Node("count", count, input_contract={"properties": {"site": {"minLength": 3}}})

    error, event = await fails(Workflow("w", [node]), {"site": "x"})

    assert (error.direction, error.path) == ("input", "$.site")
    assert event.payload is not None
    assert JsonCodec().decode(event.payload) == {"site": "x"}
    assert called == []


async def test_required_fields_are_those_of_parameters_and_of_all_nodes_before() -> None:
    def workflow(design: Any) -> Workflow:
        nodes = [
            Node("design", lambda: design),
            Node("build", lambda: "ok", depends_on="design"),
            Node("test", lambda build: build, input_contract=["build", "design.api_specification"]),
        ]
        return Workflow("w", nodes)

    run = await completes(workflow({"api_specification": "GET /"}))
    error, _ = await fails(workflow({"tables": []}))

    assert run.outputs["test"] == "ok"
    assert (error.node, error.direction, error.path) == ("test", "input", "$.design.api_specification")
    assert "'design.api_specification' is missing" in error.reason


async def test_required_fields_of_an_output_may_be_named_with_and_without_the_node() -> None:
    nodes = [Node("design", lambda: {"api": {"paths": 1}}, output_contract=["api.paths", "design.api"])]

    run = await completes(Workflow("w", nodes))
    error, _ = await fails(Workflow("w", [Node("design", lambda: {"api": {}}, output_contract=["api.paths"])]))

    assert run.outputs["design"] == {"api": {"paths": 1}}
    assert error.path == "$.api.paths"


async def test_a_required_field_of_something_that_does_not_come_before_is_refused() -> None:
    workflow = Workflow(
        "w", [Node("design", lambda: {"tables": []}), Node("test", lambda: 1, input_contract=["desing.api"])]
    )

    with pytest.raises(WorkflowError, match="neither a parameter nor a node before it"):
        workflow.validate()


async def test_a_required_field_of_a_node_that_was_skipped_is_missing() -> None:
    nodes = [
        Node("design", lambda: {"tables": []}, when=lambda: False),
        Node("test", lambda: 1, depends_on="design", join="all_done", input_contract=["design.api"]),
    ]

    error, _ = await fails(Workflow("w", nodes))

    assert error.path == "$.design"


async def test_a_type_is_a_contract_for_a_mapping_of_its_fields_and_for_an_instance() -> None:
    for value in ({"name": "users", "columns": ["id"]}, Table("users", ["id"])):
        workflow = Workflow("w", [Node("table", lambda value=value: value, output_contract=Table)])

        run = await completes(workflow, codec=JsonCodec([Table]))

        assert run.outputs["table"] == value


async def test_a_model_of_pydantic_is_a_contract_and_may_be_the_output_itself() -> None:
    codec = JsonCodec([TypeAdapter("order", Order, Order.model_dump, Order.model_validate)])
    nodes = [
        Node("order", lambda: Order(number=7), output_contract=Order),
        Node("plain", lambda order: {"number": order.number}, output_contract=Order),
    ]

    run = await completes(Workflow("w", nodes), codec=codec)
    error, _ = await fails(Workflow("w", [Node("order", lambda: {"number": "many"}, output_contract=Order)]))

    assert run.outputs == {"order": Order(number=7), "plain": {"number": 7}}
    assert error.path == "$.number"


async def test_a_field_of_the_wrong_type_breaks_the_contract_at_its_place() -> None:
    value = [{"name": "users", "columns": ["id", 7]}]

    error, _ = await fails(Workflow("w", [Node("tables", lambda: value, output_contract=list[Table])]))

    assert (error.path, error.reason) == ("$[0].columns[1]", "it asks for str, not int")


async def test_the_class_of_an_input_contract_says_nothing_of_other_parameters() -> None:
    node = Node("count", lambda name, columns, more: name, input_contract=Table)

    run = await completes(Workflow("w", [node]), {"name": "users", "columns": [], "more": 1})
    error, _ = await fails(Workflow("w", [node]), {"name": 1, "columns": [], "more": 1})

    assert run.outputs["count"] == "users"
    assert error.path == "$.name"


async def test_an_attempt_with_a_broken_output_is_followed_by_another_as_the_policy_says(
    each_store: Callable[[], ContextStore],
) -> None:
    answers = iter([{"words": -1}, {"words": 1}])
    retry = RetryPolicy(max_attempts=2, delay=0)
    workflow = Workflow("w", [Node("report", lambda: next(answers), output_contract=REPORT, retry=retry)])

    async with DAGExecutor(each_store()) as executor:
        run = await executor.run(workflow, run_id="r")
        [event] = [event for event in await executor.history("r") if event.kind == "node_retry"]

    assert run.outputs["report"] == {"words": 1}
    assert run.nodes["report"].attempts == 2
    assert event.data is not None
    assert event.data["contract"]["path"] == "$.words"
    assert event.payload is not None
    assert JsonCodec().decode(event.payload) == {"words": -1}


@pytest.mark.parametrize(("retry_on", "attempts"), [((Exception,), 1), ((ContractError,), 3)])
async def test_broken_arguments_are_not_tried_again_unless_the_policy_names_the_error(
    retry_on: tuple[type[Exception]], attempts: int
) -> None:
    retry = RetryPolicy(max_attempts=3, delay=0, retry_on=retry_on)
    node = Node("count", lambda site: site, input_contract={"properties": {"site": {"type": "null"}}}, retry=retry)

    _, event = await fails(Workflow("w", [node]), {"site": "x"})

    assert event.attempt == attempts


async def test_the_contract_of_a_map_counts_for_each_item(each_store: Callable[[], ContextStore]) -> None:
    workflow = Workflow("w", inputs=["pages"])
    workflow.map(over={"page": "pages"}, name="count", output_contract=int, input_contract=["page.text"])(
        lambda page: page["text"]
    )

    run = await completes(workflow, {"pages": [{"text": 1}, {"text": 2}]})
    async with DAGExecutor(each_store()) as executor:
        with pytest.raises(RunFailedError, match=r"node 'count\[1\]': the output breaks its contract at \$"):
            await executor.run(workflow, {"pages": [{"text": 1}, {"text": "2"}]})

    assert run.outputs["count"] == [1, 2]


async def test_the_output_of_a_sub_workflow_is_checked() -> None:
    workflow = Workflow("outer")
    workflow.subworkflow("inner", Workflow("w", [Node("one", lambda: 1)]), output_contract=["one", "two"])

    error, _ = await fails(workflow)

    assert error.path == "$.two"


async def test_what_was_found_out_about_a_call_in_doubt_is_held_to_the_contract(
    each_store: Callable[[], ContextStore],
) -> None:
    store = each_store()
    node = Node("pay", lambda: 1, output_contract=int, effects="at_most_once", reconcile=lambda context: "paid")
    workflow = Workflow("w", [node])
    with contextlib.suppress(Crash):
        async with DAGExecutor(CrashAfter(store, 1), lease=0.2) as executor:
            await executor.run(workflow, run_id="r")

    async with DAGExecutor(store, lease=0.2) as executor:
        with pytest.raises(RunFailedError, match="it asks for int, not str"):
            await executor.run(workflow, run_id="r")


async def test_a_broken_contract_is_told_by_a_later_process_too(each_store: Callable[[], ContextStore]) -> None:
    workflow = Workflow("w", [Node("report", lambda: {"words": "three"}, output_contract=REPORT)])
    told = []
    for _ in range(2):
        async with DAGExecutor(each_store()) as executor:
            with pytest.raises(RunFailedError, match=r"the output breaks its contract at \$\.words"):
                await executor.run(workflow, run_id="r")
            told.append(await executor.history("r"))

    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("contract", "reason"),
    [
        ({"type": "strnig"}, "no JSON Schema"),
        ({"$ref": "#/$defs/missing"}, "does not lie in it"),
        ({"$ref": "https://example.com/schema.json"}, "does not lie in it"),
        ([""], "names such as"),
        ([1], "names such as"),
        ("words", "a JSON Schema, a type, or a list"),
        (7, "a JSON Schema, a type, or a list"),
    ],
)
@pytest.mark.parametrize("direction", ["input_contract", "output_contract"])
def test_what_is_no_contract_is_refused_when_the_node_is_made(contract: Any, reason: str, direction: str) -> None:
    with pytest.raises(WorkflowError, match=f"node 'report': {direction}=.*{reason}"):
        Node("report", dict, **{direction: contract})


def test_a_node_that_waits_has_no_contract() -> None:
    with pytest.raises(WorkflowError, match="a review has form="):
        Workflow("w").review("approve", output_contract=REPORT)


async def test_a_process_and_a_coroutine_are_held_to_their_contracts_alike() -> None:
    async def report() -> dict[str, Any]:
        return {"words": None}

    error, _ = await fails(Workflow("w", [Node("report", report, output_contract=REPORT)]))

    assert error.path == "$.words"


def test_a_node_without_contracts_has_no_guard() -> None:
    plain = Workflow("w", [Node("one", lambda: 1)]).compile()
    guarded = Workflow("w", [Node("one", lambda: 1, output_contract=int)]).compile()

    assert plain.nodes[0].guard is None
    assert guarded.nodes[0].guard is not None
