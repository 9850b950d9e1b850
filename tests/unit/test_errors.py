"""Every error is data that survives pickling."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import attrs
import pytest

from dagflow import ErrorInfo, errors

ERRORS: list[Any] = [error for name in errors.__all__ if attrs.has(error := getattr(errors, name))]


def sample(field: attrs.Attribute[Any]) -> object:
    """Return a value for a field of an error."""
    if "ErrorInfo" in str(field.type):
        return ErrorInfo("ValueError", "no")
    samples = {"tuple": ("a", "b"), "bool": True, "int": 3, "float": 2.5}
    return next((value for kind, value in samples.items() if str(field.type).startswith(kind)), f"the {field.name}")


@pytest.mark.parametrize("error", [e for e in ERRORS if "run" not in attrs.fields_dict(e)], ids=lambda e: e.__name__)
@pytest.mark.parametrize("copied", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"])
def test_an_error_survives_travelling(error: Any, copied: Any) -> None:
    facts = {field.name: sample(field) for field in attrs.fields(error) if "datetime" not in str(field.type)}
    facts |= {field.name: None for field in attrs.fields(error) if "datetime" in str(field.type)}
    original = error(**facts)

    there = copied(original)

    assert type(there) is error
    assert (str(there), attrs.asdict(there)) == (str(original), attrs.asdict(original))
