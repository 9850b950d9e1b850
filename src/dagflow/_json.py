"""How plain JSON is written: by the encoder of the standard library, which makes itself anew for each value there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["plain_encoder"]


def plain_encoder(*, ascii_only: bool) -> Callable[[object], str]:
    """Return a function that writes plain JSON without spaces, in C where the interpreter has it.

    Args:
        ascii_only: Whether other characters are written as escapes.
    """
    encoder = json.JSONEncoder(ensure_ascii=ascii_only, allow_nan=False, check_circular=False, separators=(",", ":"))
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    write = make(
        markers=None,
        default=encoder.default,
        encoder=json.encoder.encode_basestring_ascii if ascii_only else json.encoder.encode_basestring,
        indent=None,
        key_separator=":",
        item_separator=",",
        sort_keys=False,
        skipkeys=False,
        allow_nan=False,
    )
    return lambda value: "".join(write(value, 0))
