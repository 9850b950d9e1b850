"""Where runs are kept."""

from __future__ import annotations

from dagflow.stores.memory import MemoryStore

__all__ = ["MemoryStore"]
