"""What an executor is given: checked before anything is opened, so that a mistake is named where it was made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from dagflow._events import RunStatus
from dagflow._specs import LONGEST_S, between, whole

__all__ = ["check_options", "check_parts", "check_serving", "statuses_of"]

_NO_STORE = (
    "a store is required, because a run that is not kept cannot be resumed: "
    "pass 'sqlite:///runs.db', or 'memory://' if that is what you want"
)


def check_options(
    context_store: object, *, lists: Mapping[str, object], mappings: Mapping[str, Any], seconds: Mapping[str, object]
) -> None:
    """Refuse what no executor can be made of.

    Args:
        context_store: Should be a URL or a store.
        lists: Options that should be lists, by name.
        mappings: Options that should be dictionaries, or ``None``.
        seconds: Options that should be numbers; all but ``grace`` above 0.

    Raises:
        ValueError: There is no store, or a number is out of its range.
        TypeError: An option is of another sort than it takes; the text says what to give.
    """
    _check_store(context_store)
    for name, value in lists.items():
        if not isinstance(value, Iterable) or isinstance(value, str | Mapping):
            raise TypeError(f"{name}= takes a list, not {value!r}: write {name}=[...]")
    for name, value in mappings.items():
        if value is not None and not isinstance(value, Mapping):
            raise TypeError(f"{name}= takes a dictionary by name, not {value!r}")
    for name, runner in (mappings.get("runners") or {}).items():
        if isinstance(runner, type) or not callable(getattr(runner, "call", None)):
            raise TypeError(f"runners[{name!r}] is no runner: {runner!r}; pass an object such as ProcessRunner()")
    for name, value in seconds.items():
        least = "at least" if name == "grace" else "above"
        if name == "lease" and between(LONGEST_S, value, math.inf):
            # No clock can tell when it would lapse.
            raise ValueError(f"lease is in seconds and must be below a hundred years, not {value!r}")
        if not isinstance(value, int | float) or not (value > 0 or (value == 0 and least == "at least")):
            raise ValueError(f"{name} is in seconds and must be {least} 0, not {value!r}")


def check_parts(codec: object, clock: object) -> None:
    """Refuse a codec that cannot encode, and a clock that cannot tell the time.

    Raises:
        TypeError: It is of another sort.
    """
    if codec is not None and not callable(getattr(codec, "encode", None)):
        raise TypeError(f"codec= takes a Codec, such as JsonCodec(), not {codec!r}")
    if not callable(getattr(clock, "now", None)):
        raise TypeError(f"clock= takes a Clock, such as FakeClock of dagflow.testing, not {clock!r}")


def check_serving(concurrency: object, poll: object) -> None:
    """Refuse numbers with which a server would take nothing, or upset the timers of its loop, as NaN does.

    Raises:
        ValueError: A number is out of its range, or none.
    """
    if not whole(concurrency):
        raise ValueError(f"concurrency must be a whole number of at least 1, not {concurrency!r}")
    if not between(0, poll, LONGEST_S) or not poll:
        raise ValueError(f"poll is in seconds and must be above 0, and at most a hundred years, not {poll!r}")


def statuses_of(given: RunStatus | str | Iterable[RunStatus | str] | None) -> frozenset[RunStatus]:
    """Return the statuses that are asked for; none for any.

    Raises:
        ValueError: There is no such status.
    """
    if given is None:
        return frozenset()
    if not isinstance(given, Iterable):
        raise ValueError(f"status= takes a RunStatus or a list of them, not {given!r}")  # noqa: TRY004 - as for a word
    return frozenset(RunStatus(status) for status in ([given] if isinstance(given, str) else given))


def _check_store(context_store: object) -> None:
    if context_store is None:
        raise ValueError(_NO_STORE)
    if isinstance(context_store, PurePath):
        path = context_store.as_posix()
        raise TypeError(f"{context_store!r} is no store: pass 'sqlite:///{path}', or SQLiteStore({path!r})")
    if not isinstance(context_store, str) and not callable(getattr(context_store, "append", None)):
        raise TypeError(f"{context_store!r} is no store: pass a URL such as 'sqlite:///runs.db', or a ContextStore")
