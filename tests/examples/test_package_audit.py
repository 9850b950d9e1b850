"""The main example, run as people run it; a log of its own tells what was parsed, whatever the store says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from dagflow import DAGExecutor, EventKind
from dagflow.stores import SQLiteStore

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "package_audit.py"
RUN_ID = "the-audit"

# Parsing raises an audit event, so the log needs nothing of the example, and nothing of dagflow.
LOGGED = """
import os, runpy, sys

folder = os.path.join(os.environ["PYTHONPATH"], "shop")
log = os.open("parsed.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def watch(event, arguments):
    if event == "compile" and str(arguments[1]).startswith(folder):
        os.write(log, os.fsencode(f"{os.path.relpath(arguments[1], folder)}\\n"))
        os.fsync(log)

sys.addaudithook(watch)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

BUSY = """
def work_{n}(orders, urgent=False):
    total = 0
    for order in orders:
        if order.open and not order.late or urgent:
            total += order.price if order.price > {n} else {n}
    return [x for x in range(total) if x % 2]
"""


@attrs.frozen
class Desk:
    """A folder to audit from, and a package to audit."""

    folder: Path
    library: Path

    def audit(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", LOGGED, str(EXAMPLE), "shop", "--run-id", RUN_ID, *options]
        environment = {**os.environ, "PYTHONPATH": str(self.library)}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=100
        )

    def parsed(self) -> list[str]:
        """Return the files that were parsed, in their order."""
        return (self.folder / "parsed.txt").read_text().splitlines()

    def recorded(self, store: str = "audit.db") -> list[str]:
        """Return the modules whose completion is in the journal."""
        with DAGExecutor(SQLiteStore(self.folder / store)) as executor:
            events = executor.history(RUN_ID)
        done = [e.node or "" for e in events if e.kind is EventKind.NODE_COMPLETED]
        return [name[len("measures[") : -1] for name in done if name.startswith("measures[")]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    desk = Desk(tmp_path / "desk", tmp_path / "library")
    desk.folder.mkdir()
    (desk.library / "shop" / "tests").mkdir(parents=True)
    return desk


def write(desk: Desk, **files: str) -> None:
    for name, source in files.items():
        (desk.library / "shop" / f"{name}.py").write_text(source)


def file_of(module: str) -> str:
    return "__init__.py" if module == "shop" else f"{module.removeprefix('shop.')}.py"


def test_an_audit_tells_what_is_in_a_package(desk: Desk) -> None:
    write(
        desk,
        __init__="from shop.cart import Cart\n",
        cart="from . import prices\n\nclass Cart:\n    def total(self):\n        return prices.of(self)\n",
        prices="import json\nimport shop.cart\n\ndef of(cart):\n    return 3 if cart and json else 4\n",
        lazy="def late():\n    import shop.cart\n",
        broken="def (:\n",
    )
    (desk.library / "shop" / "tests" / "test_cart.py").write_text("left out\n")

    done = desk.audit()

    report = json.loads((desk.folder / "audit" / "report.json").read_text())
    assert done.returncode == 0, done.stderr
    assert report["modules"] == 4
    assert report["functions"] == 3
    assert report["cycles"] == [["shop.cart", "shop.prices", "shop.cart"]]
    assert report["most_complex"][0] == {"name": "shop.prices.of", "line": 4, "lines": 2, "complexity": 3}
    assert report["most_imported"] == {"shop.cart": 2, "shop.prices": 1}
    assert list(report["unreadable"]) == ["shop.broken"]
    assert "shop.cart → shop.prices → shop.cart" in (desk.folder / "audit" / "report.md").read_text()


def test_an_audit_that_was_killed_goes_on_and_parses_no_recorded_module_again(desk: Desk) -> None:
    names = [f"part_{n:03}" for n in range(150)]
    write(desk, __init__="", **{name: "".join(BUSY.format(n=n) for n in range(40)) for name in names})

    killed = desk.audit("--crash-after", "20")
    recorded, parsed = desk.recorded(), desk.parsed()
    finished = desk.audit()
    parsed_later = desk.parsed()[len(parsed) :]
    undisturbed = desk.audit("--store", "other.db", "--out", "other")

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert finished.returncode == 0, finished.stderr
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert 20 <= len(recorded) < 151
    assert {file_of(module) for module in recorded} <= set(parsed)
    assert {file_of(module) for module in recorded}.isdisjoint(parsed_later)
    assert len(recorded) + len(parsed_later) == 151
    assert sorted(desk.recorded()) == sorted({"shop", *(f"shop.{name}" for name in names)})
    for report in ("report.md", "report.json"):
        assert (desk.folder / "audit" / report).read_bytes() == (desk.folder / "other" / report).read_bytes()


def test_a_finished_audit_writes_its_report_again_and_parses_nothing(desk: Desk) -> None:
    write(desk, __init__="", cart="def total():\n    return 1\n")
    desk.audit()
    parsed = desk.parsed()

    again = desk.audit("--out", "elsewhere")

    assert desk.parsed() == parsed
    assert "2 of 2 modules are recorded" in again.stdout
    assert (desk.folder / "elsewhere" / "report.md").exists()


def test_a_package_that_is_not_installed_is_a_mistake_of_the_command_line(desk: Desk) -> None:
    done = desk.audit()

    assert done.returncode == 2
    assert "'shop' is not an installed package" in done.stderr


def test_the_command_of_the_readme_audits_networkx(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
    )

    assert done.returncode == 0, done.stderr
    assert "import cycles" in done.stdout
    assert (tmp_path / "audit" / "report.md").read_text().startswith("# Audit of networkx\n")


def test_a_folder_that_cannot_be_written_is_refused_before_the_audit(desk: Desk) -> None:
    write(desk, __init__="")
    (desk.folder / "full").write_text("a file, and no folder")

    done = desk.audit("--out", "full")

    assert done.returncode == 2
    assert "no reports can be written to full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (desk.folder / "audit.db").exists()


def test_a_crash_after_nothing_is_a_mistake_of_the_command_line(desk: Desk) -> None:
    write(desk, __init__="")

    done = desk.audit("--crash-after", "0")

    assert done.returncode == 2
    assert "0 is not a number from 1 on" in done.stderr


def test_an_audit_that_is_stopped_by_ctrl_c_says_that_it_can_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-u", str(EXAMPLE)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as audit:
        assert audit.stdout is not None
        assert "new" in audit.stdout.readline()
        audit.send_signal(signal.SIGINT)
        _, said = audit.communicate(timeout=100)

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)

    assert audit.returncode == 130
    assert said == "stopped: the same command goes on\n"
    assert again.returncode == 0, again.stderr
