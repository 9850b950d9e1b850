"""Artifacts in runs: written and read by nodes, moved outputs, and what is left of them."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlparse

import attrs
import fsspec
import pytest
from prometheus_client import CollectorRegistry

from artifacts import writers
from dagflow import ArtifactRef, DAGExecutor, EventKind, JsonCodec, NodeContext, RetryPolicy, Workflow
from dagflow.artifacts import LocalArtifactStore, open_artifact_store
from dagflow.errors import (
    ArtifactDamagedError,
    ArtifactError,
    ArtifactNotFoundError,
    ExecutorError,
    RunFailedError,
    RunNotFoundError,
    SerializationError,
)
from dagflow.metrics import MetricsCollector
from dagflow.runners import ProcessRunner
from dagflow.stores import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator


TEXT = b"# Report\n"


@pytest.fixture(params=["folder", "fsspec"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where artifacts are kept."""
    if request.param == "folder":
        yield str(tmp_path / "artifacts")
        return
    yield "memory://artifacts"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def store() -> MemoryStore:
    """The journal, which outlives its executors."""
    return MemoryStore()


def files(folder: Path) -> list[Path]:
    """Return all files under a folder that are no empty marks."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def file_of(ref: ArtifactRef) -> Path:
    return Path(unquote(urlparse(ref.uri).path))


def damage(path: Path) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def report_workflow() -> Workflow:
    """Write a report in a thread and read it on the loop."""
    workflow = Workflow("reports")

    @workflow.node
    def report(context: NodeContext) -> dict[str, Any]:
        ref = context.artifacts.write("report.md", TEXT, type="text/markdown", metadata={"pages": 1})
        return {"file": ref, "title": "Report"}

    @workflow.node
    async def readback(context: NodeContext, report: dict[str, Any]) -> list[str]:
        with context.artifacts.open(report["file"]) as stream:
            return [context.artifacts.read(report["file"]).decode(), stream.read().decode()]

    return workflow


def writer_workflow(data: bytes = TEXT) -> Workflow:
    workflow = Workflow("writer")

    @workflow.node
    def report(context: NodeContext) -> ArtifactRef:
        return context.artifacts.write("report.md", data)

    return workflow


def reader_workflow() -> Workflow:
    workflow = Workflow("reader")

    @workflow.node
    def read(context: NodeContext, file: ArtifactRef) -> str:
        return context.artifacts.read(file).decode()

    return workflow


# -- writing and reading --------------------------------------------------------------------------


async def test_a_node_writes_an_artifact_and_the_next_one_reads_it(place: str, store: MemoryStore) -> None:
    async with DAGExecutor(store, artifacts=place) as executor:
        run = await executor.run(report_workflow(), run_id="r")
        listed = await executor.artifacts("r")

    ref = run.outputs["report"]["file"]
    assert run.outputs["readback"] == [TEXT.decode()] * 2
    assert (ref.name, ref.size, ref.sha256) == ("report.md", len(TEXT), sha256(TEXT).hexdigest())
    assert (ref.type, ref.metadata, ref.run_id, ref.node) == ("text/markdown", {"pages": 1}, "r", "report")
    assert listed == [ref]


async def test_a_file_and_a_text_are_kept_as_they_are_and_the_type_is_guessed(place: str, tmp_path: Path) -> None:
    workflow = Workflow("w")
    picture = tmp_path / "picture.png"
    picture.write_bytes(bytes(range(256)) * 10_000)

    @workflow.node
    def write(context: NodeContext) -> list[ArtifactRef]:
        artifacts = context.artifacts
        return [artifacts.write("plot.png", picture), artifacts.write("räte.txt", "Räte"), artifacts.write("x", b"")]

    @workflow.node
    def read(context: NodeContext, write: list[ArtifactRef]) -> list[bytes]:
        return [context.artifacts.read(ref) for ref in write]

    async with DAGExecutor("memory://", artifacts=place) as executor:
        run = await executor.run(workflow)

    assert run.outputs["read"] == [picture.read_bytes(), "Räte".encode(), b""]
    assert [ref.type for ref in run.outputs["write"]] == ["image/png", "text/plain", "application/octet-stream"]


async def test_equal_bytes_are_kept_once_under_their_checksum(tmp_path: Path) -> None:
    async with DAGExecutor("memory://", artifacts=tmp_path) as executor:
        refs = [(await executor.run(writer_workflow())).outputs["report"] for _ in range(3)]

    assert {ref.uri for ref in refs} == {file.as_uri() for file in files(tmp_path / "objects")}
    assert [file.name for file in files(tmp_path / "objects")] == [sha256(TEXT).hexdigest()]


async def test_a_reference_goes_through_maps_and_sub_workflows(place: str) -> None:
    child, workflow = Workflow("child"), Workflow("parent")

    @child.node
    def inner(context: NodeContext, number: int) -> ArtifactRef:
        return context.artifacts.write(f"{number}.txt", str(number))

    @workflow.map(over={"number": "numbers"})
    def written(context: NodeContext, number: int) -> ArtifactRef:
        return context.artifacts.write(f"{number}.txt", str(number))

    workflow.subworkflow("sub", child, bind={"number": "numbers"})

    @workflow.node
    def together(context: NodeContext, written: list[ArtifactRef], sub: Any) -> list[str]:
        return [context.artifacts.read(ref).decode() for ref in [*written, sub["inner"]]]

    async with DAGExecutor("memory://", artifacts=place) as executor:
        run = await executor.run(workflow, {"numbers": [1, 2, 3]}, run_id="r")
        listed = await executor.artifacts("r")

    assert run.outputs["together"] == ["1", "2", "3", "[1, 2, 3]"]
    assert [(ref.node, ref.name) for ref in listed] == [(f"written[{i}]", f"{i + 1}.txt") for i in range(3)]


@pytest.mark.parametrize(
    ("name", "data", "metadata", "refusal"),
    [
        ("", b"", None, (ArtifactError, "no name of an artifact")),
        ("a\nb", b"", None, (ArtifactError, "printable")),
        ("a", 1, None, (TypeError, "bytes, a text, or the Path")),
        ("a", b"", {"a": {1}}, (ArtifactError, "no plain JSON")),
        ("a", b"", {1: 1}, (ArtifactError, "no plain JSON")),
        ("a", Path("/nowhere/at/all"), None, (FileNotFoundError, "/nowhere/at/all")),
    ],
)
async def test_what_cannot_be_kept_is_refused(
    tmp_path: Path, name: str, data: Any, metadata: Any, refusal: tuple[type[Exception], str]
) -> None:
    error, text = refusal
    workflow = Workflow("w")

    @workflow.node
    def write(context: NodeContext) -> ArtifactRef:
        return context.artifacts.write(name, data, metadata=metadata)

    async with DAGExecutor("memory://", artifacts=tmp_path) as executor:
        with pytest.raises(RunFailedError, match=text) as failure:
            await executor.run(workflow)

    assert type(failure.value.__cause__) is error
    assert not files(tmp_path)


async def test_an_executor_without_an_artifact_store_says_so() -> None:
    async with DAGExecutor("memory://") as executor:
        with pytest.raises(RunFailedError, match=r"DAGExecutor.*artifacts='artifacts/'"):
            await executor.run(writer_workflow(), run_id="r")
        with pytest.raises(ExecutorError, match="has no artifact store"):
            await executor.artifacts("r")


def test_the_blocking_face_lists_artifacts(tmp_path: Path) -> None:
    with DAGExecutor("memory://", artifacts=tmp_path) as executor:
        run = executor.run(writer_workflow(), run_id="r")
        assert executor.artifacts("r") == [run.outputs["report"]]
        with pytest.raises(RunNotFoundError):
            executor.artifacts("nobody")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"artifacts": ""}, ValueError, "artifacts= is empty"),
        ({"artifacts": "nonsense://x"}, ValueError, "nonsense"),
        ({"artifacts": "file://x/y"}, ValueError, "one slash too few"),
        ({"artifacts": 7}, TypeError, "a path, a URL or an ArtifactStore"),
        ({"spill_bytes": 10}, ValueError, "needs a place"),
        ({"artifacts": "a", "spill_bytes": -1}, ValueError, "at least 0"),
        ({"artifacts": "a", "spill_bytes": True}, ValueError, "at least 0"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        DAGExecutor("memory://", **options)


# -- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["bit", "shorter", "gone"])
async def test_damage_is_an_error_that_names_run_node_and_artifact(tmp_path: Path, how: str) -> None:
    async with DAGExecutor("memory://", artifacts=tmp_path) as executor:
        ref = (await executor.run(writer_workflow(), run_id="r")).outputs["report"]
        path = file_of(ref)
        if how == "bit":
            damage(path)
        elif how == "shorter":
            path.write_bytes(TEXT[:-1])
        else:
            path.unlink()
        with pytest.raises(RunFailedError) as failure:
            await executor.run(reader_workflow(), {"file": ref})

    error = failure.value.__cause__
    assert type(error) is (ArtifactNotFoundError if how == "gone" else ArtifactDamagedError)
    assert (error.run_id, error.node, error.name) == ("r", "report", "report.md")
    assert "run 'r', node 'report': its artifact 'report.md' is" in str(error)


async def test_damage_is_found_before_a_stream_gives_a_byte(tmp_path: Path) -> None:
    workflow = Workflow("w")

    @workflow.node
    def check(context: NodeContext) -> None:
        ref = context.artifacts.write("a", TEXT)
        damage(file_of(ref))
        with pytest.raises(ArtifactDamagedError, match="SHA-256"):
            context.artifacts.open(ref)

    async with DAGExecutor("memory://", artifacts=tmp_path) as executor:
        await executor.run(workflow)


async def test_writing_again_repairs_what_was_damaged(tmp_path: Path) -> None:
    async with DAGExecutor("memory://", artifacts=tmp_path) as executor:
        ref = (await executor.run(writer_workflow())).outputs["report"]
        damage(file_of(ref))
        again = (await executor.run(writer_workflow())).outputs["report"]

    assert again.uri == ref.uri
    assert file_of(ref).read_bytes() == TEXT


# -- attempts that failed -------------------------------------------------------------------------


async def test_what_a_failed_attempt_has_written_is_not_listed(place: str) -> None:
    workflow = Workflow("w")

    @workflow.node(retry=RetryPolicy(max_attempts=2, delay=0.0))
    def flaky(context: NodeContext) -> ArtifactRef:
        ref = context.artifacts.write("result", f"attempt {context.attempt}")
        if context.attempt == 1:
            raise OSError("not yet")
        return ref

    async with DAGExecutor("memory://", artifacts=place) as executor:
        run = await executor.run(workflow, run_id="r")
        assert await executor.artifacts("r") == [run.outputs["flaky"]]


async def test_what_a_failed_run_has_written_is_not_listed_when_it_completes_later(
    place: str, store: MemoryStore
) -> None:
    workflow = Workflow("w")
    texts = iter(["before", "after"])

    @workflow.node
    def flaky(context: NodeContext) -> ArtifactRef:
        text = next(texts)
        ref = context.artifacts.write("result", text)
        if text == "before":
            raise OSError("not yet")
        return ref

    async with DAGExecutor(store, artifacts=place) as executor:
        with pytest.raises(RunFailedError):
            await executor.run(workflow, run_id="r")
        assert await executor.artifacts("r") == []
        run = await executor.resume("r")
        assert await executor.artifacts("r") == [run.outputs["flaky"]]


async def test_a_write_that_fails_fails_the_attempt_and_leaves_nothing(tmp_path: Path) -> None:
    workflow, source = Workflow("w"), tmp_path / "source"
    source.write_bytes(TEXT)

    class Full(LocalArtifactStore):
        def put(self, key: str, source: Any) -> None:
            if key.startswith("objects/"):
                source = writers.Failing(source)
            super().put(key, source)

    @workflow.node
    def write(context: NodeContext) -> ArtifactRef:
        return context.artifacts.write("a", source)

    folder = tmp_path / "artifacts"
    async with DAGExecutor("memory://", artifacts=Full(folder)) as executor:
        with pytest.raises(RunFailedError, match="No space left"):
            await executor.run(workflow, run_id="r")
        assert await executor.artifacts("r") == []
        assert not files(folder / "objects")
        assert not files(folder / "unfinished")


# -- crashes --------------------------------------------------------------------------------------


def test_a_process_that_is_killed_in_the_middle_of_a_write_leaves_no_artifact_under_its_name(tmp_path: Path) -> None:
    code = f"from artifacts import writers; writers.die_while_writing({str(tmp_path)!r})"
    dead = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False)
    assert dead.returncode == -signal.SIGKILL
    assert [file.parent.name for file in files(tmp_path)] == ["unfinished"]

    store = open_artifact_store(tmp_path)
    store.put("objects/aa/aa", io.BytesIO(TEXT))
    with store.open("objects/aa/aa") as stream:
        assert stream.read() == TEXT


def test_a_run_whose_process_was_killed_in_the_middle_of_a_write_is_finished_by_another_one(tmp_path: Path) -> None:
    code = f"from artifacts import writers; writers.run({str(tmp_path)!r}, kill=True)"
    dead = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=False)
    assert dead.returncode == -signal.SIGKILL

    run, listed = writers.run(str(tmp_path), kill=False)
    assert run.outputs["read"] == writers.LARGE.hex()
    assert [ref.name for ref in listed] == ["large"]
    assert len(files(tmp_path / "artifacts" / "objects")) == 1


def test_a_file_is_synced_before_it_gets_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, move = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append("sync " + Path(f"/proc/self/fd/{descriptor}").readlink().parent.name)
        sync(descriptor)

    def moved(self: Path, target: Path) -> Path:
        steps.append("move")
        return move(self, target)

    store = open_artifact_store(tmp_path)
    store.put("objects/aa/aa", io.BytesIO(TEXT))
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", moved)
    store.put("objects/aa/ab", io.BytesIO(TEXT))

    assert steps == ["sync unfinished", "move", "sync objects"]


# -- moved outputs --------------------------------------------------------------------------------


def large_workflow() -> Workflow:
    workflow = Workflow("large")
    workflow.node(name="numbers")(lambda: list(range(2000)))
    workflow.node(name="small")(lambda numbers: numbers[-1])
    workflow.map(over={"x": "parts"}, name="grown")(lambda x: [len(x)] * 1000)
    workflow.node(name="parts")(lambda numbers: [numbers[:3], numbers[3:1500]])
    workflow.node(name="total", when=lambda numbers: len(numbers) == 2000)(lambda grown, numbers: len(grown) + 1)
    return workflow


async def test_large_outputs_are_moved_and_read_back_as_if_they_were_not(place: str, store: MemoryStore) -> None:
    async with DAGExecutor("memory://") as executor:
        plain = await executor.run(large_workflow())
    async with DAGExecutor(store, artifacts=place, spill_bytes=1000) as executor:
        run = await executor.run(large_workflow(), run_id="r")
        events = await executor.history("r")
        listed = await executor.artifacts("r")

    assert run.outputs == plain.outputs
    outputs = {e.node: e.payload for e in events if e.kind is EventKind.NODE_COMPLETED and e.payload}
    moved = {name for name, payload in outputs.items() if payload.codec == "spilled"}
    assert moved == {"numbers", "parts", "grown[0]", "grown[1]"}
    assert max(len(payload.data) for payload in outputs.values()) < 1000
    assert {ref.node for ref in listed} == moved
    assert {ref.name for ref in listed} == {f"{name} (output)" for name in moved}


async def test_an_output_of_exactly_the_threshold_stays_in_the_journal(tmp_path: Path) -> None:
    workflow = Workflow("w")
    workflow.node(name="at")(lambda: "x" * 98)
    workflow.node(name="above")(lambda: "x" * 99)

    async with DAGExecutor("memory://", artifacts=tmp_path, spill_bytes=100) as executor:
        await executor.run(workflow, run_id="r")
        assert [ref.node for ref in await executor.artifacts("r")] == ["above"]


async def test_a_run_is_resumed_with_the_outputs_that_were_moved(place: str, store: MemoryStore) -> None:
    failing = [True]

    def workflow() -> Workflow:
        workflow = Workflow("w")
        workflow.node(name="large")(lambda: list(range(2000)))
        workflow.map(over={"x": "large"}, name="doubled", limit=50)(lambda x: 2 * x)

        @workflow.node
        def total(large: list[int], doubled: list[int]) -> int:
            if failing.pop() if failing else False:
                raise OSError("not yet")
            return sum(large) + sum(doubled)

        return workflow

    async with DAGExecutor(store, artifacts=place, spill_bytes=100) as executor:
        with pytest.raises(RunFailedError):
            await executor.run(workflow(), run_id="r")
    async with DAGExecutor(store, workflows=[workflow()], artifacts=place) as executor:
        run = await executor.resume("r")
        assert run.outputs["total"] == 3 * sum(range(2000))
        assert (await executor.get("r")).outputs["large"] == list(range(2000))


async def test_an_output_that_was_moved_and_damaged_names_run_node_and_artifact(tmp_path: Path) -> None:
    async with DAGExecutor("memory://", artifacts=tmp_path, spill_bytes=10) as executor:
        await executor.run(large_workflow(), run_id="r")
        (ref,) = [ref for ref in await executor.artifacts("r") if ref.node == "numbers"]
        damage(file_of(ref))
        run = await executor.get("r")
        with pytest.raises(SerializationError, match=r"artifact 'numbers \(output\)' is damaged") as failure:
            _ = run.outputs

    assert (failure.value.run_id, failure.value.node) == ("r", "numbers")
    assert type(failure.value.__cause__) is SerializationError
    assert type(failure.value.__cause__.__cause__) is ArtifactDamagedError


async def test_an_output_that_was_moved_and_damaged_fails_the_node_that_takes_it(tmp_path: Path) -> None:
    workflow = Workflow("w")
    workflow.node(name="large")(lambda: "x" * 1000)
    workflow.node(name="spoil")(lambda large: damage(files(tmp_path / "objects")[0]))
    workflow.node(name="last", depends_on=["spoil"])(lambda large: large)

    async with DAGExecutor("memory://", artifacts=tmp_path, spill_bytes=100) as executor:
        with pytest.raises(RunFailedError, match=r"\(last: .*is damaged"):
            await executor.run(workflow)


async def test_an_executor_without_the_artifact_store_says_where_an_output_lies(
    tmp_path: Path, store: MemoryStore
) -> None:
    async with DAGExecutor(store, artifacts=tmp_path, spill_bytes=10) as executor:
        await executor.run(large_workflow(), run_id="r")
    async with DAGExecutor(store) as executor:
        with pytest.raises(SerializationError, match="give the executor the same artifacts="):
            _ = (await executor.get("r")).outputs


async def test_what_stands_for_a_moved_output_is_checked_as_well(tmp_path: Path) -> None:
    async with DAGExecutor("memory://", artifacts=tmp_path, spill_bytes=10) as executor:
        await executor.run(large_workflow(), run_id="r")
        run = await executor.get("r")
        (node,) = [node for node in run._state.nodes if node.name == "numbers"]
        assert node.output is not None
        node.output = attrs.evolve(node.output, data=node.output.data.replace(b"2", b"3", 1))
        with pytest.raises(SerializationError, match="checksum differs"):
            _ = run.outputs


async def test_a_run_never_waits_for_moved_outputs_on_the_loop(tmp_path: Path) -> None:
    readers: set[threading.Thread] = set()

    class Watched(LocalArtifactStore):
        def open(self, key: str) -> BinaryIO:
            readers.add(threading.current_thread())
            return super().open(key)

    async with DAGExecutor("memory://", artifacts=Watched(tmp_path), spill_bytes=10) as executor:
        await executor.run(large_workflow())

    assert readers
    assert threading.current_thread() not in readers


async def test_a_moved_output_may_name_artifacts_and_classes_of_the_user(tmp_path: Path) -> None:
    workflow = Workflow("w")

    @workflow.node
    def book(context: NodeContext) -> writers.Book:
        return writers.Book("x" * 1000, [context.artifacts.write("page", b"1")])

    @workflow.node
    def page(context: NodeContext, book: writers.Book) -> str:
        return context.artifacts.read(book.pages[0]).decode()

    codec = JsonCodec([writers.Book])
    async with DAGExecutor("memory://", codec=codec, artifacts=tmp_path, spill_bytes=100) as executor:
        run = await executor.run(workflow)

    assert run.outputs["page"] == "1"
    assert isinstance(run.outputs["book"], writers.Book)


# -- deleting -------------------------------------------------------------------------------------


async def test_deleting_a_run_removes_what_no_other_run_has_written(place: str) -> None:
    async with DAGExecutor("memory://", artifacts=place) as executor:
        first = (await executor.run(writer_workflow(), run_id="first")).outputs["report"]
        await executor.run(writer_workflow(), run_id="second")
        own = (await executor.run(writer_workflow(b"own"), run_id="own")).outputs["report"]
        await executor.delete("first")
        await executor.delete("own")

        assert (await executor.run(reader_workflow(), {"file": first}, run_id="reader")).status == "completed"
        with pytest.raises(RunFailedError, match="is not in the artifact store"):
            await executor.run(reader_workflow(), {"file": own}, run_id="late")


async def test_when_all_runs_are_deleted_not_a_file_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    async with DAGExecutor("memory://", artifacts=folder, spill_bytes=10) as executor:
        for run_id in ["a", "b/c"]:
            await executor.run(report_workflow(), run_id=run_id)
            await executor.run(large_workflow(), run_id=f"{run_id}/large")
        for run_id in ["a", "b/c"]:
            await executor.delete(run_id)
            await executor.delete(f"{run_id}/large")

    assert not files(folder)


async def test_what_a_sub_workflow_has_written_goes_with_its_parent(tmp_path: Path) -> None:
    parent = Workflow("parent")
    parent.subworkflow("sub", writer_workflow())
    async with DAGExecutor("memory://", artifacts=tmp_path) as executor:
        run = await executor.run(parent, run_id="r")
        assert await executor.artifacts("r/sub") == [run.outputs["sub"]["report"]]
        await executor.delete("r")

    assert not files(tmp_path)


@pytest.mark.parametrize("how", ["input", "submitted", "output", "signal"])
async def test_an_artifact_lives_as_long_as_a_run_that_was_given_it(place: str, how: str) -> None:
    taker = Workflow("taker")
    shared: list[ArtifactRef] = []
    if how == "signal":
        taker.wait_for_signal("file")
    elif how == "output":
        taker.node(name="file")(lambda: {"deep": [shared[0]]})
    else:
        taker.node(name="taken")(lambda file: file.name)
    after = reader_workflow()

    async with DAGExecutor("memory://", workflows=[taker], artifacts=place) as executor:
        ref = (await executor.run(writer_workflow(), run_id="writer")).outputs["report"]
        if how == "signal":
            handle = await executor.start(taker, run_id="taker")
            await executor.signal("taker", "file", ref)
            await handle.result()
        elif how == "output":
            shared.append(ref)
            await executor.run(taker, run_id="taker")
        else:
            run = executor.run if how == "input" else executor.submit
            await run(taker, {"file": ref}, run_id="taker")
        await executor.delete("writer")
        assert (await executor.run(after, {"file": ref}, run_id="reader")).outputs["read"] == TEXT.decode()

        await executor.delete("taker")
        await executor.delete("reader")
        with pytest.raises(RunFailedError, match="is not in the artifact store"):
            await executor.run(after, {"file": ref}, run_id="late")


async def test_a_deletion_that_was_cut_off_is_ended_by_the_next(tmp_path: Path) -> None:
    class Broken(LocalArtifactStore):
        left = 3

        def remove(self, key: str) -> None:
            if not self.left:
                raise OSError("cut off")
            self.left -= 1
            super().remove(key)

    broken = Broken(tmp_path)
    async with DAGExecutor("memory://", artifacts=broken, spill_bytes=10) as executor:
        await executor.run(large_workflow(), run_id="r")
        with pytest.raises(OSError, match="cut off"):
            await executor.delete("r")
        assert files(tmp_path / "objects")
        broken.left = 10_000
        with pytest.raises(RunNotFoundError):
            await executor.delete("r")

    assert not files(tmp_path)


async def test_runs_that_write_and_delete_the_same_bytes_at_once_do_not_lose_them(place: str) -> None:
    async with DAGExecutor("memory://", artifacts=place) as executor:

        async def life(number: int) -> None:
            for turn in range(4):
                run_id = f"{number}-{turn}"
                run = await executor.run(report_workflow(), run_id=run_id)
                assert run.outputs["readback"][0] == TEXT.decode()
                await executor.delete(run_id)

        await asyncio.gather(*(life(number) for number in range(8)))


async def test_bytes_that_somebody_is_about_to_remove_are_written_to_another_place(tmp_path: Path) -> None:
    digest = sha256(TEXT).hexdigest()
    LocalArtifactStore(tmp_path).put(f"claims/{digest}/somebody", io.BytesIO())
    async with DAGExecutor("memory://", artifacts=tmp_path) as executor:
        run = await executor.run(report_workflow(), run_id="r")
        assert run.outputs["report"]["file"].uri.endswith(f"{digest}-1")
        assert run.outputs["readback"] == [TEXT.decode()] * 2
        assert await executor.artifacts("r") == [run.outputs["report"]["file"]]
        await executor.delete("r")
    assert [path.name for path in files(tmp_path)] == ["somebody"]


# -- in other processes ---------------------------------------------------------------------------


def process_workflow() -> Workflow:
    workflow = Workflow("processes")
    workflow.node(name="write", runner="process")(writers.write)
    workflow.node(name="read", runner="process")(writers.read)
    return workflow


async def test_a_worker_process_writes_and_reads_artifacts_of_a_folder(tmp_path: Path) -> None:
    async with DAGExecutor("memory://", artifacts=tmp_path, runners={"process": ProcessRunner(1)}) as executor:
        run = await executor.run(process_workflow(), run_id="r")
        assert run.outputs["read"] == "from a worker"
        assert await executor.artifacts("r") == [run.outputs["write"]]


async def test_a_store_that_a_worker_process_cannot_reach_is_an_error_that_says_so() -> None:
    async with DAGExecutor("memory://", artifacts="memory://x", runners={"process": ProcessRunner(1)}) as executor:
        with pytest.raises(RunFailedError, match=r"cannot travel to another process.*use a folder.*in a thread"):
            await executor.run(process_workflow())


# -- metrics --------------------------------------------------------------------------------------


def figures(collector: MetricsCollector, kind: str) -> tuple[float | None, float | None]:
    labels = {"artifact_type": kind}
    return (
        collector.registry.get_sample_value("dag_artifacts_generated_total", labels),
        collector.registry.get_sample_value("dag_artifact_size_bytes_sum", labels),
    )


async def test_artifacts_are_counted_by_their_type(tmp_path: Path) -> None:
    collector = MetricsCollector(CollectorRegistry())
    async with DAGExecutor("memory://", artifacts=tmp_path, observers=[collector], spill_bytes=10) as executor:
        await executor.run(report_workflow())
        await executor.run(report_workflow())
        await executor.run(large_workflow())

    assert figures(collector, "text/markdown") == (2.0, 2.0 * len(TEXT))
    assert figures(collector, "application/vnd.dagflow.output+json") == (None, None)


async def test_artifacts_that_a_worker_process_wrote_are_counted_as_well(tmp_path: Path) -> None:
    collector = MetricsCollector(CollectorRegistry())
    runners = {"process": ProcessRunner(1)}
    async with DAGExecutor("memory://", artifacts=tmp_path, observers=[collector], runners=runners) as executor:
        run = await executor.run(process_workflow())
        passed = Workflow("passed")
        passed.node(name="write")(lambda file: [file])
        await executor.run(passed, {"file": run.outputs["write"]})

    assert figures(collector, "text/plain") == (1.0, float(len("from a worker")))
