"""The app: its routes, and what every connection passes through."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any, Self

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Match, Route, WebSocketRoute
from starlette.websockets import WebSocket

from dagflow._redacting import redacted
from dagflow.executor import DAGExecutor
from dagflow.web import _runs, _streams
from dagflow.web._context import Context
from dagflow.web._documents import Json
from dagflow.web._guard import OPEN_PATHS, Guard, sent_path
from dagflow.web._live import Live
from dagflow.web._openapi import openapi
from dagflow.web._pace import Pace
from dagflow.web._probes import PROBES, VERSION, Probes
from dagflow.web._problems import answers, problem, problem_of
from dagflow.web._start import Start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Message, Receive, Scope, Send

    from dagflow.health import HealthRegistry
    from dagflow.web._guard import Auth

    Handler = Callable[[Request, Context], Awaitable[Response]]

__all__ = ["WebApp", "create_app", "lifespan"]

_UNKNOWN = "(unknown)"


def create_app(
    executor: DAGExecutor,
    *,
    auth: Auth | None = None,
    allowed_hosts: Iterable[str] = (),
    allowed_origins: Iterable[str] = (),
    metrics: Any = None,
    health: HealthRegistry | None = None,
    serve: bool = True,
    max_body: int = 1024 * 1024,
    max_page: int = 1000,
    max_message: int = 64 * 1024,
    stall_timeout: float = 5.0,
    store_timeout: float = 10.0,
    poll: float = 0.5,
) -> WebApp:
    """Return an ASGI app for an executor.

    Args:
        executor: Open or not; one that is not is opened and closed by the app. An app that is started again after it
            has ended, as in tests, goes on with a copy of it.
        auth: Takes the connection, of HTTP or WebSocket, and returns a principal; ``None``, ``False`` and what is
            empty refuse it; sync or async. Without one everybody is let in. Only the probes are open always.
        allowed_hosts: Values of ``Host`` that are answered, ``*.example.com`` for all below; any when there is none.
        allowed_origins: Values of ``Origin`` that are answered besides the app's own.
        metrics: The collector that ``/metrics`` shows; default: the first one among the executor's observers.
        health: Checks of the application.
        serve: Drive the runs of the store in the background.
        max_body: Bytes that a body may have.
        max_page: Runs or events that a page may have.
        max_message: Characters or bytes that a client may send over a WebSocket at a time.
        stall_timeout: Seconds that a client may take to take in a few events before it is dropped.
        store_timeout: Seconds that an answer may wait for the store before it is 503.
        poll: Seconds between two looks at the store.

    Raises:
        ValueError: A limit is out of its range.
        TypeError: The executor is none, but its blocking face, for instance.
    """
    _check(executor, (max_body, max_page, max_message), (stall_timeout, store_timeout, poll))
    if metrics is None:
        metrics = next((o for o in executor.observers if hasattr(o, "registry")), None)
    start = Start(executor, serve=serve, poll=poll)
    context = Context(
        start=start,
        live=Live(start, Pace(lambda: start.executor.is_driving), poll=poll),
        probes=Probes(start, health, metrics),
        metrics=metrics,
        max_body=max_body,
        max_page=max_page,
        max_message=max_message,
        stall_timeout=stall_timeout,
        store_timeout=store_timeout,
    )
    return WebApp(context, Guard(auth, allowed_hosts, allowed_origins))


def _check(executor: object, limits: tuple[int, ...], seconds: tuple[float, ...]) -> None:
    if not isinstance(executor, DAGExecutor):
        raise TypeError(f"{executor!r} is no DAGExecutor: pass one that is opened with 'async with', or not opened yet")
    if min(limits) < 1 or min(seconds) <= 0:
        message = "max_body, max_page and max_message are at least 1, stall_timeout, store_timeout and poll above 0"
        raise ValueError(message)


class WebApp(Starlette):
    """The app of one executor; made by `create_app`.

    Args:
        context: What handlers share.
        guard: Lets connections in.
    """

    def __init__(self, context: Context, guard: Guard) -> None:
        handlers = {HTTPException: _http_problem}
        super().__init__(routes=_routes(context), exception_handlers=handlers)  # type: ignore[arg-type]
        self.router.redirect_slashes = False
        self._context = context
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        path = sent_path(scope)
        # Routes are found in the path as it was sent: `%2F` in an id divides nothing.
        inner = {**scope, "path": path, "root_path": "", "dagflow.root": scope.get("root_path", "")}
        if scope["type"] == "websocket":
            await self._websocket(inner, receive, send)
        else:
            await self._http(inner, receive, send)

    @property
    def executor(self) -> DAGExecutor:
        """The executor that the app uses now."""
        return self._context.executor

    async def up(self) -> None:
        """Open the executor and begin to serve."""
        await self._context.start.up()

    async def down(self) -> None:
        """Stop serving, and close the executor if it was opened here."""
        self.end_streams()
        await self._context.start.down()

    def end_streams(self) -> None:
        """End all streams of events; their clients may come again, and go on where they were."""
        self._context.live.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.up()
        except Exception as exc:
            message = f"the app cannot start: {redacted(exc) or type(exc).__name__}"
            await send({"type": "lifespan.startup.failed", "message": message})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.down()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        begun, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = await self._refusal(scope, receive)
        try:
            if refusal is not None:
                await refusal(scope, receive, sending)
            else:
                await super().__call__(scope, receive, sending)
        finally:
            self._count(scope, status, time.perf_counter() - begun)

    async def _websocket(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        websocket = WebSocket(scope, receive, send)
        try:
            await self._guard.check(websocket, scope["path"], "WEBSOCKET")
            await self._context.start.wait()
        except Exception as exc:  # noqa: BLE001 - of the application's auth too; nobody comes in by an error
            await receive()
            await _streams.refuse(websocket, exc)
            return
        await super().__call__(scope, receive, send)

    async def _refusal(self, scope: dict[str, Any], receive: Receive) -> Response | None:
        """Return what is answered to a request that is not let in."""
        try:
            await self._guard.check(HTTPConnection(scope, receive), scope["path"], scope["method"])
            if scope["path"] not in OPEN_PATHS:
                await self._context.start.wait()
        except Exception as exc:  # noqa: BLE001 - as above
            return problem_of(exc)
        return None

    def _count(self, scope: dict[str, Any], status: int, seconds: float) -> None:
        endpoint = _template(self.router.routes, scope)
        self._context.record("record_api_request", scope["method"], endpoint, status, seconds)


def _template(routes: Iterable[BaseRoute], scope: dict[str, Any]) -> str:
    """Return the route of a request, never its path: there are few routes and many paths."""
    found = _UNKNOWN
    for route in routes:
        match = route.matches(scope)[0] if isinstance(route, Route) else Match.NONE
        if match is Match.FULL or (match is Match.PARTIAL and found is _UNKNOWN):
            found = route.path.replace(":path}", "}")  # type: ignore[attr-defined]
        if match is Match.FULL:
            break
    return found


async def _http_problem(_request: Request, error: HTTPException) -> Response:
    return problem(error.status_code, error.detail, error.headers)


def _routes(context: Context) -> list[BaseRoute]:
    def route(method: str, path: str, handler: Handler) -> Route:
        bound = functools.partial(_called, answers(handler), context)
        return Route(path, bound, methods=[method])

    async def watch(websocket: WebSocket) -> None:
        await _streams.watch(websocket, context)

    run = "/api/runs/{run_id:path}"
    return [
        *(route("GET", path, probe) for path, probe in PROBES.items()),
        route("GET", "/metrics", _runs.metrics),
        route("GET", "/openapi.json", _document),
        route("GET", "/api/workflows", _runs.list_workflows),
        route("GET", "/api/workflows/{name}", _runs.show_workflow),
        route("POST", "/api/workflows/{name}/runs", _runs.start_run),
        route("GET", "/api/runs", _runs.list_runs),
        route("GET", f"{run}/history", _runs.history),
        route("GET", f"{run}/events", _streams.events),
        route("POST", f"{run}/resume", _runs.resume),
        route("POST", f"{run}/cancel", _runs.cancel),
        route("POST", f"{run}/pause", _runs.pause),
        route("POST", f"{run}/signals/{{name}}", _runs.signal),
        route("POST", f"{run}/reviews/{{name}}", _runs.decide),
        route("GET", run, _runs.show_run),
        WebSocketRoute("/ws/runs/{run_id:path}", watch),
    ]


async def _called(handler: Callable[..., Awaitable[Response]], context: Context, request: Request) -> Response:
    if request.scope["path"] in OPEN_PATHS:
        # Each check has a limit of its own.
        return await handler(request, context)
    try:
        # What a handler raises is answered by itself: only this limit is left.
        async with asyncio.timeout(context.store_timeout):
            return await handler(request, context)
    except TimeoutError:
        detail = "the store does not answer: ask again; a run that was given an id is started once only"
        return problem(503, detail, {"Retry-After": "1"})


async def _document(request: Request, _context: Context) -> Response:
    return Json(openapi(VERSION, root=request.scope["dagflow.root"]))


class lifespan:  # noqa: N801 - used like a function
    """Lets an application that mounts an app open and close it with itself.

    ::

        dag = create_app(executor)
        app = FastAPI(lifespan=lifespan(dag))
        app.mount("/dag", dag)

    Inside a lifespan of the application's own: ``async with lifespan(dag): yield``.

    Args:
        app: Made by `create_app`.
    """

    def __init__(self, app: WebApp) -> None:
        self._app = app

    def __call__(self, _outer: Any = None) -> Self:
        """Return itself; the outer application is not needed."""
        return self

    async def __aenter__(self) -> None:
        """Open the executor and begin to serve."""
        await self._app.up()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, frames: TracebackType | None
    ) -> None:
        """Stop serving, and close the executor if it was opened here."""
        await self._app.down()
