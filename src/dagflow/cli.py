"""The command line: ``python -m dagflow serve module:executor``, and ``web`` in the place of ``serve``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import math
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dagflow._ending import run_to_end
from dagflow._redacting import redacted
from dagflow._specs import LONGEST_S
from dagflow.errors import DagflowError
from dagflow.executor import DAGExecutor

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_IN_HASTE_S = 0.5
"""Seconds that each step of the end may take after a second signal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 after it was stopped, 1 after an error, 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    try:
        executor = _find(options.executor)
        if options.command == "web":
            return _web(executor, options)
        _check_workflows(executor, options.executor)
        with contextlib.suppress(asyncio.CancelledError):
            run_to_end(_serve(executor, options.concurrency, options.poll))
    except DagflowError as exc:
        sys.stderr.write(f"dagflow: {redacted(exc)}\n")
        return 1
    except LookupError as exc:
        sys.stderr.write(f"dagflow: {exc.args[0]}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dagflow", description="Durable DAG workflows.")
    commands = parser.add_subparsers(required=True, metavar="command", dest="command")
    serve = commands.add_parser(
        "serve",
        help="claim and drive runs of a store until SIGTERM or Ctrl-C",
        description="Claim and drive pending, orphaned, due and signalled runs. SIGTERM or Ctrl-C stops claiming, "
        "gives running nodes the executor's grace time and lets go of the runs; a second one stops at once.",
    )
    place = "module:name of a DAGExecutor that has not been opened, or of a function that makes one"
    serve.add_argument("executor", help=place)
    serve.add_argument("--concurrency", type=_count, default=10, help="runs at a time (default: %(default)s)")
    serve.add_argument("--poll", type=_seconds, default=1.0, help="seconds between two looks (default: %(default)s)")
    web = commands.add_parser(
        "web",
        help="serve the web app of an executor, and the runs of its store (extra web-server)",
        description="Serve the API, the metrics and the probes of an executor. A store that cannot be reached ends it "
        "with exit code 1. DAGFLOW_WEB_TOKEN, if set, is the bearer token that everything but the probes asks for.",
    )
    web.add_argument("executor", help=place)
    web.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    web.add_argument("--port", type=int, default=8000, help="port to listen on (default: %(default)s)")
    web.add_argument("--allow-host", action="append", default=[], help="a Host that is answered; may be repeated")
    web.add_argument("--allow-origin", action="append", default=[], help="an Origin that is answered; may be repeated")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return count


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_S:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return seconds


def _web(executor: DAGExecutor, options: argparse.Namespace) -> int:
    from dagflow.web.server import run  # noqa: PLC0415 - an extra

    token = os.environ.get("DAGFLOW_WEB_TOKEN")
    if token is not None and not token.strip():
        raise LookupError("DAGFLOW_WEB_TOKEN is empty, which is no token: set one, or unset it to let everybody in")
    return run(
        executor,
        host=options.host,
        port=options.port,
        token=token,
        allowed_hosts=options.allow_host,
        allowed_origins=options.allow_origin,
    )


def _find(place: str) -> DAGExecutor:
    """Return the executor at ``module:name``; modules are looked for in the working directory as well."""
    module_name, _, name = place.partition(":")
    if not module_name or not name:
        raise LookupError(f"{place!r} is no place of an executor: write module:name")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as exc:
        raise LookupError(f"there is no {place!r}: {exc}") from exc
    executor = found() if callable(found) else found
    if not isinstance(executor, DAGExecutor):
        raise LookupError(f"{place!r} is a {type(executor).__name__}, not a DAGExecutor")  # noqa: TRY004 - a wrong word
    return executor


def _check_workflows(executor: DAGExecutor, place: str) -> None:
    if not executor.workflows:
        raise LookupError(f"{place!r} would serve nothing: give DAGExecutor(..., workflows=[...])")


async def _serve(executor: DAGExecutor, concurrency: int, poll: float) -> None:
    loop, command = asyncio.get_running_loop(), asyncio.current_task()
    async with executor:
        serving = loop.create_task(executor.serve(concurrency=concurrency, poll=poll))

        def stop() -> None:
            if serving.cancelling() and command is not None:
                loop.call_later(_IN_HASTE_S, _end, command)
            serving.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            # Where the loop cannot take signals, Ctrl-C still cancels the command, through its runner.
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(number, stop)
        await asyncio.wait([serving])
        if not serving.cancelled():
            serving.result()


def _end(command: asyncio.Task[None]) -> None:
    """Wait no longer for whatever the command waits for, nor for the next thing: runs are let go of in no time."""
    if not command.done():
        command.cancel()
        command.get_loop().call_later(_IN_HASTE_S, _end, command)
