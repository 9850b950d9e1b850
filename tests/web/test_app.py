"""The web app: its routes, who may come in, and what it says when something is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.testclient import TestClient

from dagflow import DAGExecutor, Payload, Workflow
from dagflow.health import HealthRegistry
from dagflow.metrics import MetricsCollector
from dagflow.web import bearer_token, create_app, lifespan
from dagflow.web._documents import value_document
from dagflow.web._guard import sent_path
from executors import until
from sockets import Socket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dagflow.web import WebApp

PROBES = ["/health", "/health/live", "/health/ready", "/health/startup"]


def greeting() -> Workflow:
    workflow = Workflow("greeting")

    @workflow.node
    def greet(name: str) -> str:
        return f"Hello {name}"

    return workflow


def approval() -> Workflow:
    workflow = Workflow("approval")
    workflow.wait_for_signal("go")
    workflow.review("check", depends_on="go")
    return workflow


def dag(**options: Any) -> DAGExecutor:
    return DAGExecutor("memory://", workflows=[greeting(), approval()], **options)


@contextlib.asynccontextmanager
async def client(app: Any, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://app", **options) as one:
        yield one


@contextlib.asynccontextmanager
async def served(**options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(options.pop("executor", None) or dag(), poll=0.02, **options)
    async with lifespan(app), client(app) as one:
        yield one


async def status_of(web: httpx2.AsyncClient, run_id: str, wanted: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            run: dict[str, Any] = (await web.get(f"/api/runs/{run_id}")).json()
            if run["status"] == wanted:
                return run
            await asyncio.sleep(0.01)


async def test_a_run_that_is_posted_goes_on_by_itself_and_is_shown() -> None:
    async with served() as web:
        begun = await web.post("/api/workflows/greeting/runs", json={"inputs": {"name": "Ada"}, "run_id": "a/b:1"})
        again = await web.post("/api/workflows/greeting/runs", json={"inputs": {"name": "Ada"}, "run_id": "a/b:1"})
        other = await web.post("/api/workflows/greeting/runs", json={"inputs": {"name": "Bo"}, "run_id": "a/b:1"})
        plain = await status_of(web, "a/b:1", "completed")
        encoded = (await web.get("/api/runs/a%2Fb%3A1")).json()

    assert [begun.status_code, again.status_code, other.status_code] == [201, 200, 409]
    assert plain == encoded
    assert plain["outputs"] == {"greet": "Hello Ada"}
    assert plain["inputs"] == {"name": "Ada"}


async def test_what_cannot_be_started_is_a_problem_with_a_reason() -> None:
    path = "/api/workflows/greeting/runs"
    async with served(max_body=200) as web:
        answers = [
            await web.post("/api/workflows/nobody/runs", json={}),
            await web.post(path, content=b"{"),
            await web.post(path, content=b"[" * 150),
            await web.post(path, content=b'{"inputs": {"name": NaN}}'),
            await web.post(path, content=b'{"inputs": {"name": 1e400}}'),
            await web.post(path, json=[1]),
            await web.post(path, json={"inputs": {"nme": 1}}),
            await web.post(path, json={"inputs": {"name": 1}, "run_id": "a b"}),
            await web.post(path, json={"inputs": {"name": 1}, "runid": "a"}),
            await web.post(path, content=b" " * 201),
            *[await web.post(f"/api/runs/r/{verb}", content=b" " * 201) for verb in ("resume", "cancel", "pause")],
            await web.post("/api/runs/r/signals/go", json={"valeu": 1}),
            await web.post("/api/runs/r/reviews/go", json={"aproved": True}),
        ]

    assert [a.status_code for a in answers] == [
        404,
        400,
        400,
        400,
        400,
        422,
        422,
        422,
        422,
        413,
        413,
        413,
        413,
        422,
        422,
    ]
    assert {a.headers["content-type"] for a in answers} == {"application/problem+json"}
    assert all(set(a.json()) == {"type", "title", "status", "detail"} for a in answers)


async def test_signals_and_decisions_move_a_run_that_is_served() -> None:
    async with served() as web:
        await web.post("/api/workflows/approval/runs", json={"run_id": "r"})
        await status_of(web, "r", "waiting")
        unknown = await web.post("/api/runs/r/signals/nobody", json={})
        sent = await web.post("/api/runs/r/signals/go", json={"value": {"$tuple": [1]}})

        async def is_asked() -> bool:
            node = (await web.get("/api/runs/r")).json()["nodes"]["check"]
            return bool(node["status"] == "waiting")

        await until(is_asked)
        decided = await web.post("/api/runs/r/reviews/check", json={"approved": True, "by": "ada"})
        twice = await web.post("/api/runs/r/reviews/check", json={"approved": True, "by": "bo"})
        run = await status_of(web, "r", "completed")

    assert [unknown.status_code, sent.status_code, decided.status_code, twice.status_code] == [409, 202, 200, 409]
    assert run["outputs"]["check"]["by"] == "ada"
    # A value that looks like a tag is kept as the dictionary that it is, and shown as it is kept.
    assert run["outputs"]["go"] == {"$dict": [["$tuple", [1]]]}


async def test_runs_are_paused_resumed_and_cancelled() -> None:
    async with served(serve=False) as web:
        await web.post("/api/workflows/approval/runs", json={"run_id": "r"})
        paused = await web.post("/api/runs/r/pause")
        resumed = await web.post("/api/runs/r/resume")
        await status_of(web, "r", "waiting")
        cancelled = await web.post("/api/runs/r/cancel")
        missing = [await web.post(f"/api/runs/none/{verb}") for verb in ("pause", "resume", "cancel")]

    assert (paused.status_code, paused.json()["status"]) == (202, "paused")
    assert resumed.status_code == 202
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    assert [answer.status_code for answer in missing] == [404, 404, 404]


async def test_runs_are_listed_in_pages_by_workflow_and_status() -> None:
    async with served(serve=False, max_page=2) as web:
        for number in range(3):
            await web.post("/api/workflows/approval/runs", json={"run_id": f"r{number}"})
        first = (await web.get("/api/runs?limit=2&workflow=approval&status=pending")).json()
        second = (await web.get(f"/api/runs?limit=2&after={first['next']}")).json()
        whole = (await web.get("/api/runs")).json()
        bad = [await web.get(f"/api/runs?{q}") for q in ("limit=3", "limit=0", "limit=x", "status=odd")]

    assert {run["run_id"] for run in first["runs"] + second["runs"]} == {"r0", "r1", "r2"}
    assert second["next"] is None
    assert len(whole["runs"]) == 2
    assert [answer.status_code for answer in bad] == [400] * 4


async def test_large_values_are_told_by_their_size_and_pages_are_bounded() -> None:
    workflow = Workflow("large")
    for number in range(12):
        workflow.node(name=f"n{number}")(lambda: "x" * 1_000_000)
    workflow.node(name="huge")(lambda: "x" * 2_000_000)
    async with served(executor=DAGExecutor("memory://", workflows=[workflow])) as web:
        await web.post("/api/workflows/large/runs", json={"run_id": "r"})
        run = await status_of(web, "r", "completed")
        first = (await web.get("/api/runs/r/history")).json()
        rest = (await web.get(f"/api/runs/r/history?after={first['next']}")).json()

    assert run["outputs"]["huge"] == {"omitted_bytes": 2_000_002, "codec": "json"}
    assert len(json.dumps(run)) < 9_000_000
    assert len(json.dumps(first)) < 9_000_000
    assert [event["version"] for event in first["events"] + rest["events"]] == list(range(1, run["version"] + 1))


async def test_a_workflow_is_shown_with_its_graph() -> None:
    async with served() as web:
        names = [each["name"] for each in (await web.get("/api/workflows")).json()["workflows"]]
        shown = (await web.get("/api/workflows/approval")).json()

    assert names == ["approval", "greeting"]
    assert shown["edges"] == [{"from": "go", "to": "check"}]
    assert [node["name"] for node in shown["nodes"]] == ["go", "check"]
    assert shown["mermaid"].startswith("flowchart")


async def test_server_sent_events_end_with_the_run_and_go_on_from_a_version() -> None:
    async with served() as web:
        await web.post("/api/workflows/greeting/runs", json={"inputs": {"name": "Ada"}, "run_id": "r"})
        whole = (await web.get("/api/runs/r/events")).text
        rest = (await web.get("/api/runs/r/events", headers={"Last-Event-ID": "2"})).text
        same = (await web.get("/api/runs/r/events?after=2")).text
        history = (await web.get("/api/runs/r/history")).json()["events"]

    ids = [int(line[4:]) for line in whole.splitlines() if line.startswith("id: ")]
    assert ids == [event["version"] for event in history]
    assert rest == same
    assert "id: 3\n" in rest
    assert "id: 2\n" not in rest


# -- who may come in ------------------------------------------------------------------------------


def routes(app: WebApp) -> list[tuple[str, str]]:
    found = []
    for route in app.routes:
        path = getattr(route, "path", "").replace("{run_id:path}", "a/b").replace("{name}", "greeting")
        found += [(method, path) for method in getattr(route, "methods", None) or () if method != "HEAD"]
    return found


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]


def spellings(path: str) -> list[str]:
    """Return other ways to write a path, none of which means a probe."""
    return [f"/x{path}", f"/{path}", f"{path}/", path.replace("/", "//"), f"/health/..{path}", f"/%2F{path[1:]}"]


async def test_every_path_and_method_in_every_spelling_is_closed_without_credentials_and_no_error_with() -> None:
    app = create_app(dag(), auth=bearer_token("secret"), serve=False)
    outer = Starlette()
    outer.mount("/dag", app)
    seen: dict[str, set[int]] = {"none": set(), "wrong": set(), "right": set(), "probes": set()}
    async with lifespan(app), client(outer) as web:
        for path in {path for _, path in routes(app)}:
            for odd in [path, *spellings(path)]:
                for method in METHODS:
                    for name, given in (("none", {}), ("wrong", {"Authorization": "Bearer no"})):
                        answer = await web.request(method, f"/dag{odd}", headers=given)
                        # As it was sent: a client takes `..` out of a path by itself.
                        sent = answer.request.url.raw_path.decode().removeprefix("/dag")
                        is_open = sent in PROBES and method in ("GET", "HEAD", "OPTIONS")
                        seen["probes" if is_open else name].add(answer.status_code)
                    given = {"Authorization": "Bearer secret"}
                    answer = await web.request(method, f"/dag{odd}", headers=given)
                    seen["right"].add(answer.status_code)

    assert seen["none"] == seen["wrong"] == {401}
    assert seen["probes"] == {200, 405}
    # Nothing is known of these runs, and no input or decision was sent.
    assert seen["right"] == {200, 404, 405, 422}


async def test_every_websocket_in_every_spelling_is_closed_without_credentials() -> None:
    app = create_app(dag(), auth=bearer_token("secret"), serve=False)
    outer = Starlette()
    outer.mount("/dag", app)
    paths = {path for _, path in routes(app)} | {"/ws/runs/a/b", "/ws/runs/a%2Fb", "/ws/runs/", "/ws"}
    async with lifespan(app):
        await app.executor.submit(approval(), run_id="a/b")
        for odd in {odd for path in paths for odd in [path, *spellings(path)]}:
            for given in ({}, {"Authorization": "Bearer no"}, {"Authorization": "secret"}):
                socket = Socket(outer, f"/dag{odd}", headers=given)
                await socket.task
                assert socket.types == ["websocket.close"], odd


async def test_every_route_but_the_probes_is_closed_without_credentials_whatever_its_path_looks_like() -> None:
    app = create_app(dag(), auth=bearer_token("secret"), serve=False)
    outer = Starlette()
    outer.mount("/dag", app)
    async with lifespan(app), client(app) as web, client(outer) as mounted:
        for method, path in routes(app):
            if path in PROBES:
                assert (await web.request(method, path)).status_code == 200
                assert (await mounted.request(method, f"/dag{path}")).status_code == 200
                continue
            for odd in (path, f"/x{path}", f"/{path}", f"{path}/", path.replace("/", "%2F"), f"/health/..{path}"):
                assert (await web.request(method, odd if odd.startswith("/") else f"/{odd}")).status_code == 401
                assert (await mounted.request(method, f"/dag{path}")).status_code == 401
        for odd in (
            "/x/health",
            "//health",
            "/health/",
            "/health%2Fready",
            "/%68ealth",
            "/health//ready",
            "/api/health",
        ):
            assert (await web.get(odd)).status_code == 401, odd
            assert (await web.get(odd, headers={"Authorization": "Bearer wrong"})).status_code == 401, odd
        assert (await mounted.get("/dag//health")).status_code == 401
        assert (await mounted.get("/dag/health%2Fready")).status_code == 401


async def test_every_route_is_open_with_credentials() -> None:
    app = create_app(dag(), auth=bearer_token("secret"), serve=False)
    async with lifespan(app), client(app, headers={"Authorization": "Bearer secret"}) as web:
        for method, path in routes(app):
            assert (await web.request(method, path)).status_code not in (401, 403, 405, 500), (method, path)
            assert (await web.request("PUT", path)).status_code == 405
        assert (await web.get("//health")).status_code == 404


async def test_auth_may_be_async_and_an_error_of_it_lets_nobody_in() -> None:
    async def picky(connection: Any) -> Any:
        if "boom" in connection.headers:
            raise LookupError("no")
        return connection.headers.get("who")

    async with served(auth=picky) as web:
        assert (await web.get("/api/runs", headers={"who": "ada"})).status_code == 200
        assert (await web.get("/api/runs")).status_code == 401
        assert (await web.get("/api/runs", headers={"boom": "1"})).status_code == 500


async def test_an_auth_that_answers_no_refuses_and_what_it_returns_is_the_principal() -> None:
    async with served(auth=lambda connection: connection.headers.get("who", False)) as web:
        assert (await web.get("/api/runs")).status_code == 401
        assert (await web.get("/api/runs", headers={"who": ""})).status_code == 401
        await web.post("/api/workflows/approval/runs", json={"run_id": "r"}, headers={"who": "ada"})
        await web.post("/api/runs/r/signals/go", json={}, headers={"who": "ada"})
        web.headers["who"] = "ada"
        await status_of(web, "r", "waiting")

        async def is_decided() -> bool:
            return (await web.post("/api/runs/r/reviews/check", json={"approved": True})).status_code == 200

        await until(is_decided)
        run = await status_of(web, "r", "completed")

    assert run["outputs"]["check"]["by"] == "ada"


async def test_foreign_hosts_and_origins_are_refused() -> None:
    async with served(allowed_hosts=["app", "*.ours.org", "other:81"], allowed_origins=["https://ui.org"]) as web:
        hosts = [
            (await web.get("/api/runs", headers={"Host": host})).status_code
            for host in ("app:80", "a.ours.org", "other:81", "ours.org", "evil.org", "other:82")
        ]
        origins = [
            (await web.post("/api/runs/r/cancel", headers={"Origin": origin})).status_code
            for origin in ("https://ui.org", "http://app", "https://evil.org", "null", "http://[bad")
        ]

    assert hosts == [200, 200, 200, 400, 400, 400]
    assert origins == [404, 404, 403, 403, 403]


# -- health, metrics, start -----------------------------------------------------------------------


async def test_the_metrics_are_those_of_the_executors_collector_and_name_routes_not_paths() -> None:
    collector = MetricsCollector(CollectorRegistry())
    async with served(executor=dag(observers=[collector])) as web:
        await web.get("/api/runs/some/id")
        await web.get("/nowhere/id")
        await web.get("/health")
        text = (await web.get("/metrics")).text
    async with served() as web:
        missing = await web.get("/metrics")

    assert 'endpoint="/api/runs/{run_id}",method="GET",status_code="404"' in text
    assert "some/id" not in text
    assert "nowhere" not in text
    assert 'dag_health_check_status{check_type="store"} 1.0' in text
    assert missing.status_code == 404


async def test_a_mounted_app_whose_lifespan_does_not_run_starts_at_its_first_request() -> None:
    app = create_app(dag())
    outer = Starlette()
    outer.mount("/dag", app)
    async with client(outer) as web:
        before = await web.get("/dag/health/startup")
        first = await web.get("/dag/api/runs")
        after = await web.get("/dag/health/startup")
    await app.down()

    assert before.status_code == 200
    assert first.status_code == 200
    assert after.status_code == 200


def test_an_app_may_be_started_again_and_without_a_lifespan_on_one_loop_after_another() -> None:
    app = create_app(dag())
    order = {"inputs": {"name": "Ada"}, "run_id": "r"}
    for wanted in (201, 200):
        with TestClient(app, base_url="http://app") as web:
            assert web.post("/api/workflows/greeting/runs", json=order).status_code == wanted
    web = TestClient(app, base_url="http://app")

    answers = [web.get("/api/runs/r"), web.get("/health/ready"), web.get("/api/runs/r")]

    assert [answer.status_code for answer in answers] == [200, 200, 200]


async def test_an_executor_of_another_loop_is_refused_with_a_reason() -> None:
    with dag() as blocking, pytest.raises(TypeError, match="no DAGExecutor"):
        create_app(blocking)  # type: ignore[arg-type]
    executor = dag()
    await asyncio.to_thread(lambda: asyncio.run(executor.__aenter__()))

    async with client(create_app(executor)) as web:
        answer = await web.get("/api/runs")

    assert answer.status_code == 503
    assert "another event loop" in answer.json()["detail"]


async def test_texts_that_are_no_unicode_and_passwords_in_errors_are_shown_as_they_may_be() -> None:
    workflow = Workflow("odd")

    @workflow.node
    def fail(text: str) -> None:
        raise ValueError("postgresql://ada:hunter2@host/db password=hunter2")

    async with served(executor=DAGExecutor("memory://", workflows=[workflow])) as web:
        order = b'{"inputs": {"text": "\\ud800"}, "run_id": "r"}'
        begun = await web.post("/api/workflows/odd/runs", content=order)
        run = await status_of(web, "r", "failed")
        history, events = await web.get("/api/runs/r/history"), await web.get("/api/runs/r/events")

    assert begun.json()["inputs"] == {"text": "\ud800"}
    assert "ValueError" in run["nodes"]["fail"]["error"]["traceback"]
    assert "hunter2" not in json.dumps(run) + history.text + events.text


async def test_an_open_executor_stays_open_when_the_app_ends() -> None:
    async with dag() as executor:
        async with served(executor=executor) as web:
            assert (await web.get("/health/startup")).status_code == 200
        assert executor.is_open


async def test_the_version_is_in_health_and_in_the_description() -> None:
    import dagflow  # noqa: PLC0415

    async with served() as web:
        assert (await web.get("/health")).json()["version"] == dagflow.__version__
        assert (await web.get("/openapi.json")).json()["info"]["version"] == dagflow.__version__


async def test_a_critical_check_of_the_application_fails_the_readiness_and_not_the_life() -> None:
    registry = HealthRegistry(cache=0)
    registry.add("licence", lambda: False)
    async with served(health=registry) as web:
        codes = [(await web.get(path)).status_code for path in PROBES]
        detail = (await web.get("/health/ready")).json()

    assert codes == [503, 200, 503, 200]
    assert detail["checks"]["licence"]["healthy"] is False
    assert detail["checks"]["store"]["healthy"] is True


async def test_a_store_that_cannot_be_reached_is_said_without_its_password() -> None:
    executor = DAGExecutor("postgresql://ada:hunter2@127.0.0.1:1/none?connect_timeout=1")
    sent: list[Any] = []

    async def receive() -> dict[str, str]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(Exception, match=r"127\.0\.0\.1"):
        await create_app(executor)({"type": "lifespan"}, receive, send)

    assert sent[0]["type"] == "lifespan.startup.failed"
    assert "hunter2" not in json.dumps(sent)


# -- what runs, requests and collectors may be like -----------------------------------------------


async def test_the_outputs_of_the_items_of_a_map_are_shown_with_the_errors_of_those_that_failed() -> None:
    workflow = Workflow("halves")

    @workflow.map(over={"number": "numbers"}, on_error="collect")
    def half(number: int) -> int:
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number // 2

    async with served(executor=DAGExecutor("memory://", workflows=[workflow])) as web:
        await web.post("/api/workflows/halves/runs", json={"inputs": {"numbers": [4, 3]}, "run_id": "r"})
        run = await status_of(web, "r", "completed")

    two, odd = run["outputs"]["half"]
    assert two == 2
    assert (odd["error"]["type"], odd["error"]["message"]) == ("ValueError", "3 is odd")


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (None, None),
        (Payload("json", b"[1]", b""), [1]),
        (Payload("pickle", b"\x80k", b""), {"codec": "pickle", "text": "\ufffdk"}),
        (Payload("json", b"[1", b""), {"codec": "json", "text": "[1"}),
    ],
)
def test_a_value_that_is_no_json_is_shown_as_text(payload: Payload | None, shown: object) -> None:
    assert value_document(payload) == shown


@pytest.mark.parametrize("tokens", [(), ("",), ("good", " "), (7,)])
def test_a_token_that_is_none_is_refused(tokens: Any) -> None:
    with pytest.raises(ValueError, match="a token is a text that is not empty"):
        bearer_token(*tokens)


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ({"path": "/api/a b"}, "/api/a%20b"),
        ({"path": "/api/a%2Fb", "raw_path": b"/api/a%2Fb?x=1"}, "/api/a%2Fb"),
        ({"path": "/my app/api", "root_path": "/my app", "raw_path": b"/my%20app/api"}, "/api"),
        ({"path": "/dag/api", "root_path": "/dag", "raw_path": b"/d%61g/api"}, "///d%61g/api"),
        ({"path": "/dag", "root_path": "/dag", "raw_path": b"/dag"}, "/"),
    ],
)
def test_a_path_is_what_was_sent_within_the_app(scope: dict[str, Any], path: str) -> None:
    assert sent_path(scope) == path


async def test_a_host_may_be_an_address_of_either_kind() -> None:
    async with served(allowed_hosts=["[::1]", "127.0.0.1"]) as web:
        hosts = ["[::1]:8000", "127.0.0.1:8000", "[::2]:8000"]
        answers = [await web.get("/api/runs", headers={"Host": host}) for host in hosts]

    assert [answer.status_code for answer in answers] == [200, 200, 400]


async def test_a_body_that_does_not_say_its_length_is_refused_when_it_is_too_large() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b" " * 10

    async with served(max_body=200) as web:
        answer = await web.post("/api/workflows/greeting/runs", content=chunks())

    assert answer.status_code == 413


@pytest.mark.parametrize("options", [{"max_body": 0}, {"max_page": 0}, {"stall_timeout": 0}, {"poll": -1}])
def test_limits_that_let_nothing_through_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="are at least 1, stall_timeout, store_timeout and poll above 0"):
        create_app(dag(), **options)


async def test_a_collector_that_raises_fails_no_request(caplog: pytest.LogCaptureFixture) -> None:
    class Collector:
        registry = CollectorRegistry()

        def record_api_request(self, *_facts: object) -> None:
            raise RuntimeError("full")

    async with served(metrics=Collector()) as web:
        answers = [await web.get("/api/runs"), await web.get("/metrics")]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert "a collector raised, the request goes on" in caplog.text


async def test_a_priority_beyond_all_bounds_is_refused() -> None:
    async with served() as web:
        order = {"inputs": {"name": "Ada"}, "priority": 2**40}
        answer = await web.post("/api/workflows/greeting/runs", json=order)

    assert answer.status_code == 422
