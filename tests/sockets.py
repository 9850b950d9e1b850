"""The client's end of a WebSocket, in this process."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["Socket"]


class Socket:
    """One client.

    Args:
        reads: Whether it takes in what is sent to it.
    """

    def __init__(self, app: ASGIApp, path: str, *, reads: bool = True, headers: dict[str, str] | None = None) -> None:
        self.sent: list[dict[str, Any]] = []
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})
        self._reads = reads
        path, _, query = path.partition("?")
        scope = {
            "type": "websocket",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(b"host", b"app")] + [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
            "subprotocols": [],
            "extensions": {},
        }
        self.task = asyncio.ensure_future(app(scope, self.incoming.get, self._take))

    async def _take(self, message: Any) -> None:
        self.sent.append(message)
        if not self._reads and message["type"] == "websocket.send":
            await asyncio.Event().wait()

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.sent]

    @property
    def versions(self) -> list[int]:
        return [json.loads(m["text"])["version"] for m in self.sent if m["type"] == "websocket.send"]

    @property
    def code(self) -> Any:
        return self.sent[-1].get("code")
