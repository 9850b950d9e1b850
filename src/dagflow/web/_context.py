"""What all handlers of one app share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from dagflow._log import LOGGER

if TYPE_CHECKING:
    from dagflow.executor import DAGExecutor
    from dagflow.web._live import Live
    from dagflow.web._probes import Probes
    from dagflow.web._start import Start

__all__ = ["Context"]


@attrs.frozen(eq=False)
class Context:
    """One app.

    Attributes:
        start: The life of the app, and its executor.
        live: Events as they come.
        probes: Its health.
        metrics: The collector, ``None`` when there is none.
        max_body: Bytes of a body.
        max_page: Runs or events on a page.
        max_message: Characters or bytes of what a WebSocket says.
        stall_timeout: Seconds that a client may take to take in a message.
        store_timeout: Seconds that an answer may wait for the store.
    """

    start: Start
    live: Live
    probes: Probes
    metrics: Any
    max_body: int
    max_page: int
    max_message: int
    stall_timeout: float
    store_timeout: float

    @property
    def executor(self) -> DAGExecutor:
        """Does everything."""
        return self.start.executor

    def sockets(self, change: int) -> None:
        """Count a WebSocket that was opened, 1, or closed, -1."""
        self.record("record_websocket_open" if change > 0 else "record_websocket_close")

    def record(self, method: str, *facts: object) -> None:
        """Call a method of the collector, if it has it; it may be the application's, and its errors hurt nobody."""
        call = getattr(self.metrics, method, None)
        if call is None:
            return
        try:
            call(*facts)
        except Exception:
            LOGGER.exception("a collector raised, the request goes on")
