"""What one process asks of a run that another one drives, or that nobody drives."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import pytest

from crash.graphs import Log
from dagflow import EventKind
from ownership.processes import SIGNALS, executor, signals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dagflow import DAGExecutor, Event
    from ownership.accounts import Account
    from zygote import Zygote


@attrs.frozen
class Gate:
    """The file that the first node waits for."""

    path: Path

    def open(self) -> None:
        """Let the node return."""
        self.path.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Closed."""
    return Gate(tmp_path / "gate")


@asynccontextmanager
async def driven_elsewhere(account: Account, zygote: Zygote, gate: Gate) -> AsyncIterator[DAGExecutor]:
    """Submit a run, which another process drives, and give an executor that does not."""
    zygote.start("serve", **account.shared, gate=str(gate.path))
    zygote.hear("serving")
    workflow = signals(Log(account.path), gate.path)
    async with executor(account.place, workflow) as opened:
        await opened.submit(workflow, run_id="r")
        await account.started("r")
        yield opened


def of(events: list[Event], kind: EventKind) -> list[str | None]:
    """Return the nodes of the events of a kind."""
    return [event.node for event in events if event.kind is kind]


async def test_signals_reach_the_owner_once_and_in_order(account: Account, zygote: Zygote, gate: Gate) -> None:
    async with driven_elsewhere(account, zygote, gate) as other:
        for number, name in enumerate(SIGNALS):
            await other.signal("r", name, number)
        gate.open()
        events = await account.ended("r")
        run = await other.get("r")

    assert of(events, EventKind.SIGNAL_RECEIVED) == SIGNALS
    assert [run.outputs[name] for name in SIGNALS] == list(range(len(SIGNALS)))
    assert not of(events, EventKind.RUN_RESUMED)


async def test_a_waiting_run_that_nobody_owns_goes_on_in_a_server_when_a_signal_comes(
    account: Account, zygote: Zygote, gate: Gate
) -> None:
    gate.open()
    async with driven_elsewhere(account, zygote, gate) as other:
        await account.ended("r", "waiting")
        for name in SIGNALS:
            await other.signal("r", name, name)
        events = await account.ended("r")

    assert of(events, EventKind.SIGNAL_RECEIVED) == SIGNALS
    assert of(events, EventKind.RUN_RESUMED)
    assert account.starts("r") == {"hold": 1}


async def test_a_pause_reaches_the_owner_once(account: Account, zygote: Zygote, gate: Gate) -> None:
    async with driven_elsewhere(account, zygote, gate) as other:
        for _ in range(2):
            await other.pause("r")
        gate.open()
        events = await account.ended("r", "paused")

    assert of(events, EventKind.RUN_PAUSED) == [None]
    assert of(events, EventKind.NODE_COMPLETED) == ["hold"]


async def test_a_cancellation_reaches_the_owner_once(account: Account, zygote: Zygote, gate: Gate) -> None:
    async with driven_elsewhere(account, zygote, gate) as other:
        for _ in range(2):
            await other.cancel("r")
        events = await account.ended("r", "cancelled")

    assert of(events, EventKind.RUN_CANCELLED) == [None]
    assert not of(events, EventKind.NODE_COMPLETED)
    assert not account.lines("end", "r")


async def test_the_later_of_two_messages_is_not_heard_before_the_earlier(
    account: Account, zygote: Zygote, gate: Gate
) -> None:
    async with driven_elsewhere(account, zygote, gate) as other:
        await other.signal("r", "a", 1)
        await other.cancel("r")
        events = await account.ended("r", "cancelled")

    (received,) = [event for event in events if event.kind is EventKind.SIGNAL_RECEIVED]
    (cancelled,) = [event for event in events if event.kind is EventKind.RUN_CANCELLED]
    assert received.version < cancelled.version
