"""What the tests of an application, or of a store, need: a fake clock, crash points, the contract of a store."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dagflow.testing.clock import FakeClock
from dagflow.testing.crash import Crash, CrashAfter, CrashPoints

if TYPE_CHECKING:
    from dagflow.testing.store_suite import ContextStoreSuite
    from dagflow.testing.strategies import workflows

__all__ = ["ContextStoreSuite", "Crash", "CrashAfter", "CrashPoints", "FakeClock", "workflows"]

_SUITE = "dagflow.testing.store_suite"


def __getattr__(name: str) -> Any:
    """Import the suite, which needs pytest, and the strategies, which need hypothesis, when they are asked for."""
    if name == "workflows":
        return import_module("dagflow.testing.strategies").workflows
    if name != "ContextStoreSuite":
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    import pytest  # noqa: PLC0415 - the fake clock can be used without it

    rooms = ("concurrency", "core", "deletion", "history", "hostile", "leases", "listing", "messages")
    pytest.register_assert_rewrite(*(f"dagflow.testing._store_{room}" for room in rooms))
    return getattr(import_module(_SUITE), name)
