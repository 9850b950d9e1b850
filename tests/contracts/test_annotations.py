"""What a node returns and what a parameter takes, compared before anything runs."""

from __future__ import annotations

import collections.abc
import enum
import functools
import typing
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import pytest

from dagflow import Node, NodeContext, Workflow
from dagflow._annotations import clash
from dagflow.errors import WorkflowError

if TYPE_CHECKING:
    from decimal import Decimal

T = typing.TypeVar("T")


class Animal: ...


class Dog(Animal): ...


class Cat(Animal): ...


class Colour(enum.IntEnum):
    RED = 1


class Movie(TypedDict):
    title: str


class Closable(typing.Protocol):
    def close(self) -> None: ...


class Box(typing.Generic[T]): ...


CLASHING: list[tuple[Any, Any]] = [
    (list[str], list[int]),
    (str, int),
    (int, str),
    (float, int),
    (None, int),
    (list[int], dict[str, int]),
    (dict[str, int], dict[str, str]),
    (dict[str, int], dict[int, int]),
    (dict[str, int], list[str]),
    (list[str], collections.abc.Sequence[int]),
    (tuple[int, str], tuple[int, int]),
    (tuple[int, ...], tuple[str, ...]),
    (tuple[int, str], tuple[int]),
    (list[list[str]], list[list[int]]),
    (int | None, str),
    (int, str | None),
    (Dog, Cat),
    (list[Dog], list[Cat]),
    (Literal["a"], int),
    (Movie, int),
    (int, collections.abc.Iterable[int]),
    (collections.abc.Hashable, list[int]),
    (collections.abc.Mapping[str, int], collections.abc.Sequence[int]),
    (typing.List[str], list[int]),  # noqa: UP006
    (typing.Annotated[str, "x"], int),
]

AGREEING: list[tuple[Any, Any]] = [
    (list[int], list[int]),
    (bool, int),
    (int, float),
    (bool, float),
    (Colour, complex),
    (list[int], list[float]),
    (collections.abc.Iterable[int], collections.abc.Sized),
    (collections.abc.Sized, collections.abc.Iterable[int]),
    (collections.abc.Collection[int], collections.abc.Reversible[int]),
    (collections.abc.Hashable, collections.abc.Set[int]),
    (list, list[int]),
    (list[int], list),
    (list[Any], list[int]),
    (list[int], collections.abc.Sequence[int]),
    (list[int], collections.abc.Iterable[int]),
    (str, collections.abc.Sequence[str]),
    (dict[str, int], collections.abc.Mapping[str, int]),
    (dict[str, int], collections.abc.Iterable[str]),
    (int | None, int),
    (int, int | None),
    (list[int | None], list[int]),
    (Any, int),
    (int, Any),
    (object, int),
    (int, object),
    (Dog, Animal),
    (Animal, Dog),
    (T, int),
    (int, T),
    ("Unknown", int),
    (Movie, dict[str, Any]),
    (dict, Movie),
    (int, Closable),
    (Box[int], Box[str]),
    (Literal["a"], str),
    (str, Literal["a"]),
    (tuple[int, int], tuple[int, ...]),
    (tuple[int, str], collections.abc.Sequence[str]),
    (collections.abc.Callable[[int], int], collections.abc.Callable[[str], str]),
    (int, collections.abc.Hashable),
]


@pytest.mark.parametrize(("given", "taken"), CLASHING)
def test_types_that_have_no_value_in_common_clash(given: Any, taken: Any) -> None:
    assert clash(given, taken)


@pytest.mark.parametrize(("given", "taken"), AGREEING)
def test_types_that_may_have_a_value_in_common_agree(given: Any, taken: Any) -> None:
    assert not clash(given, taken)


def pages() -> list[str]:
    return []


async def later_pages() -> list[str]:
    return []


def total(pages: list[int]) -> int:
    return sum(pages)


def promised_pages() -> collections.abc.Awaitable[list[str]]:
    return later_pages()


