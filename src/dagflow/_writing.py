"""The writing half of the tagged-JSON codec: a value becomes JSON, or is refused with its place and type.

Containers of atoms take the way of the standard library's encoder in C. It would write tuples, subclasses and keys
that are not strings as something else, so exact types are looked at first; what is no plain JSON is written here.
"""

from __future__ import annotations

import functools
import json.encoder
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from dagflow._json import plain_encoder
from dagflow._refusals import INSIDE, Where, path_of, refuse, refuse_depth, refuse_size
from dagflow._tagging import SURROGATE_BORDER, TypeAdapter, UnfitError, type_name
from dagflow.errors import SerializationError

__all__ = ["Writer"]

_ATOMS = frozenset({type(None), bool, int, float, str})
_quote = json.encoder.encode_basestring

# No process can set its limit for the digits of an int lower than this, so what is shorter can be read everywhere.
_MOST_DIGITS = 640
_LONG = 10**_MOST_DIGITS


def _joins(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return SURROGATE_BORDER.search(text) is not None
    return False


_encode_plain = plain_encoder(ascii_only=False)


def _is_plain(value: Any, levels: int, seen: set[int]) -> bool:
    """Tell whether a list, tuple or dictionary holds JSON alone, in so many levels, and nothing in two places.

    What is there twice is not plain, because it can be large beyond all memory when it is written.
    """
    seen.add(id(value))
    items = value
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return False
        if len(value) == 1 and next(iter(value)).startswith("$"):
            return False
        items = value.values()
    for item in items:
        if type(item) not in _ATOMS:
            break
    else:
        return True
    return levels > 1 and all(
        (type(item) is dict or type(item) is list) and id(item) not in seen and _is_plain(item, levels - 1, seen)
        for item in items
        if type(item) not in _ATOMS
    )


def _write_plain(value: object, levels: int) -> str | None:
    """Return a value as plain JSON, or ``None`` when it holds something that JSON has not."""
    if not _is_plain(value, levels, set()):
        return None
    try:
        text = _encode_plain(value)
    except ValueError:  # NaN, an infinity, or an int with more digits than this process would write
        return None
    return None if _has_long_number(text) or _joins(text) else text


_TEN_DIGITS = re.compile("[0-9]{10}")


def _has_long_number(text: str) -> bool:
    """Tell whether JSON may hold an int of too many digits: every 64th character of it would be a digit."""
    return (
        len(text) > _MOST_DIGITS
        and _TEN_DIGITS.search(text[::64]) is not None
        and max(map(len, text.split(","))) > _MOST_DIGITS
    )


def _write_str(value: str, _where: Where, _depth: int) -> str:
    if not _joins(value):
        return _quote(value)
    return '{"$str":[' + ",".join(map(_quote, SURROGATE_BORDER.split(value))) + "]}"


_Write: TypeAlias = Callable[[Any, Where, int], str]


class _Table(dict[type, _Write]):
    """How each type is written; what is not in it is refused."""

    def __missing__(self, _kind: type) -> _Write:
        return refuse


class Writer:
    """Turns one value into JSON, from the outside in; knows the place of what it is at."""

    def __init__(self, adapters: Iterable[TypeAdapter[Any]], max_bytes: int, max_depth: int) -> None:
        self._max_bytes = max_bytes
        self._most = min(max_bytes, _MOST_DIGITS)
        self._max_depth = max_depth
        adapted = {a.type: functools.partial(self._adapted, a, f'{{"${a.tag}":') for a in adapters}
        self._write_big: _Write = adapted.pop(int)
        self._write_odd: _Write = adapted.pop(float)
        self._table = _Table(
            {
                type(None): lambda _value, _where, _depth: "null",
                bool: lambda value, _where, _depth: "true" if value else "false",
                int: self._int,
                float: self._float,
                str: _write_str,
                list: functools.partial(self._sequence, "[", "]"),
                tuple: functools.partial(self._sequence, '{"$tuple":[', "]}"),
                set: functools.partial(self._set, '{"$set":['),
                frozenset: functools.partial(self._set, '{"$frozenset":['),
                dict: self._dict,
                **adapted,
            }
        )

    def write_flat(self, value: dict[Any, Any]) -> bytes | None:
        """Return a small dictionary of ASCII atoms as JSON in UTF-8, and ``None`` for any other one.

        What JSON makes of it is what a copy of it is.
        """
        for key, item in value.items():
            if type(key) is not str or type(item) not in _ATOMS:
                return None
        if len(value) == 1 and next(iter(value)).startswith("$"):
            return None
        try:
            text = _encode_plain(value)
        except ValueError:  # NaN, an infinity, or an int with more digits than this process would write
            return None
        return text.encode() if len(text) <= self._most and text.isascii() else None

    def write(self, value: object) -> bytes:
        """Return a value as JSON in UTF-8.

        Raises:
            SerializationError: A part of it cannot be kept, or it is too long or nested too deeply; names the path.
        """
        kind = type(value)
        try:
            # Of all characters only lone surrogates cannot be UTF-8; this writes them as JSON does: \\udc80.
            data = (self._plain(value, kind) or self._table[kind](value, None, 1)).encode("utf-8", "backslashreplace")
        except SerializationError:
            raise
        except RecursionError:
            reason = "it contains itself, or is nested too deeply for what is left of the stack"
            raise SerializationError(reason, type=type_name(kind)) from None
        except Exception as exc:  # values that change meanwhile, and metaclasses of the user's
            raise SerializationError(f"writing it raised {type_name(type(exc))}", type=type_name(kind)) from exc
        if len(data) > self._max_bytes:
            refuse_size(kind, None, self._max_bytes)
        return data

    def _plain(self, value: object, kind: type) -> str | None:
        """Return the whole value as plain JSON, if that is what it is: most values are."""
        return _write_plain(value, self._max_depth) if kind is dict or kind is list else None

    def _int(self, value: int, where: Where, depth: int) -> str:
        return int.__repr__(value) if -_LONG < value < _LONG else self._write_big(value, where, depth)

    def _float(self, value: float, where: Where, depth: int) -> str:
        return float.__repr__(value) if math.isfinite(value) else self._write_odd(value, where, depth)

    def _sequence(self, head: str, tail: str, value: list[Any] | tuple[Any, ...], where: Where, depth: int) -> str:
        self._check_depth(value, where, depth)
        text = _write_plain(value, 1)
        if text is not None:
            return text if head == "[" else f"{head}{text[1:-1]}{tail}"
        table, inner, items, room = self._table, depth + 1, [], self._max_bytes
        for index, item in enumerate(value):
            text = table[type(item)](item, (where, index, value), inner)
            items.append(text)
            room -= len(text)
            if room < 0:
                # What is shared many times over can be large beyond all memory when it is written.
                refuse_size(type(value), where, self._max_bytes)
        return f"{head}{','.join(items)}{tail}"

    def _set(self, head: str, value: set[Any] | frozenset[Any], where: Where, depth: int) -> str:
        self._check_depth(value, where, depth)
        table, inner = self._table, depth + 1
        members = [table[type(member)](member, (where, member, value), inner) for member in value]
        return self._bounded(f"{head}{','.join(sorted(members))}]}}", value, where)

    def _dict(self, value: dict[Any, Any], where: Where, depth: int) -> str:
        self._check_depth(value, where, depth)
        text = _write_plain(value, 1)
        if text is not None:
            return text
        if any(type(key) is not str for key in value) or (len(value) == 1 and next(iter(value)).startswith("$")):
            return self._pairs(value, where, depth)
        if _joins("|".join(value)):
            return self._pairs(value, where, depth)
        table, inner, items, room = self._table, depth + 1, [], self._max_bytes
        for key, item in value.items():
            text = f"{_quote(key)}:{table[type(item)](item, (where, key, value), inner)}"
            items.append(text)
            room -= len(text)
            if room < 0:
                refuse_size(type(value), where, self._max_bytes)
        return f"{{{','.join(items)}}}"

    def _pairs(self, value: dict[Any, Any], where: Where, depth: int) -> str:
        table, inner = self._table, depth + 1
        items = [
            f"[{table[type(key)](key, place, inner)},{table[type(item)](item, place, inner)}]"
            for key, item in value.items()
            for place in [(where, key, value)]
        ]
        return self._bounded(f'{{"$dict":[{",".join(items)}]}}', value, where)

    def _adapted(self, adapter: TypeAdapter[Any], head: str, value: object, where: Where, depth: int) -> str:
        self._check_depth(value, where, depth)
        try:
            plain = adapter.to_plain(value)
        except UnfitError as exc:
            raise SerializationError(str(exc), path_of(where), type_name(adapter.type)) from None
        except Exception as exc:  # the user's function, or an attribute of the user's class
            reason = f"taking it apart raised {type_name(type(exc))}"
            raise SerializationError(reason, path_of(where), type_name(adapter.type)) from exc
        return f"{head}{self._table[type(plain)](plain, (where, INSIDE, value), depth + 1)}}}"

    def _check_depth(self, value: object, where: Where, depth: int) -> None:
        if depth > self._max_depth:
            refuse_depth(value, where, self._max_depth)

    def _bounded(self, text: str, value: object, where: Where) -> str:
        """Stop early: what is shared many times over can be large beyond all memory when it is written."""
        if len(text) > self._max_bytes:
            refuse_size(type(value), where, self._max_bytes)
        return text
