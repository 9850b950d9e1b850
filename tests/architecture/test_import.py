"""``import dagflow`` brings two distributions, and does nothing that an importer could notice."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from typing import Any

import pytest

EVERYTHING = "import dagflow; [getattr(dagflow, name) for name in dagflow.__all__]"
"""All public names are loaded lazily, so the promise is checked with all of them loaded."""

PROBE = """
import json, sys, threading

events = []
watched = ("open", "socket.", "sqlite3.", "subprocess.", "os.putenv", "os.mkdir", "os.remove", "signal.", "os.fork")

def watch(event, args):
    if not event.startswith(watched):
        return
    if event == "open" and not set(str(args[1])) & set("wax+"):
        return  # reading modules is what an import is
    events.append(f"{event} {args[:1]}")

standing = set(sys.modules)
sys.addaudithook(watch)
%s
import importlib.metadata as metadata
loaded = {name.partition(".")[0] for name in set(sys.modules) - standing}
owners = metadata.packages_distributions()
print(json.dumps({
    "events": events,
    "threads": threading.active_count(),
    "distributions": sorted({owner for name in loaded for owner in owners.get(name, ())} - {"dagflow-sdk"}),
    "modules": sorted(sys.modules),
}))
"""


def probe(code: str) -> dict[str, Any]:
    command = [sys.executable, "-B", "-c", PROBE % code]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


@pytest.mark.parametrize("code", ["import dagflow", EVERYTHING])
def test_importing_writes_no_file_opens_no_socket_and_starts_no_thread(code: str) -> None:
    found = probe(code)

    assert found["events"] == []
    assert found["threads"] == 1


def test_importing_all_public_names_brings_only_attrs() -> None:
    found = probe(EVERYTHING)

    assert found["distributions"] == ["attrs"]


FIRST_GRAPH = """
from dagflow import Node, Workflow
workflow = Workflow("w", [Node("a", lambda: 1)])
assert "networkx" not in sys.modules
workflow.generations()
assert "networkx" in sys.modules
"""


def test_networkx_comes_with_the_first_graph() -> None:
    found = probe(FIRST_GRAPH)

    assert found["distributions"] == ["attrs", "networkx"]


def test_the_distribution_asks_for_two_others() -> None:
    required = importlib.metadata.requires("dagflow-sdk") or []

    core = sorted(line.partition(">")[0] for line in required if "extra ==" not in line)
    assert core == ["attrs", "networkx"]


def test_defining_a_workflow_needs_no_event_loop() -> None:
    found = probe("from dagflow import RetryPolicy, Workflow")

    assert "asyncio" not in found["modules"]
