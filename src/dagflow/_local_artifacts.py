"""Artifacts in a folder: a file is either there with all its bytes, safely on the disk, or it is not there."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LocalArtifactStore"]

_UNFINISHED = "unfinished"


class LocalArtifactStore:
    """Keeps artifacts in a folder of this machine, or of a file system that several machines share.

    Args:
        folder: Is made with the first write.
        at: Is called with the name of each step of a write that a crash could follow; for tests.
    """

    def __init__(self, folder: str | os.PathLike[str], *, at: Callable[[str], object] | None = None) -> None:
        self._folder = Path(folder).absolute()
        self._at = at or _pass

    def put(self, key: str, source: BinaryIO) -> None:
        """See `ArtifactStore.put`: a temporary file, fsync, rename, and fsync of the folder."""
        path = self._path(key)
        _make_folder(path.parent)
        _make_folder(self._folder / _UNFINISHED)
        unfinished = self._folder / _UNFINISHED / uuid.uuid4().hex
        try:
            with unfinished.open("xb") as file:
                self._at("created")
                shutil.copyfileobj(source, file)
                self._at("written")
                file.flush()
                os.fsync(file.fileno())
            self._at("synced")
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        self._at("renamed")
        _sync_folder(path.parent)
        self._at("kept")

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
        self._path(key).unlink(missing_ok=True)

    def uri(self, key: str) -> str:
        """See `ArtifactStore.uri`."""
        return self._path(key).as_uri()

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to another process as the folder."""
        return type(self), (str(self._folder),)

    def _path(self, key: str) -> Path:
        path = self._folder.joinpath(*key.split("/"))
        if not key or any(part in ("", ".", "..") or os.sep in part or "\0" in part for part in key.split("/")):
            message = f"{key!r} is no key of an artifact store"
            raise ValueError(message)
        return path


def _pass(_step: str) -> None:
    """Go on."""


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
