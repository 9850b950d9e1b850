"""Live events over WebSockets: complete, resumable, and harmless to the run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from dagflow import DAGExecutor, Workflow
from dagflow.errors import StoreUnavailableError
from dagflow.stores import MemoryStore
from dagflow.web import bearer_token, create_app, lifespan
from dagflow.web._pace import Pace
from executors import Held, until
from sockets import Socket

if TYPE_CHECKING:
    import pytest

    from dagflow import Event
    from dagflow._events import RunRecord


def chain(length: int, held: Held) -> Workflow:
    workflow = Workflow("chain")
    workflow.node(name="first")(held.__call__)
    for number in range(length):
        before = f"n{number - 1}" if number else "first"
        workflow.node(name=f"n{number}", depends_on=before)(lambda: None)
    return workflow


async def test_a_hundred_clients_get_every_event_and_the_one_that_stalls_is_dropped() -> None:
    held = Held()
    workflow = chain(20, held)
    app = create_app(DAGExecutor("memory://", workflows=[workflow]), stall_timeout=0.2, poll=0.05)
    async with lifespan(app):
        executor = app.executor
        handle = await executor.start(workflow, run_id="a/b")
        sockets = [Socket(app, "/ws/runs/a/b") for _ in range(99)]
        stalled = Socket(app, "/ws/runs/a/b", reads=False)
        await until(lambda: all(socket.types[:1] == ["websocket.accept"] for socket in [*sockets, stalled]))
        held.gate.set()
        run = await handle.result()
        async with asyncio.timeout(30):
            await asyncio.gather(*(socket.task for socket in [*sockets, stalled]))

    assert all(socket.versions == list(range(1, run.version + 1)) for socket in sockets)
    assert {socket.code for socket in sockets} == {1000}
    assert stalled.versions == [1]
    assert stalled.code == 1013


async def test_a_client_goes_on_from_a_version_and_a_run_that_others_drive_is_followed() -> None:
    held = Held()
    workflow = chain(3, held)
    store = MemoryStore()
    app = create_app(DAGExecutor(store), serve=False, poll=0.02)
    async with lifespan(app), DAGExecutor(store) as other:
        handle = await other.start(workflow, run_id="r")
        socket = Socket(app, "/ws/runs/r?after=1")
        await until(lambda: bool(socket.versions))
        held.gate.set()
        run = await handle.result()
        await socket.task

    assert socket.versions == list(range(2, run.version + 1))
    assert socket.code == 1000


async def test_a_line_that_overflows_is_made_up_for_from_the_journal() -> None:
    held = Held()
    workflow = Workflow("wide")
    workflow.node(name="first")(held.__call__)
    for number in range(1_200):
        workflow.node(name=f"n{number}", depends_on="first")(lambda: None)
    app = create_app(DAGExecutor("memory://", workflows=[workflow]), poll=0.05)
    async with lifespan(app):
        executor = app.executor
        handle = await executor.start(workflow, run_id="r")
        socket = Socket(app, "/ws/runs/r")
        await until(lambda: len(socket.versions) > 0)
        held.gate.set()
        run = await handle.result()
        await socket.task

    assert socket.versions == list(range(1, run.version + 1))


async def test_a_websocket_is_refused_before_it_is_accepted() -> None:
    auth = bearer_token("secret")
    workflow = chain(1, Held())
    app = create_app(DAGExecutor("memory://"), auth=auth, allowed_origins=["https://ui.org"], allowed_hosts=["app"])
    good = {"Authorization": "Bearer secret"}
    async with lifespan(app):
        await app.executor.start(workflow, run_id="r")
        let_in = Socket(app, "/ws/runs/r", headers={**good, "Origin": "https://ui.org"})
        await until(lambda: bool(let_in.versions))
        refused = [
            Socket(app, "/ws/runs/r"),
            Socket(app, "/ws/runs/r", headers={"Authorization": "Bearer wrong"}),
            Socket(app, "//ws/runs/r"),
            Socket(app, "/health"),
            Socket(app, "/ws/runs/r", headers={**good, "Origin": "https://evil.org"}),
            Socket(app, "/ws/runs/none", headers=good),
            Socket(app, "/ws/runs/r?after=x", headers=good),
            Socket(create_app(app.executor, auth=auth, allowed_hosts=["other"]), "/ws/runs/r", headers=good),
        ]
        await asyncio.gather(*(socket.task for socket in refused))

    await let_in.task
    assert [socket.types for socket in refused] == [["websocket.close"]] * 8


async def test_a_client_that_says_too_much_is_dropped_and_one_that_leaves_is_forgotten() -> None:
    held = Held()
    workflow = chain(1, held)
    app = create_app(DAGExecutor("memory://", workflows=[workflow]), max_message=10)
    async with lifespan(app):
        handle = await app.executor.start(workflow, run_id="r")
        loud, leaving = Socket(app, "/ws/runs/r"), Socket(app, "/ws/runs/r")
        loud.incoming.put_nowait({"type": "websocket.receive", "text": "short"})
        loud.incoming.put_nowait({"type": "websocket.receive", "text": "x" * 11})
        leaving.incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await asyncio.gather(loud.task, leaving.task)
        watched = dict(app._context.live._watched)
        held.gate.set()
        run = await handle.result()

    assert loud.code == 1009
    assert watched == {}
    assert run.status == "completed"


async def test_a_client_of_server_sent_events_that_stalls_is_dropped_and_a_question_for_headers_is_answered() -> None:
    held = Held()
    workflow = chain(1, held)
    app = create_app(DAGExecutor("memory://", workflows=[workflow]), stall_timeout=0.05)
    sent: dict[str, list[str]] = {"GET": [], "HEAD": []}

    async def ask(method: str) -> None:
        async def send(message: Any) -> None:
            sent[method].append(message["type"])
            if method == "GET" and message["type"] == "http.response.body":
                await asyncio.Event().wait()

        path = "/api/runs/r/events"
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
        await app({**scope, "headers": [(b"host", b"app")], "asgi": {"spec_version": "2.4"}}, asyncio.Queue().get, send)

    async with lifespan(app), asyncio.timeout(30):
        await app.executor.start(workflow, run_id="r")
        await asyncio.gather(ask("GET"), ask("HEAD"))
        watched = dict(app._context.live._watched)
        held.gate.set()

    assert sent == {"GET": ["http.response.start", "http.response.body"]} | {"HEAD": sent["GET"]}
    assert watched == {}


async def test_turns_are_waited_for_while_runs_get_further_and_no_longer_when_they_have_ended() -> None:
    is_busy = True
    pace = Pace(lambda: is_busy)
    pace.moved(asyncio.get_running_loop().time())
    sent: list[int] = []

    async def send(number: int) -> None:
        async with pace.turn(16):
            sent.append(number)

    tasks = [asyncio.create_task(send(number)) for number in range(1_000)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    at_once = len(sent)
    is_busy = False
    pace.rest()
    async with asyncio.timeout(30):
        await asyncio.gather(*tasks)

    # A turn of 16 events costs most of a millisecond, and a quarter of a second of credit is good for 3 % of itself.
    assert 0 < at_once < 50
    assert sent == sorted(sent)


async def test_a_hundred_clients_read_the_journal_of_a_run_once() -> None:
    reads: list[int] = []

    class Counting(MemoryStore):
        async def read(self, run_id: str, *, after: int = 0) -> Any:
            reads.append(after)
            return await super().read(run_id, after=after)

    workflow = chain(1, Held())
    app = create_app(DAGExecutor(Counting(), workflows=[workflow]), serve=False, poll=60)
    async with lifespan(app):
        await app.executor.submit(workflow, run_id="r")
        sockets = [Socket(app, "/ws/runs/r") for _ in range(100)]
        await until(lambda: all(socket.versions == [1] for socket in sockets))

    await asyncio.gather(*(socket.task for socket in sockets))
    assert reads.count(0) == 1
    assert {socket.code for socket in sockets} == {1012}


class Watched(MemoryStore):
    """A store that counts how often journals are read, and may be out of reach."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.is_away = 0, False

    async def read(self, run_id: str, *, after: int = 0) -> tuple[RunRecord, list[Event]]:
        if self.is_away:
            raise StoreUnavailableError("the store is away")
        self.reads += 1
        return await super().read(run_id, after=after)


