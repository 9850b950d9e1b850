"""Audits the source of an installed Python package, and goes on where it was when its process dies.

    python examples/package_audit.py                      # networkx, about 300 modules
    python examples/package_audit.py --crash-after 100    # dies by SIGKILL when 100 modules are recorded ...
    python examples/package_audit.py                      # ... and this parses only the others

Each module is parsed and measured by an item of a map, and each result is durable by itself. The report is made of
what was recorded, so it is the same whether or not the process died on the way. No code of the package is run.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import sys
import threading
import tokenize
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import networkx as nx

from dagflow import DAGExecutor, Event, EventKind, ItemError, JsonCodec, NodeStatus, Workflow
from dagflow.errors import DagflowError, RunNotFoundError
from dagflow.stores import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dagflow import Run

# -- what is recorded -------------------------------------------------------------------------------


@attrs.frozen
class Module:
    """A file of the package."""

    name: str
    path: str
    is_package: bool


@attrs.frozen
class Function:
    """A function or method, with McCabe's cyclomatic complexity: one more than its decisions."""

    name: str
    line: int
    lines: int
    complexity: int


@attrs.frozen
class Measures:
    """What was found in one module; ``imports`` are the dotted names that it asks for while it is imported."""

    module: str
    lines: int
    functions: tuple[Function, ...]
    imports: tuple[str, ...]


CODEC = JsonCodec([Module, Function, Measures])

# Python 3.11 counts how deep it is in a tree for all threads together, so that two of them at a time may be told
# "AST constructor recursion depth mismatch" of a sound file. Nothing is lost: only one of them can run anyway.
PARSER = threading.Lock()

# -- the workflow -----------------------------------------------------------------------------------

workflow = Workflow("package_audit")


@workflow.node
def modules(package: str) -> list[Module]:
    """Find the files of the package, without those of its tests."""
    root = package_folder(package)
    files = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    return [module_at(file, root, package) for file in files if "tests" not in file.parts]


@workflow.map(over={"module": "modules"}, key=lambda module: module.name, name="measures", limit=8, on_error="collect")
def measure(module: Module) -> Measures:
    """Parse one module; a file that is no Python leaves an `ItemError` at its place and stops nobody."""
    with tokenize.open(module.path) as file:
        source = file.read()
    with PARSER:
        tree = ast.parse(source, filename=module.path)
    imports = sorted(set(imports_of(tree, module)))
    return Measures(module.name, len(source.splitlines()), tuple(functions_in(tree, module.name)), tuple(imports))


@workflow.node
def import_graph(measures: list[Measures | ItemError]) -> dict[str, list[str]]:
    """Say for each module which modules of the package it imports."""
    known = {measured.module for measured in parsed(measures)}
    return {measured.module: imported_modules(measured, known) for measured in parsed(measures)}


@workflow.node
def cycles(import_graph: dict[str, list[str]]) -> list[list[str]]:
    """Find the knots of modules that import each other, each shown by a shortest circle in it."""
    graph: nx.DiGraph[str] = nx.DiGraph(import_graph)
    knots = sorted(sorted(knot) for knot in nx.strongly_connected_components(graph) if len(knot) > 1)
    return [shortest_circle(knot, import_graph) for knot in knots]


@workflow.node
def largest(measures: list[Measures | ItemError]) -> dict[str, list[Function]]:
    """Pick the functions that are hardest to follow and those that are longest."""
    functions = [function for measured in parsed(measures) for function in measured.functions]
    return {
        "complex": top(functions, lambda function: function.complexity),
        "long": top(functions, lambda function: function.lines),
    }


@workflow.node
def report(
    package: str,
    measures: list[Measures | ItemError],
    import_graph: dict[str, list[str]],
    cycles: list[list[str]],
    largest: dict[str, list[Function]],
) -> dict[str, Any]:
    """Put the findings together as plain data."""
    found = list(parsed(measures))
    functions = [function for measured in found for function in measured.functions]
    imported = Counter(name for names in import_graph.values() for name in names)
    return {
        "package": package,
        "modules": len(found),
        "lines": sum(measured.lines for measured in found),
        "functions": len(functions),
        "mean_complexity": round(sum(f.complexity for f in functions) / max(len(functions), 1), 2),
        "most_complex": [attrs.asdict(function) for function in largest["complex"]],
        "longest": [attrs.asdict(function) for function in largest["long"]],
        "most_imported": dict(sorted(imported.items(), key=lambda entry: (-entry[1], entry[0]))[:10]),
        "cycles": cycles,
        "unreadable": {failed.key: failed.message for failed in measures if isinstance(failed, ItemError)},
    }


