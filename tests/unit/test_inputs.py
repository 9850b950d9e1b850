"""The inputs of a run, checked before anything is recorded."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import JsonCodec, Node, Workflow
from dagflow._inputs import encode_inputs
from dagflow.errors import InputError, SerializationError

if TYPE_CHECKING:
    from dagflow._events import Payload

PLAN = Workflow("w", [Node("load", lambda site, limit=3: None), Node("save", lambda load, pool: None)]).compile()
CODEC = JsonCodec()


def encode(inputs: Any, *, resources: tuple[str, ...] = ("pool",)) -> Payload:
    return encode_inputs(PLAN, inputs, resources=resources, codec=CODEC, run_id="r")


def test_inputs_that_fit_are_encoded_in_the_order_of_their_names() -> None:
    assert encode({"site": "here", "limit": 1}) == encode({"limit": 1, "site": "here"})
    assert CODEC.decode(encode({"site": "here"})) == {"site": "here"}


def test_one_is_another_input_than_true() -> None:
    assert encode({"site": 1}) != encode({"site": True})
    assert encode({"site": 1}) != encode({"site": 1.0})


def test_a_resource_may_be_replaced_by_an_input() -> None:
    assert CODEC.decode(encode({"site": "x", "pool": 1})) == {"site": "x", "pool": 1}


def test_an_input_that_is_missing_is_named() -> None:
    with pytest.raises(InputError) as caught:
        encode({}, resources=())

    assert sorted(caught.value.missing) == ["'pool'", "'site'"]
    assert "workflow 'w': missing inputs: " in str(caught.value)


def test_no_inputs_are_the_same_as_an_empty_dictionary() -> None:
    plan = Workflow("w", [Node("a", lambda: None)]).compile()

    assert encode_inputs(plan, None, resources=(), codec=CODEC, run_id=None) == encode_inputs(
        plan, {}, resources=(), codec=CODEC, run_id=None
    )


def test_an_input_that_nothing_takes_is_named_with_its_near_miss() -> None:
    with pytest.raises(InputError) as caught:
        encode({"sites": 1, "site": 1})

    assert caught.value.unexpected == ("'sites', did you mean 'site'?",)
    assert caught.value.missing == ()


def test_an_input_named_like_a_node_is_refused() -> None:
    with pytest.raises(InputError, match="'load', which is the name of a node"):
        encode({"site": 1, "load": 1})


def test_a_missing_input_that_looks_like_a_node_names_the_node() -> None:
    plan = Workflow("w", [Node("pages", lambda: None), Node("count", lambda page: None)]).compile()

    with pytest.raises(InputError, match=r"missing inputs: 'page', did you mean 'pages'\?"):
        encode_inputs(plan, {}, resources=(), codec=CODEC, run_id=None)


@pytest.mark.parametrize("inputs", [["site"], "site", 3, {("site", "here")}])
def test_inputs_that_are_no_dictionary_are_refused(inputs: Any) -> None:
    with pytest.raises(InputError, match="inputs are a dictionary by name, not"):
        encode(inputs)


def test_an_input_whose_name_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match="1, which is no name"):
        encode({"site": 1, 1: 2})


def test_declared_inputs_are_taken_without_a_parameter() -> None:
    plan = Workflow("w", [Node("a", lambda: None)], inputs=["note"]).compile()

    assert CODEC.decode(encode_inputs(plan, {"note": 1}, resources=(), codec=CODEC, run_id=None)) == {"note": 1}
    encode_inputs(plan, {}, resources=(), codec=CODEC, run_id=None)


def test_an_input_that_cannot_be_kept_names_run_path_and_type() -> None:
    with pytest.raises(SerializationError) as caught:
        encode({"site": {"rows": [1, threading.Lock()]}})

    assert (caught.value.run_id, caught.value.path) == ("r", "$.site.rows[1]")
    assert caught.value.type is not None
    assert "lock" in caught.value.type
