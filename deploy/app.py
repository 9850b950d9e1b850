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
    """Return the executor; there is no store to fall back to when ``DATABASE_URL`` is not set."""
    return DAGExecutor(os.environ["DATABASE_URL"], workflows=[workflow], observers=[MetricsCollector()])
