"""The clock of the machine; `dagflow.testing.FakeClock` is the one for tests."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

__all__ = ["SYSTEM_CLOCK", "SystemClock"]


class SystemClock:
    """Tells the time of the operating system and waits on the running event loop."""

    def now(self) -> datetime:
        """Return the present as an aware UTC datetime."""
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        """Return after this many seconds; at the next turn of the loop when they are 0 or fewer."""
        await asyncio.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
