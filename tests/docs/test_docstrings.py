"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
from typing import TYPE_CHECKING

import pytest

from rooms import rooms

if TYPE_CHECKING:
    from pathlib import Path


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [test for name in rooms() for test in finder.find(importlib.import_module(name), name)]
    return [test for test in found if test.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_the_example_runs(example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    doctest.DebugRunner(optionflags=doctest.ELLIPSIS).run(example)
