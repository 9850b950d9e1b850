"""Where the functions of nodes are called: the loop, threads, processes, any executor of ``concurrent.futures``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagflow.runners.futures import FuturesRunner
    from dagflow.runners.local import LoopRunner, ThreadRunner
    from dagflow.runners.process import ProcessRunner

__all__ = ["FuturesRunner", "LoopRunner", "ProcessRunner", "ThreadRunner"]

_ROOMS = {
    "FuturesRunner": "dagflow.runners.futures",
    "LoopRunner": "dagflow.runners.local",
    "ProcessRunner": "dagflow.runners.process",
    "ThreadRunner": "dagflow.runners.local",
}


def __getattr__(name: str) -> Any:
    """Import a runner when it is asked for: nobody pays for those that are not used."""
    if name not in _ROOMS:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_ROOMS[name]), name)
