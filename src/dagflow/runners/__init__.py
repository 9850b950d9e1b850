"""Where the functions of nodes are called."""

from __future__ import annotations

from dagflow.runners.local import LoopRunner, ThreadRunner

__all__ = ["LoopRunner", "ThreadRunner"]
