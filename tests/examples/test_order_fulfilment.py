"""The order that fulfils itself, run as people run it; what was done in the world outside stands in a file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest

from dagflow import DAGExecutor
from dagflow.stores import SQLiteStore

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "order_fulfilment.py"
RUN_ID = "order-1001"


@attrs.frozen
class Shop:
    """A folder in which the order is fulfilled."""

    folder: Path

    def fulfil(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(EXAMPLE), *options],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def deeds(self) -> list[dict[str, Any]]:
        """Return what was done in the world outside."""
        return [json.loads(line) for line in (self.folder / "world.jsonl").read_text().splitlines()]

    def executor(self) -> DAGExecutor:
        return DAGExecutor(SQLiteStore(self.folder / "orders.db"))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_an_order_is_fulfilled(shop: Shop) -> None:
    done = shop.fulfil()

    assert done.returncode == 0, done.stderr
    assert Counter(deed["what"] for deed in shop.deeds()) == {"reserve": 4, "charge": 1, "label": 2}
    assert "node 'approval' waits for a decision of ada or grace" in done.stdout
    assert "approved by ada" in done.stdout
    assert done.stdout.count("was taken by a neighbour") == 2
    with shop.executor() as executor:
        assert executor.get(RUN_ID).status == "completed"
        assert executor.explain(RUN_ID, "reserved[lamp]").sentence.endswith("completed after 2 attempts")
        shipments = {summary.run_id: (summary.status, summary.parent) for summary in executor.runs(workflow="shipping")}
    assert shipments == {f"{RUN_ID}/shipments/1001-{number}": ("completed", RUN_ID) for number in (1, 2)}


def test_an_order_whose_process_is_killed_in_the_middle_of_the_payment_is_charged_once(shop: Shop) -> None:
    killed = shop.fulfil("--crash")
    before = shop.deeds()

    done = shop.fulfil()

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert done.returncode == 0, done.stderr
    assert Counter(deed["what"] for deed in before) == {"reserve": 4, "charge": 1}
    assert Counter(deed["what"] for deed in shop.deeds()) == {"reserve": 4, "charge": 1, "label": 2}
    assert "says the bank" in done.stdout
    with shop.executor() as executor:
        kinds = Counter(event.kind.value for event in executor.history(RUN_ID))
        assert executor.get(RUN_ID).status == "completed"
    assert kinds["node_interrupted"] == 1
    assert kinds["review_decided"] == 1


def test_an_order_that_is_complete_is_told_again_and_nothing_is_done(shop: Shop) -> None:
    first = shop.fulfil()
    deeds = shop.deeds()

    again = shop.fulfil()

    assert again.returncode == 0
    assert shop.deeds() == deeds
    assert again.stdout.splitlines()[-3:] == first.stdout.splitlines()[-3:]


@pytest.mark.parametrize(
    ("world", "reason"),
    [
        ("missing/world.jsonl", "what is done cannot be written to missing/world.jsonl: No such file or directory"),
        (".", "what is done cannot be written to .: Is a directory"),
        ("letter.txt", "letter.txt is no file that tells what was done"),
        ("numbers.json", "numbers.json is no file that tells what was done"),
    ],
)
def test_a_world_that_cannot_be_used_is_refused_before_anything_is_done(shop: Shop, world: str, reason: str) -> None:
    (shop.folder / "letter.txt").write_text("Dear Ada")
    (shop.folder / "numbers.json").write_text("[1, 2]")

    refused = shop.fulfil("--world", world)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert reason in refused.stderr
    assert not (shop.folder / "orders.db").exists()
