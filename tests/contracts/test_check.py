"""One value against one contract: what fits, what does not, and where."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import subprocess
import sys
import typing
from typing import Any, Literal, NotRequired, TypedDict

import attrs
import pydantic
import pytest
import typing_extensions

from dagflow.contracts import check
from dagflow.errors import ContractError

Id = typing.NewType("Id", int)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


@attrs.frozen
class Line:
    points: list[Point]
    width: int = attrs.field(default=1, validator=attrs.validators.gt(0))
    colour: Colour = Colour.RED
    _note: str = ""


class Movie(TypedDict):
    title: str
    year: NotRequired[int]


class OtherMovie(typing_extensions.TypedDict):
    title: str
    year: typing_extensions.NotRequired[int]


class Named(typing.NamedTuple):
    name: str


class Closable(typing.Protocol):
    def close(self) -> None: ...


Ids = typing_extensions.TypeAliasType("Ids", list[int])


@dataclasses.dataclass
class Vague:
    thing: "Nowhere"  # type: ignore[name-defined]  # noqa: F821, UP037


class Model(pydantic.BaseModel):
    title: str
    points: list[int] = []


FITTING: list[tuple[Any, Any]] = [
    (1, int),
    (1, float),
    (1, Any),
    (True, bool),
    (None, type(None)),
    (None, int | None),
    ("a", str | int),
    ([1, 2], list[int]),
    ([], list[int]),
    ((1, "a"), tuple[int, str]),
    ((1, 2, 3), tuple[int, ...]),
    ((1, 2), typing.Tuple),  # noqa: UP006
    ([1, "a"], typing.List),  # noqa: UP006
    ({"a": 1}, dict[str, int]),
    ({"a": 1}, collections.abc.Mapping[str, int]),
    ([1], collections.abc.Sequence[int]),
    ({1}, set[int]),
    ("a", Literal["a", "b"]),
    (7, Id),
    (1, typing.Annotated[int, "a number"]),
    ({"x": 1}, Point),
    (Point(1), Point),
    ({"points": [{"x": 1}], "colour": "red", "note": "n"}, Line),
    ({"title": "Brazil"}, Movie),
    ({"title": "Brazil", "year": 1985, "more": 1}, Movie),
    ({"title": "Brazil"}, OtherMovie),
    (Named("a"), Named),
    (object(), Closable),
    ({"title": "a", "points": [1]}, Model),
    (Model(title="a"), Model),
    ([{"title": "a"}], list[Model]),
    ([1], Ids),
    (Vague(1), Vague),
    ({"thing": 1}, Vague),
    ((1, 2), {"type": "array", "items": {"type": "integer"}}),
    (Point(1), ["x"]),
    ({"a": [{"b": None}]}, ["a.0.b"]),
    ({"a": 1}, []),
    ([7], {"$defs": {"n": {"const": 7}}, "items": {"$ref": "#/$defs/n"}}),
    ({"words": 1}, {"$schema": "http://json-schema.org/draft-07/schema#", "required": ["words"]}),
]

BREAKING: list[tuple[Any, Any, str, str]] = [
    (True, int, "$", "int, not bool"),
    (1.0, int, "$", "int, not float"),
    ("1", int, "$", "int, not str"),
    (None, str, "$", "str, not NoneType"),
    (1, type(None), "$", "NoneType, not int"),
    ((1,), list[int], "$", "list, not tuple"),
    (["a"], list[int], "$[0]", "int, not str"),
    ({"a": ["b"]}, dict[str, list[int]], "$.a[0]", "int, not str"),
    ({"a b": "c"}, dict[str, int], "$['a b']", "int, not str"),
    ({1: "c"}, dict[str, str], "$[1]", "str, not int"),
    ((1,), tuple[int, str], "$", "2 elements, not 1"),
    (1.5, str | int, "$", "str | int, not float"),
    ([{"x": "a"}], list[Point] | None, "$[0].x", "int, not str"),
    ("c", Literal["a", "b"], "$", "one of 'a', 'b'"),
    (1, Literal[True], "$", "one of True"),
    ({"y": 1.0}, Point, "$.x", "missing"),
    ({"x": 1, "z": 1}, Point, "$.z", "no such field"),
    (Point("a"), Point, "$.x", "int, not str"),  # type: ignore[arg-type]
    ([1], Point, "$", "Point, not list"),
    ({"points": [], "width": 0}, Line, "$", "must be > 0"),
    ({"points": [], "colour": "blue"}, Line, "$.colour", "not a valid Colour"),
    ({"year": 1985}, Movie, "$.title", "missing"),
    ({"title": "a", "year": "b"}, OtherMovie, "$.year", "int, not str"),
    ({"year": 1}, OtherMovie, "$.title", "missing"),
    ({"title": 1}, Movie, "$.title", "str, not int"),
    (["title"], Movie, "$", "Movie, not list"),
    (["a"], Ids, "$[0]", "int, not str"),
    ({"title": "a", "points": ["x"]}, Model, "$.points[0]", "valid integer"),
    ({}, Model, "$.title", "required"),
    ({"a": {}}, ["a.b.c"], "$.a.b", "'a.b.c' is missing"),
    ({"a": [1]}, ["a.3"], "$.a.3", "missing"),
    ({}, {"required": ["words"]}, "$", "'words' is a required property"),
    (
        {"rows": [{"id": "a"}]},
        {"properties": {"rows": {"items": {"properties": {"id": {"type": "integer"}}}}}},
        "$.rows[0].id",
        "integer",
    ),
]


@pytest.mark.parametrize(("value", "contract"), FITTING)
def test_a_value_that_fits_passes(value: Any, contract: Any) -> None:
    check(value, contract)


@pytest.mark.parametrize(("value", "contract", "path", "reason"), BREAKING)
def test_a_value_that_does_not_fit_is_told_with_its_place(value: Any, contract: Any, path: str, reason: str) -> None:
    with pytest.raises(ContractError) as caught:
        check(value, contract, node="n", direction="output")

    assert (caught.value.node, caught.value.direction, caught.value.path) == ("n", "output", path)
    assert reason in caught.value.reason


@pytest.mark.parametrize("contract", [Point, Line])
def test_an_input_contract_that_is_a_class_wants_parameters(contract: Any) -> None:
    with pytest.raises(ContractError, match=rf"it asks for {contract.__name__}, not int"):
        check(7, contract, node="a", direction="input")


def test_an_input_contract_that_is_a_dataclass_says_nothing_of_other_parameters() -> None:
    check({"x": 1, "other": "a"}, Point, direction="input")
    with pytest.raises(ContractError, match=r"at \$\.x: it asks for int, not str"):
        check({"x": "a", "other": "a"}, Point, direction="input")


def test_a_value_is_never_changed_by_its_contract() -> None:
    value = {"points": [{"x": 1}], "colour": "red"}

    check(value, Line)

    assert value == {"points": [{"x": 1}], "colour": "red"}


def test_a_schema_without_jsonschema_says_which_extra_is_missing() -> None:
    code = (
        "import sys; sys.modules['jsonschema'] = None\n"
        "from dagflow import Node\n"
        "from dagflow.errors import MissingExtraError\n"
        "try: Node('a', dict, output_contract={'type': 'object'})\n"
        "except MissingExtraError as exc: print(exc)\n"
        "Node('b', dict, output_contract=['x']); Node('c', dict, output_contract=dict)"
    )

    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert "dagflow-sdk[schema]" in shown.stdout


def test_contracts_load_no_optional_package() -> None:
    code = "import sys, dagflow.contracts; print({'jsonschema', 'pydantic', 'referencing'} & set(sys.modules))"

    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert shown.stdout.strip() == "set()"
