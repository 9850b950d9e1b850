"""Which run holds which artifact, and when the bytes of one may go; on top of any artifact store.

Bytes lie under ``objects/<sha>``, once for all runs. Before a run uses them it leaves a note of its own, under
``runs/<run>/`` for listing and deleting, and a mark under ``marks/<sha>/``. Who wants to remove bytes announces that
under ``claims/<sha>/`` first, then looks for marks. Who writes leaves the mark first, then looks for claims. So one of
the two sees the other, without a lock: the one who removes leaves the bytes alone, and the one who writes takes the
next place, ``objects/<sha>-1``. A crash at any moment leaves at the worst a claim or a mark too many, which costs
space and never an artifact.
"""

from __future__ import annotations

import io
import json
import re
import uuid
from hashlib import sha256
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import attrs

from dagflow._references import ArtifactRef
from dagflow.errors import ArtifactDamagedError, ArtifactError, ArtifactNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dagflow.protocols import ArtifactStore

__all__ = ["Vault", "digest_of"]

_CHUNK_BYTES = 1024 * 1024
_PLACE = re.compile(r"objects/[0-9a-f]{2}/([0-9a-f]{64}(?:-[0-9]{1,6})?)$")


def digest_of(stream: BinaryIO) -> tuple[str, int]:
    """Return the SHA-256 of what is left of a stream, in hexadecimal digits, and its size in bytes."""
    digest, size = sha256(), 0
    while chunk := stream.read(_CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


class _Steady(io.RawIOBase):
    """Reads a stream and refuses its end when it is not what was announced."""

    def __init__(self, stream: BinaryIO, ref: ArtifactRef) -> None:
        self._stream, self._ref, self._digest = stream, ref, sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        self._digest.update(chunk)
        if (not chunk or size < 0) and self._digest.hexdigest() != self._ref.sha256:
            raise ArtifactError(f"{self._ref.name!r} was changed while it was written: write it when it is complete")
        return chunk


@attrs.frozen
class Vault:
    """The artifacts of all runs.

    Attributes:
        store: Keeps the bytes.
    """

    store: ArtifactStore

    def write(self, run_id: str, ref: ArtifactRef, source: Callable[[], BinaryIO]) -> ArtifactRef:
        """Keep the bytes that ``ref`` describes for a run.

        Args:
            run_id: The run.
            ref: All but the URI.
            source: Opens the bytes.

        Returns:
            The reference with its URI.
        """
        place, number = ref.sha256, 0
        while True:
            placed = attrs.evolve(ref, uri=self.store.uri(_key(place)))
            self._mark(run_id, placed, place)
            if not self._is_claimed(place):
                break
            number += 1
            place = f"{ref.sha256}-{number}"
        if not self._is_whole(place, ref):
            with source() as stream:
                self.store.put(_key(place), cast("BinaryIO", _Steady(stream, ref)))
        return placed

    def keep(self, run_id: str, ref: ArtifactRef) -> None:
        """Let a run hold an artifact that another one wrote."""
        place = _place_of(ref)
        if not any(True for _ in self._marks(place, run_id)):
            self._mark(run_id, ref, place, is_own=False)

    def open(self, ref: ArtifactRef) -> BinaryIO:
        """Return the bytes as a stream, after all of them were verified.

        Raises:
            ArtifactNotFoundError: They are gone.
            ArtifactDamagedError: They are not those that were written.
        """
        key = _key(_place_of(ref))
        size = self.store.size(key)
        if size is None:
            raise ArtifactNotFoundError(ref.name, ref.uri)
        if size != ref.size:
            raise ArtifactDamagedError(ref.name, ref.uri, f"it has {size} bytes instead of {ref.size}")
        with self._opened(key, ref) as stream:
            whole = digest_of(stream)[0] == ref.sha256
        if not whole:
            raise ArtifactDamagedError(ref.name, ref.uri, "its SHA-256 differs")
        return self._opened(key, ref)

    def read(self, ref: ArtifactRef) -> bytes:
        """Return the bytes; see `open`."""
        key = _key(_place_of(ref))
        with self._opened(key, ref) as stream:
            data = stream.read()
        if len(data) != ref.size:
            raise ArtifactDamagedError(ref.name, ref.uri, f"it has {len(data)} bytes instead of {ref.size}")
        if sha256(data).hexdigest() != ref.sha256:
            raise ArtifactDamagedError(ref.name, ref.uri, "its SHA-256 differs")
        return data

    def written(self, run_id: str) -> list[ArtifactRef]:
        """Return what was written for a run, by node and name; what a crash left unfinished is not there."""
        found: dict[tuple[str, str, str, str], ArtifactRef] = {}
        for key in self._notes(run_id):
            with self.store.open(key) as stream:
                note = json.load(stream)
            ref = ArtifactRef(**note["ref"])
            if note["own"] and self.store.size(_key(_place_of(ref))) is not None:
                found[ref.node, ref.name, ref.type, ref.sha256] = ref
        return [found[key] for key in sorted(found)]

    def forget(self, run_id: str) -> None:
        """Let go of all that a run holds; what no other run holds is removed. A second call ends what one began."""
        for key in list(self._notes(run_id)):
            place = key.rpartition("/")[2].partition(".")[0]
            for mark in list(self._marks(place, run_id)):
                self.store.remove(mark)
            self._collect(place)
            self.store.remove(key)

    def _opened(self, key: str, ref: ArtifactRef) -> BinaryIO:
        try:
            return self.store.open(key)
        except FileNotFoundError:
            raise ArtifactNotFoundError(ref.name, ref.uri) from None

    def _mark(self, run_id: str, ref: ArtifactRef, place: str, *, is_own: bool = True) -> None:
        facts: dict[str, Any] = {"own": is_own, "ref": attrs.asdict(ref)}
        note = json.dumps(facts, sort_keys=True).encode()
        name = f"{place}.{sha256(note).hexdigest()[:32]}"
        self.store.put(f"runs/{_folder(run_id)}/{name}", io.BytesIO(note))
        self.store.put(f"marks/{place}/{_folder(run_id)}", io.BytesIO(b""))

    def _notes(self, run_id: str) -> Iterator[str]:
        return iter(self.store.list(f"runs/{_folder(run_id)}"))

    def _marks(self, place: str, run_id: str) -> Iterator[str]:
        return (mark for mark in self.store.list(f"marks/{place}") if mark.endswith(f"/{_folder(run_id)}"))

    def _is_claimed(self, place: str) -> bool:
        return any(True for _ in self.store.list(f"claims/{place}"))

    def _is_whole(self, place: str, ref: ArtifactRef) -> bool:
        if self.store.size(_key(place)) != ref.size:
            return False
        with self.store.open(_key(place)) as stream:
            return digest_of(stream)[0] == ref.sha256

    def _collect(self, place: str) -> None:
        """Remove bytes that no run holds."""
        claim = f"claims/{place}/{uuid.uuid4().hex}"
        self.store.put(claim, io.BytesIO(b""))
        if not any(True for _ in self.store.list(f"marks/{place}")):
            self.store.remove(_key(place))
        self.store.remove(claim)


def _key(place: str) -> str:
    return f"objects/{place[:2]}/{place}"


def _folder(run_id: str) -> str:
    """Return a name for files that says nothing of the path that a run id may look like."""
    return sha256(run_id.encode()).hexdigest()[:40]


def _place_of(ref: ArtifactRef) -> str:
    """Return where the bytes lie in this store, whatever else the URI says: stores may be moved."""
    match = _PLACE.search(ref.uri)
    if match is None or not match[1].startswith(ref.sha256):
        raise ArtifactNotFoundError(ref.name, ref.uri)
    return match[1]
