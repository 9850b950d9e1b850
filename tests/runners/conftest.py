"""What the tests of runners share: a mark on all processes that a test causes, and a look around at its end."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from census import MARK, processes

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Stands in the environment of all processes that the test causes; none of them may outlive the test."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    yield mark
    assert processes(mark) == []
