"""Which values are kept under a tag, and how each of them is taken apart and put together again.

A `TypeAdapter` stands for one class: its tag, how an instance becomes plainer values, how it is made from them. The
leaf types of the standard library are in ``LEAVES``; `adapter_for` makes one for a class of the user's.

Instances of the user's classes are rebuilt as ``copy`` and ``pickle`` do it: the fields are set, ``__init__``,
converters and validators do not run again. So what is read is what was kept, and reading calls none of their code.
"""

from __future__ import annotations

import base64
import builtins
import dataclasses
import enum
import functools
import inspect
import math
import re
import struct
import zoneinfo
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "IMMUTABLE",
    "LEAVES",
    "SURROGATE_BORDER",
    "TypeAdapter",
    "UnfitError",
    "adapter_for",
    "is_flat",
    "is_record",
    "type_name",
]

T = TypeVar("T")


class UnfitError(ValueError):
    """A value that cannot be taken apart, or plain values that no instance can be made of; the text says why."""


def type_name(kind: type) -> str:
    """Return the name of a class for people, with its module unless it is a built-in.

    The class is not asked, only ``type`` is: a metaclass of the user's cannot interfere.
    """
    return builtins.type.__repr__(kind)[len("<class '") : -len("'>")][:120]


_TAG = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")


def _check_tag(_adapter: object, _field: object, tag: Any) -> None:
    if not isinstance(tag, str) or not _TAG.fullmatch(tag):
        message = f"{tag!r} is no tag: at most 64 letters, digits, '_', '-' and '.', beginning with a letter"
        raise ValueError(message)


def _check_class(_adapter: object, _field: object, kind: Any) -> None:
    if not isinstance(kind, builtins.type):
        message = f"{kind!r} is not a class"
        raise TypeError(message)


def _check_function(_adapter: object, field: attrs.Attribute[Any], function: object) -> None:
    if not callable(function):
        message = f"{field.name} of a TypeAdapter must be a function, not {function!r}"
        raise TypeError(message)


@attrs.frozen
class TypeAdapter(Generic[T]):
    """Allows one class, of any kind, to be kept.

    ::

        JsonCodec([TypeAdapter("fraction", Fraction, str, Fraction)])

    Attributes:
        tag: Stands for the class in what is stored; it must not change as long as stored values are to be read.
        type: The class. Instances of its subclasses are other values and are refused.
        to_plain: Returns anything that the codec keeps, built from an instance.
        from_plain: Returns an instance, built from an equal copy of what ``to_plain`` returned.
    """

    tag: str = attrs.field(validator=_check_tag)
    type: builtins.type[T] = attrs.field(validator=_check_class)
    to_plain: Callable[[T], object] = attrs.field(validator=_check_function)
    from_plain: Callable[[Any], T] = attrs.field(validator=_check_function)


SURROGATE_BORDER = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")
"""Between two lone surrogates that JSON would read as one character: such a text is kept in pieces."""

# -- leaf types -----------------------------------------------------------------------------------


def _leaf(tag: str, kind: type[T], to_plain: Callable[[T], object], from_plain: Callable[[Any], T]) -> TypeAdapter[T]:
    """Return an adapter that reads only what it would write: parsers accept more spellings than one."""

    def read(plain: object) -> T:
        value = from_plain(plain)
        if to_plain(value) != plain:
            raise UnfitError("this is not how it is written")
        return value

    return TypeAdapter(tag, kind, to_plain, read)


_NAN_BITS = struct.pack(">d", math.nan).hex()


def _float_to_plain(value: float) -> str:
    """Return ``inf``, ``-inf``, ``nan``, or the bits of a NaN that differs from the common one."""
    bits = struct.pack(">d", value).hex()
    return bits if math.isnan(value) and bits != _NAN_BITS else repr(value)


def _float_from_plain(plain: Any) -> float:
    if plain in ("inf", "-inf", "nan"):
        # A new object each time: two NaN are two members of a set, unless they are one object.
        return float(plain)
    value: float = struct.unpack(">d", bytes.fromhex(plain))[0]
    return value


