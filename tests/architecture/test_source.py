"""What no line of dagflow may do, and how large its rooms may grow."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "dagflow"
ROOMS = sorted(PACKAGE.rglob("*.py"))
ROOM_LINES = 450
LARGER_ROOMS = {
    "errors.py": 700,  # one tree, drawn once, data only
    "executor.py": 600,  # the public methods in one place, most of it their documentation
}
FUNCTION_LINES = 40
BANNED_NAMES = {"utils", "helpers", "base", "common", "manager"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
BANNED_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "imp", "code"}
ALLOWED_IMPORTS = {
    "runners/_travel.py": {"pickle"},  # between a process and its own child; never what is stored
}
PATHS_OF_A_MACHINE = re.compile(r"(?<![\w.])/(home|root|Users|work|mnt)/\w+")


def rooms() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(PACKAGE)))


def calls(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each function with the number of lines of its body, its docstring not counted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node, clean=False) else node.body
            yield node.name, (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def files_of_the_project() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in ROOT.rglob("*") if path.suffix in {".py", ".md", ".toml"} and ".venv" not in path.parts]


@rooms()
def test_a_room_evaluates_and_unpickles_nothing(room: Path) -> None:
    tree = ast.parse(room.read_text())
    banned = BANNED_IMPORTS - ALLOWED_IMPORTS.get(str(room.relative_to(PACKAGE)), set())

    assert BANNED_CALLS.intersection(calls(tree)) == set()
    assert banned.intersection(name.partition(".")[0] for name in imports(tree)) == set()


@rooms()
def test_a_room_has_a_name_that_says_what_it_is_for(room: Path) -> None:
    assert room.stem.strip("_") not in BANNED_NAMES
    assert ast.get_docstring(ast.parse(room.read_text()))


@rooms()
def test_a_room_fits_in_a_head(room: Path) -> None:
    limit = LARGER_ROOMS.get(room.name, ROOM_LINES)

    assert len(room.read_text().splitlines()) <= limit


@rooms()
def test_a_function_fits_on_a_screen(room: Path) -> None:
    tree = ast.parse(room.read_text())

    assert [(name, lines) for name, lines in functions(tree) if lines > FUNCTION_LINES] == []


@rooms()
def test_a_room_never_imports_from_the_front_door(room: Path) -> None:
    if room == PACKAGE / "__init__.py":
        return

    assert "dagflow" not in set(imports(ast.parse(room.read_text())))


@rooms()
def test_annotations_are_not_evaluated(room: Path) -> None:
    source = room.read_text()

    assert "from __future__ import annotations" in source


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    found = []
    for path in files_of_the_project():
        if not path.is_file() or path == Path(__file__).resolve():
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in PATHS_OF_A_MACHINE.finditer(text)]

    assert found == []
