"""Nodes and stores for the tests of artifacts; some of it runs in other processes."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import attrs

from dagflow import ArtifactRef, DAGExecutor, NodeContext, Workflow
from dagflow.artifacts import LocalArtifactStore

if TYPE_CHECKING:
    from dagflow import Run

LARGE = bytes(range(256)) * 4096


@attrs.frozen
class Book:
    """A value of the user's that has artifacts in it."""

    text: str
    pages: list[ArtifactRef]


def write(context: NodeContext) -> ArtifactRef:
    """Write an artifact."""
    return context.artifacts.write("worker.txt", "from a worker")


def read(context: NodeContext, write: ArtifactRef) -> str:
    """Read it."""
    return context.artifacts.read(write).decode()


class Failing:
    """A stream whose disk is full after the first chunk."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._reads = 0

    def read(self, size: int = -1) -> bytes:
        """Return a chunk."""
        self._reads += 1
        if self._reads > 1:
            self.fail()
        return self._source.read(size)

    def fail(self) -> None:
        """Raise what the system would."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Killing(Failing):
    """A stream whose process dies after the first chunk."""

    def fail(self) -> None:
        """Die."""
        os.kill(os.getpid(), signal.SIGKILL)


class DyingStore(LocalArtifactStore):
    """Dies in the middle of the first artifact."""

    def put(self, key: str, source: BinaryIO) -> None:
        """Write, and die."""
        killing: Any = Killing(source)
        super().put(key, killing if key.startswith("objects/") else source)


def die_while_writing(folder: str) -> None:
    """Die in the middle of a write."""
    with Path("/dev/zero").open("rb") as zeros:
        DyingStore(folder).put("objects/aa/aa", zeros)


def run(folder: str, *, kill: bool) -> tuple[Run, list[ArtifactRef]]:
    """Run, or go on with, a workflow whose first node writes a large artifact."""
    workflow = Workflow("w")

    @workflow.node
    def written(context: NodeContext) -> ArtifactRef:
        return context.artifacts.write("large", LARGE)

    @workflow.node
    def read(context: NodeContext, written: ArtifactRef) -> str:
        return context.artifacts.read(written).hex()

    store = (DyingStore if kill else LocalArtifactStore)(Path(folder, "artifacts"))
    with DAGExecutor(f"sqlite:///{folder}/runs.db", workflows=[workflow], artifacts=store) as executor:
        return executor.run(workflow, run_id="r"), executor.artifacts("r")
