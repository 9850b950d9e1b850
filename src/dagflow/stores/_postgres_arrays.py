"""Columns of many rows as parameters: one binary array each, always of the same type.

psycopg guesses the type of a list from what is in it, so that a column of nothing but ``None``, or of small numbers,
would be another type and every mixture another prepared statement. These columns say what they are.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg import AsyncConnection
    from psycopg.abc import Buffer

__all__ = ["Bools", "Bytes", "Ints", "Texts", "Times", "register"]

_T = TypeVar("_T")

# The format of an array: dimensions, whether it has nulls, type of the elements, then length and first index of the
# only dimension; each element follows with its length before it, -1 for null.
_HEAD = struct.Struct("!iiIii").pack
_LENGTH = struct.Struct("!i").pack
_NULL = _LENGTH(-1)
_BIGINT = struct.Struct("!q").pack
_BIGINT_BYTES = 8
_FRAMED_BIGINT = struct.Struct("!iq").pack

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class _Column(Generic[_T]):
    __slots__ = ("values",)

    def __init__(self, values: Sequence[_T | None]) -> None:
        self.values = values


class Texts(_Column[str]):
    """A parameter of type ``text[]``."""


class Bytes(_Column[bytes]):
    """A parameter of type ``bytea[]``."""


class Ints(_Column[int]):
    """A parameter of type ``bigint[]``."""


class Bools(_Column[bool]):
    """A parameter of type ``boolean[]``."""


class Times(_Column[datetime]):
    """A parameter of type ``timestamptz[]``."""


def _time(value: datetime) -> bytes:
    return _BIGINT((value - _EPOCH) // _MICROSECOND)


class _ColumnDumper(Dumper):
    format = Format.BINARY
    element_oid: ClassVar[int]
    encode: ClassVar[Callable[[Any], bytes]]

    def dump(self, obj: _Column[Any]) -> Buffer:
        # Columns repeat themselves: one run, few kinds, the same moment.
        framed = {value: self._frame(value) for value in set(obj.values)}
        return self._head(obj.values) + b"".join(map(framed.__getitem__, obj.values))

    def _frame(self, value: Any) -> bytes:
        if value is None:
            return _NULL
        data = type(self).encode(value)
        return _LENGTH(len(data)) + data

    def _head(self, values: Sequence[Any]) -> bytes:
        return _HEAD(1, None in values, self.element_oid, len(values), 1)


class _TextsDumper(_ColumnDumper):
    oid = psycopg.adapters.types["text"].array_oid
    element_oid = psycopg.adapters.types["text"].oid
    encode = str.encode


class _BytesDumper(_ColumnDumper):
    oid = psycopg.adapters.types["bytea"].array_oid
    element_oid = psycopg.adapters.types["bytea"].oid

    def dump(self, obj: _Column[bytes]) -> Buffer:
        parts = [self._head(obj.values)]
        for value in obj.values:
            if value is None:
                parts.append(_NULL)
            else:
                parts += (_LENGTH(len(value)), value)
        return b"".join(parts)


class _IntsDumper(_ColumnDumper):
    oid = psycopg.adapters.types["int8"].array_oid
    element_oid = psycopg.adapters.types["int8"].oid
    encode = _BIGINT

    def dump(self, obj: _Column[int]) -> Buffer:
        if None in obj.values:
            return super().dump(obj)
        # Versions do not repeat themselves.
        return self._head(obj.values) + b"".join(map(_FRAMED_BIGINT, repeat(_BIGINT_BYTES), obj.values))


class _BoolsDumper(_ColumnDumper):
    oid = psycopg.adapters.types["bool"].array_oid
    element_oid = psycopg.adapters.types["bool"].oid
    encode = struct.Struct("!?").pack


class _TimesDumper(_ColumnDumper):
    oid = psycopg.adapters.types["timestamptz"].array_oid
    element_oid = psycopg.adapters.types["timestamptz"].oid

    encode = _time


_DUMPERS = {Texts: _TextsDumper, Bytes: _BytesDumper, Ints: _IntsDumper, Bools: _BoolsDumper, Times: _TimesDumper}


def register(connection: AsyncConnection[Any]) -> None:
    """Teach a connection to send these columns; what else it sends stays as it is."""
    for column, dumper in _DUMPERS.items():
        connection.adapters.register_dumper(column, dumper)
