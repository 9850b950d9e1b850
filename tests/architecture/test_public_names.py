"""The names that users may import, written down: a change here is a decision, and a line in the changelog."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys

import pytest

import dagflow
from rooms import rooms

PUBLIC = {
    "dagflow": [
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
    ],
    "dagflow.contracts": ["Contract", "check"],
    "dagflow.health": [
        "CheckResult",
        "HealthRegistry",
        "HealthReport",
        "disk_check",
        "lease_check",
        "loop_check",
        "store_check",
    ],
    "dagflow.metrics": [
        "MetricsCollector",
        "default_collector",
        "track_node_execution",
        "track_workflow_execution",
    ],
    "dagflow.artifacts": ["ArtifactRef", "ArtifactStore", "LocalArtifactStore", "NodeArtifacts", "open_artifact_store"],
    "dagflow.phases": [
        "SDLC_PHASES",
        "PhaseContext",
        "PhaseExecutor",
        "PhaseResult",
        "linear_workflow",
        "parallel_workflow",
    ],
    "dagflow.protocols": [
        "ArtifactStore",
        "Claim",
        "Clock",
        "Codec",
        "ContextStore",
        "MeasuredStore",
        "Message",
        "MessageKind",
        "Meter",
        "Observer",
        "RunQuery",
        "RunRecord",
        "Runner",
        "StoreFigures",
    ],
    "dagflow.runners": ["FuturesRunner", "LoopRunner", "ProcessRunner", "ThreadRunner"],
    "dagflow.tracing": ["TracingObserver"],
    "dagflow.stores": ["MemoryStore", "PostgresStore", "SQLiteStore", "open_store"],
    "dagflow.web": ["WebApp", "bearer_token", "create_app", "lifespan"],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_those_that_are_written_down(module: str) -> None:
    assert importlib.import_module(module).__all__ == PUBLIC[module]


@pytest.mark.parametrize("module", rooms())
def test_every_name_that_a_room_offers_exists(module: str) -> None:
    room = importlib.import_module(module)

    assert [name for name in getattr(room, "__all__", []) if not hasattr(room, name)] == []


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_sorted_constants_first(module: str) -> None:
    assert PUBLIC[module] == sorted(PUBLIC[module], key=lambda name: (not name.isupper(), name))


def test_every_public_name_of_the_package_says_what_it_is() -> None:
    silent = [name for name in dagflow.__all__ if not getattr(dagflow, name).__doc__]

    assert silent == []


def test_the_names_of_the_package_are_shown_before_they_are_used() -> None:
    assert set(dagflow.__all__) <= set(dir(dagflow))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Wrokflow'"):
        dagflow.Wrokflow  # noqa: B018


def test_a_star_import_brings_the_public_names() -> None:
    code = "from dagflow import *; print(*sorted(n for n in globals() if not n.startswith('__')))"

    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert shown.stdout.split() == PUBLIC["dagflow"]


def test_the_version_is_that_of_the_distribution() -> None:
    assert dagflow.__version__ == importlib.metadata.version("dagflow-sdk")
