"""All code on the pages for people runs, and all links between them lead somewhere."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import TYPE_CHECKING

import pytest

from pages import ROOT, blocks, links, pages, run

if TYPE_CHECKING:
    from pathlib import Path

OTHER_LANGUAGES = {"bash", "console", "dockerfile", "ini", "json", "mermaid", "sql", "text", "toml", "yaml"}


def each_page() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))


@each_page()
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    code = [block for block in blocks(page) if block.info in {"python", "pycon"}]
    if any("DATABASE_URL" in block.code for block in code):
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("postgres_dsn"))
    module = types.ModuleType("page_of_dagflow")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)

    try:
        for block in code:
            run(block, module)
    finally:
        # A page that fails in the middle leaves what it has started.
        for thing in vars(module).values():
            if isinstance(thing, subprocess.Popen):
                thing.kill()
                thing.wait()


@each_page()
def test_no_python_on_a_page_is_left_out(page: Path) -> None:
    """Whatever looks like Python is marked ``python`` or ``pycon`` and nothing else, so that it runs."""
    infos = {block.info for block in blocks(page)}

    assert infos - {"python", "pycon"} - OTHER_LANGUAGES == set()


@each_page()
def test_the_links_of_a_page_lead_to_files(page: Path) -> None:
    lost = [target for target in links(page) if not (page.parent / target).exists()]

    assert lost == []


def test_every_page_is_linked_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target in links(index)}

    assert [page for page in (ROOT / "docs").rglob("*.md") if page != index and page not in linked] == []
