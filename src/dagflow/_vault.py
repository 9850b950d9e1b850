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
    from collections.abc import Callable, Iterable

    from dagflow.protocols import ArtifactStore

__all__ = ["Vault", "Writer", "digest_of", "places_in"]

_CHUNK_BYTES = 1024 * 1024
_PLACE = re.compile(rb"objects/[0-9a-f]{2}/([0-9a-f]{64}(?:-[0-9]{1,6})?)")


def digest_of(stream: BinaryIO) -> tuple[str, int]:
    """Return the SHA-256 of what is left of a stream, in hexadecimal digits, and its size in bytes."""
    digest, size = sha256(), 0
    while chunk := stream.read(_CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def places_in(data: bytes) -> set[str]:
    """Return the places of all artifacts that an encoded value names.

    They are found by their URIs, which no codec changes, so that nothing has to be decoded. A text that only looks like
    one holds nothing, or holds an artifact for longer.
    """
    return {place.decode() for place in _PLACE.findall(data)}


@attrs.frozen
class Writer:
    """Who writes: one attempt.

    Attributes:
        run_id: The run.
        node: Name of the node.
        attempt: Number of the attempt.
        epoch: How often the run had been claimed: attempts of two claims may have the same number.
    """

    run_id: str
    node: str
    attempt: int
    epoch: int


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

    def write(self, writer: Writer, ref: ArtifactRef, source: Callable[[], BinaryIO]) -> ArtifactRef:
        """Keep the bytes that ``ref`` describes.

        Args:
            writer: Writes them.
            ref: All but the URI and the writer.
            source: Opens the bytes.

        Returns:
            The whole reference.
        """
        place, number = ref.sha256, 0
        while True:
            placed = attrs.evolve(ref, uri=self.store.uri(_key(place)), run_id=writer.run_id, node=writer.node)
            facts = {"attempt": writer.attempt, "epoch": writer.epoch, "ref": attrs.asdict(placed)}
            note = self._mark(writer.run_id, place, facts)
            if not self._is_claimed(place):
                break
            # The bytes here may be on their way out: the run holds the place, and lists the one that is taken instead.
            self._mark(writer.run_id, place, None)
            self.store.remove(note)
            number += 1
            place = f"{ref.sha256}-{number}"
        if not self._is_whole(place, ref):
            with source() as stream:
                self.store.put(_key(place), cast("BinaryIO", _Steady(stream, ref)))
        return placed

    def hold(self, run_id: str, places: Iterable[str]) -> None:
        """Let a run hold artifacts, whoever wrote them."""
        for place in places:
            if self.store.size(_mark_key(run_id, place)) is None:
                self._mark(run_id, place, None)

    def open(self, ref: ArtifactRef) -> BinaryIO:
        """Return the bytes as a stream, after all of them were verified.

        Raises:
            ArtifactNotFoundError: They are gone.
            ArtifactDamagedError: They are not those that were written.
        """
        with self._opened(ref) as stream:
            _check(ref, *digest_of(stream))
        return self._opened(ref)

    def read(self, ref: ArtifactRef) -> bytes:
        """Return the bytes, verified; see `open`."""
        with self._opened(ref) as stream:
            data = stream.read()
        _check(ref, sha256(data).hexdigest(), len(data))
        return data

    def written(self, run_id: str, is_live: Callable[[Writer], bool]) -> list[ArtifactRef]:
        """Return what was written for a run, by node and name.

        Args:
            run_id: The run.
            is_live: Whether what an attempt has written counts.
        """
        found: dict[tuple[str, str, str, str], ArtifactRef] = {}
        for key in self._notes(run_id):
            with self.store.open(key) as stream:
                facts = json.load(stream)
            if facts is None:
                continue
            ref = ArtifactRef(**facts["ref"])
            if is_live(Writer(run_id, ref.node, facts["attempt"], facts["epoch"])):
                found[ref.node, ref.name, ref.type, ref.sha256] = ref
        return [found[key] for key in sorted(found)]

    def forget(self, run_id: str) -> None:
        """Let go of all that a run holds; what no other run holds is removed. A second call ends what one began."""
        for key in list(self._notes(run_id)):
            place = key.rpartition("/")[2].partition(".")[0]
            self.store.remove(_mark_key(run_id, place))
            self._collect(place)
            self.store.remove(key)

    def _opened(self, ref: ArtifactRef) -> BinaryIO:
        """Return the bytes as they lie in this store, whatever else the URI says: stores may be moved."""
        match = _PLACE.search(ref.uri.encode())
        try:
            if match is not None and match[1].startswith(ref.sha256.encode()):
                return self.store.open(_key(match[1].decode()))
        except FileNotFoundError:
            pass
        raise ArtifactNotFoundError(ref.name, ref.uri, ref.run_id, ref.node)

    def _mark(self, run_id: str, place: str, facts: dict[str, Any] | None) -> str:
        """Leave a note and a mark, and return the key of the note."""
        note = json.dumps(facts, sort_keys=True).encode()
        key = f"runs/{_folder(run_id)}/{place}.{sha256(note).hexdigest()[:32]}"
        self.store.put(key, io.BytesIO(note))
        self.store.put(_mark_key(run_id, place), io.BytesIO(b""))
        return key

    def _notes(self, run_id: str) -> Iterable[str]:
        return self.store.list(f"runs/{_folder(run_id)}")

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


def _check(ref: ArtifactRef, digest: str, size: int) -> None:
    if size != ref.size:
        reason = f"it has {size} bytes instead of {ref.size}"
    elif digest != ref.sha256:
        reason = "its SHA-256 differs"
    else:
        return
    raise ArtifactDamagedError(ref.name, ref.uri, ref.run_id, ref.node, reason)


def _key(place: str) -> str:
    return f"objects/{place[:2]}/{place}"


def _mark_key(run_id: str, place: str) -> str:
    return f"marks/{place}/{_folder(run_id)}"


def _folder(run_id: str) -> str:
    """Return a name for files that says nothing of the path that a run id may look like."""
    return sha256(run_id.encode()).hexdigest()[:40]
