"""Live events over server-sent events and WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from starlette.responses import Response, StreamingResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from dagflow._log import LOGGER
from dagflow.errors import DagflowError, RunNotFoundError
from dagflow.web._problems import Problem, problem_of
from dagflow.web._reading import MOST_VERSION, run_id_of, version_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from starlette.requests import Request
    from starlette.types import Message, Send

    from dagflow.web._context import Context

__all__ = ["events", "watch"]

_STALLED, _TOO_LARGE, _RESTART, _NOT_FOUND, _INVALID = 1013, 1009, 1012, 4404, 4400
_BEAT_S = 15.0
_MEDIA_TYPE = "text/event-stream"


async def events(request: Request, context: Context) -> Response:
    """Answer with the events of a run as they come."""
    run_id = run_id_of(request)
    after = version_of(request.headers.get("last-event-id") or request.query_params.get("after"))
    # Before the answer begins: a run that does not exist is a problem, not an empty stream.
    await context.executor.history(run_id, after=MOST_VERSION)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if request.method == "HEAD":
        return Response(headers=headers, media_type=_MEDIA_TYPE)
    return _ServerSent(_server_sent(context, run_id, after), headers, context.stall_timeout)


class _ServerSent(StreamingResponse):
    """A stream of events, whose client is dropped when it stalls.

    Args:
        stream: Texts to be sent.
        headers: Of the answer.
        stall_timeout: Seconds that the client may take to take one in.
    """

    def __init__(self, stream: AsyncGenerator[str], headers: dict[str, str], stall_timeout: float) -> None:
        super().__init__(stream, media_type=_MEDIA_TYPE, headers=headers)
        self._stream = stream
        self._stall_timeout = stall_timeout

    async def stream_response(self, send: Send) -> None:
        """Send the answer."""

        async def sending(message: Message) -> None:
            async with asyncio.timeout(self._stall_timeout):
                await send(message)

        async with contextlib.aclosing(self._stream):
            try:
                await super().stream_response(sending)
            except TimeoutError:
                LOGGER.warning("a client has stalled and is dropped")


async def _server_sent(context: Context, run_id: str, after: int) -> AsyncGenerator[str]:
    async with contextlib.aclosing(context.live.events(run_id, after=after, beat=_BEAT_S)) as stream:
        try:
            async for batch in stream:
                texts = [f"id: {told.version}\nevent: {told.kind}\ndata: {told.text}\n\n" for told in batch]
                yield "".join(texts) or ": still here\n\n"
        except DagflowError:
            # The client connects again and goes on where it was.
            return


async def watch(websocket: WebSocket, context: Context) -> None:
    """Send the events of a run to a WebSocket."""
    try:
        run_id = run_id_of(websocket)
        after = version_of(websocket.query_params.get("after"))
        await context.executor.history(run_id, after=MOST_VERSION)
    except (Problem, DagflowError) as exc:
        await refuse(websocket, exc)
        return
    await websocket.accept()
    context.sockets(1)
    try:
        await _Session(websocket, context, run_id, after).run()
    finally:
        context.sockets(-1)


async def refuse(websocket: WebSocket, error: Exception) -> None:
    """Turn a WebSocket away before it is accepted."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(problem_of(error))
        return
    is_unknown = isinstance(error, RunNotFoundError)
    await websocket.close(_NOT_FOUND if is_unknown else 1008, type(error).__name__)


class _Session:
    """One WebSocket while it is open.

    Args:
        websocket: Accepted.
        context: Of the app.
        run_id: The run that is watched.
        after: The version that the client has.
    """

    def __init__(self, websocket: WebSocket, context: Context, run_id: str, after: int) -> None:
        self._websocket = websocket
        self._context = context
        self._run_id = run_id
        self._after = after
        self._code: int | None = 1000

    async def run(self) -> None:
        """Return when the run has ended, or the client has left or was dropped."""
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._send_all()), loop.create_task(self._receive_all())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await self._close()

    async def _send_all(self) -> None:
        try:
            async with contextlib.aclosing(self._context.live.events(self._run_id, after=self._after)) as stream:
                async for batch in stream:
                    # One limit for all of them: they are few, and are sent in a moment to a client that reads.
                    async with asyncio.timeout(self._context.stall_timeout):
                        for told in batch:
                            await self._websocket.send_text(told.text)
        except TimeoutError:
            LOGGER.warning("a client has stalled and is dropped", extra={"run_id": self._run_id})
            self._code = _STALLED
        except DagflowError:
            self._code = _RESTART
        except (WebSocketDisconnect, RuntimeError, OSError):
            self._code = None

    async def _receive_all(self) -> None:
        """Read what the client says, which means nothing here, until it leaves or says too much."""
        while True:
            message: Any = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                self._code = None
                return
            if max(len(message.get("text") or ""), len(message.get("bytes") or b"")) > self._context.max_message:
                self._code = _TOO_LARGE
                return

    async def _close(self) -> None:
        if self._code is None or self._websocket.application_state is not WebSocketState.CONNECTED:
            return
        # A client that reads nothing does not read this either.
        with contextlib.suppress(TimeoutError, RuntimeError, OSError, WebSocketDisconnect):
            async with asyncio.timeout(1.0):
                await self._websocket.close(self._code)