@workflow.node
def page(report: dict[str, Any]) -> str:
    """Write the findings for people, in Markdown."""
    facts = ("modules", "lines", "functions", "mean_complexity")
    sections = [
        f"# Audit of {report['package']}",
        table(["fact", "number"], [[fact.replace("_", " "), f"{report[fact]:,}"] for fact in facts]),
        "## Hardest to follow",
        table(["function", "line", "complexity"], columns(report["most_complex"], "name", "line", "complexity")),
        "## Longest functions",
        table(["function", "line", "lines"], columns(report["longest"], "name", "line", "lines")),
        "## Most imported modules",
        table(["module", "imported by"], report["most_imported"].items()),
        "## Import cycles",
        bullets(" → ".join(circle) for circle in report["cycles"]),
        "## Files that could not be parsed",
        bullets(f"{name}: {reason}" for name, reason in report["unreadable"].items()),
    ]
    return "\n\n".join(sections) + "\n"


# -- finding the modules ----------------------------------------------------------------------------


def package_folder(package: str) -> Path:
    """Return the folder of an installed package.

    Raises:
        LookupError: There is none of this name with its source in a folder.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        raise LookupError(f"{package!r} is not an installed package with its source in a folder")
    return Path(spec.origin).parent


def module_at(file: Path, root: Path, package: str) -> Module:
    """Return the module that lies in a file below the folder of the package."""
    parts = (package, *file.with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    return Module(".".join(parts[:-1] if is_package else parts), str(root / file), is_package)


# -- reading a module -------------------------------------------------------------------------------

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)


def functions_in(scope: ast.AST, prefix: str) -> Iterator[Function]:
    """Yield the functions and methods below a scope, those inside other functions included."""
    for child in ast.iter_child_nodes(scope):
        if isinstance(child, ast.expr):
            continue
        name = f"{prefix}.{child.name}" if isinstance(child, (*FUNCTIONS, ast.ClassDef)) else prefix
        if isinstance(child, FUNCTIONS):
            yield Function(name, child.lineno, (child.end_lineno or child.lineno) - child.lineno + 1, complexity(child))
        yield from functions_in(child, name)


def complexity(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return one more than the decisions of a function; functions inside it count by themselves."""
    return 1 + sum(decisions(node) for node in inside(function, skip=lambda node: isinstance(node, FUNCTIONS)))


def decisions(node: ast.AST) -> int:
    """Return how many ways a node adds to those through its function."""
    return len(node.values) - 1 if isinstance(node, ast.BoolOp) else int(isinstance(node, BRANCHES))


def inside(
    scope: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef, skip: Callable[[ast.AST], bool]
) -> Iterator[ast.AST]:
    """Yield what is in a body, without what is skipped and all that is in it."""
    rest: list[ast.AST] = list(scope.body)
    while rest:
        node = rest.pop()
        if not skip(node):
            yield node
            rest.extend(ast.iter_child_nodes(node))


