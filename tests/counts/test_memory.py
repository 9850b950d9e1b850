"""How much memory a run takes: counted by the interpreter, so that no noise can hide it."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING

import pytest

import workloads
from dagflow import DAGExecutor
from dagflow.stores import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

MANY = 10_000
WAITING_RUNS = """
import asyncio, os, re, resource, sys, threading
from dagflow import DAGExecutor, Node, Workflow

async def before():
    return 1

workflow = Workflow("w", [Node("before", before)])
workflow.review("check")
workflow.wait_for_signal("paid")

def held():
    return threading.active_count(), len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())

def peak():
    # What `resource` says includes the process that this one was made from.
    try:
        with open("/proc/self/status") as status:
            return int(re.search(r"VmHWM:\\s*([0-9]+) kB", status.read())[1]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

async def main(url, count):
    async with DAGExecutor(url) as executor:
        await executor.run(workflow)
        before = held()
        for _ in range(count // 500):
            await asyncio.gather(*(executor.run(workflow) for _ in range(500)))
        assert len(await executor.runs(status="waiting", limit=count)) == count
        assert held() == before, (held(), before)
    print(peak())

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_a_node_takes_less_than_1500_bytes_of_memory_beyond_the_outputs() -> None:
    workload = workloads.layers(20, 500)
    store = MemoryStore()
    async with DAGExecutor(store) as executor:
        await workloads.run_checked(executor, workloads.layers(2, 20).workflow)
        gc.collect()
        tracemalloc.start()

        try:
            run = await workloads.run_checked(executor, workload.workflow)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    outputs = workload.size * len(workloads.OUTPUT)
    assert len(run.nodes) == workload.size
    assert (peak - outputs) / workload.size < 1500


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts the descriptors of a process")
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_ten_thousand_waiting_runs_take_less_than_200_megabytes_and_no_thread_connection_or_task_each(
    kind: str, tmp_path: Path
) -> None:
    url = "memory://" if kind == "memory" else f"sqlite:///{tmp_path / 'runs.db'}"

    process = subprocess.run(
        [sys.executable, "-c", WAITING_RUNS, url, str(MANY)], capture_output=True, text=True, check=False
    )

    assert process.returncode == 0, process.stderr
    assert int(process.stdout) < 200_000_000
