"""What stands for an artifact in outputs and in the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ELSEWHERE", "SPILLED", "ArtifactRef"]

ELSEWHERE = "it lies in an artifact store: give the executor the same artifacts= as its writer"
"""What is said of an output by an executor that has no artifact store."""

SPILLED = "spilled"
"""Codec name of a payload that only says where its bytes lie in the artifact store."""


@attrs.frozen
class ArtifactRef:
    """Stands for an artifact; can be part of an output, wherever that goes.

    Attributes:
        name: What its writer called it; a label, never a path.
        uri: Where its bytes lie.
        size: How many bytes it has.
        sha256: SHA-256 of the bytes, 64 hexadecimal digits.
        type: Its media type, for example ``text/markdown``.
        metadata: Small facts of its writer, plain JSON.
        run_id: The run that it was written for.
        node: The node that wrote it.
    """

    name: str
    uri: str
    size: int
    sha256: str
    type: str = "application/octet-stream"
    metadata: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    run_id: str = attrs.field(default="", eq=False)
    node: str = attrs.field(default="", eq=False)
