"""Times what is awaited with pytest-benchmark."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

__all__ = ["Timer"]


@attrs.frozen
class Timer:
    """Times coroutines with pytest-benchmark.

    Attributes:
        loop: Where they run.
        fixture: The ``benchmark`` of the test.
    """

    loop: asyncio.Runner
    fixture: Any

    def __call__(self, work: Callable[[], Awaitable[Any]], *, rounds: int = 5) -> None:
        """Await ``work`` once a round, after one round that does not count."""

        def prepare() -> tuple[tuple[Any, ...], dict[str, Any]]:
            gc.collect()
            return (), {}

        self.fixture.pedantic(lambda: self.run(work()), setup=prepare, rounds=rounds, iterations=1, warmup_rounds=1)

    def run(self, awaited: Awaitable[Any]) -> Any:
        """Return what comes of one awaitable; not timed."""

        async def coroutine() -> Any:
            return await awaited

        return self.loop.run(coroutine())