async def test_who_watches_is_sent_away_when_the_journal_cannot_be_read_and_may_come_again() -> None:
    workflow = Workflow("asked")
    workflow.wait_for_signal("go")
    store = Watched()
    app = create_app(DAGExecutor(store, workflows=[workflow]), serve=False, poll=0.01)
    async with lifespan(app):
        run = await app.executor.run(workflow, run_id="r")
        socket = Socket(app, "/ws/runs/r")
        await until(lambda: bool(socket.versions))
        store.is_away = True
        await socket.task
        store.is_away = False
        again = Socket(app, "/ws/runs/r")
        await until(lambda: bool(again.versions))
        await app.executor.cancel("r")
        await again.task

    assert socket.code == 1012
    assert again.versions[: run.version] == list(range(1, run.version + 1))
    assert again.code == 1000


async def test_what_was_pushed_is_not_looked_for_in_the_store_before_it_is_quiet() -> None:
    first, second = Held(), Held()
    workflow = chain(1, first)
    workflow.node(name="last", depends_on="n0")(second.__call__)
    store = Watched()
    app = create_app(DAGExecutor(store, workflows=[workflow]), serve=False, poll=0.1)
    async with lifespan(app):
        handle = await app.executor.start(workflow, run_id="r")
        socket = Socket(app, "/ws/runs/r")
        await until(lambda: bool(socket.versions))
        before, seen = store.reads, len(socket.versions)
        first.gate.set()
        await until(lambda: len(socket.versions) > seen)
        pushed = store.reads
        await until(lambda: store.reads > pushed)
        second.gate.set()
        run = await handle.result()
        await socket.task

    assert pushed - before <= 1
    assert socket.versions == list(range(1, run.version + 1))


