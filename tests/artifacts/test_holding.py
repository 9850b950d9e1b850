"""A store that holds artifacts, and counts what it is asked, keeps the contract of the store that is beneath."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from dagflow._holding import holding
from dagflow._measured import measured
from dagflow._spilling import spilling_of
from dagflow.metrics import MetricsCollector
from dagflow.stores import MemoryStore
from dagflow.testing import ContextStoreSuite

if TYPE_CHECKING:
    from pathlib import Path

    from dagflow.protocols import Clock, ContextStore


class TestHoldingAndMeasured(ContextStoreSuite):
    @pytest.fixture
    async def store(self, clock: Clock, tmp_path: Path) -> ContextStore:
        beneath = holding(MemoryStore(clock=clock), spilling_of(None, tmp_path / "artifacts", None))
        return measured(beneath, MetricsCollector(registry=CollectorRegistry()))
