"""Results that are files: kept beside the journal, once for all runs, with size and checksum.

A node writes and reads them through its context; what stands for them in outputs is an `ArtifactRef`::

    @workflow.node
    def report(context: NodeContext) -> ArtifactRef:
        return context.artifacts.write("report.md", b"# Report", type="text/markdown")
"""

from __future__ import annotations

import io
import json
import mimetypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote

import attrs

from dagflow._local_artifacts import LocalArtifactStore
from dagflow._references import ArtifactRef
from dagflow._vault import digest_of
from dagflow.errors import ArtifactError
from dagflow.protocols import ArtifactStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dagflow._vault import Vault, Writer

__all__ = ["ArtifactRef", "ArtifactStore", "LocalArtifactStore", "NodeArtifacts", "open_artifact_store"]

_LONGEST_NAME = 255


def open_artifact_store(url: str | os.PathLike[str]) -> ArtifactStore:
    """Return the artifact store of a path or URL; nothing is made before the first write.

    Args:
        url: A path, ``file:///absolute/path``, or a URL of fsspec, for example ``s3://bucket/folder``.

    Raises:
        ValueError: No store can be made of it.
        MissingExtraError: It is a URL of fsspec, and that is not installed.
    """
    text = os.fspath(url)
    if not text:
        raise ValueError("artifacts= is empty: give a path, file:///absolute/path, or a URL of fsspec")
    scheme, divider, rest = text.partition("://")
    if not divider:
        return LocalArtifactStore(text)
    if scheme.lower() == "file":
        if not rest.startswith("/"):
            message = f"{text!r} has one slash too few: file:///absolute/path, or a plain path"
            raise ValueError(message)
        return LocalArtifactStore(unquote(rest))
    from dagflow._fsspec_artifacts import FsspecArtifactStore  # noqa: PLC0415 - an optional package

    return FsspecArtifactStore(text)


@attrs.frozen(eq=False)
class NodeArtifacts:
    """Writes and reads artifacts in one attempt of a node.

    The calls wait for the file system. In an async function that writes much, ``await asyncio.to_thread(...)`` them.

    Attributes:
        vault: The artifacts of all runs.
        writer: The attempt.
        wrote: Is told what was written.
    """

    vault: Vault = attrs.field(repr=False)
    writer: Writer
    wrote: Callable[[ArtifactRef], object] = attrs.field(default=lambda _ref: None, repr=False)

    def write(
        self,
        name: str,
        data_or_path: bytes | bytearray | memoryview | str | os.PathLike[str],
        *,
        type: str | None = None,  # noqa: A002 - the word of the reference
        metadata: Mapping[str, Any] | None = None,
    ) -> ArtifactRef:
        """Keep an artifact; it is durable when this returns. Equal bytes are kept once.

        Args:
            name: A label for people, 1 to 255 printable characters; never a path.
            data_or_path: The bytes, a text, or the `Path` of a file.
            type: Media type; guessed from the name when it is not given.
            metadata: Small facts to stand in the reference, plain JSON.

        Raises:
            ArtifactError: The name or the metadata cannot be kept, or the file changed meanwhile.
            OSError: The file cannot be read, or the store cannot write.
        """
        _check_name(name)
        source = _source(data_or_path)
        facts = _plain(name, metadata)
        with source() as stream:
            digest, size = digest_of(stream)
        type = type or mimetypes.guess_type(name)[0] or "application/octet-stream"  # noqa: A001 - as above
        ref = self.vault.write(self.writer, ArtifactRef(name, "", size, digest, type, facts), source)
        self.wrote(ref)
        return ref

    def read(self, ref: ArtifactRef) -> bytes:
        """Return the bytes of an artifact, verified.

        Raises:
            ArtifactNotFoundError: They are gone.
            ArtifactDamagedError: They are not those that were written.
        """
        return self.vault.read(_checked(ref))

    def open(self, ref: ArtifactRef) -> BinaryIO:
        """Return the bytes of an artifact as a stream to close, after all of them were verified; see `read`."""
        return self.vault.open(_checked(ref))

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to another process, where nobody is told."""
        return NodeArtifacts, (self.vault, self.writer)


def _checked(ref: object) -> ArtifactRef:
    if not isinstance(ref, ArtifactRef):
        message = f"{ref!r} is no ArtifactRef: pass what write() returned"
        raise TypeError(message)
    return ref


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name.isprintable() or not 1 <= len(name) <= _LONGEST_NAME:
        raise ArtifactError(f"{name!r} is no name of an artifact: use 1 to {_LONGEST_NAME} printable characters")


def _source(data_or_path: object) -> Callable[[], BinaryIO]:
    if isinstance(data_or_path, os.PathLike):
        path = Path(data_or_path)
        return lambda: path.open("rb")
    if isinstance(data_or_path, str):
        data_or_path = data_or_path.encode()
    if not isinstance(data_or_path, bytes | bytearray | memoryview):
        message = f"an artifact is made of bytes, a text, or the Path of a file, not of {type(data_or_path).__name__}"
        raise TypeError(message)
    data = bytes(data_or_path)
    return lambda: io.BytesIO(data)


def _plain(name: str, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    facts = dict(metadata or {})
    try:
        plain: dict[str, Any] = json.loads(json.dumps(facts, allow_nan=False))
    except (TypeError, ValueError) as exc:
        raise ArtifactError(f"the metadata of {name!r} is no plain JSON: {exc}") from None
    if plain != facts:
        raise ArtifactError(f"the metadata of {name!r} is no plain JSON: use texts as keys, and lists for tuples")
    return plain
