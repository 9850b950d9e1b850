"""How values go between the executor's process and its workers: pickled, functions and classes by their names.

That is safe here and only here: the bytes go through a socket pair between a process and its own child, both run the
same trusted code, and nothing of them is ever stored. What is stored is the business of a `dagflow.protocols.Codec`.
"""

from __future__ import annotations

import pickle
import re

__all__ = ["PROTOCOL", "Pickler", "load", "names_main", "pack"]

# Both ends are the same interpreter.
PROTOCOL = pickle.HIGHEST_PROTOCOL
Pickler = pickle.Pickler
load = pickle.loads


def pack(value: object) -> bytes:
    """Return a value as bytes; raises what its classes raise."""
    return pickle.dumps(value, PROTOCOL)


def names_main(packed: bytes) -> bool:
    """Return whether something in it may have to be looked up in the main module."""
    return re.search(b"__main__", packed) is not None
