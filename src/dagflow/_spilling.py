"""Outputs that are too large for the journal lie in the artifact store; what stands in the journal says where."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
from contextvars import ContextVar
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import Payload
from dagflow._references import SPILLED, ArtifactRef
from dagflow._vault import Vault
from dagflow.artifacts import NodeArtifacts, open_artifact_store
from dagflow.errors import ArtifactError, SerializationError
from dagflow.protocols import ArtifactStore
from dagflow.serialization import JsonCodec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from dagflow.protocols import Codec, Meter

__all__ = ["Spilling", "spilling_of", "vault_of"]

_TAG = b'"$artifact"'
_FETCHED: ContextVar[dict[bytes, bytes] | None] = ContextVar("dagflow_fetched", default=None)


def vault_of(artifacts: str | os.PathLike[str] | ArtifactStore | None) -> Vault | None:
    """Return the artifacts of an executor.

    Raises:
        ValueError: No store can be made of it.
        TypeError: It is neither a path or URL nor a store.
    """
    if artifacts is None:
        return None
    if isinstance(artifacts, str | os.PathLike):
        return Vault(open_artifact_store(artifacts))
    if not isinstance(artifacts, ArtifactStore):
        message = f"artifacts= takes a path, a URL or an ArtifactStore, not {artifacts!r}"
        raise TypeError(message)
    return Vault(artifacts)


def spilling_of(codec: Codec | None, vault: Vault | None, spill_bytes: int | None) -> Spilling | None:
    """Return the codec of an executor, as far as it has to do with an artifact store.

    Raises:
        ValueError: ``spill_bytes`` is no size, or there is nowhere to move outputs to.
    """
    if spill_bytes is not None:
        if type(spill_bytes) is not int or spill_bytes < 0:
            raise ValueError(f"spill_bytes is a number of bytes, at least 0, not {spill_bytes!r}")
        if vault is None:
            raise ValueError("spill_bytes= needs a place to move outputs to: DAGExecutor(..., artifacts='artifacts/')")
    if vault is None and (codec is None or type(codec) is JsonCodec):
        # It says by itself what is missing when it meets an output that was moved.
        return None
    return Spilling(codec or JsonCodec(), vault, spill_bytes)


class Spilling:
    """A codec that reads outputs from the artifact store, and moves large ones there.

    Args:
        codec: Turns values into bytes and back.
        vault: The artifacts of all runs, ``None`` where there are none.
        spill_bytes: Outputs that are larger are moved; ``None`` to move none.
    """

    def __init__(self, codec: Codec, vault: Vault | None, spill_bytes: int | None) -> None:
        self._codec = codec
        self._vault = vault
        self._spill_bytes = spill_bytes

    @property
    def name(self) -> str:
        """See `Codec.name`."""
        return self._codec.name

    def encode(self, value: object) -> Payload:
        """See `Codec.encode`."""
        return self._codec.encode(value)

    def decode(self, payload: Payload) -> Any:
        """See `Codec.decode`."""
        return self._codec.decode(self._whole(payload) if payload.codec == SPILLED else payload)

    def artifacts_of(self, run_id: str, node: str, meter: Meter | None) -> NodeArtifacts | None:
        """Return what a node writes and reads its artifacts with."""
        return None if self._vault is None else NodeArtifacts(self._vault, run_id, node, meter)

    async def settle(self, payload: Payload, run_id: str, node: str) -> Payload:
        """Let the run hold the artifacts that an output names, and move the output itself when it is large."""
        vault, most = self._vault, self._spill_bytes
        if vault is None:
            return payload
        if _TAG in payload.data:
            await asyncio.to_thread(self._keep, vault, payload, run_id)
        if most is None or len(payload.data) <= most:
            return payload
        return await asyncio.to_thread(self._spill, vault, payload, run_id, node)

    @contextlib.asynccontextmanager
    async def fetching(self, payloads: Iterable[Payload | None]) -> AsyncIterator[None]:
        """Have what lies in the artifact store at hand, so that nobody waits for it on the loop."""
        spilled = [payload for payload in payloads if payload is not None and payload.codec == SPILLED]
        if not spilled or self._vault is None:
            yield
            return
        fetched: dict[bytes, bytes] = {}
        token = _FETCHED.set(fetched)
        try:
            for payload in spilled:
                fetched[payload.checksum] = (await asyncio.to_thread(self._whole, payload)).data
            yield
        finally:
            _FETCHED.reset(token)

    def _keep(self, vault: Vault, payload: Payload, run_id: str) -> None:
        for ref in _refs_in(self._codec.decode(payload)):
            vault.keep(run_id, ref)

    def _spill(self, vault: Vault, payload: Payload, run_id: str, node: str) -> Payload:
        kind = f"application/vnd.dagflow.output+{payload.codec}"
        ref = ArtifactRef(f"{node} (output)", "", len(payload.data), payload.checksum.hex(), kind, node=node)
        ref = vault.write(run_id, ref, lambda: io.BytesIO(payload.data))
        data = json.dumps({"codec": payload.codec, "ref": attrs.asdict(ref)}, sort_keys=True).encode()
        return Payload(SPILLED, data, sha256(data).digest())

    def _whole(self, payload: Payload) -> Payload:
        """Return the payload that was moved.

        Raises:
            SerializationError: It cannot be had, or is damaged.
        """
        if sha256(payload.data).digest() != payload.checksum:
            raise SerializationError("its bytes are not those that were written: the checksum differs")
        if self._vault is None:
            raise SerializationError(
                "it lies in an artifact store: give the executor the same artifacts= as its writer"
            )
        facts = json.loads(payload.data)
        ref = ArtifactRef(**facts["ref"])
        fetched = _FETCHED.get() or {}
        try:
            data = fetched.get(payload.checksum) or self._vault.read(ref)
        except ArtifactError as exc:
            raise SerializationError(f"it was moved to the artifact store: {exc}") from exc
        return Payload(facts["codec"], data, bytes.fromhex(ref.sha256))


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
            fields: Any = (
                getattr(type(item), "__attrs_attrs__", ()) or getattr(item, "__dataclass_fields__", {}).values()
            )
            waiting += [getattr(item, field.name) for field in fields]
    return found


def _fields_of(kind: type) -> list[str]:
    """Return the names of the fields of an attrs class or dataclass."""
    fields: Any = getattr(kind, "__attrs_attrs__", None) or getattr(kind, "__dataclass_fields__", {}).values()
    return [field.name for field in fields]
