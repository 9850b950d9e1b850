"""Artifacts on any file system that fsspec knows; the only room that imports it."""

from __future__ import annotations

import contextlib
import io
import shutil
import uuid
from typing import TYPE_CHECKING, BinaryIO, cast

from dagflow.errors import ExecutorError, MissingExtraError

try:
    import fsspec
except ModuleNotFoundError as exc:
    raise MissingExtraError(feature="an artifact store other than a folder", extra="artifacts") from exc

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FsspecArtifactStore"]


class FsspecArtifactStore:
    """Keeps artifacts under a URL of fsspec, for example ``s3://bucket/artifacts``.

    What is written goes under a temporary name first and is moved when all of it is there. The file system has to show
    at once what was written and removed, as the large object stores do.

    Args:
        url: Where; the credentials are those that the file system finds by itself.

    Raises:
        ValueError: fsspec knows no such file system; the text says what it needs.
    """

    def __init__(self, url: str) -> None:
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except ImportError as exc:
            scheme = url.partition("://")[0]
            message = f"the file system of {scheme}:// cannot be loaded: {exc}"
            raise ValueError(message) from exc
        self._url = url

    def put(self, key: str, source: BinaryIO) -> None:
        """See `ArtifactStore.put`."""
        path, unfinished = self._path(key), self._path(f"unfinished/{uuid.uuid4().hex}")
        for file in (path, unfinished):
            self._fs.makedirs(file.rpartition("/")[0], exist_ok=True)
        try:
            with self._fs.open(unfinished, "wb") as file:
                shutil.copyfileobj(source, file)
            self._fs.mv(unfinished, path)
        except BaseException:
            if self._fs.exists(unfinished):
                self._fs.rm_file(unfinished)
            raise

    def open(self, key: str) -> BinaryIO:
        """See `ArtifactStore.open`."""
        stream = self._fs.open(self._path(key), "rb")
        # A file in memory has one position for all who read it.
        return io.BytesIO(stream.getvalue()) if isinstance(stream, io.BytesIO) else cast("BinaryIO", stream)

    def size(self, key: str) -> int | None:
        """See `ArtifactStore.size`."""
        self._forget_listings()
        try:
            return int(self._fs.info(self._path(key))["size"])
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[str]:
        """See `ArtifactStore.list`."""
        self._forget_listings()
        try:
            paths = self._fs.ls(self._path(prefix), detail=False)
        except FileNotFoundError:
            return
        for path in sorted(paths):
            yield f"{prefix}/{path.rpartition('/')[2]}"

    def remove(self, key: str) -> None:
        """See `ArtifactStore.remove`."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def uri(self, key: str) -> str:
        """See `ArtifactStore.uri`."""
        return str(self._fs.unstrip_protocol(self._path(key)))

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to another process as the URL."""
        if self._url.startswith("memory:"):
            raise ExecutorError("artifacts in the memory of one process cannot be reached from another: use a folder")
        return type(self), (self._url,)

    def _forget_listings(self) -> None:
        """Look anew: the listings that file systems remember hide what other processes do."""
        self._fs.invalidate_cache()

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"
