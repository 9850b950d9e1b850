"""The four probes."""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from dagflow.health import HealthRegistry, HealthReport, lease_check, loop_check, store_check
from dagflow.web._documents import Json
from dagflow.web._problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from dagflow.web._context import Context
    from dagflow.web._start import Start

__all__ = ["PROBES", "VERSION", "Probes"]

VERSION = version("dagflow-sdk")
_NO_STORE = {"Cache-Control": "no-store"}
_PATIENCE_S = 0.5


class Probes:
    """The checks of the application, and those of the app that it has none of the same name for.

    Args:
        start: Tells whether the app is up, and has the executor that is asked.
        given: The checks of the application.
        metrics: Is shown what was found.
    """

    def __init__(self, start: Start, given: HealthRegistry | None, metrics: Any) -> None:
        self._given = given
        sink = metrics if hasattr(metrics, "update_health_status") else None
        if given is not None and given.metrics is None:
            given.metrics = sink
        self._own = HealthRegistry(metrics=sink)
        names = given.names if given is not None else ()
        for name, check, critical in (
            ("store", _now(start, store_check), True),
            ("leases", _now(start, lease_check), True),
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


def _now(start: Start, check: Callable[[Any], Callable[[], Any]]) -> Callable[[], Awaitable[Any]]:
    """Return a check that asks the executor that the app has by then."""

    async def asked() -> Any:
        return await check(start.executor)()

    return asked


async def live(_request: Request, _context: Context) -> Response:
    """Say that the process answers; asks nobody."""
    return _answer({"status": "healthy", "healthy": True}, is_well=True)


async def startup(_request: Request, context: Context) -> Response:
    """Say whether the store has been opened and its schema brought up to date."""
    is_up = await _is_up(context)
    status = "healthy" if is_up else "unhealthy"
    return _answer({"status": status, "healthy": is_up, "detail": context.start.error}, is_well=is_up)


async def ready(request: Request, context: Context) -> Response:
    """Say whether requests can be answered."""
    return await _whole(request, context)


async def health(request: Request, context: Context) -> Response:
    """Say how everything is, with the version."""
    return await _whole(request, context, version=VERSION)


async def _is_up(context: Context) -> bool:
    """Return whether the app has started, which its first request brings about; a probe waits for a moment only."""
    with contextlib.suppress(Problem):
        await context.start.wait(_PATIENCE_S)
    context.record("update_health_status", "startup", context.start.is_up)
    return context.start.is_up


async def _whole(_request: Request, context: Context, **more: Any) -> Response:
    if not await _is_up(context):
        facts = {"healthy": False, "critical": True, "detail": context.start.error or "the app has not started yet"}
        body = {"status": "unhealthy", "healthy": False, "checks": {"startup": facts}}
        return _answer({**body, **more}, is_well=False)
    report = await context.probes.report()
    return _answer({**report.to_json(), **more}, is_well=report.healthy)


def _answer(body: dict[str, Any], *, is_well: bool) -> Response:
    return Json(body, 200 if is_well else 503, headers=_NO_STORE)


PROBES: dict[str, Callable[[Request, Context], Awaitable[Response]]] = {
    "/health": health,
    "/health/live": live,
    "/health/ready": ready,
    "/health/startup": startup,
}
