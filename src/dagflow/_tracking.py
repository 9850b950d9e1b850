"""Decorators that count the calls of an application's own functions."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from dagflow._binding import is_async
from dagflow._events import RunStatus
from dagflow._run import Run
from dagflow.errors import RunCancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Tally", "tracked"]

P = ParamSpec("P")
R = TypeVar("R")

_OF_RUN = {RunStatus.COMPLETED: "success", RunStatus.FAILED: "failure", RunStatus.CANCELLED: "cancelled"}


class Tally:
    """How one call ends.

    Attributes:
        status: ``success``, ``failure`` or ``cancelled``; ``None`` for a run that has not ended.
    """

    def __init__(self) -> None:
        self.status: str | None = "success"

    def judge(self, result: object) -> None:
        """Look at what the call returned: a run by its status, a mapping by its ``success``."""
        if isinstance(result, Run):
            self.status = _OF_RUN.get(result.status)
        elif isinstance(result, Mapping) and not result.get("success", True):
            self.status = "failure"


def tracked(
    start: Callable[[], None], end: Callable[[str | None, float], None]
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that tells when a call begins and how it ends, with the seconds that it took."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        _check(function)
        if is_async(function):

            @functools.wraps(function)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
                with _tallied(start, end) as tally:
                    result = await cast("Any", function)(*args, **kwargs)
                    tally.judge(result)
                    return result

            return cast("Callable[P, R]", awaited)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with _tallied(start, end) as tally:
                result = function(*args, **kwargs)
                tally.judge(result)
                return result

        return called

    return decorate


def _check(function: Callable[..., Any]) -> None:
    if not callable(function):
        raise TypeError(f"a function is decorated, not {function!r}")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"{name} is a generator: decorate the function that consumes it")


@contextmanager
def _tallied(start: Callable[[], None], end: Callable[[str | None, float], None]) -> Iterator[Tally]:
    tally = Tally()
    start()
    begun = time.perf_counter()
    try:
        yield tally
    except (asyncio.CancelledError, KeyboardInterrupt, RunCancelledError):
        tally.status = "cancelled"
        raise
    except BaseException:
        tally.status = "failure"
        raise
    finally:
        end(tally.status, time.perf_counter() - begun)
