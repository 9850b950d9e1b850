"""What the tests of an application, or of a store, need: a fake clock, crash points, the contract of a store."""

from __future__ import annotations

from dagflow.testing.clock import FakeClock

__all__ = ["FakeClock"]
