"""Which names nodes, inputs and runs may have, and what somebody probably meant by a wrong one."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from dagflow.errors import InputError, WorkflowError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LONGEST_RUN_ID", "check_node_name", "check_run_id", "check_workflow_name", "near_miss"]

_NODE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_MOST = 128
_RUN_ID = re.compile(r"[A-Za-z0-9_./:-]{1,255}")

LONGEST_RUN_ID = 255


def check_node_name(name: str) -> None:
    """Refuse a name that no node can have."""
    if not isinstance(name, str) or not _NODE_NAME.fullmatch(name):
        reason = f"{name!r} is no name for a node: use 1 to 128 letters, digits, '_', '-' and '.'"
        raise WorkflowError(reason, node=str(name))


def check_workflow_name(name: str) -> None:
    """Refuse a name that no workflow can have."""
    if not isinstance(name, str) or not 1 <= len(name.strip()) <= len(name) <= _MOST or not name.isprintable():
        reason = f"{name!r} is no name for a workflow: use 1 to {_MOST} printable characters"
        raise WorkflowError(reason, workflow=str(name))


def check_run_id(run_id: str, *, workflow: str) -> None:
    """Refuse an id that no run can have."""
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        reason = f"{run_id!r} is no run id: use 1 to 255 letters, digits, '_', '-', '.', '/' and ':'"
        raise InputError(workflow, reason=reason)


def near_miss(name: object, known: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` when something known looks like ``name``, else ``""``."""
    if not isinstance(name, str):
        return ""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
