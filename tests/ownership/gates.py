"""Gates before the appends of a process: where it has decided what to write, and has not written it yet."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import attrs

from dagflow.errors import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crash.graphs import Log
    from dagflow import Event, EventKind
    from dagflow.protocols import ContextStore

__all__ = ["Gated", "Gates"]


@attrs.frozen
class Gates:
    """Gates that are files: the first append that comes to a shut one waits until it is opened, later ones pass.

    Attributes:
        path: The directory.
    """

    path: Path

    def shut(self, kind: EventKind, run: str, node: str | None = None) -> None:
        """Hold the next append of a run that begins with such an event."""
        self._shut(kind, run, node).touch()

    def open(self, kind: EventKind, run: str, node: str | None = None) -> None:
        """Let go on whoever is held, and hold nobody else."""
        self._shut(kind, run, node).unlink(missing_ok=True)
        self._held(kind, run, node).unlink(missing_ok=True)

    def wait_before(self, event: Event, log: Log) -> bool:
        """Keep this thread at the gate before an event, if it is shut; return whether it was."""
        gate = event.kind, event.run_id, event.node
        try:
            self._shut(*gate).rename(self._held(*gate))
        except FileNotFoundError:
            return False
        log.write(f"held {event.run_id} {event.kind} {os.getpid()}")
        while self._held(*gate).exists():
            time.sleep(0.002)
        return True

    def _shut(self, kind: EventKind, run: str, node: str | None) -> Path:
        return self.path / f"{kind} {run} {node}"

    def _held(self, kind: EventKind, run: str, node: str | None) -> Path:
        return self.path / f"{kind} {run} {node} held"


class Gated:
    """A store with gates before its appends; those that were held log the answer. All else is as it was."""

    def __init__(self, store: ContextStore, gates: Gates, log: Log) -> None:
        self._store = store
        self._gates = gates
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def append(self, events: Sequence[Event], **options: Any) -> None:
        is_held, answer = self._gates.wait_before(events[0], self._log), "broken"
        try:
            await self._store.append(events, **options)
            answer = "kept"
        except LeaseLostError:
            answer = "refused"
            raise
        finally:
            if is_held:
                self._log.write(f"answered {events[0].run_id} {answer} {os.getpid()}")
