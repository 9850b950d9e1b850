"""How much memory a run takes: counted by the interpreter, so that no noise can hide it."""

from __future__ import annotations

import gc
import tracemalloc

import workloads
from dagflow import DAGExecutor
from dagflow.stores import MemoryStore


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
