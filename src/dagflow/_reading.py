"""The reading half of the tagged-JSON codec: bytes of unknown origin become a value, or are refused.

The scanner of the standard library reads the JSON and hands over each object when its inside has been read. Objects
with one key that begins with ``$`` are looked up in the table of tags, which was made in code.
"""

from __future__ import annotations

import functools
import json
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn

from dagflow._tagging import SURROGATE_BORDER, TypeAdapter, UnfitError, type_name
from dagflow.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Reader"]

_JSON_LEVELS = 3
"""How many levels of JSON one level of a value takes at the most: ``{"$dict": [[key, value]]}``."""

_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in _STEPS)


def _depth_of(data: bytes) -> int:
    """Return how deeply the brackets outside of strings are nested."""
    outside = b"".join(data.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    return max(accumulate(map(_STEPS.__getitem__, outside.translate(None, _NO_BRACKETS))), default=0)


def _a_list(plain: object) -> list[Any]:
    if type(plain) is not list:
        raise UnfitError("it does not hold a list")
    return plain


def _read_str(plain: object) -> str:
    text = "".join(_a_list(plain))
    if SURROGATE_BORDER.split(text) != plain:
        raise UnfitError("this is not how it is written")
    return text


def _read_set(kind: type[set[Any] | frozenset[Any]], plain: object) -> set[Any] | frozenset[Any]:
    members = kind(_a_list(plain))
    if len(members) != len(_a_list(plain)):
        raise UnfitError("a member is there twice")
    return members


def _read_pairs(plain: object) -> dict[Any, Any]:
    if not all(type(pair) is list for pair in _a_list(plain)):
        raise UnfitError("it does not hold pairs")
    return _read_dict(_a_list(plain))


def _read_dict(pairs: list[Any]) -> dict[Any, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise UnfitError("a key is there twice")
    return value


def _read_adapted(adapter: TypeAdapter[Any], plain: object) -> object:
    value = adapter.from_plain(plain)
    if type(value) is not adapter.type:
        raise UnfitError(f"from_plain of its TypeAdapter returned {type_name(type(value))}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise UnfitError(f"{name} is no JSON")


class Reader:
    """Makes a value from JSON, from the inside out, while the scanner of the standard library reads it."""

    def __init__(self, adapters: Iterable[TypeAdapter[Any]], max_depth: int) -> None:
        self._max_depth = _JSON_LEVELS * max_depth
        self._tags: dict[str, Callable[[Any], object]] = {
            "$str": _read_str,
            "$tuple": lambda plain: tuple(_a_list(plain)),
            "$set": functools.partial(_read_set, set),
            "$frozenset": functools.partial(_read_set, frozenset),
            "$dict": _read_pairs,
            **{f"${adapter.tag}": functools.partial(_read_adapted, adapter) for adapter in adapters},
        }
        self._scan = json.JSONDecoder(object_pairs_hook=self._object, parse_constant=_refuse_constant).raw_decode
        # Where no tag can be, the scanner needs to ask nobody and stays in C.
        decoder: Any = json.JSONDecoder(parse_constant=_refuse_constant)
        self._scan_plain: Callable[[str, int], tuple[Any, int]] = decoder.scan_once

    def read(self, data: bytes) -> Any:
        """Return the value that these bytes were written of.

        Raises:
            SerializationError: They are not JSON of this codec, are nested too deeply, or hold a tag that it has not.
        """
        if self._is_too_deep(data):
            raise SerializationError(f"its JSON is nested more than {self._max_depth} levels deep")
        try:
            text = data.decode()
            value, end = self._scan(text) if '"$' in text else self._scan_plain(text, 0)
        except SerializationError:
            raise
        except StopIteration:
            raise SerializationError("its bytes are not JSON of this codec: there is no value") from None
        except RecursionError:
            raise SerializationError("its JSON is nested too deeply for what is left of the stack") from None
        except ValueError as exc:  # not UTF-8, not JSON, or more digits than this process reads
            raise SerializationError(f"its bytes are not JSON of this codec: {exc}") from None
        if end != len(text):
            raise SerializationError(f"its bytes are not JSON of this codec: something follows at character {end}")
        return value

    def _is_too_deep(self, data: bytes) -> bool:
        most = self._max_depth
        if len(data) <= most or data.count(b"[") + data.count(b"{") <= most:
            return False
        return _depth_of(data) > most

    def _object(self, pairs: list[tuple[str, Any]]) -> object:
        if len(pairs) == 1 and pairs[0][0].startswith("$"):
            return self._tagged(*pairs[0])
        return _read_dict(pairs)

    def _tagged(self, tag: str, plain: object) -> object:
        read = self._tags.get(tag)
        if read is None:
            raise SerializationError(f"this codec has no tag {tag[:60]!r}: allow its class in JsonCodec([...])")
        try:
            return read(plain)
        except UnfitError as exc:
            raise SerializationError(f"{tag}: {exc}") from None
        except Exception as exc:  # parsers of the standard library, functions of the user's, members without a hash
            raise SerializationError(f"{tag} cannot be read: {type_name(type(exc))}: {exc}") from exc
