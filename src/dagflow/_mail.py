"""Messages from other processes to the runs that an executor drives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs

from dagflow._log import LOGGER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagflow._active import Active
    from dagflow._driver import Driver
    from dagflow.protocols import ContextStore

__all__ = ["Mail"]


@attrs.define(eq=False)
class Mail:
    """Looks for messages, and delivers them.

    Attributes:
        store: Keeps them.
        active: The runs that are driven, by id.
        poll: Seconds between two looks.
    """

    store: ContextStore
    active: Mapping[str, Active]
    poll: float

    async def keep(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(self.poll)
            # Bound to no name: a run that ends during the next sleep would stay in memory until its end.
            await self._collect({i: a.driver for i, a in self.active.items() if not a.driver.journal.is_new})

    async def collect(self, run_id: str | None) -> None:
        """Look for messages to one run now, if it is driven here."""
        active = self.active.get(run_id or "")
        if active is not None and not active.driver.journal.is_new:
            await self._collect({active.run_id: active.driver})

    async def _collect(self, drivers: Mapping[str, Driver]) -> None:
        if not drivers:
            return
        try:
            messages = await self.store.receive({run_id: d.journal.received for run_id, d in drivers.items()})
        except Exception:  # of the store, which may be a plug-in; nobody else would go on looking
            LOGGER.warning("messages to the runs could not be read", exc_info=True)
            return
        for message in messages:
            drivers[message.run_id].deliver([message])