@pytest.mark.parametrize("source", [pages, later_pages, functools.partial(pages), promised_pages])
def test_a_list_of_text_does_not_fit_a_list_of_numbers(source: Any) -> None:
    workflow = Workflow("w", [Node("pages", source), Node("total", total)])

    with pytest.raises(WorkflowError) as caught:
        workflow.validate()

    assert caught.value.node == "total"
    assert "'pages' takes list[int] and is bound to 'pages', which gives list[str]" in caught.value.reason
    assert caught.value.workflow == "w"


def test_a_parameter_that_is_bound_by_another_name_is_compared_too() -> None:
    workflow = Workflow("w", [Node("texts", pages), Node("total", total, bind={"pages": "texts"})])

    with pytest.raises(WorkflowError, match="bound to 'texts'"):
        workflow.validate()


def test_the_parameters_of_a_condition_are_compared_too() -> None:
    workflow = Workflow("w", [Node("pages", pages), Node("next", lambda: 1, when=total)])

    with pytest.raises(WorkflowError, match="takes list"):
        workflow.validate()


def test_the_item_of_a_map_is_compared_with_the_elements_of_the_list() -> None:
    def fitting(page: str) -> int:
        return len(page)

    def wrong(page: int) -> int:
        return page

    for function, fits in ((fitting, True), (wrong, False)):
        workflow = Workflow("w", [Node("pages", pages)])
        workflow.map(over={"page": "pages"}, name="count")(function)
        if fits:
            workflow.validate()
            continue
        with pytest.raises(WorkflowError, match="takes int and is bound to 'pages', which gives str"):
            workflow.validate()


@pytest.mark.parametrize(
    ("given", "fits"),
    [
        (list[str], True),
        (tuple[str, ...], True),
        (tuple[str, int], True),
        (dict[str, int], True),
        (list[int], False),
        (tuple[int, ...], False),
    ],
)
def test_the_elements_of_a_list_are_known_as_far_as_its_type_names_them(given: Any, fits: bool) -> None:
    def source() -> Any: ...

    def count(page: str) -> int:
        return len(page)

    source.__annotations__["return"] = given
    workflow = Workflow("w", [Node("pages", source)])
    workflow.map(over={"page": "pages"}, name="count")(count)
    if fits:
        workflow.validate()
        return
    with pytest.raises(WorkflowError, match="takes str and is bound to 'pages', which gives int"):
        workflow.validate()


def test_the_output_of_a_map_is_a_list_of_what_its_function_returns() -> None:
    def count(page: str) -> int:
        return len(page)

    def fitting(count: list[int]) -> int:
        return sum(count)

    def wrong(count: int) -> int:
        return count

    for function, fits in ((fitting, True), (wrong, False)):
        workflow = Workflow("w", [Node("pages", pages)])
        workflow.map(over={"page": "pages"})(count)
        workflow.add(Node("total", function))
        if fits:
            workflow.validate()
            continue
        with pytest.raises(WorkflowError, match=r"which gives list\[int\]"):
            workflow.validate()


def test_an_annotation_that_exists_for_checkers_alone_hides_no_other() -> None:
    def add(pages: list[int], rate: Decimal, context: NodeContext) -> int:
        return 0

    workflow = Workflow("w", [Node("pages", pages), Node("add", add)])

    with pytest.raises(WorkflowError, match=r"takes list\[int\]"):
        workflow.validate()


def test_what_is_not_annotated_fits_everything() -> None:
    Workflow("w", [Node("pages", pages), Node("total", lambda pages: pages)]).validate()
    Workflow("w", [Node("pages", lambda: ["a"]), Node("total", total)]).validate()


def test_an_object_that_can_be_called_says_its_types_by_its_call() -> None:
    class Pages:
        def __call__(self) -> list[str]:
            return []

        @property
        def func(self) -> Pages:
            return self

    workflow = Workflow("w", [Node("pages", Pages()), Node("total", total)])

    with pytest.raises(WorkflowError, match=r"gives list\[str\]"):
        workflow.validate()
