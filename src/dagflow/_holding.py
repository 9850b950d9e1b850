"""Which artifacts a run holds by what it is told, and which of those it has written count."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from dagflow._events import EventKind
from dagflow._vault import places_in
from dagflow.errors import ExecutorError, RunNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dagflow._events import Event, Message, Payload, RunRecord
    from dagflow._references import ArtifactRef
    from dagflow._spilling import Spilling
    from dagflow._vault import Vault
    from dagflow.protocols import ContextStore

__all__ = ["holding", "written"]


def holding(store: ContextStore, spilling: Spilling | None) -> ContextStore:
    """Return a store whose runs hold the artifacts in their inputs and messages, and let go of all when deleted.

    What outputs name is held by the attempts, before they are recorded.
    """
    return store if spilling is None else cast("ContextStore", _Holding(store, spilling.vault))


async def written(store: ContextStore, spilling: Spilling | None, run_id: str) -> list[ArtifactRef]:
    """List what the completed nodes of a run have written, by node and name.

    Raises:
        RunNotFoundError: No run has this id.
        ExecutorError: There is no artifact store.
    """
    if spilling is None:
        raise ExecutorError("the executor has no artifact store: DAGExecutor(..., artifacts='artifacts/')")
    _, events = await store.read(run_id)
    completed = _completed(events)
    return await asyncio.to_thread(
        spilling.vault.written, run_id, lambda writer: completed.get(writer.node) == (writer.epoch, writer.attempt)
    )


def _completed(events: Iterable[Event]) -> dict[str, tuple[int, int]]:
    """Return for each completed node, and item of a map, in which claim and attempt it completed."""
    epoch, found = 0, {}
    for event in events:
        if event.kind in (EventKind.RUN_STARTED, EventKind.RUN_RESUMED):
            epoch = (event.data or {})["epoch"]
        elif event.kind is EventKind.NODE_COMPLETED:
            found[event.node or ""] = (epoch, event.attempt)
    return found


class _Holding:
    """Everything else of the store is as it was."""

    def __init__(self, store: ContextStore, vault: Vault) -> None:
        self._store = store
        self._vault = vault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __repr__(self) -> str:
        return repr(self._store)

    async def create(self, record: RunRecord, events: Sequence[Event], **options: Any) -> RunRecord:
        await self._hold(record.run_id, events[0].payload)
        return await self._store.create(record, events, **options)

    async def send(self, message: Message) -> Message:
        await self._hold(message.run_id, message.payload)
        return await self._store.send(message)

    async def delete(self, run_id: str) -> None:
        try:
            await self._store.delete(run_id)
        except RunNotFoundError:
            # An earlier call may have been cut off here.
            await asyncio.to_thread(self._vault.forget, run_id)
            raise
        await asyncio.to_thread(self._vault.forget, run_id)

    async def _hold(self, run_id: str, payload: Payload | None) -> None:
        if payload is not None and (places := places_in(payload.data)):
            await asyncio.to_thread(self._vault.hold, run_id, places)