def imports_of(tree: ast.Module, module: Module) -> Iterator[str]:
    """Yield the dotted names that a module asks for when it is imported; a function imports when it is called."""
    for node in inside(tree, skip=lambda node: isinstance(node, FUNCTIONS) or is_for_types(node)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{origin(node, module)}.{alias.name}" for alias in node.names)


def is_for_types(node: ast.AST) -> bool:
    """Tell whether a statement is only read by type checkers."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def origin(node: ast.ImportFrom, module: Module) -> str:
    """Return the absolute name that ``from ... import`` means in a module."""
    if not node.level:
        return node.module or ""
    here = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    return ".".join([*here[: len(here) - node.level + 1], *([node.module] if node.module else [])])


# -- making sense of it -----------------------------------------------------------------------------


def parsed(measures: list[Measures | ItemError]) -> Iterator[Measures]:
    """Yield the modules that could be parsed."""
    return (measured for measured in measures if isinstance(measured, Measures))


def imported_modules(measured: Measures, known: set[str]) -> list[str]:
    """Return the modules that a module imports, but not the packages that it lies in: they are being loaded already."""
    names = {innermost(name, known) for name in measured.imports}
    return sorted(name for name in names if name and not f"{measured.module}.".startswith(f"{name}."))


def innermost(name: str, known: set[str]) -> str:
    """Return the module of the package that a dotted name leads to, or nothing."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def shortest_circle(knot: list[str], import_graph: dict[str, list[str]]) -> list[str]:
    """Return a shortest way through a knot back to where it began, the same one each time."""
    graph: nx.DiGraph[str] = nx.DiGraph(
        [(name, other) for name in knot for other in import_graph[name] if other in knot]
    )
    ways = [[*nx.shortest_path(graph, other, name), other] for name, other in graph.edges]
    return min(ways, key=lambda way: (len(way), way))


def top(functions: list[Function], measure: Callable[[Function], int]) -> list[Function]:
    """Return the ten functions that measure most."""
    return sorted(functions, key=lambda function: (-measure(function), function.name, function.line))[:10]


def columns(rows: list[dict[str, Any]], *names: str) -> list[list[Any]]:
    """Return some columns of a list of records."""
    return [[row[name] for name in names] for row in rows]


def table(head: list[str], rows: Any) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def bullets(lines: Iterator[str]) -> str:
    """Return a Markdown list."""
    return "\n".join(f"- {line}" for line in lines) or "None."


# -- running it -------------------------------------------------------------------------------------


class Progress:
    """An observer: counts the modules whose measures are durable, tells people, and dies when it is told to."""

    def __init__(self, crash_after: int | None) -> None:
        self.recorded = self.total = self._new = 0
        self._crash_after = crash_after

    def begin(self, run: Run) -> None:
        """Count what an earlier process recorded."""
        items = [node for name, node in run.nodes.items() if name.startswith("measures[")]
        self.recorded, self.total = sum(item.status is NodeStatus.COMPLETED for item in items), len(items)

    def __call__(self, event: Event) -> None:
        """Take one event; it has been committed, so what it says survives the process."""
        if event.kind is EventKind.MAP_EXPANDED and event.data:
            self.total = len(event.data["keys"])
        elif event.kind is EventKind.NODE_COMPLETED and (event.node or "").startswith("measures["):
            self._count()

    def _count(self) -> None:
        self._new += 1
        self.recorded += 1
        if self.recorded % 50 == 0 or self.recorded == self.total:
            print(f"  {self.recorded} of {self.total} modules", flush=True)
        if self._new == self._crash_after:
            print(f"  kill -9 after {self._new} recorded modules", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


def audit(package: str, *, run_id: str, store: Path, crash_after: int | None = None) -> Run:
    """Run the audit, or go on with it, or return what it found when it was run before."""
    progress = Progress(crash_after)
    with DAGExecutor(SQLiteStore(store), codec=CODEC, observers=[progress]) as executor:
        try:
            progress.begin(executor.get(run_id))
            print(f"run {run_id}: {progress.recorded} of {progress.total} modules are recorded")
        except RunNotFoundError:
            print(f"run {run_id}: new")
        return executor.run(workflow, {"package": package}, run_id=run_id)


def usual_run_id(package: str) -> str:
    """Return the id that audits of this version of a package share."""
    try:
        name = f"{package}-{importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        name = package
    return re.sub(r"[^\w.-]", "-", f"audit-{name}")


def positive(word: str) -> int:
    """Read a number from 1 on."""
    number = int(word)
    if number < 1:
        message = f"{number} is not a number from 1 on"
        raise argparse.ArgumentTypeError(message)
    return number


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Audit the source of an installed Python package.")
    parser.add_argument("package", nargs="?", default="networkx", help="its import name (default: %(default)s)")
    parser.add_argument("--run-id", help="the run to start or to go on with (default: made from name and version)")
    parser.add_argument("--store", type=Path, default=Path("audit.db"), help="SQLite file (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("audit"), help="folder of the reports (default: %(default)s)")
    parser.add_argument("--crash-after", type=positive, metavar="N", help="die by SIGKILL when N modules are recorded")
    options = parser.parse_args(words)
    try:
        package_folder(options.package)
        options.out.mkdir(parents=True, exist_ok=True)
    except LookupError as unknown:
        parser.error(str(unknown))
    except OSError as error:
        parser.error(f"no reports can be written to {options.out}: {error.strerror}")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Audit a package and write ``report.md`` and ``report.json``."""
    options = arguments(words)
    warnings.simplefilter("ignore", SyntaxWarning)  # remarks of the parser on other people's code
    run_id = options.run_id or usual_run_id(options.package)
    try:
        run = audit(options.package, run_id=run_id, store=options.store, crash_after=options.crash_after)
    except DagflowError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on", file=sys.stderr)
        return 130
    (options.out / "report.md").write_text(run.outputs["page"], encoding="utf-8")
    (options.out / "report.json").write_text(json.dumps(run.outputs["report"], indent=2) + "\n", encoding="utf-8")
    facts = run.outputs["report"]
    print(f"{facts['modules']} modules, {facts['functions']:,} functions, {len(facts['cycles'])} import cycles")
    print(f"written: {options.out / 'report.md'} and {options.out / 'report.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
