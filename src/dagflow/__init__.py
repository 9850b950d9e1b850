"""Durable DAG workflows inside your own process.

Declare a graph of ordinary functions, run it, and every finished node is kept before the next one starts.

Example:
    >>> from dagflow import DAGExecutor, Workflow
    >>> workflow = Workflow("greeting")
    >>> @workflow.node
    ... def greet(name: str) -> str:
    ...     return f"Hello {name}"
    >>> with DAGExecutor("memory://") as executor:
    ...     run = executor.run(workflow, {"name": "Ada"})
    >>> run.outputs["greet"]
    'Hello Ada'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagflow._events import ErrorInfo, Event, EventKind, NodeStatus, Payload, RunStatus
    from dagflow._handle import RunHandle
    from dagflow._model import Workflow
    from dagflow._node import ItemError, Node, NodeContext, NodeType, RetryPolicy
    from dagflow._references import ArtifactRef
    from dagflow._run import NodeRun, Run, RunSummary
    from dagflow.executor import DAGExecutor
    from dagflow.serialization import JsonCodec

__version__ = "0.1.0"

__all__ = [
    "ArtifactRef",
    "DAGExecutor",
    "ErrorInfo",
    "Event",
    "EventKind",
    "ItemError",
    "JsonCodec",
    "Node",
    "NodeContext",
    "NodeRun",
    "NodeStatus",
    "NodeType",
    "Payload",
    "RetryPolicy",
    "Run",
    "RunHandle",
    "RunStatus",
    "RunSummary",
    "Workflow",
]

# Each name is loaded when it is first asked for: a program that defines workflows does not pay for asyncio and
# sqlite3, and one that only wants the version pays for nothing.
_ROOMS = {
    "dagflow._events": ("ErrorInfo", "Event", "EventKind", "NodeStatus", "Payload", "RunStatus"),
    "dagflow._handle": ("RunHandle",),
    "dagflow._model": ("Workflow",),
    "dagflow._node": ("ItemError", "Node", "NodeContext", "NodeType", "RetryPolicy"),
    "dagflow._references": ("ArtifactRef",),
    "dagflow._run": ("NodeRun", "Run", "RunSummary"),
    "dagflow.executor": ("DAGExecutor",),
    "dagflow.serialization": ("JsonCodec",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_ROOM_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
