"""The command line: how executors are found, and what is said of a wrong call."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dagflow.cli import main

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION = """
from dagflow import DAGExecutor, Node, Workflow
from dagflow.stores import MemoryStore

class Broken(MemoryStore):
    async def find(self, query):
        raise RuntimeError("this store is broken")

broken = DAGExecutor(Broken(), workflows=[Workflow("w", [Node("a", lambda: 1)])])
idle = DAGExecutor("memory://")
number = 7
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with an application in it."""
    (tmp_path / "shop_application.py").write_text(APPLICATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "shop_application", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("place", "complaint"),
    [
        ("shop_application", "'shop_application' is no place of an executor: write module:name"),
        (":broken", "':broken' is no place of an executor: write module:name"),
        ("shop_application:", "'shop_application:' is no place of an executor: write module:name"),
        ("no_such_module:broken", "there is no 'no_such_module:broken': No module named 'no_such_module'"),
        ("shop_application:absent", "there is no 'shop_application:absent': module 'shop_application' has no"),
        ("shop_application:number", "'shop_application:number' is a int, not a DAGExecutor"),
        (
            "shop_application:idle",
            "'shop_application:idle' would serve nothing: give DAGExecutor(..., workflows=[...])",
        ),
    ],
)
def test_a_wrong_place_is_said(here: Path, place: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", place]) == 2

    assert capsys.readouterr().err.startswith(f"dagflow: {complaint}")


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (["--concurrency", "0"], "argument --concurrency: must be a whole number of at least 1, not '0'"),
        (["--concurrency", "many"], "argument --concurrency: must be a whole number of at least 1, not 'many'"),
        (["--poll", "0"], "argument --poll: must be a number above 0, not '0'"),
        (["--poll", "inf"], "argument --poll: must be a number above 0, not 'inf'"),
        (["--poll", "1e300"], "argument --poll: must be a number above 0, not '1e300'"),
        (["--poll", "often"], "argument --poll: must be a number above 0, not 'often'"),
    ],
)
def test_a_wrong_number_is_said(option: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "shop_application:broken", *option])

    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_bug_in_the_store_ends_the_command_and_is_told(here: Path) -> None:
    command = [sys.executable, "-m", "dagflow", "serve", "shop_application:broken"]

    ended = subprocess.run(command, cwd=here, check=False, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "RuntimeError: this store is broken"


def test_importing_the_command_does_not_run_it() -> None:
    importlib.import_module("dagflow.__main__")
