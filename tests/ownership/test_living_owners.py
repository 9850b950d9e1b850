"""Owners that are slow and alive, while another process serves the store."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import EventKind
from ownership.processes import NODES

if TYPE_CHECKING:
    from ownership.accounts import Account
    from zygote import Zygote


@pytest.mark.parametrize(
    "slow",
    [
        pytest.param({"lease": 0.8, "in_thread": 8.0}, id="a node of ten leases"),
        pytest.param({"lease": 3.0, "on_loop": 1.5}, id="a loop blocked for half a lease"),
    ],
)
async def test_a_living_owner_keeps_its_run(account: Account, zygote: Zygote, slow: dict[str, Any]) -> None:
    zygote.start("serve", **account.shared)
    zygote.hear("serving")

    owner = zygote.start("own", **account.shared, run="slow", **slow)
    await account.submit("other")
    await account.ended("other")
    assert zygote.wait(owner) == 0

    await account.check("slow")
    assert account.starts("slow") == Counter(NODES)
    assert set(account.lines("start", "slow")) == {owner}


async def test_an_owner_whose_loop_was_blocked_for_longer_than_its_lease_writes_nothing_any_more(
    account: Account, zygote: Zygote
) -> None:
    server = zygote.start("serve", **account.shared)
    zygote.hear("serving")

    owner = zygote.start("own", **account.shared, run="blocked", lease=0.4, on_loop=1.2)
    await account.started("blocked", by=server)
    await account.ended("blocked")
    assert zygote.wait(owner) == 0, "who has lost a run waits for what it comes to"

    events = await account.check("blocked")
    assert EventKind.RUN_RESUMED in [event.kind for event in events]
