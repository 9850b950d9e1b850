"""The store in memory keeps the contract."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from dagflow.stores import MemoryStore
from dagflow.testing import ContextStoreSuite
from dagflow.testing._store_facts import claimed, kept, steps

if TYPE_CHECKING:
    from dagflow.protocols import Clock


class TestMemoryStore(ContextStoreSuite):
    @pytest.fixture
    async def store(self, clock: Clock) -> MemoryStore:
        return MemoryStore(clock=clock)


async def test_what_is_kept_in_memory_outlives_closing() -> None:
    async with MemoryStore() as store:
        await kept(store)

    read, _ = await store.read("run")

    assert read.run_id == "run"
    assert repr(store) == "MemoryStore(1 runs)"


async def test_appends_in_memory_do_not_suspend_their_caller() -> None:
    store = MemoryStore()
    claim = await claimed(store)
    append = store.append(steps(2, 2), claim=claim, version=1, status=(await store.read("run"))[0].status)

    with pytest.raises(StopIteration):
        append.send(None)


def test_executors_on_several_threads_may_share_memory() -> None:
    store = MemoryStore()
    threads = [
        threading.Thread(target=asyncio.run, args=(kept(store, f"run{number}", version=50),)) for number in range(8)
    ]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert repr(store) == "MemoryStore(8 runs)"
