"""Stores are named by URLs; what is wrong with one is said without giving its password away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import dagflow.stores
from dagflow.errors import MissingExtraError, StoreError, StoreURLError
from dagflow.stores import MemoryStore, SQLiteStore, open_store
from dagflow.testing import FakeClock


def test_memory_has_a_url() -> None:
    assert isinstance(open_store("memory://"), MemoryStore)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///runs.db", "runs.db"),
        ("sqlite:///data/runs.db", "data/runs.db"),
        ("sqlite:////var/lib/runs.db", "/var/lib/runs.db"),
        ("SQLite:///with space.db", "with space.db"),
    ],
)
def test_a_sqlite_file_has_a_url(url: str, path: str) -> None:
    store = open_store(url)

    assert isinstance(store, SQLiteStore)
    assert repr(store) == f"SQLiteStore({str(Path(path))!r})"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_postgresql_database_has_a_url(scheme: str) -> None:
    store = open_store(f"{scheme}://ann:secret@db.example/runs")

    assert isinstance(store, dagflow.stores.PostgresStore)
    assert "secret" not in repr(store)


@pytest.mark.parametrize("url", ["memory://", "sqlite:///runs.db"])
def test_the_store_of_a_url_gets_the_clock(url: str) -> None:
    clock = FakeClock()

    store = open_store(url, clock=clock)

    held = store._clock if isinstance(store, MemoryStore) else store._options.clock  # type: ignore[attr-defined]
    assert held is clock


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("", "use one of memory://"),
        ("runs.db", "use one of memory://"),
        ("mysql://ann:secret@db.example/runs", "no store is known for mysql://"),
        ("redis://:secret@db.example", "use one of memory://"),
        ("ann:secret@db.example/runs", "this is no URL"),
        ("memory://name", "use memory://"),
        ("sqlite://", "or memory://"),
        ("sqlite:///", "or memory://"),
        ("sqlite://:memory:", "or memory://"),
        ("sqlite:///:memory:", "or memory://"),
        ("sqlite://runs.db", "one slash too few"),
        ("sqlite:///runs.db?mode=ro", "takes no options"),
        ("sqlite:///runs.db#here", "takes no options"),
        ("postgresql://ann:secret@[db.example/runs", ""),
        ("postgresql://ann:secret@db.example/runs?nonsense=secret", ""),
    ],
)
def test_a_url_that_names_no_store_is_refused_with_the_way_out(url: str, hint: str) -> None:
    with pytest.raises(StoreURLError) as refusal:
        open_store(url)

    assert hint in str(refusal.value)
    assert isinstance(refusal.value, StoreError)
    assert isinstance(refusal.value, ValueError)
    assert "secret" not in repr(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_store_whose_package_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "dagflow.stores.postgres", raising=False)
    monkeypatch.delattr(dagflow.stores, "postgres", raising=False)

    with pytest.raises(MissingExtraError, match=r"pip install 'dagflow-sdk\[postgres\]'"):
        open_store("postgresql://db.example/runs")


def test_stores_are_imported_when_they_are_used() -> None:
    program = (
        "import sys, dagflow.stores\n"
        "dagflow.stores.open_store('memory://')\n"
        "assert not {'dagflow.stores.sqlite', 'dagflow.stores.postgres', 'psycopg'} & set(sys.modules)\n"
        "dagflow.stores.SQLiteStore\n"
        "assert 'psycopg' not in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_room_of_the_stores_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="RedisStore"):
        _ = dagflow.stores.RedisStore
