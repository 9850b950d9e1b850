"""The app in a process of its own, behind a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from websockets.asyncio.client import connect

from dagflow import DAGExecutor
from dagflow.web.server import run
from executors import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PLACE = """
import asyncio
from dagflow import DAGExecutor, Workflow
from dagflow.metrics import MetricsCollector

large, slow = Workflow("large"), Workflow("slow")

@large.map(over={"number": "numbers"}, limit=1)
def text(number: int) -> str:
    return "x" * 300_000

large.wait_for_signal("go", depends_on="text")

@slow.node
async def sleep() -> None:
    await asyncio.sleep(600)

executor = DAGExecutor("sqlite:///runs.db", workflows=[large, slow], observers=[MetricsCollector()], grace=0.5)
"""


def begin(folder: Path, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dagflow", "web", "place:executor", "--port", str(port)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextlib.asynccontextmanager
async def process(folder: Path) -> AsyncIterator[tuple[subprocess.Popen[bytes], httpx2.AsyncClient]]:
    (folder / "place.py").write_text(PLACE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = begin(folder, port)
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as web:

            async def is_ready() -> bool:
                with contextlib.suppress(httpx2.TransportError):
                    return (await web.get("/health/ready")).status_code == 200
                return False

            async with asyncio.timeout(60):
                await until(is_ready)
            yield server, web
    finally:
        server.kill()
        server.wait()


async def stalled(port: int, path: str) -> socket.socket:
    """Open a WebSocket that is never read from."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(one, ("127.0.0.1", port))
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: app",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        "\r\n",
    ]
    await loop.sock_sendall(one, "\r\n".join(lines).encode())
    assert (await loop.sock_recv(one, 12)) == b"HTTP/1.1 101"
    return one


async def sockets_of(web: httpx2.AsyncClient) -> float:
    lines = (await web.get("/metrics")).text.splitlines()
    return float(next(line for line in lines if line.startswith("dag_websocket_connections ")).split()[1])


async def test_a_client_that_stalls_is_dropped_and_the_others_get_everything(tmp_path: Path) -> None:
    async with process(tmp_path) as (_, web), contextlib.AsyncExitStack() as stack:
        port = web.base_url.port
        assert port is not None
        order = {"inputs": {"numbers": list(range(20))}, "run_id": "a/b"}
        await web.post("/api/workflows/large/runs", json=order)
        stack.enter_context(await stalled(port, "/ws/runs/a/b"))
        clients = [
            await stack.enter_async_context(connect(f"ws://127.0.0.1:{port}/ws/runs/a%2Fb", max_size=None))
            for _ in range(5)
        ]

        async def read(one: Any) -> list[int]:
            return [json.loads(text)["version"] async for text in one]

        reading = [asyncio.create_task(read(one)) for one in clients]

        async def is_dropped() -> bool:
            return await sockets_of(web) == 5

        async with asyncio.timeout(60):
            await until(is_dropped)
            await web.post("/api/runs/a/b/signals/go", json={})
            versions = await asyncio.gather(*reading)
        version = (await web.get("/api/runs/a/b")).json()["version"]

    assert versions == [list(range(1, version + 1))] * 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_streams_and_lets_go_of_runs(tmp_path: Path, number: int) -> None:
    async with process(tmp_path) as (server, web):
        await web.post("/api/workflows/slow/runs", json={"run_id": "r"})
        async with web.stream("GET", "/api/runs/r/events") as stream:
            lines = stream.aiter_lines()
            while '"node_started"' not in await anext(lines):
                continue
            server.send_signal(number)
            code = await asyncio.to_thread(server.wait, 30)
            async for _ in lines:
                continue
    async with DAGExecutor(f"sqlite:///{tmp_path / 'runs.db'}") as executor:
        run = (await executor.runs())[0]

    assert code == 0
    assert (run.status, run.owner) == ("running", None)


async def test_a_server_in_a_thread_leaves_the_signals_alone_and_ends_when_its_port_is_taken() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with ThreadPoolExecutor(1) as threads:
            ended = threads.submit(run, DAGExecutor("memory://"), port=taken.getsockname()[1])
            error = ended.exception(timeout=60)

    assert isinstance(error, SystemExit)
    assert error.code
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
