"""The application that the files in this folder run: put your own workflows in its place."""

from __future__ import annotations

import os

from dagflow import DAGExecutor, Workflow
from dagflow.metrics import MetricsCollector

workflow = Workflow("greeting")


@workflow.node
def greet(name: str) -> str:
    """Say hello."""
    return f"Hello {name}"


def executor() -> DAGExecutor:
    """Return the executor."""
    url = os.environ.get("DATABASE_URL")
    if not url:
        # There is no store to fall back to: what is kept in memory is lost with the container.
        raise LookupError("DATABASE_URL is not set: it is the store, postgresql://user:...@host/database for instance")
    return DAGExecutor(url, workflows=[workflow], observers=[MetricsCollector()])
