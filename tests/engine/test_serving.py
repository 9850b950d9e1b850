"""Serving goes on whatever becomes of a single run, or of a single look at the store."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from dagflow import DAGExecutor, Node, Workflow
from dagflow.errors import StoreUnavailableError
from dagflow.stores import MemoryStore
from executors import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import pytest

    from dagflow import Event
    from dagflow._events import RunQuery, RunRecord


class Moody(MemoryStore):
    """A store that fails so many times to find runs, and to append to each of them."""

    def __init__(self, *, finds: int = 0, appends: int = 0) -> None:
        super().__init__()
        self.finds, self.appends = finds, appends

    async def find(self, query: RunQuery) -> list[RunRecord]:
        if query.claimable and self.finds > 0:
            self.finds -= 1
            raise StoreUnavailableError("it cannot be reached", "the store")
        return await super().find(query)

    async def append(self, events: Sequence[Event], **options: Any) -> None:
        if self.appends > 0:
            self.appends -= 1
            raise ZeroDivisionError("a bug of a plug-in")
        await super().append(events, **options)


def answer(result: int = 42) -> Workflow:
    return Workflow("answer", [Node("a", lambda: result)])


@contextlib.asynccontextmanager
async def served(store: MemoryStore, *workflows: Workflow) -> AsyncIterator[DAGExecutor]:
    async with DAGExecutor(store, workflows=workflows) as executor:
        serving = asyncio.create_task(executor.serve(poll=0.01))
        async with asyncio.timeout(30):
            yield executor
        serving.cancel()
        await asyncio.wait([serving])


async def test_a_store_that_cannot_be_searched_is_searched_again(caplog: pytest.LogCaptureFixture) -> None:
    async with served(Moody(finds=2), answer()) as executor:
        run = await (await executor.submit(answer())).result()

    assert run.outputs == {"a": 42}
    assert caplog.text.count("the store could not be searched for runs") == 2


async def test_a_run_that_cannot_be_served_is_told_and_the_others_are_served(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    before = Workflow("answer", [Node("b", lambda: 1)])
    async with DAGExecutor(store) as other:
        await other.submit(before, run_id="old")
        await other.submit(answer(), run_id="new")
    async with served(store, answer()) as executor:

        async def has_ended() -> bool:
            return (await executor.get("new")).status == "completed"

        await until(has_ended)
        await until(lambda: "a run could not be served" in caplog.text)
        old = await store.read("old")

    assert old[0].status == "pending"


async def test_a_run_that_is_given_up_is_told_and_taken_up_again(caplog: pytest.LogCaptureFixture) -> None:
    async with served(Moody(appends=1), answer()) as executor:
        await executor.submit(answer(), run_id="r")

        async def has_ended() -> bool:
            return (await executor.get("r")).status == "completed"

        await until(has_ended)

    assert "a run was given up here" in caplog.text