def _base64_to_plain(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode("ascii")


def _base64_from_plain(plain: Any) -> bytes:
    return base64.b64decode(plain, validate=True)


def _decimal_to_plain(value: Decimal) -> str:
    # The context of the thread decides between "1E+3" and "1e+3"; every process must write the same.
    return str(value).replace("e", "E")


def _path_to_plain(value: PurePath) -> str:
    text = str(value)
    if type(value)(text) != value:
        raise UnfitError("no text stands for this path alone: return its parts")
    return text


def _timezone_to_plain(value: timezone) -> list[object]:
    offset, name = value.utcoffset(None), value.tzname(None)
    return [offset] if name == timezone(offset).tzname(None) else [offset, name]


_ZONE_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*")
_known_zones = functools.cache(zoneinfo.available_timezones)


@functools.lru_cache(maxsize=1024)
def _is_zone(key: object) -> bool:
    """Tell whether the time-zone database has this key, before anything is opened or imported by it."""
    if not isinstance(key, str) or not _ZONE_KEY.fullmatch(key):
        return False
    return any(Path(root, key).is_file() for root in zoneinfo.TZPATH) or key in _known_zones()


def _zone_to_plain(value: zoneinfo.ZoneInfo) -> str:
    value.__reduce__()  # Raises for a zone that was read from a stream: its key need not mean the same elsewhere.
    if not _is_zone(value.key):
        raise UnfitError("this zone is not in the time-zone database: only its key is kept")
    return value.key


def _zone_from_plain(plain: Any) -> zoneinfo.ZoneInfo:
    if not _is_zone(plain):
        reason = f"the time-zone database of this machine has no zone {str(plain)[:60]!r}: install or update tzdata"
        raise UnfitError(reason)
    return zoneinfo.ZoneInfo(plain)


def _has_plain_offset(zone: tzinfo | None) -> bool:
    """Tell whether ISO 8601 carries the zone: none, or a fixed offset without a name of its own.

    An offset of less than a second is lost by ``fromisoformat`` of CPython, so microseconds do not count as plain.
    """
    if zone is None or zone is UTC:
        return True
    return type(zone) is timezone and len(_timezone_to_plain(zone)) == 1 and not zone.utcoffset(None).microseconds


def _moment_to_plain(value: datetime | time) -> str | dict[str, object]:
    if not value.fold and _has_plain_offset(value.tzinfo):
        return value.isoformat()
    local = value.replace(tzinfo=None, fold=0).isoformat()
    return {"local": local, "tzinfo": value.tzinfo, "fold": value.fold}


def _datetime_from_plain(plain: Any) -> datetime:
    if isinstance(plain, str):
        return datetime.fromisoformat(plain)
    return datetime.fromisoformat(plain["local"]).replace(tzinfo=plain["tzinfo"], fold=plain["fold"])


def _time_from_plain(plain: Any) -> time:
    if isinstance(plain, str):
        return time.fromisoformat(plain)
    return time.fromisoformat(plain["local"]).replace(tzinfo=plain["tzinfo"], fold=plain["fold"])


LEAVES: tuple[TypeAdapter[Any], ...] = (
    _leaf("int", int, hex, lambda plain: int(plain, 16)),
    _leaf("float", float, _float_to_plain, _float_from_plain),
    _leaf("bytes", bytes, _base64_to_plain, _base64_from_plain),
    _leaf("bytearray", bytearray, _base64_to_plain, lambda plain: bytearray(_base64_from_plain(plain))),
    _leaf("datetime", datetime, _moment_to_plain, _datetime_from_plain),
    _leaf("date", date, date.isoformat, date.fromisoformat),
    _leaf("time", time, _moment_to_plain, _time_from_plain),
    _leaf("timedelta", timedelta, lambda v: [v.days, v.seconds, v.microseconds], lambda plain: timedelta(*plain)),
    _leaf("timezone", timezone, _timezone_to_plain, lambda plain: timezone(*plain)),
    _leaf("zone", zoneinfo.ZoneInfo, _zone_to_plain, _zone_from_plain),
    _leaf("decimal", Decimal, _decimal_to_plain, Decimal),
    _leaf("uuid", UUID, str, UUID),
    _leaf("posixpath", PosixPath, _path_to_plain, PosixPath),
    _leaf("windowspath", WindowsPath, _path_to_plain, WindowsPath),
    _leaf("pureposixpath", PurePosixPath, _path_to_plain, PurePosixPath),
    _leaf("purewindowspath", PureWindowsPath, _path_to_plain, PureWindowsPath),
)
"""How the leaf types of the standard library are kept; ``int`` and ``float`` only where JSON has no number for them."""

IMMUTABLE: frozenset[type] = frozenset({type(None), bool, str, *(leaf.type for leaf in LEAVES)} - {bytearray})


# -- classes of the user --------------------------------------------------------------------------


def adapter_for(kind: type, tag: str | None = None) -> TypeAdapter[Any]:
    """Return the adapter of an attrs class, dataclass, named tuple or Enum; its tag is the class name by default.

    Raises:
        TypeError: It is none of these, or has state beyond its fields.
        ValueError: The tag cannot be one.
    """
    _check_class(None, None, kind)
    tag = kind.__name__ if tag is None else tag
    for fits, make in _RECORDS:
        if fits(kind):
            return make(tag, kind)
    message = (
        f"{type_name(kind)} is no attrs class, dataclass, named tuple or Enum: "
        "allow it with TypeAdapter(tag, type, to_plain, from_plain)"
    )
    raise TypeError(message)


def is_record(kind: type) -> bool:
    """Tell whether `adapter_for` may know what to do with this class."""
    return any(fits(kind) for fits, _ in _RECORDS)


def _enum_adapter(tag: str, kind: type[enum.Enum]) -> TypeAdapter[Any]:
    # Kept by name, so that the values may change.
    def from_plain(plain: Any) -> enum.Enum:
        if plain not in kind.__members__:
            raise UnfitError(f"its class has no member {str(plain)[:60]!r}")
        return kind.__members__[plain]

    return TypeAdapter(tag, kind, lambda member: member._name_, from_plain)


def _flag_adapter(tag: str, kind: type[enum.Flag]) -> TypeAdapter[Any]:
    # Kept as numbers: not every combination has a name.
    return _leaf(tag, kind, lambda member: member._value_, kind)


def _is_named_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def _named_tuple_adapter(tag: str, kind: type[Any]) -> TypeAdapter[Any]:
    names = tuple(kind._fields)

    def to_plain(value: Any) -> dict[str, object]:
        if getattr(value, "__dict__", None):
            raise UnfitError("it has attributes beyond its fields, which would be lost")
        return dict(zip(names, tuple(value), strict=True))

    def from_plain(plain: Any) -> Any:
        _check_fields(names, plain)
        return tuple.__new__(kind, [plain[name] for name in names])

    return TypeAdapter(tag, kind, to_plain, from_plain)


_HASH_CACHE = "_attrs_cached_hash"


def _record_adapter(fields: Callable[[Any], Iterable[Any]], tag: str, kind: type[Any]) -> TypeAdapter[Any]:
    names = tuple(field.name for field in fields(kind))
    known = frozenset({*names, *_computed(kind)})
    _check_record(kind, known)
    # attrs looks its cached hash up before it computes it, and only ``__init__`` makes the place for it.
    caches_hash = _HASH_CACHE in getattr(getattr(kind.__hash__, "__code__", None), "co_names", ())

    def to_plain(value: Any) -> dict[str, object]:
        extra = getattr(value, "__dict__", {}).keys() - known
        if extra:
            raise UnfitError(f"it has attributes beyond its fields, which would be lost: {_listed(extra)}")
        return {name: getattr(value, name) for name in names}

    def from_plain(plain: Any) -> Any:
        _check_fields(names, plain)
        instance = object.__new__(kind)
        for name in names:
            object.__setattr__(instance, name, plain[name])
        if caches_hash:
            object.__setattr__(instance, _HASH_CACHE, None)
        return instance

    return TypeAdapter(tag, kind, to_plain, from_plain)


def _computed(kind: type) -> set[str]:
    """Return the names of attributes that are computed again when they are missing."""
    names = {_HASH_CACHE}
    for base in kind.__mro__:
        names.update(name for name, member in vars(base).items() if isinstance(member, functools.cached_property))
        getter = vars(base).get("__getattr__")
        if inspect.isfunction(getter):
            # Where attrs keeps the cached properties of a class with slots.
            cached = inspect.signature(getter).parameters.get("cached_properties")
            names.update(cached.default if cached else ())
    return names


def _check_record(kind: type, known: frozenset[str]) -> None:
    """Refuse classes of which the fields are not the whole."""
    slots = {n for base in kind.__mro__ for n, member in vars(base).items() if type(member) is MemberDescriptorType}
    if slots - known:
        message = f"{type_name(kind)} has slots beyond its fields ({_listed(slots - known)}): use a TypeAdapter"
        raise TypeError(message)
    try:
        object.__new__(kind)
    except TypeError as exc:
        message = f"instances of {type_name(kind)} are more than their fields ({exc}): use a TypeAdapter"
        raise TypeError(message) from None


def _check_fields(names: tuple[str, ...], plain: object) -> None:
    if type(plain) is not dict:
        raise UnfitError("its fields are not a dictionary")
    missing = [name for name in names if name not in plain]
    unexpected = plain.keys() - set(names)
    if missing or unexpected:
        facts = [("missing", missing), ("unexpected", unexpected)]
        diff = "; ".join(f"{word}: {_listed(fields)}" for word, fields in facts if fields)
        raise UnfitError(f"the fields of its class have changed since it was kept ({diff})")


def _listed(names: Iterable[object]) -> str:
    return ", ".join(sorted(str(name)[:60] for name in names)[:10])


_RECORDS: tuple[tuple[Callable[[type], bool], Callable[[str, Any], TypeAdapter[Any]]], ...] = (
    (lambda kind: issubclass(kind, enum.Flag), _flag_adapter),
    (lambda kind: issubclass(kind, enum.Enum), _enum_adapter),
    (attrs.has, functools.partial(_record_adapter, attrs.fields)),
    (dataclasses.is_dataclass, functools.partial(_record_adapter, dataclasses.fields)),
    (_is_named_tuple, _named_tuple_adapter),
)
"""The kinds of classes that can be allowed without an adapter of the user's: how to know them, what to make of them."""


def is_flat(value: object) -> bool:
    """Return whether a copy of a container shares nothing that can be changed."""
    if type(value) is not dict and type(value) is not list:
        return False
    # A loop costs a third of `all` with a generator, and this is asked for every output that several nodes take.
    for item in value.values() if type(value) is dict else value:  # noqa: SIM110
        if type(item) not in IMMUTABLE:
            return False
    return True
