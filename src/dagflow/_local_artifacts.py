"""Artifacts in a folder: a file is either there with all its bytes, safely on the disk, or it is not there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LocalArtifactStore"]

_UNFINISHED = "unfinished"
_TRIES = 100
_KEY = re.compile(r"[A-Za-z0-9-][A-Za-z0-9.-]*(?:/[A-Za-z0-9-][A-Za-z0-9.-]*)*")


class LocalArtifactStore:
    """Keeps artifacts in a folder of this machine, or of a file system that several machines share.

    A process that dies in the middle of a write leaves a file in ``unfinished/``, which nobody reads.

    Args:
        folder: Is made with the first write.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder).absolute()

    def put(self, key: str, source: BinaryIO) -> None:
        """See `ArtifactStore.put`: a temporary file, fsync, rename, and fsync of the folder."""
        path = self._path(key)
        _make_folder(self._folder / _UNFINISHED)
        unfinished = self._folder / _UNFINISHED / uuid.uuid4().hex
        try:
            with unfinished.open("xb") as file:
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
            _move(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)

    def open(self, key: str) -> BinaryIO:
        """See `ArtifactStore.open`."""
        return self._path(key).open("rb")

    def size(self, key: str) -> int | None:
        """See `ArtifactStore.size`."""
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            return None

    def list(self, prefix: str) -> Iterator[str]:
        """See `ArtifactStore.list`."""
        try:
            names = sorted(path.name for path in self._path(prefix).iterdir())
        except FileNotFoundError:
            return
        for name in names:
            yield f"{prefix}/{name}"

    def remove(self, key: str) -> None:
        """See `ArtifactStore.remove`."""
        path = self._path(key)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            # Of thousands of deleted runs not even folders shall stay.
            path.parent.rmdir()

    def uri(self, key: str) -> str:
        """See `ArtifactStore.uri`."""
        return self._path(key).as_uri()

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to another process as the folder."""
        return type(self), (str(self._folder),)

    def _path(self, key: str) -> Path:
        if _KEY.fullmatch(key) is None:
            message = f"{key!r} is no key of an artifact store"
            raise ValueError(message)
        return self._folder / key


def _move(unfinished: Path, path: Path) -> None:
    """Move a file to its place, whose folder others may remove while it is empty."""
    for left in reversed(range(_TRIES)):
        _make_folder(path.parent)
        try:
            unfinished.replace(path)
        except FileNotFoundError:
            if not left:
                raise
        else:
            return


def _make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that they outlive a crash of the machine."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        # Windows opens no folders; it keeps names by itself.
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
