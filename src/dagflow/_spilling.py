"""Outputs that are too large for the journal lie in the artifact store; what stands in the journal says where."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import os
from contextvars import ContextVar
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import Payload
from dagflow._references import SPILLED, ArtifactRef
from dagflow._vault import Vault, Writer, places_in
from dagflow.artifacts import NodeArtifacts, open_artifact_store
from dagflow.errors import ArtifactError, SerializationError
from dagflow.protocols import ArtifactStore
from dagflow.serialization import JsonCodec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from dagflow._events import Claim
    from dagflow.protocols import Codec, Meter

__all__ = ["Shelf", "Spilling", "spilling_of"]


def spilling_of(
    codec: Codec | None, artifacts: str | os.PathLike[str] | ArtifactStore | None, spill_bytes: int | None
) -> Spilling | None:
    """Return the codec of an executor that has an artifact store, ``None`` for one that has none.

    Raises:
        ValueError: No store can be made of ``artifacts``, ``spill_bytes`` is no size, or there is nowhere to move to.
        TypeError: ``artifacts`` is neither a path or URL nor a store.
    """
    if spill_bytes is not None and (type(spill_bytes) is not int or spill_bytes < 0):
        message = f"spill_bytes is a number of bytes, at least 0, not {spill_bytes!r}"
        raise ValueError(message)
    if artifacts is None:
        if spill_bytes is not None:
            raise ValueError("spill_bytes= needs a place to move outputs to: DAGExecutor(..., artifacts='artifacts/')")
        return None
    store = open_artifact_store(artifacts) if isinstance(artifacts, str | os.PathLike) else artifacts
    if not isinstance(store, ArtifactStore):
        message = f"artifacts= takes a path, a URL or an ArtifactStore, not {artifacts!r}"
        raise TypeError(message)
    return Spilling(codec or JsonCodec(), Vault(store), spill_bytes)


@attrs.define(eq=False)
class _Attempt:
    """What an attempt has at hand.

    Attributes:
        fetched: Moved outputs, by the checksum of what stands for them.
        written: The artifacts that it has written in this process.
    """

    fetched: dict[bytes, bytes] = attrs.field(factory=dict)
    written: set[ArtifactRef] = attrs.field(factory=set)


_CURRENT: ContextVar[_Attempt | None] = ContextVar("dagflow_attempt", default=None)


class Spilling:
    """A codec that reads outputs from the artifact store if they were moved there.

    Args:
        codec: Turns values into bytes and back.
        vault: The artifacts of all runs.
        spill_bytes: Outputs that are larger are moved; ``None`` to move none.
    """

    def __init__(self, codec: Codec, vault: Vault, spill_bytes: int | None) -> None:
        self._codec = codec
        self.vault = vault
        self.spill_bytes = spill_bytes

    @property
    def name(self) -> str:
        """See `Codec.name`."""
        return self._codec.name

    def encode(self, value: object) -> Payload:
        """See `Codec.encode`."""
        return self._codec.encode(value)

    def decode(self, payload: Payload) -> Any:
        """See `Codec.decode`."""
        return self._codec.decode(self.whole(payload) if payload.codec == SPILLED else payload)

    def whole(self, payload: Payload) -> Payload:
        """Return the payload that was moved.

        Raises:
            SerializationError: It cannot be had, or is damaged.
        """
        if sha256(payload.data).digest() != payload.checksum:
            raise SerializationError("its bytes are not those that were written: the checksum differs")
        facts = json.loads(payload.data)
        ref = ArtifactRef(**facts["ref"])
        current = _CURRENT.get()
        data = None if current is None else current.fetched.get(payload.checksum)
        try:
            data = self.vault.read(ref) if data is None else data
        except ArtifactError as exc:
            reason = f"it was moved to the artifact store: {exc}"
            raise SerializationError(reason) from exc
        return Payload(facts["codec"], data, bytes.fromhex(ref.sha256))

    def shelf(self, claim: Claim, meter: Meter | None) -> Shelf:
        """Return what the attempts of a run are made with."""
        return Shelf(self, claim.run_id, claim.epoch, meter)


@attrs.frozen(eq=False)
class Shelf:
    """What the attempts of one run have to do with the artifact store, as long as one claim lasts.

    Attributes:
        spilling: The codec.
        run_id: The run.
        epoch: Of the claim.
        meter: Takes the figures.
    """

    spilling: Spilling
    run_id: str
    epoch: int
    meter: Meter | None

    def artifacts(self, node: str, attempt: int) -> NodeArtifacts:
        """Return what an attempt writes and reads its artifacts with."""
        wrote = functools.partial(self._wrote, _CURRENT.get() or _Attempt())
        return NodeArtifacts(self.spilling.vault, Writer(self.run_id, node, attempt, self.epoch), wrote)

    @contextlib.asynccontextmanager
    async def attempt(self, payloads: Iterable[Payload | None]) -> AsyncIterator[None]:
        """Have what lies in the artifact store at hand, so that nobody waits for it on the loop."""
        current = _Attempt()
        token = _CURRENT.set(current)
        try:
            for payload in payloads:
                if payload is not None and payload.codec == SPILLED:
                    current.fetched[payload.checksum] = (await asyncio.to_thread(self.spilling.whole, payload)).data
            yield
        finally:
            _CURRENT.reset(token)

    async def settle(self, payload: Payload, node: str, attempt: int) -> Payload:
        """Let the run hold the artifacts that an output names, and move the output itself when it is large."""
        places, most = places_in(payload.data), self.spilling.spill_bytes
        if places:
            await asyncio.to_thread(self.spilling.vault.hold, self.run_id, places)
            self._measure_others(payload, node)
        if most is None or len(payload.data) <= most:
            return payload
        return await asyncio.to_thread(self._spill, payload, node, attempt)

    def _spill(self, payload: Payload, node: str, attempt: int) -> Payload:
        kind = f"application/vnd.dagflow.output+{payload.codec}"
        ref = ArtifactRef(f"{node} (output)", "", len(payload.data), payload.checksum.hex(), kind)
        writer = Writer(self.run_id, node, attempt, self.epoch)
        ref = self.spilling.vault.write(writer, ref, lambda: io.BytesIO(payload.data))
        data = json.dumps({"codec": payload.codec, "ref": attrs.asdict(ref)}, sort_keys=True).encode()
        return Payload(SPILLED, data, sha256(data).digest())

    def _wrote(self, current: _Attempt, ref: ArtifactRef) -> None:
        current.written.add(ref)
        if self.meter is not None:
            self.meter.record_artifact(ref.type, ref.size)

    def _measure_others(self, payload: Payload, node: str) -> None:
        """Count what the attempt has written in another process, as far as its output tells."""
        current = _CURRENT.get()
        if self.meter is None or current is None:
            return
        with contextlib.suppress(Exception):  # of the user's codec and classes; a figure is worth no attempt
            for ref in set(_refs_in(self.spilling.decode(payload))) - current.written:
                if (ref.run_id, ref.node) == (self.run_id, node):
                    self.meter.record_artifact(ref.type, ref.size)


def _refs_in(value: object) -> list[ArtifactRef]:
    """Return the references in a value, as deep as the usual containers go."""
    found: list[ArtifactRef] = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, ArtifactRef):
            found.append(item)
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
        else:
            waiting += [getattr(item, name, None) for name in _fields_of(type(item))]
    return found


def _fields_of(kind: type) -> list[str]:
    """Return the names of the fields of an attrs class or dataclass."""
    fields: Any = getattr(kind, "__attrs_attrs__", None) or getattr(kind, "__dataclass_fields__", {}).values()
    return [field.name for field in fields]