async def test_a_run_that_nobody_watches_does_not_disturb_those_who_watch_another() -> None:
    held = Held()
    workflow, other = chain(1, held), Workflow("other")
    other.node(name="a")(lambda: None)
    app = create_app(DAGExecutor("memory://", workflows=[workflow, other]), poll=0.05)
    async with lifespan(app):
        handle = await app.executor.start(workflow, run_id="watched")
        sockets = [Socket(app, "/ws/runs/watched")]
        await until(lambda: bool(sockets[0].versions))
        await app.executor.run(other, run_id="unwatched")
        await app.executor.start(other, run_id="later")
        sockets.append(Socket(app, "/ws/runs/later"))
        await sockets[1].task
        held.gate.set()
        run = await handle.result()
        await sockets[0].task

    assert sockets[0].versions == list(range(1, run.version + 1))


async def test_server_sent_events_of_a_run_that_rests_say_that_the_server_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dagflow.web._streams._BEAT_S", 0.01)
    workflow = Workflow("asked")
    workflow.wait_for_signal("go")
    app = create_app(DAGExecutor("memory://", workflows=[workflow]), poll=0.02)
    sent: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(message: Any) -> None:
        sent.put_nowait(message.get("body", b""))

    async def says(text: bytes) -> None:
        while text not in await sent.get():
            continue

    async with lifespan(app), asyncio.timeout(30):
        await app.executor.run(workflow, run_id="r")
        path = "/api/runs/r/events"
        scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
        question: asyncio.Queue[Any] = asyncio.Queue()
        question.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        answer = asyncio.ensure_future(app({**scope, "headers": [(b"host", b"app")]}, question.get, take))
        await says(b": still here")
        await app.executor.signal("r", "go")
        await says(b"event: run_completed")
        await answer
