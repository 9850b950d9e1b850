"""The log of the library: its lines come from where they were written, and nothing that handles them harms a run."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from dagflow import DAGExecutor, Node, Workflow
from dagflow._log import LOGGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagflow import Event


@pytest.fixture
def raising_filter() -> Iterator[list[str]]:
    """A filter of the application that raises; the lines that it was shown."""
    lines: list[str] = []

    def fail(record: logging.LogRecord) -> bool:
        lines.append(record.getMessage())
        raise RuntimeError("a filter of the application")

    logger = logging.getLogger("dagflow")
    logger.addFilter(fail)
    yield lines
    logger.removeFilter(fail)


def test_a_line_comes_from_where_it_was_written_and_has_its_facts(caplog: pytest.LogCaptureFixture) -> None:
    error: Exception | None = None
    try:
        int("v")
    except ValueError as exc:
        LOGGER.exception("it broke: %s", "here", extra={"run_id": "r"})
        error = exc

    [record] = caplog.records
    assert (record.filename, record.funcName, record.name, record.levelname) == (
        "test_log.py",
        "test_a_line_comes_from_where_it_was_written_and_has_its_facts",
        "dagflow",
        "ERROR",
    )
    assert record.getMessage() == "it broke: here"
    assert vars(record)["run_id"] == "r"
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_run_goes_on_whatever_the_application_does_with_the_log(raising_filter: list[str]) -> None:
    def observe(_: Event) -> None:
        raise RuntimeError("an observer of the application")

    async def observe_later(_: Event) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("another one")

    with DAGExecutor("memory://", observers=[observe, observe_later]) as executor:
        run = executor.run(Workflow("w", [Node("a", lambda: 1)]))

    assert run.outputs == {"a": 1}
    assert set(raising_filter) == {"an observer raised, the run goes on"}
    assert len(raising_filter) >= 8
