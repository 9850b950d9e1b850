"""What all tests share: the PostgreSQL server, a store of each kind, and the rule that CI does without nothing."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

pytest_plugins = ["each_store", "postgres_server"]

_WANTS_POSTGRES = re.compile(r"postgres|psycopg", re.IGNORECASE)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Where ``CI`` is set, fail a test that was skipped for want of PostgreSQL: a green run has tested every store."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
        if _WANTS_POSTGRES.search(reason):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"
    return report
