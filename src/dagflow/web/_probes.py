"""The four probes."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from dagflow.health import HealthRegistry, HealthReport, lease_check, loop_check, store_check

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from dagflow.executor import DAGExecutor
    from dagflow.web._context import Context
    from dagflow.web._start import Start

__all__ = ["PROBES", "VERSION", "Probes"]

VERSION = version("dagflow-sdk")
_NO_STORE = {"Cache-Control": "no-store"}


class Probes:
    """The checks of the application, and those of the app that it has none of the same name for.

    Args:
        executor: Is asked.
        start: Tells whether the app is up.
        given: The checks of the application.
        metrics: Is shown what was found.
    """

    def __init__(self, executor: DAGExecutor, start: Start, given: HealthRegistry | None, metrics: Any) -> None:
        self._given = given
        sink = metrics if hasattr(metrics, "update_health_status") else None
        if given is not None and given.metrics is None:
            given.metrics = sink
        self._own = HealthRegistry(metrics=sink)
        names = given.names if given is not None else ()
        for name, check, critical in (
            ("store", store_check(executor), True),
            ("leases", lease_check(executor), True),
            ("event_loop", loop_check(), False),
            ("serving", lambda: start.is_serving, False),
        ):
            if name not in names:
                self._own.add(name, check, critical=critical)

    async def report(self) -> HealthReport:
        """Return what all checks find."""
        own = await self._own.report()
        if self._given is None:
            return own
        return HealthReport((*own.checks, *(await self._given.report()).checks))


async def live(_request: Request, _context: Context) -> Response:
    """Say that the process answers; asks nobody."""
    return _answer({"status": "healthy", "healthy": True}, is_well=True)


async def startup(_request: Request, context: Context) -> Response:
    """Say whether the store has been opened and its schema brought up to date."""
    context.start.begin()
    is_up = context.start.is_up
    status = "healthy" if is_up else "unhealthy"
    return _answer({"status": status, "healthy": is_up, "detail": context.start.error}, is_well=is_up)


async def ready(request: Request, context: Context) -> Response:
    """Say whether requests can be answered."""
    return await _whole(request, context)


async def health(request: Request, context: Context) -> Response:
    """Say how everything is, with the version."""
    return await _whole(request, context, version=VERSION)


async def _whole(_request: Request, context: Context, **more: Any) -> Response:
    if not context.start.is_up:
        context.start.begin()
        facts = {"healthy": False, "critical": True, "detail": context.start.error or "the app has not started yet"}
        body = {"status": "unhealthy", "healthy": False, "checks": {"startup": facts}}
        return _answer({**body, **more}, is_well=False)
    report = await context.probes.report()
    return _answer({**report.to_json(), **more}, is_well=report.healthy)


def _answer(body: dict[str, Any], *, is_well: bool) -> Response:
    return JSONResponse(body, 200 if is_well else 503, headers=_NO_STORE)


PROBES: dict[str, Callable[[Request, Context], Awaitable[Response]]] = {
    "/health": health,
    "/health/live": live,
    "/health/ready": ready,
    "/health/startup": startup,
}
