"""The app and its store: failing fast, probes with a dead database, and each module alone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx2
import pytest

from dagflow import DAGExecutor, Node, Workflow
from dagflow.stores import MemoryStore
from dagflow.web import create_app, lifespan
from executors import until

if TYPE_CHECKING:
    from pathlib import Path

    from dagflow._events import RunQuery, RunRecord
    from postgres_server import OwnServer

UNREACHABLE = "postgresql://ada:hunter2@127.0.0.1:1/none?connect_timeout=1"


def test_a_store_that_cannot_be_reached_ends_the_process_with_a_clear_message(tmp_path: Path) -> None:
    (tmp_path / "place.py").write_text(f"from dagflow import DAGExecutor\nexecutor = DAGExecutor({UNREACHABLE!r})\n")
    command = [sys.executable, "-m", "dagflow", "web", "place:executor", "--port", "0"]

    ended = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("dagflow: ")
    assert "127.0.0.1" in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr


def test_a_server_of_somebodys_own_ends_as_well_when_the_store_cannot_be_reached(tmp_path: Path) -> None:
    (tmp_path / "place.py").write_text(
        "from dagflow import DAGExecutor\nfrom dagflow.web import create_app\n"
        f"app = create_app(DAGExecutor({UNREACHABLE!r}))\n"
    )
    command = [sys.executable, "-m", "uvicorn", "place:app", "--port", "0"]

    ended = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert ended.returncode != 0
    assert "the app cannot start" in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout


def test_an_empty_token_lets_nobody_in_and_is_said(tmp_path: Path) -> None:
    (tmp_path / "place.py").write_text("from dagflow import DAGExecutor\nexecutor = DAGExecutor('memory://')\n")
    command = [sys.executable, "-m", "dagflow", "web", "place:executor", "--port", "0"]

    ended = subprocess.run(
        command,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "DAGFLOW_WEB_TOKEN": " "},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (ended.returncode, ended.stderr.split(",")[0]) == (2, "dagflow: DAGFLOW_WEB_TOKEN is empty")


async def test_with_a_dead_database_the_app_lives_and_is_not_ready(own_postgres_server: OwnServer) -> None:
    app = create_app(DAGExecutor(own_postgres_server.dsn), poll=0.05, store_timeout=1)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as web, lifespan(app):

        async def is_down() -> bool:
            return (await web.get("/health/ready")).status_code == 503

        before = {path: (await web.get(f"/health/{path}")).status_code for path in ("live", "ready", "startup")}
        own_postgres_server.kill()
        async with asyncio.timeout(60):
            await until(is_down)
        live, whole = await web.get("/health/live"), await web.get("/health")
        listed = await web.get("/api/runs")
        own_postgres_server.start()

    assert before == {"live": 200, "ready": 200, "startup": 200}
    assert live.status_code == 200
    assert (whole.status_code, whole.json()["checks"]["store"]["healthy"]) == (503, False)
    assert (listed.status_code, listed.headers["content-type"]) == (503, "application/problem+json")


async def test_an_app_that_starts_lazily_says_503_until_its_store_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    app = create_app(DAGExecutor(f"sqlite:///{folder / 'runs.db'}"))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as web:

        async def is_up() -> bool:
            return (await web.get("/health/ready")).status_code == 200

        first = await web.get("/api/runs")
        live = await web.get("/health/live")
        folder.mkdir()
        async with asyncio.timeout(30):
            await until(is_up)
        second = await web.get("/api/runs")
    await app.down()

    assert (first.status_code, first.headers["content-type"]) == (503, "application/problem+json")
    assert first.headers["retry-after"] == "1"
    assert live.status_code == 200
    assert second.status_code == 200


class Slow(MemoryStore):
    """A store whose migrations take until they are let go on, and which does not answer while it is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.migrated, self.alive, self.asked = asyncio.Event(), asyncio.Event(), 0
        self.alive.set()

    async def open(self) -> None:
        await self.migrated.wait()

    async def find(self, query: RunQuery) -> list[RunRecord]:
        self.asked += 1
        await self.alive.wait()
        return await super().find(query)


async def test_the_startup_probe_says_no_until_migrations_are_done_whoever_asks_meanwhile() -> None:
    store = Slow()
    app = create_app(DAGExecutor(store), serve=False)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as web:
        starting = asyncio.create_task(app.up())
        before = [(await web.get(f"/health/{path}")).status_code for path in ("startup", "ready", "live")]
        refused = await web.get("/api/runs")
        is_open_before = app.executor.is_open
        store.migrated.set()
        await starting
        after = [(await web.get(f"/health/{path}")).status_code for path in ("startup", "ready", "live")]
    await app.down()

    assert before == [503, 503, 200]
    assert not is_open_before
    assert refused.status_code == 503
    assert after == [200, 200, 200]


async def test_life_never_asks_the_store_and_readiness_asks_it_once_for_many() -> None:
    store = Slow()
    store.migrated.set()
    app = create_app(DAGExecutor(store), serve=False)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as web, lifespan(app):
        for _ in range(5):
            await web.get("/health/live")
        asked_by_live = store.asked
        await asyncio.gather(*(web.get("/health/ready") for _ in range(20)))

    assert asked_by_live == 0
    assert store.asked == 1


async def test_a_store_that_hangs_is_said_in_a_bounded_time() -> None:
    store = Slow()
    store.migrated.set()
    app = create_app(DAGExecutor(store), serve=False, store_timeout=0.05)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app") as web, lifespan(app):
        store.alive.clear()
        listed, ready = await web.get("/api/runs"), await web.get("/health/ready")

    assert (listed.status_code, listed.headers["content-type"]) == (503, "application/problem+json")
    assert (ready.status_code, ready.json()["checks"]["store"]["healthy"]) == (503, False)


@pytest.mark.parametrize("module", ["dagflow.health", "dagflow.web", "dagflow.web.server", "dagflow.cli"])
def test_each_module_is_imported_alone(module: str) -> None:
    optional = {"dagflow.health": "starlette", "dagflow.web": "uvicorn", "dagflow.cli": "starlette"}.get(
        module, "fastapi"
    )
    code = f"import sys, {module}; assert {optional!r} not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("module", "missing", "extra"), [("web", "starlette", "web"), ("web.server", "uvicorn", "web-server")]
)
def test_a_missing_extra_is_named(module: str, missing: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from dagflow.errors import MissingExtraError\n"
        f"try: import dagflow.{module}\n"
        f"except MissingExtraError as exc: assert exc.extra == {extra!r}\n"
        "else: raise SystemExit(1)\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class Faulty(MemoryStore):
    """A store with a bug that shows the first time that somebody looks for runs to serve."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0

    async def find(self, query: RunQuery) -> list[RunRecord]:
        self.looks += query.claimable
        if self.looks == 1:
            raise RuntimeError("a bug")
        return await super().find(query)


async def test_serving_begins_anew_after_an_error_that_nobody_foresaw(caplog: pytest.LogCaptureFixture) -> None:
    store = Faulty()
    workflow = Workflow("w", [Node("a", lambda: 1)])
    app = create_app(DAGExecutor(store, workflows=[workflow]), poll=0.01)
    async with lifespan(app), asyncio.timeout(30):
        run = await (await app.executor.submit(workflow)).result()

    assert run.status == "completed"
    assert "serving has stopped and begins anew" in caplog.text


async def test_an_app_that_is_up_is_not_started_again_and_one_that_never_was_ends_in_peace() -> None:
    app = create_app(DAGExecutor("memory://"))
    await app.down()
    async with lifespan(app):
        executor = app.executor
        await app.up()
        assert app.executor is executor
