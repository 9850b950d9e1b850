"""Runs whose connections to PostgreSQL are cut, and whose server dies: they end as if nothing had happened."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from crash.graphs import GRAPHS, Log
from dagflow import DAGExecutor, EventKind, Node, NodeContext, Run, Workflow
from dagflow.stores.postgres import PostgresStore
from proxy import Cut, Proxy

if TYPE_CHECKING:
    from pathlib import Path

    from dagflow import Event
    from postgres_server import OwnServer

RUNS, NODES, AT_A_TIME = 1_000, 6, 25
KILLS = 4


async def journal(dsn: str, run_id: str) -> list[Event]:
    """Return the journal of a run, over a connection that nobody cuts."""
    async with PostgresStore(dsn) as store:
        return list((await store.read(run_id))[1])


def facts(run: Run) -> Any:
    """Return what must not depend on the connection."""
    return run.status, dict(run.outputs), {name: (node.status, node.attempts) for name, node in run.nodes.items()}


def recorded(events: list[Event]) -> Counter[tuple[str, str | None, int]]:
    """Return what is in a journal, and how often; not in which order, and not when."""
    return Counter((event.kind.value, event.node, event.attempt) for event in events)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("cut", [Cut.BEFORE, Cut.AFTER])
@pytest.mark.parametrize("graph", GRAPHS)
async def test_a_connection_that_is_cut_at_any_commit_changes_nothing(
    graph: str, cut: Cut, postgres_dsn: str, tmp_path: Path
) -> None:
    async with Proxy(postgres_dsn) as proxy:

        async def go(run_id: str) -> tuple[Any, Any, Any]:
            log = Log(tmp_path / run_id)
            async with DAGExecutor(PostgresStore(proxy.dsn)) as executor:
                run = await executor.run(GRAPHS[graph](log), run_id=run_id)
            events = await journal(postgres_dsn, run_id)
            assert [event.version for event in events] == list(range(1, len(events) + 1))
            return facts(run), recorded(events), Counter(log.read())

        undisturbed = await go("undisturbed")
        request = 0
        while proxy.cuts == request:
            request += 1
            proxy.cut_once(cut, request)
            assert await go(f"cut-at-{request}") == undisturbed, f"cut {cut.value} request {request}"

    assert undisturbed[0][0] == "completed"
    assert request > 10


@pytest.mark.timeout(300)
async def test_a_server_that_is_killed_every_few_seconds_lets_every_run_end_well(
    own_postgres_server: OwnServer,
) -> None:
    calls: Counter[tuple[str, str]] = Counter()

    async def count(context: NodeContext) -> int:
        calls[context.run_id, context.node] += 1
        await asyncio.sleep(0.05)
        return 1 + len(context.outputs)

    names = [f"n{number}" for number in range(NODES)]
    workflow = Workflow("chain", [Node(name, count, names[max(i - 1, 0) : i]) for i, name in enumerate(names)])
    run_ids = iter([f"r{number}" for number in range(RUNS)])
    kills = 0

    async def kill() -> None:
        nonlocal kills
        while True:
            await asyncio.sleep(1.5)
            own_postgres_server.kill()
            kills += 1
            await asyncio.to_thread(own_postgres_server.start)

    async def work(executor: DAGExecutor) -> list[Run]:
        return [await executor.run(workflow, run_id=run_id) for run_id in run_ids]

    async with PostgresStore(own_postgres_server.dsn) as store:
        async with DAGExecutor(store) as executor:
            killing = asyncio.create_task(kill())
            shares = await asyncio.gather(*(work(executor) for _ in range(AT_A_TIME)))
            killing.cancel()
            await asyncio.wait([killing])
        runs = [run for share in shares for run in share]
        journals = [(await store.read(run.run_id))[1] for run in runs]

    assert kills >= KILLS
    assert [dict(run.outputs) for run in runs] == [{name: 1 + (name != names[0]) for name in names}] * RUNS
    assert set(calls.values()) == {1}
    for events in journals:
        assert [event.node for event in events if event.kind is EventKind.NODE_COMPLETED] == names
        assert [event.version for event in events] == list(range(1, len(events) + 1))


async def test_an_executor_is_closed_though_its_server_is_gone(own_postgres_server: OwnServer) -> None:
    calls, held = Counter[str](), asyncio.Event()

    async def hold() -> int:
        calls["hold"] += 1
        await held.wait()
        return 1

    workflow = Workflow("w", [Node("a", lambda: 1), Node("hold", hold, ["a"])])
    executor = DAGExecutor(PostgresStore(own_postgres_server.dsn), workflows=[workflow], lease=1.0, grace=0.1)
    async with executor:
        serving = asyncio.create_task(executor.serve(poll=0.05))
        await executor.submit(workflow, run_id="served")
        await executor.start(workflow, run_id="r")
        while calls["hold"] < 2:  # noqa: ASYNC110 - the calls tell nobody
            await asyncio.sleep(0.01)

        own_postgres_server.kill()
        # The patience of the store is a minute, and nobody has that when a process shall end.
        async with asyncio.timeout(20):
            serving.cancel()
            await asyncio.wait([serving])
            await executor.__aexit__(None, None, None)

    await asyncio.to_thread(own_postgres_server.start)
    held.set()
    async with DAGExecutor(PostgresStore(own_postgres_server.dsn), workflows=[workflow]) as other:
        for run_id in ("r", "served"):
            assert (await other.resume(run_id)).outputs == {"a": 1, "hold": 1}
