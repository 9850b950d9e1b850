"""The contract of a store as tests.

Subclass `ContextStoreSuite` in a test module, override the fixture ``store``, and run pytest with pytest-asyncio in its
auto mode::

    class TestMyStore(ContextStoreSuite):
        @pytest.fixture
        async def store(self, clock, tmp_path):
            async with MyStore(tmp_path / "runs", clock=clock) as store:
                yield store

Each test gets an empty store of its own, which is open. A test that fails names what the store does not keep to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagflow.testing._store_concurrency import CancellationTests, ConcurrencyTests
from dagflow.testing._store_core import CoreTests
from dagflow.testing._store_deletion import DeletionTests
from dagflow.testing._store_history import HistoryTests
from dagflow.testing._store_hostile import HostileTests
from dagflow.testing._store_leases import ClaimTests, FencingTests, RenewalTests
from dagflow.testing._store_listing import ClaimableTests, ListingTests
from dagflow.testing._store_messages import MessageTests
from dagflow.testing.clock import FakeClock

if TYPE_CHECKING:
    from dagflow.protocols import Clock, ContextStore

__all__ = ["ContextStoreSuite"]


class ContextStoreSuite(
    CoreTests,
    HistoryTests,
    ClaimTests,
    FencingTests,
    RenewalTests,
    MessageTests,
    DeletionTests,
    ListingTests,
    ClaimableTests,
    HostileTests,
    ConcurrencyTests,
    CancellationTests,
):
    """Every store passes all of these; see the module for how to use it."""

    @pytest.fixture
    def clock(self) -> Clock:
        """Return the clock that counts the leases.

        A store that takes a clock is given this one, whose sleeps pass at once. For a store whose leases are counted
        by somebody else's clock, a server's for example, override it and return ``dagflow.clock.SYSTEM_CLOCK``.
        """
        return FakeClock(auto=True)

    @pytest.fixture
    async def store(self, clock: Clock) -> ContextStore:
        """Return an empty store that is open; override this."""
        message = f"{type(self).__name__} has to override the fixture 'store' and return an empty store that is open"
        raise NotImplementedError(message)

    @pytest.fixture
    async def other(self, store: ContextStore) -> ContextStore:
        """Return a second way to the same runs, as another process would have; override it if there is one."""
        return store
