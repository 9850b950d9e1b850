"""What tests of the executor share: how they open executors, and functions that misbehave on purpose."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dagflow import Workflow
    from dagflow.executor import DAGExecutor

__all__ = ["Calls", "Held", "OpenExecutor", "fails", "until"]


class OpenExecutor(Protocol):
    """Opens executors on the store of the test; they are closed at its end."""

    async def __call__(self, *workflows: Workflow, **options: Any) -> DAGExecutor: ...


class Calls(Counter[str]):
    """Counts calls by name."""

    def of(self, name: str, result: object = None) -> Callable[[], Any]:
        """Return a function that counts its calls under a name."""

        def function() -> Any:
            self[name] += 1
            return result

        return function


def fails(*, times: int, result: object = "ok", error: BaseException | None = None) -> Callable[[], Any]:
    """Return a function whose first calls fail."""
    left = times

    def function() -> Any:
        nonlocal left
        if left > 0:
            left -= 1
            raise error or ValueError(f"{left} more")
        return result

    return function


class Held:
    """An async function that says when it was called, and returns when it is let go.

    Attributes:
        calls: How often it was called.
        started: Is set while, or after, it was called.
        gate: Lets it go.
    """

    def __init__(self, result: object = None) -> None:
        self.calls = 0
        self.started = asyncio.Event()
        self.gate = asyncio.Event()
        self._result = result

    async def __call__(self) -> Any:
        self.calls += 1
        self.started.set()
        await self.gate.wait()
        return self._result


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return when something is so."""
    while True:
        verdict = condition()
        if verdict if isinstance(verdict, bool) else await verdict:
            return
        await asyncio.sleep(0.005)
