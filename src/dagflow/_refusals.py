"""What to say about a value that cannot be kept: where it is, what it is, and what to do instead.

A value of the user's is never asked anything here: its ``__repr__`` may raise, take for ever, or tell a secret.
"""

from __future__ import annotations

import json
import types
from collections import deque
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from threading import Lock, RLock
from typing import NoReturn, TypeAlias
from uuid import UUID

from dagflow._tagging import IMMUTABLE, is_record, type_name
from dagflow.errors import SerializationError

__all__ = ["INSIDE", "Where", "path_of", "refuse", "refuse_depth", "refuse_size"]

Where: TypeAlias = "tuple[Where, object, object] | None"
"""The place of a value: the place of its owner, its key there, the owner. ``None`` is the place of the whole."""

INSIDE = object()
"""The key under which an instance has the plain values that its adapter made of it; paths leave it out."""


def path_of(where: Where) -> str:
    """Return the path of a place, for example ``$.rows[3].when``; the middle of a long one is left out."""
    segments: list[str] = []
    while where is not None:
        where, key, _ = where
        if key is not INSIDE:
            segments.append(_segment(key))
    segments.reverse()
    if len(segments) > _MOST_SEGMENTS:
        segments[_MOST_SEGMENTS // 2 : -_MOST_SEGMENTS // 2] = [" ... "]
    return "$" + "".join(segments)


_MOST_SEGMENTS = 20
_MOST_CHARACTERS = 60


def _segment(key: object) -> str:
    if type(key) is not str:
        return f"[{_shown(key)}]"
    if len(key) > _MOST_CHARACTERS:
        return f"[{json.dumps(key[:_MOST_CHARACTERS] + '...')}]"
    return f".{key}" if key.isidentifier() else f"[{json.dumps(key)}]"


def _shown(key: object) -> str:
    plain = type(key) in IMMUTABLE or (type(key) is tuple and IMMUTABLE.issuperset(map(type, key)))
    try:
        text = repr(key) if plain else f"<{type_name(type(key))}>"
    except Exception:  # noqa: BLE001 - a time zone of the user's, or an int of too many digits
        text = f"<{type_name(type(key))}>"
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def refuse(value: object, where: Where, _depth: int) -> NoReturn:
    """Refuse a value for its type."""
    kind = type(value)
    raise SerializationError(_hint(kind), path_of(where), type_name(kind))


def refuse_size(kind: type, where: Where, most: int) -> NoReturn:
    """Refuse a value for its size in bytes."""
    reason = f"it takes more than {most} bytes: keep it in a file and return its name, or JsonCodec(max_bytes=...)"
    raise SerializationError(reason, path_of(where), type_name(kind))


def refuse_depth(value: object, where: Where, most: int) -> NoReturn:
    """Refuse a value that is nested too deeply, because it contains itself or because it is really so deep."""
    owners: deque[tuple[Where, object]] = deque([(where, value)])
    place = where
    while place is not None:
        owners.appendleft((place[0], place[2]))
        place = place[0]
    seen: dict[int, Where] = {}
    for place, owner in owners:
        if id(owner) in seen:
            reason = f"it contains itself: this is the value at {path_of(seen[id(owner)])} again"
            raise SerializationError(reason, path_of(place), type_name(type(owner)))
        seen[id(owner)] = place
    reason = f"it is nested more than {most} levels deep: flatten it, or JsonCodec(max_depth=...)"
    raise SerializationError(reason, path_of(where), type_name(type(value)))


_Kinds: TypeAlias = tuple[type, ...]

_HINTS: tuple[tuple[_Kinds, str], ...] = (
    ((types.GeneratorType, types.AsyncGeneratorType), "a generator can be read only once: return list(...) of it"),
    ((types.CoroutineType,), "a coroutine is not a result yet: await it"),
    (
        (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type, types.ModuleType),
        "code cannot be kept: return data, for example its name",
    ),
    ((BaseException,), "an exception cannot be kept: raise it, or return what it says, for example str(error)"),
    ((type(Lock()), type(RLock())), "a lock belongs to one process: make it where it is used, or use resources="),
)
_BASES: _Kinds = (bool, int, float, str, bytes, bytearray, list, dict, tuple, set, frozenset)
_LEAF_BASES: _Kinds = (datetime, date, time, timedelta, Decimal, UUID, PurePath)


def _hint(kind: type) -> str:
    name = type_name(kind)
    for kinds, hint in _HINTS:
        if issubclass(kind, kinds):
            return hint
    if is_record(kind):
        return f"its class is not allowed: DAGExecutor(..., codec=JsonCodec([{name.rpartition('.')[2]}]))"
    for base in (*_BASES, *_LEAF_BASES):
        if issubclass(kind, base):
            plain = base.__name__
            return f"a subclass of {plain} is another type: return a plain {plain}, or allow it with a TypeAdapter"
    if name.startswith("numpy."):
        return "values of numpy are not kept: return value.tolist()"
    return "this type is not kept: return plain data, or allow it with JsonCodec([TypeAdapter(...)])"
