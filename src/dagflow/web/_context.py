"""What all handlers of one app share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

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
        executor: Does everything.
        start: The life of the app.
        live: Events as they come.
        probes: Its health.
        metrics: The collector, ``None`` when there is none.
        max_body: Bytes of a body.
        max_page: Runs or events on a page.
        max_message: Characters or bytes of what a WebSocket says.
        stall_timeout: Seconds that a client may take to take in a message.
    """

    executor: DAGExecutor
    start: Start
    live: Live
    probes: Probes
    metrics: Any
    max_body: int
    max_page: int
    max_message: int
    stall_timeout: float

    def sockets(self, change: int) -> None:
        """Count a WebSocket that was opened, 1, or closed, -1."""
        if self.metrics is not None:
            name = "record_websocket_open" if change > 0 else "record_websocket_close"
            count = getattr(self.metrics, name, None)
            if count is not None:
                count()
