"""The store that the page for writers of stores shows keeps the contract."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

import pytest

from dagflow.stores import MemoryStore
from dagflow.testing import ContextStoreSuite
from pages import ROOT, blocks, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dagflow.protocols import Clock, ContextStore

_PAGE = types.ModuleType("page_of_a_store")
run(next(block for block in blocks(ROOT / "docs" / "how-to" / "write-a-store.md") if block.info == "python"), _PAGE)


class TestTheStoreOfThePage(ContextStoreSuite):
    @pytest.fixture
    async def store(self, clock: Clock) -> AsyncIterator[ContextStore]:
        compressed: Any = vars(_PAGE)["CompressedStore"]
        async with compressed(MemoryStore(clock=clock)) as store:
            yield store
