"""What the tests of ownership share: a store that many processes use, and the process that forks them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ownership.accounts import Account
from zygote import Zygote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["sqlite", "postgres"])
def account(request: pytest.FixtureRequest, tmp_path: Path) -> Account:
    """A place of a store, and the log of its processes."""
    is_sqlite = request.param == "sqlite"
    place = str(tmp_path / "runs.db") if is_sqlite else request.getfixturevalue("postgres_dsn")
    return Account(place, tmp_path / "log", is_sqlite=is_sqlite)


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    with Zygote("ownership.processes") as process:
        yield process
