"""What functions may use and no store may keep: clients, pools, models, handed in by the application.

A resource is a value, or a callable without required parameters that returns a context manager, sync or async. The
context is entered when a node first needs it, once for the executor, and left when the executor closes, last in first
out.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Resources"]


class Resources:
    """The resources of one executor.

    Args:
        given: Values and factories by name.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._factories = {name: value for name, value in given.items() if _is_factory(value)}
        self.values: dict[str, Any] = {name: v for name, v in given.items() if name not in self._factories}
        self._stack = contextlib.AsyncExitStack()
        self._lock = asyncio.Lock()

    def __contains__(self, name: object) -> bool:
        return name in self.values or name in self._factories

    async def open(self, names: Iterable[str] | None = None) -> None:
        """Enter the contexts of these resources, or of all, that are not open yet; ``values`` has them then."""
        if not self._factories:
            return
        for name in list(self._factories if names is None else names):
            if name in self._factories:
                async with self._lock:
                    await self._open(name)

    async def _open(self, name: str) -> None:
        if name not in self._factories:
            return
        factory = self._factories[name]
        made = factory()
        if hasattr(made, "__aenter__"):
            value = await self._stack.enter_async_context(made)
        elif hasattr(made, "__enter__"):
            value = self._stack.enter_context(made)
        else:
            # A callable that makes no context is itself what nodes want.
            value = factory
        self.values[name] = value
        del self._factories[name]

    async def close(self) -> None:
        """Leave every context that was entered."""
        await self._stack.aclose()


def _is_factory(value: object) -> bool:
    if inspect.iscoroutinefunction(value):
        # A coroutine is no context manager, and one that is made and not awaited is a mistake.
        return False
    if not callable(value) or hasattr(value, "__enter__") or hasattr(value, "__aenter__"):
        return isinstance(value, type) and _takes_nothing(value)
    return _takes_nothing(value)


def _takes_nothing(value: Any) -> bool:
    try:
        inspect.signature(value).bind()
    except (TypeError, ValueError):
        return False
    return True
