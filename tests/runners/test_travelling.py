"""What goes to a worker and comes back, when the classes of the user are in the way."""

from __future__ import annotations

from typing import Any

import pytest

import dagflow.runners
from dagflow.errors import NodeError, SerializationError
from dagflow.runners._answers import pack_error, unpack_error
from dagflow.runners._parcels import Parcel


class OtherError(Exception):
    """An exception that comes out of its own bytes as another one."""

    def __reduce__(self) -> tuple[object, ...]:
        return ValueError, ("another",)


class NotesError(Exception):
    """An exception whose traceback cannot be formatted."""

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise RuntimeError("no notes")


class Mood:
    """A value that cannot be packed the first time, and can be ever after."""

    def __init__(self) -> None:
        self.asked = 0

    def __reduce__(self) -> tuple[object, ...]:
        self.asked += 1
        if self.asked == 1:
            raise ValueError("not now")
        return Mood, ()


def identity(value: object) -> object:
    return value


def packed(error: BaseException) -> bytes:
    try:
        raise error
    except type(error) as exc:
        return pack_error(exc)


def test_an_exception_that_comes_out_as_another_one_keeps_its_type_all_the_same() -> None:
    error = unpack_error(packed(OtherError("itself")), node="a")

    assert (type(error), str(error)) == (OtherError, "itself")


def test_an_exception_whose_traceback_cannot_be_formatted_is_told_with_its_place() -> None:
    error = unpack_error(packed(NotesError("hm")), node="a")

    assert isinstance(error, NodeError)
    assert error.error.message == "hm"
    assert "in packed" in error.error.traceback


def test_arguments_that_cannot_be_packed_only_once_are_refused() -> None:
    arguments: dict[str, Any] = {"value": Mood()}

    with pytest.raises(SerializationError, match=r"its arguments cannot travel to another process \(.*not now"):
        Parcel.of(identity, arguments, node="a")


def test_a_runner_that_does_not_exist_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match=r"module 'dagflow\.runners' has no attribute 'FiberRunner'"):
        dagflow.runners.FiberRunner  # noqa: B018
