"""The tagged-JSON codec: a value is kept faithfully, or refused with the place and the type that cannot be kept.

What JSON has is written as plain JSON that a person can read: ``None``, ``bool``, ``int``, finite ``float``, ``str``,
``list``, and ``dict`` with strings as keys. Everything else stands in an object with one key that begins with ``$``::

    {"$tuple": [1, 2]}   {"$float": "nan"}   {"$dict": [[1, "a"], ["1", "b"]]}   {"$Order": {"number": 7}}

A dictionary of the user's that looks like this is written as ``$dict``. Types are told apart exactly: a subclass is
another type and is refused. Reading knows the tags of the table that was made in code, and nothing else: it never
imports, calls or instantiates what the bytes name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from dagflow._events import Payload
from dagflow._node import ItemError
from dagflow._reading import Reader
from dagflow._references import ELSEWHERE, SPILLED, ArtifactRef
from dagflow._results import PhaseResult
from dagflow._tagging import IMMUTABLE, LEAVES, TypeAdapter, adapter_for, type_name
from dagflow._writing import Writer
from dagflow.errors import SerializationError

__all__ = ["JsonCodec", "TypeAdapter", "immutable"]

_BUILT_IN: tuple[TypeAdapter[Any], ...] = (
    *LEAVES,
    adapter_for(ItemError, "item_error"),
    adapter_for(ArtifactRef, "artifact"),
    adapter_for(PhaseResult, "phase"),
)
_CONTAINERS: tuple[type, ...] = (tuple, set, frozenset, dict)


def immutable(value: object) -> bool:
    """Tell whether a decoded value may be shared: it is an atom that nobody can change.

    Looks at the exact type only, so it takes the same time for every value; a tuple is not looked into and is False.
    """
    return type(value) in IMMUTABLE


class JsonCodec:
    """Keeps values as tagged JSON.

    ::

        JsonCodec([Order, Colour])  # attrs classes, dataclasses, named tuples, Enums; tag: the class name
        JsonCodec({"order": Order})  # with tags of your own
        JsonCodec([TypeAdapter("fraction", Fraction, str, Fraction)])

    An instance of an allowed class comes back with the fields it had; its ``__init__``, converters and validators do
    not run again. Dictionaries keep their order; sets are written in the order of their members' text. A value that
    stands in two places is written twice.

    Args:
        types: The classes to allow besides the built-in ones, or a mapping from tags to classes.
        max_bytes: The largest value that is written, in bytes of JSON.
        max_depth: How deep containers may be nested; an instance of a class counts twice. On reading, JSON may be three
            times as deep, because a tag takes up to three levels.

    Raises:
        TypeError: A class cannot be allowed like this; the text says what to do.
        ValueError: A tag is none, or stands for two classes, or a class is there twice; or a limit is below 1.
    """

    name = "json"

    def __init__(
        self,
        types: Iterable[type | TypeAdapter[Any]] | Mapping[str, type | TypeAdapter[Any]] = (),
        *,
        max_bytes: int = 64 * 1024 * 1024,
        max_depth: int = 200,
    ) -> None:
        if max_bytes < 1 or max_depth < 1:
            message = f"max_bytes and max_depth are at least 1, not {max_bytes} and {max_depth}"
            raise ValueError(message)
        given = dict(types) if isinstance(types, Mapping) else tuple(types)
        adapters = (*_BUILT_IN, *_adapters(given))
        _check_unique(adapters)
        self._made_of = (given, max_bytes, max_depth)
        writer = Writer(adapters, max_bytes, max_depth)
        self._write, self._write_flat = writer.write, writer.write_flat
        self._read = Reader(adapters, max_depth).read

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to another process as what it was made of: its classes go by name."""
        return _make, self._made_of

    def encode(self, value: object) -> Payload:
        """Return the value as JSON in UTF-8 with its SHA-256.

        Raises:
            SerializationError: The value, or a part of it, cannot be kept; names the path and the type.
        """
        spare = None
        if type(value) is dict and (flat := self._write_flat(value)) is not None:
            # Most outputs: who reads them finds what JSON makes of them, which is a copy.
            data, spare = flat, [value.copy()]
        else:
            data = self._write(value)
        payload = Payload("json", data, sha256(data).digest())
        payload.is_fresh = True
        payload.spare = spare
        return payload

    def decode(self, payload: Payload) -> Any:
        """Return a new copy of the value, which shares nothing that can be changed with any other.

        Raises:
            SerializationError: The bytes are not those that were written, or hold what this codec does not allow.
        """
        spare, payload.spare = payload.spare, None
        if spare:
            try:
                return spare.pop()
            except IndexError:  # another thread has found it at the same time
                pass
        data = payload.data
        if payload.codec == SPILLED:
            raise SerializationError(ELSEWHERE)
        if payload.codec != "json":
            reason = f"it was written by the codec {payload.codec!r}, and this is 'json': give the executor that codec"
            raise SerializationError(reason)
        if not payload.is_fresh and sha256(data).digest() != payload.checksum:
            raise SerializationError("its bytes are not those that were written: the checksum differs")
        return self._read(data)


def _make(types: Any, max_bytes: int, max_depth: int) -> JsonCodec:
    return JsonCodec(types, max_bytes=max_bytes, max_depth=max_depth)


def _adapters(types: Iterable[Any] | Mapping[str, Any]) -> list[TypeAdapter[Any]]:
    if isinstance(types, Mapping):
        return [_adapter(kind, tag) for tag, kind in types.items()]
    return [_adapter(kind, None) for kind in types]


def _adapter(kind: Any, tag: str | None) -> TypeAdapter[Any]:
    if not isinstance(kind, TypeAdapter):
        return adapter_for(kind, tag)
    return kind if tag is None else TypeAdapter(tag, kind.type, kind.to_plain, kind.from_plain)


_RESERVED = {"str", *(kind.__name__ for kind in _CONTAINERS)}


def _check_unique(adapters: Iterable[TypeAdapter[Any]]) -> None:
    tags = dict.fromkeys(_RESERVED, "the codec's own")
    kinds: set[type] = {type(None), bool, str, list, *_CONTAINERS}
    for adapter in adapters:
        name = type_name(adapter.type)
        if adapter.type in kinds:
            message = f"{name} is allowed already: once by its built-in tag or one of yours is enough"
            raise ValueError(message)
        if adapter.tag in tags:
            message = (
                f"the tag {adapter.tag!r} of {name} is {tags[adapter.tag]}: choose another, JsonCodec({{tag: class}})"
            )
            raise ValueError(message)
        tags[adapter.tag] = f"that of {name}"
        kinds.add(adapter.type)
