"""Where a store was opened: in which process, and on which event loop. Its connections work nowhere else."""

from __future__ import annotations

import asyncio
import os

import attrs

from dagflow.errors import StoreRefusedError

__all__ = ["Home"]


@attrs.frozen
class Home:
    """A process and one of its event loops; neither of both before the first `open`."""

    pid: int = 0
    loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def here(cls) -> Home:
        """Return the process and the loop that ask."""
        return cls(os.getpid(), asyncio.get_running_loop())

    @property
    def is_ours(self) -> bool:
        """Whether this is the process: a child that was forked from it is not."""
        return os.getpid() == self.pid

    @property
    def is_over(self) -> bool:
        """Whether the loop was closed."""
        return self.loop is not None and self.loop.is_closed()

    def check(self, store: str) -> None:
        """Refuse to work elsewhere.

        Raises:
            StoreRefusedError: This is another process, or another loop; names the ``store``.
        """
        if not self.is_ours:
            reason = "it was opened before this process was forked: make a store in the child, or start it with 'spawn'"
            raise StoreRefusedError(reason, store)
        if asyncio.get_running_loop() is not self.loop:
            raise StoreRefusedError("it is open on another event loop: make a store for each of them", store)
