"""The pages for people, as programs: the code blocks of a page run in one namespace, from the top to the bottom."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import types
    from collections.abc import Iterator

__all__ = ["ROOT", "Block", "blocks", "links", "pages", "run"]

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


@attrs.frozen
class Block:
    """A fenced block of code.

    Attributes:
        page: The file.
        line: Number of its first line of code.
        info: What stands behind the fence, ``python`` for example.
        code: The code.
    """

    page: Path
    line: int
    info: str
    code: str


def pages() -> list[Path]:
    """Return every page."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        indent = len(match["indent"])
        code = "".join(line[indent:] or "\n" for line in match["code"].splitlines(keepends=True))
        yield Block(page, text.count("\n", 0, match.start("code")) + 1, match["info"].strip(), code)


def links(page: Path) -> Iterator[str]:
    """Yield what a page links to within the project."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in _LINK.finditer(text):
        if "://" not in match["target"] and not match["target"].startswith(("#", "mailto:")):
            yield match["target"].partition("#")[0]


def run(block: Block, module: types.ModuleType) -> None:
    """Run a block in the namespace of a module; a failure points to the line of the page."""
    if block.info == "python":
        # Blank lines in front let the traceback name the line of the page.
        source = "\n" * (block.line - 1) + block.code
        exec(compile(source, str(block.page), "exec", dont_inherit=True), vars(module))
        return
    test = doctest.DocTestParser().get_doctest(block.code, vars(module), "page", str(block.page), block.line - 1)
    runner = doctest.DebugRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test, clear_globs=False)
    vars(module).update(test.globs)
