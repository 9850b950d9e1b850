"""What can be asked about workflows and runs, and of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from dagflow._events import RunStatus
from dagflow.errors import UnknownWorkflowError
from dagflow.web._documents import Json, event_document, fitting, run_document, summary_document, workflow_document
from dagflow.web._problems import Problem
from dagflow.web._reading import body_of, bytes_of, check_run, field, limit_of, name_of, run_id_of, version_of

if TYPE_CHECKING:
    from starlette.requests import Request

    from dagflow._model import Workflow
    from dagflow.web._context import Context

__all__ = [
    "cancel",
    "decide",
    "history",
    "list_runs",
    "list_workflows",
    "metrics",
    "pause",
    "resume",
    "show_run",
    "show_workflow",
    "signal",
    "start_run",
]

_TEXT = "text/plain; version=0.0.4; charset=utf-8"


# -- workflows and metrics ------------------------------------------------------------------------


async def metrics(_request: Request, context: Context) -> Response:
    """Return the metrics for a scrape."""
    if context.metrics is None:
        raise Problem(404, "there is no collector: pass create_app(..., metrics=MetricsCollector())")
    return Response(await asyncio.to_thread(_rendered, context.metrics), media_type=_TEXT)


def _rendered(collector: Any) -> bytes:
    if hasattr(collector, "render"):
        return bytes(collector.render())
    from dagflow._instruments import render  # noqa: PLC0415 - an extra

    return render(getattr(collector, "registry", collector))


async def list_workflows(_request: Request, context: Context) -> Response:
    """List the workflows that the executor knows."""
    workflows = [
        {"name": name, "nodes": len(workflow.nodes)} for name, workflow in sorted(context.executor.workflows.items())
    ]
    return Json({"workflows": workflows})


async def show_workflow(request: Request, context: Context) -> Response:
    """Return a workflow with its graph."""
    return Json(workflow_document(_workflow(request, context)))


async def start_run(request: Request, context: Context) -> Response:
    """Record a run; whoever serves the store drives it."""
    workflow = _workflow(request, context)
    body = await body_of(request, "inputs", "run_id", "priority", max_body=context.max_body)
    inputs, run_id = field(body, "inputs", dict), field(body, "run_id", str)
    priority = field(body, "priority", int)
    if priority is not None and abs(priority) > _MOST_PRIORITY:
        raise Problem(422, f"'priority' is from -{_MOST_PRIORITY} to {_MOST_PRIORITY}")
    handle = await context.executor.submit(workflow, inputs or {}, run_id=run_id, priority=priority or 0)
    run = run_document(await context.executor.history(handle.run_id))
    return Json(run, 201 if handle.is_new else 200)


_MOST_PRIORITY = 2**31 - 1


def _workflow(request: Request, context: Context) -> Workflow:
    name = name_of(request)
    if name not in context.executor.workflows:
        raise UnknownWorkflowError("", name)
    return context.executor.workflows[name]


# -- looking --------------------------------------------------------------------------------------


async def list_runs(request: Request, context: Context) -> Response:
    """List runs, newest first, a page at a time."""
    asked = request.query_params
    limit = limit_of(asked.get("limit"), most=context.max_page)
    statuses = [status for text in asked.getlist("status") for status in text.split(",") if status]
    unknown = set(statuses) - {status.value for status in RunStatus}
    if unknown:
        raise Problem(400, f"there is no status {min(unknown)!r}: use {', '.join(RunStatus)}")
    workflow = asked.get("workflow") or None
    if workflow is not None and not workflow.isprintable():
        # No workflow has such a name, and not every store can be asked for it.
        return Json({"runs": [], "next": None})
    after = asked.get("after") or None
    if after is not None:
        check_run(after)
    runs = await context.executor.runs(workflow=workflow, status=statuses or None, limit=limit, after=after)
    following = runs[-1].run_id if len(runs) == limit else None
    return Json({"runs": [summary_document(run) for run in runs], "next": following})


async def show_run(request: Request, context: Context) -> Response:
    """Return a run."""
    return await _run(request, context)


async def _run(request: Request, context: Context, status: int = 200) -> Response:
    return Json(run_document(await context.executor.history(run_id_of(request))), status)


async def history(request: Request, context: Context) -> Response:
    """Return events of a run, a page at a time."""
    limit = limit_of(request.query_params.get("limit") or str(context.max_page), most=context.max_page)
    after = version_of(request.query_params.get("after"))
    events = await context.executor.history(run_id_of(request), after=after)
    page = fitting(events[:limit])
    following = page[-1].version if len(events) > len(page) else None
    return Json({"events": [event_document(event) for event in page], "next": following})


# -- asking ---------------------------------------------------------------------------------------


async def resume(request: Request, context: Context) -> Response:
    """Go on with a run."""
    await bytes_of(request, max_body=context.max_body)
    await context.executor.go_on(run_id_of(request))
    return await _run(request, context, 202)


async def cancel(request: Request, context: Context) -> Response:
    """Ask for a run to be cancelled."""
    await bytes_of(request, max_body=context.max_body)
    await context.executor.cancel(run_id_of(request))
    return await _run(request, context, 202)


async def pause(request: Request, context: Context) -> Response:
    """Ask for a run to be paused."""
    await bytes_of(request, max_body=context.max_body)
    await context.executor.pause(run_id_of(request))
    return await _run(request, context, 202)


async def signal(request: Request, context: Context) -> Response:
    """Send a signal to a run."""
    body = await body_of(request, "value", max_body=context.max_body)
    run_id, name = run_id_of(request), name_of(request)
    await context.executor.signal(run_id, name, body.get("value"))
    return Json({"run_id": run_id, "signal": name}, 202)


async def decide(request: Request, context: Context) -> Response:
    """Answer a review."""
    body = await body_of(request, "approved", "by", "comment", "data", max_body=context.max_body)
    run_id, review = run_id_of(request), name_of(request)
    approved, comment = field(body, "approved", bool, needed=True), field(body, "comment", str)
    by = field(body, "by", str)
    if by is None:
        principal = request.scope.get("dagflow.principal")
        by = principal if isinstance(principal, str) else None
    if not by:
        raise Problem(422, "'by' is the person who decides, a text")
    await context.executor.decide(run_id, review, approved=approved, by=by, data=body.get("data"), comment=comment)
    return Json({"run_id": run_id, "review": review, "approved": approved, "by": by})
