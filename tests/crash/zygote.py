"""A process that forks a fresh process for each run, so that a thousand of them start in the time of a few.

It reads one command a line and answers with one line. Nothing of dagflow is running here when it forks.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import networkx as nx  # noqa: F401 - takes most of the time of a short run: it is loaded once, before the forks

from crash.graphs import GRAPHS, Log, random_graph
from dagflow import DAGExecutor
from dagflow.stores import SQLiteStore


def _run(command: dict[str, Any]) -> None:
    """Run a workflow in this process, which kills itself at the point that the command names."""
    # The statements that open a store are the same for every workflow, so one of them is killed there.
    passed, counting = 0, command.get("opening", True)

    def at(_point: str) -> None:
        nonlocal passed
        passed += counting
        if passed == command.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    log = Log(Path(command["log"]))
    graph = command["graph"]
    workflow = random_graph(graph, log) if isinstance(graph, int) else GRAPHS[graph](log)
    store = SQLiteStore(command["store"], at=at)

    async def go() -> None:
        nonlocal counting
        async with DAGExecutor(store) as executor:
            counting = True
            await executor.run(workflow, run_id="r")

    asyncio.run(go())


def main() -> None:
    """Answer commands until the input ends."""
    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            try:
                _run(command)
            except BaseException as exc:  # noqa: BLE001 - told to the test by the exit code
                sys.stderr.write(f"{exc!r}\n")
                os._exit(3)
            os._exit(0)
        after = command.get("kill_after")
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
