"""One event loop for the whole session of benchmarks, and the servers that the tests use."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from timing import Timer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["postgres_server"]


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.Runner]:
    """Return the loop of the session."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def timer(loop: asyncio.Runner, benchmark: Any) -> Timer:
    """Return what times coroutines."""
    return Timer(loop, benchmark)
