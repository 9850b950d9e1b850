"""A store whose calls are counted and timed."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, cast

from dagflow.errors import (
    LeaseLostError,
    MessageExistsError,
    RunExistsError,
    RunNotFoundError,
    RunOwnedError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dagflow.protocols import ContextStore, Meter

__all__ = ["measured"]

_CALLS = (
    "open",
    "close",
    "create",
    "append",
    "read",
    "find",
    "claim",
    "renew",
    "release",
    "send",
    "receive",
    "delete",
)
# The store has done its work and this is what it says.
_ANSWERS = (LeaseLostError, MessageExistsError, RunExistsError, RunNotFoundError, RunOwnedError)


class _Measured:
    """Counts the calls of a store; everything else of it is as it was."""

    def __init__(self, store: ContextStore, meter: Meter) -> None:
        self._store = store
        for name in _CALLS:
            setattr(self, name, _timed(name, getattr(store, name), meter))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __repr__(self) -> str:
        return repr(self._store)


def measured(store: ContextStore, meter: Meter | None) -> ContextStore:
    """Return the store, with its calls counted by a meter if there is one."""
    return store if meter is None else cast("ContextStore", _Measured(store, meter))


def _timed(name: str, call: Callable[..., Awaitable[Any]], meter: Meter) -> Callable[..., Awaitable[Any]]:
    count, observe, clock = meter.record_context_store_operation, meter.record_database_query, time.perf_counter

    @functools.wraps(call)
    async def timed(*args: Any, **kwargs: Any) -> Any:
        begun = clock()
        try:
            result = await call(*args, **kwargs)
        except _ANSWERS:
            count(name, True)
            raise
        except Exception:
            count(name, False)
            raise
        else:
            count(name, True)
            return result
        finally:
            observe(name, clock() - begun)

    return timed
