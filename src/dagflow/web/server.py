"""The web app served alone, by uvicorn."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

from dagflow._ending import run_to_end
from dagflow.errors import MissingExtraError
from dagflow.web._app import create_app
from dagflow.web._guard import bearer_token

try:
    import uvicorn
except ImportError as exc:
    raise MissingExtraError("serving the web app", "web-server") from exc

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator, Iterable

    from dagflow.executor import DAGExecutor
    from dagflow.web._app import WebApp

__all__ = ["run"]

_GRACE_S = 5
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(
    executor: DAGExecutor,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    allowed_hosts: Iterable[str] = (),
    allowed_origins: Iterable[str] = (),
) -> int:
    """Serve the app of an executor until SIGTERM or Ctrl-C, and return the exit code.

    At the end answers may be finished for a few seconds, streams are ended, what runs has the executor's grace, and
    runs are let go of. A second signal stops at once.

    Args:
        executor: One that has not been opened.
        host: Address to listen on.
        port: Port to listen on.
        token: Bearer token that everything but the probes asks for; ``None`` lets everybody in.
        allowed_hosts: See `create_app`.
        allowed_origins: See `create_app`.

    Raises:
        StoreError: The store cannot be reached; nothing was listened on.
    """
    auth = bearer_token(token) if token is not None else None
    app = create_app(executor, auth=auth, allowed_hosts=allowed_hosts, allowed_origins=allowed_origins)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        lifespan="on",
        ws_max_size=64 * 1024,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return run_to_end(_serve(executor, _Server(config, app)))


class _Server(uvicorn.Server):
    """A server that leaves the process time to close the executor.

    Args:
        config: Of uvicorn.
        app: What is served.
    """

    def __init__(self, config: uvicorn.Config, app: WebApp) -> None:
        super().__init__(config)
        self._app = app

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take signals without raising them anew in the end, which would leave the executor open."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; streams would go on as long as their runs."""
        self._app.end_streams()
        await super().shutdown(sockets)


async def _serve(executor: DAGExecutor, server: uvicorn.Server) -> int:
    # Before anything listens: a store that cannot be reached is an error of the start.
    async with executor:
        await server.serve()
    return 0 if server.started else 1
