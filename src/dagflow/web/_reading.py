"""What comes in with a request, checked and bounded."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote

from dagflow._names import check_run_id
from dagflow.errors import InputError, RunNotFoundError
from dagflow.web._problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import HTTPConnection, Request

__all__ = [
    "MOST_VERSION",
    "body_of",
    "bytes_of",
    "check_run",
    "field",
    "limit_of",
    "name_of",
    "run_id_of",
    "version_of",
]

_MOST_DIGITS = 15
_PAGE = 100
MOST_VERSION = 2**31 - 1
"""No run has more events, and no store counts further."""


def name_of(connection: HTTPConnection, key: str = "name") -> str:
    """Return a part of the path, decoded."""
    return unquote(connection.path_params[key])


def run_id_of(connection: HTTPConnection) -> str:
    """Return the id of a run in the path, whose slashes may be encoded or not.

    Raises:
        RunNotFoundError: No run can have it.
    """
    run_id = name_of(connection, "run_id")
    check_run(run_id)
    return run_id


def check_run(run_id: str) -> None:
    """Refuse an id that no run can have, before a store is asked for it.

    Raises:
        RunNotFoundError: No run can have it.
    """
    try:
        check_run_id(run_id, workflow="")
    except InputError:
        raise RunNotFoundError(run_id) from None


def version_of(text: str | None) -> int:
    """Return a version, 0 when none is given.

    Raises:
        Problem: It is none.
    """
    if text is None:
        return 0
    return min(_count(text, "after is a version: a whole number, at least 0"), MOST_VERSION)


def limit_of(text: str | None, *, most: int) -> int:
    """Return the size of a page.

    Raises:
        Problem: It is none, or larger than a page may be.
    """
    reason = f"limit is a whole number from 1 to {most}"
    limit = min(_PAGE, most) if text is None else _count(text, reason)
    if not 1 <= limit <= most:
        raise Problem(400, reason)
    return limit


def _count(text: str, reason: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise Problem(400, reason)
    return int(text)


async def body_of(request: Request, *fields: str, max_body: int) -> dict[str, Any]:
    """Return the object that a request brings, empty when it brings nothing.

    Args:
        request: The request.
        fields: What the object may have.
        max_body: Bytes that it may have.

    Raises:
        Problem: It is too large, no JSON, no object, or has another field.
    """
    data = await bytes_of(request, max_body=max_body)
    if not data:
        return {}
    try:
        body = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as exc:
        raise Problem(400, "the body is no JSON") from exc
    if not isinstance(body, dict):
        raise Problem(422, "the body is a JSON object")
    if unknown := body.keys() - set(fields):
        raise Problem(422, f"the body has no field {min(unknown)!r}: use {', '.join(fields)}")
    return body


async def bytes_of(request: Request, *, max_body: int) -> bytes:
    """Return what a request brings.

    Raises:
        Problem: It is too large.
    """
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:_MOST_DIGITS]) > max_body:
        _refuse_size(max_body)
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > max_body:
            _refuse_size(max_body)
    return bytes(data)


def field(body: Mapping[str, Any], name: str, *kinds: type, needed: bool = False) -> Any:
    """Return a field of a body, ``None`` when it is not there.

    Raises:
        Problem: It is missing or of another kind.
    """
    value = body.get(name)
    if value is None and not needed:
        return None
    if type(value) not in kinds:
        words = {str: "a text", bool: "true or false", int: "a whole number", dict: "an object"}
        raise Problem(422, f"{name!r} is {' or '.join(words[kind] for kind in kinds)}")
    return value


def _refuse_size(max_body: int) -> NoReturn:
    raise Problem(413, f"the body has more than {max_body} bytes", {"Connection": "close"})


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        # It would be kept as infinity, which nobody has sent.
        raise ValueError(digits)
    return number


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(word)
