"""Errors as problem JSON (RFC 9457), without passwords."""

from __future__ import annotations

import functools
from http import HTTPStatus
from http.client import responses
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from dagflow._log import LOGGER
from dagflow._redacting import redacted
from dagflow.errors import (
    AlreadyDecidedError,
    DagflowError,
    DecisionError,
    ExecutorError,
    InputError,
    RunExistsError,
    RunNotFoundError,
    RunOwnedError,
    RunStateError,
    SerializationError,
    StoreFaultError,
    UnknownWorkflowError,
    WorkflowError,
)
from dagflow.web._documents import Json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["Problem", "answers", "problem", "problem_of"]

_MEDIA_TYPE = "application/problem+json"

_STATUSES: tuple[tuple[type[DagflowError], int], ...] = (
    (RunNotFoundError, 404),
    (UnknownWorkflowError, 404),
    (InputError, 422),
    (SerializationError, 422),
    (DecisionError, 422),
    (RunExistsError, 409),
    (RunOwnedError, 409),
    (RunStateError, 409),
    (AlreadyDecidedError, 409),
    (WorkflowError, 409),
    (StoreFaultError, 503),
    (ExecutorError, 503),
)


class Problem(Exception):  # noqa: N818 - the word of the standard
    """A request that cannot be answered as asked.

    Args:
        status: Of HTTP.
        detail: What is wrong and what to do about it.
        headers: Of the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer that says what is wrong."""
    title = responses.get(status, "Problem")
    body = {"type": "about:blank", "title": title, "status": status, "detail": redacted(detail)}
    return Json(body, status, headers=dict(headers or {}), media_type=_MEDIA_TYPE)


def problem_of(error: Exception) -> Response:
    """Return the answer for an error; one that nobody foresaw is logged, and says nothing of itself."""
    if isinstance(error, Problem):
        return problem(error.status, error.detail, error.headers)
    if isinstance(error, HTTPException):
        return problem(error.status_code, error.detail, error.headers)
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
            return problem(status, str(error), headers)
    LOGGER.error("a request could not be answered", exc_info=error)
    return problem(500, "the server has made a mistake; its log says more")


def answers(handler: Callable[..., Awaitable[Response]]) -> Callable[..., Awaitable[Response]]:
    """Let a handler's errors be answered as problems."""

    @functools.wraps(handler)
    async def answer(request: Request, *args: Any) -> Response:
        try:
            return await handler(request, *args)
        except Exception as exc:  # noqa: BLE001 - of every kind; the last resort logs it
            return problem_of(exc)

    return answer
