"""The web app served alone, by uvicorn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dagflow.errors import MissingExtraError
from dagflow.web._app import create_app
from dagflow.web._guard import bearer_token

try:
    import uvicorn
except ImportError as exc:
    raise MissingExtraError("serving the web app", "web-server") from exc

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dagflow.executor import DAGExecutor

__all__ = ["run"]


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
    config = uvicorn.Config(app, host=host, port=port, lifespan="on", ws_max_size=64 * 1024, server_header=False)
    return asyncio.run(_serve(executor, uvicorn.Server(config)))


async def _serve(executor: DAGExecutor, server: uvicorn.Server) -> int:
    # Before anything listens: a store that cannot be reached is an error of the start.
    async with executor:
        await server.serve()
    return 0 if server.started else 1
