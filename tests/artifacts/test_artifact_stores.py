"""What every artifact store has to do, and that no order of writing and deleting loses bytes."""

from __future__ import annotations

import contextlib
import io
import itertools
import pickle
import sys
import threading
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import fsspec
import pytest

from artifacts.writers import Failing
from dagflow import ArtifactRef
from dagflow._vault import Vault, Writer
from dagflow.artifacts import ArtifactStore, LocalArtifactStore, open_artifact_store
from dagflow.errors import ArtifactError, ArtifactNotFoundError, ExecutorError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BYTES = b"some bytes"
DIGEST = sha256(BYTES).hexdigest()
MOST_SWITCHES = 4
REF = ArtifactRef("name", "", len(BYTES), DIGEST)


@pytest.fixture(params=["{}", "file://{}", "local://{}", "memory://artifacts"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    yield open_artifact_store(request.param.format(tmp_path / "a folder"))
    fsspec.filesystem("memory").store.clear()


def content(store: ArtifactStore, key: str) -> bytes:
    with store.open(key) as stream:
        return stream.read()


# -- one store ------------------------------------------------------------------------------------


def test_a_store_gives_back_what_was_put(store: ArtifactStore) -> None:
    store.put("objects/ab/ab12", io.BytesIO(BYTES))
    store.put("objects/ab/ab12-1", io.BytesIO(b""))
    store.put("objects/ab/ab12", io.BytesIO(2 * BYTES))

    assert content(store, "objects/ab/ab12") == 2 * BYTES
    assert store.size("objects/ab/ab12") == 20
    assert store.size("objects/ab/ab12-1") == 0
    assert list(store.list("objects/ab")) == ["objects/ab/ab12", "objects/ab/ab12-1"]
    assert store.uri("objects/ab/ab12").endswith("/objects/ab/ab12")


def test_a_store_says_what_is_not_there(store: ArtifactStore) -> None:
    assert store.size("objects/ab/ab12") is None
    assert list(store.list("objects/ab")) == []
    store.remove("objects/ab/ab12")
    with pytest.raises(FileNotFoundError):
        store.open("objects/ab/ab12")


def test_a_store_forgets_what_was_removed(store: ArtifactStore) -> None:
    store.put("marks/ab/run", io.BytesIO(b""))
    store.remove("marks/ab/run")

    assert store.size("marks/ab/run") is None
    assert list(store.list("marks/ab")) == []
    store.put("marks/ab/run", io.BytesIO(BYTES))
    assert content(store, "marks/ab/run") == BYTES


def test_a_write_that_fails_leaves_the_key_as_it_was(store: ArtifactStore) -> None:
    store.put("objects/ab/ab12", io.BytesIO(BYTES))
    failing: Any = Failing(io.BytesIO(b"other"))
    with pytest.raises(OSError, match="No space left"):
        store.put("objects/ab/ab12", failing)

    assert content(store, "objects/ab/ab12") == BYTES
    assert list(store.list("unfinished")) == []


def test_two_readers_of_one_file_do_not_disturb_each_other(store: ArtifactStore) -> None:
    store.put("objects/ab/ab12", io.BytesIO(BYTES))
    with store.open("objects/ab/ab12") as first, store.open("objects/ab/ab12") as second:
        assert first.read(4) + second.read(4) + first.read() == b"somesome bytes"


def test_a_store_that_was_pickled_sees_the_same_files(store: ArtifactStore) -> None:
    store.put("objects/ab/ab12", io.BytesIO(BYTES))
    if store.uri("a").startswith("memory:"):
        with pytest.raises(ExecutorError, match="use a folder"):
            pickle.dumps(store)
    else:
        assert content(pickle.loads(pickle.dumps(store)), "objects/ab/ab12") == BYTES


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a/../b", "..", "a//b", "a/", "a\0", "ä", "a\\b"])
def test_a_folder_takes_no_key_that_leads_out_of_it(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="is no key"):
        LocalArtifactStore(tmp_path).open(key)


def test_no_folder_is_left_of_what_was_removed(tmp_path: Path) -> None:
    store = LocalArtifactStore(tmp_path)
    store.put("marks/ab/run", io.BytesIO(b""))
    store.remove("marks/ab/run")

    assert not Path(tmp_path, "marks", "ab").exists()


def test_a_file_url_may_hold_spaces(tmp_path: Path) -> None:
    store = open_artifact_store(Path(tmp_path, "a b").as_uri())
    store.put("x", io.BytesIO(BYTES))

    assert Path(tmp_path, "a b", "x").read_bytes() == BYTES


def test_a_url_without_fsspec_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.delitem(sys.modules, "dagflow._fsspec_artifacts", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'dagflow-sdk\[artifacts\]'"):
        open_artifact_store("memory://artifacts")

    open_artifact_store(tmp_path.as_uri()).put("x", io.BytesIO(BYTES))


# -- who holds what -------------------------------------------------------------------------------


def write(vault: Vault, run_id: str) -> ArtifactRef:
    return vault.write(Writer(run_id, "n", 1, 1), REF, lambda: io.BytesIO(BYTES))


def test_a_source_that_changes_while_it_is_written_is_refused(tmp_path: Path) -> None:
    store = LocalArtifactStore(tmp_path)
    with pytest.raises(ArtifactError, match="was changed while it was written"):
        Vault(store).write(Writer("r", "n", 1, 1), REF, lambda: io.BytesIO(b"other"))

    assert list(store.list(f"objects/{DIGEST[:2]}")) == []


@pytest.mark.parametrize("uri", ["", "file:///etc/passwd", "objects/aa/" + "0" * 64, f"objects/{DIGEST[:2]}/../x"])
def test_a_reference_leads_to_nothing_but_its_own_bytes(tmp_path: Path, uri: str) -> None:
    vault = Vault(LocalArtifactStore(tmp_path))
    write(vault, "r")
    with pytest.raises(ArtifactNotFoundError):
        vault.read(ArtifactRef("name", uri, len(BYTES), DIGEST))


class Steps:
    """Lets two threads go on one call at a time, in the order of a schedule."""

    def __init__(self, schedule: Iterable[int]) -> None:
        self._schedule = list(schedule)
        self._gates = [threading.Semaphore(0), threading.Semaphore(0)]
        self._arrived = [threading.Semaphore(0), threading.Semaphore(0)]
        self._done = [False, False]
        self.taken: list[tuple[int, bool]] = []

    def turn(self, thread: int) -> None:
        """Wait for the turn of a thread."""
        self._arrived[thread].release()
        self._gates[thread].acquire()

    def run(self, functions: Iterable[Callable[[], object]]) -> None:
        """Run both functions to their ends; a choice that the schedule does not make falls on the first."""
        threads = [threading.Thread(target=self._body, args=(i, f)) for i, f in enumerate(functions)]
        for i, thread in enumerate(threads):
            thread.start()
            self._arrived[i].acquire()
        while not all(self._done):
            open_ones = [i for i in (0, 1) if not self._done[i]]
            wanted = self._schedule[len(self.taken)] if len(self.taken) < len(self._schedule) else open_ones[0]
            self.taken.append((wanted, len(open_ones) > 1))
            self._gates[wanted].release()
            self._arrived[wanted].acquire()
        for thread in threads:
            thread.join()

    def _body(self, thread: int, function: Callable[[], object]) -> None:
        self.turn(thread)
        function()
        self._done[thread] = True
        self._arrived[thread].release()

    def next(self) -> list[int] | None:
        """Return the schedule after this one, ``None`` when all were tried."""
        taken = list(self.taken)
        while taken:
            choice, was_free = taken.pop()
            following = [*(c for c, _ in taken), 1]
            switches = sum(a != b for a, b in itertools.pairwise(following))
            if was_free and choice == 0 and switches <= MOST_SWITCHES:
                return following
        return None


class Stepped:
    """A store of one thread: keeps bytes in a dictionary, and waits for its turn before each call."""

    def __init__(self, kept: dict[str, bytes], turn: Callable[[], object], calls: int = 1000) -> None:
        self._kept, self._turn, self._calls = kept, turn, calls

    def _step(self) -> None:
        self._turn()
        self._calls -= 1
        if self._calls < 0:
            raise KeyboardInterrupt

    def put(self, key: str, source: BinaryIO) -> None:
        data = source.read()
        self._step()
        self._kept[key] = data

    def open(self, key: str) -> BinaryIO:
        self._step()
        if key not in self._kept:
            raise FileNotFoundError(key)
        return io.BytesIO(self._kept[key])

    def size(self, key: str) -> int | None:
        self._step()
        return len(self._kept[key]) if key in self._kept else None

    def list(self, prefix: str) -> list[str]:
        self._step()
        return [key for key in self._kept if key.rpartition("/")[0] == prefix]

    def remove(self, key: str) -> None:
        self._step()
        self._kept.pop(key, None)

    def uri(self, key: str) -> str:
        return f"kept:///{key}"


def race(schedule: list[int]) -> list[int] | None:
    """Let one run write what another one is deleted with, and return the next schedule."""
    kept: dict[str, bytes] = {}
    write(Vault(Stepped(kept, int)), "old")
    steps, refs = Steps(schedule), list[ArtifactRef]()
    writing = Vault(Stepped(kept, lambda: steps.turn(0)))
    deleting = Vault(Stepped(kept, lambda: steps.turn(1)))
    steps.run([lambda: refs.append(write(writing, "new")), lambda: deleting.forget("old")])

    quiet = Vault(Stepped(kept, int))
    assert quiet.read(refs[0]) == BYTES
    quiet.forget("new")
    assert kept == {}
    return steps.next()


def test_in_no_order_of_writing_and_deleting_bytes_are_lost() -> None:
    schedule: list[int] | None = []
    tried = 0
    while schedule is not None:
        schedule = race(schedule)
        tried += 1

    assert tried > 500


@pytest.mark.parametrize("calls", range(12))
def test_a_deletion_that_stops_anywhere_loses_nothing_and_can_be_ended(calls: int) -> None:
    kept: dict[str, bytes] = {}
    quiet = Vault(Stepped(kept, int))
    for run_id in ["old", "other"]:
        write(quiet, run_id)
    with contextlib.suppress(KeyboardInterrupt):
        Vault(Stepped(kept, int, calls)).forget("old")
    ref = write(quiet, "new")
    assert quiet.read(ref) == BYTES

    for run_id in ["old", "other", "new"]:
        quiet.forget(run_id)
    assert not [key for key in kept if not key.startswith("claims/")]


@pytest.mark.parametrize("calls", range(10))
def test_a_write_that_stops_anywhere_is_forgotten_with_its_run(calls: int) -> None:
    kept: dict[str, bytes] = {}
    with contextlib.suppress(KeyboardInterrupt):
        write(Vault(Stepped(kept, int, calls)), "run")

    Vault(Stepped(kept, int)).forget("run")
    assert kept == {}


def test_a_file_system_that_is_not_installed_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)

    with pytest.raises(ValueError, match=r"the file system of s3:// cannot be loaded: .*s3fs"):
        open_artifact_store("s3://bucket/folder")
