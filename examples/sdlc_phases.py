"""Delivers a small service in six phases: from a specification to a tested backend and a page for it.

    python examples/sdlc_phases.py                          # the specification below, into the folder delivery/
    python examples/sdlc_phases.py shop.txt --out shop      # another one
    python examples/sdlc_phases.py --serve                  # ... and keeps the web app and its metrics up

The engine designs tables and an API, proves the tables in a database, generates a backend and a page, generates tests
and runs them in a process of their own, and reviews the whole against the specification. It knows nothing of dagflow,
and dagflow nothing of it: what it is given is made by a context factory. Each phase has a score, and one below 0.8
fails. The folder holds what was generated, the run in ``runs.db``, and all figures of it in ``metrics.prom``.

Needs ``pip install "dagflow-sdk[metrics]"``, and ``dagflow-sdk[metrics,web-server]`` for ``--serve``.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import hashlib
import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import urlsplit
from urllib.request import url2pathname

import attrs

try:
    from prometheus_client import CollectorRegistry
except ImportError:
    sys.exit("this example needs prometheus_client: pip install 'dagflow-sdk[metrics]'")

from dagflow import ArtifactRef, DAGExecutor, Event, EventKind, RetryPolicy, RunStatus, Workflow
from dagflow.errors import DagflowError, RunFailedError, RunNotFoundError
from dagflow.health import HealthRegistry, disk_check, lease_check, loop_check, store_check
from dagflow.metrics import MetricsCollector
from dagflow.phases import PhaseContext, PhaseResult, parallel_workflow
from dagflow.stores import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dagflow import Run

LIBRARY = """\
# A lending library
book
    title: text, required
    author: text, required
    isbn: text, unique
    year: number
member
    name: text, required
    email: text, required, unique
loan
    book: book, required
    member: member, required
    due: date, required
    fine: money
"""

COLUMN_TYPES = {"text": "TEXT", "number": "NUMERIC", "date": "TEXT"}
OPERATIONS = ("list", "create", "read", "delete")

# -- what the phases promise each other -------------------------------------------------------------


class Field(TypedDict):
    """One field of an entity; ``refers`` is the entity that it points to, or nothing."""

    type: str
    refers: str
    required: bool
    unique: bool


class Analysis(TypedDict):
    """What the specification asks for, and the lines that nobody understands."""

    title: str
    entities: dict[str, dict[str, Field]]
    unclear: list[str]


class Design(TypedDict):
    """The tables, and for each path of the API the operations behind its methods."""

    tables: list[str]
    api_specification: dict[str, dict[str, str]]


class Testing(TypedDict):
    """How the generated tests went."""

    ran: int
    passed: int
    log: str


OUTPUTS: dict[str, Any] = {"requirement_analysis": Analysis, "design": Design, "testing": Testing, "review": ["score"]}
INPUTS = {
    "design": ["requirement_analysis.entities"],
    "backend_development": ["design.api_specification"],
    "frontend_development": ["design.api_specification"],
    "testing": ["backend_development.operations", "requirement_analysis.entities"],
    "review": ["testing.passed"],
}

# -- what is generated ------------------------------------------------------------------------------

BACKEND = Template('''\
"""The backend of "$title": generated, needs nothing but the standard library."""

import datetime
import json
import sqlite3

SCHEMA = """
$schema"""
ENTITIES = json.loads("""$entities""")
KINDS = {"text": str, "number": (int, float), "date": str}


class Backend:
    def __init__(self, database=":memory:"):
        self.database = sqlite3.connect(database)
        self.database.row_factory = sqlite3.Row
        self.database.execute("PRAGMA foreign_keys = ON")
        self.database.executescript(SCHEMA)

    def call(self, method, path, body=None):
        """Answer a request with a status and a body."""
        name, _, number = path.strip("/").partition("/")
        entity = next((entity for entity in ENTITIES if name == f"{entity}s"), None)
        if entity is None or (number and not number.isdecimal()):
            return 404, {"error": f"there is no {path}"}
        operation = {("GET", False): self.list, ("POST", False): self.create, ("GET", True): self.read,
                     ("DELETE", True): self.delete}.get((method, bool(number)))
        if operation is None:
            return 405, {"error": f"{method} is not for {path}"}
        return operation(entity, int(number) if number else body)

    def list(self, entity, _body):
        return 200, [dict(row) for row in self.database.execute(f"SELECT * FROM {entity} ORDER BY id")]

    def create(self, entity, body):
        faults = list(self.faults(entity, body))
        if faults:
            return 422, {"error": "; ".join(faults)}
        names = list(body)
        marks = ", ".join("?" * len(names))
        try:
            with self.database:
                cursor = self.database.execute(
                    f"INSERT INTO {entity} ({', '.join(names)}) VALUES ({marks})", list(body.values())
                )
        except sqlite3.IntegrityError as error:
            return 409, {"error": str(error)}
        return 201, self.read(entity, cursor.lastrowid)[1]

    def read(self, entity, number):
        row = self.database.execute(f"SELECT * FROM {entity} WHERE id = ?", [number]).fetchone()
        return (200, dict(row)) if row else (404, {"error": f"there is no {entity} {number}"})

    def delete(self, entity, number):
        try:
            with self.database:
                gone = self.database.execute(f"DELETE FROM {entity} WHERE id = ?", [number]).rowcount
        except sqlite3.IntegrityError as error:
            return 409, {"error": str(error)}
        return (204, None) if gone else (404, {"error": f"there is no {entity} {number}"})

    def faults(self, entity, body):
        if not isinstance(body, dict):
            yield "a body is an object"
            return
        fields = ENTITIES[entity]
        yield from (f"{name} is no field of {entity}" for name in body if name not in fields)
        yield from (f"{name} is required" for name, field in fields.items() if field["required"] and name not in body)
        yield from (f"{name} is no {fields[name]['type']}" for name in body if name in fields
                    and not self.fits(fields[name], body[name]))

    def fits(self, field, value):
        if field["refers"]:
            return type(value) is int
        if field["type"] == "date":
            try:
                return bool(datetime.date.fromisoformat(value))
            except (TypeError, ValueError):
                return False
        return isinstance(value, KINDS[field["type"]]) and not isinstance(value, bool)
''')

TESTS = Template('''\
"""The tests of "$title": generated from its specification."""

import itertools
import json
import unittest

from backend import Backend

ENTITIES = json.loads("""$entities""")


class Test(unittest.TestCase):
    def setUp(self):
        self.backend = Backend()
        self.addCleanup(self.backend.database.close)
        self.counter = itertools.count(1)

    def body(self, entity):
        return {name: self.value(name, field) for name, field in ENTITIES[entity].items() if field["required"]}

    def value(self, name, field):
        if field["refers"]:
            return self.create(field["refers"])
        samples = {"text": f"{name} {next(self.counter)}", "number": next(self.counter), "date": "2030-01-31"}
        return samples[field["type"]]

    def create(self, entity):
        status, made = self.backend.call("POST", f"/{entity}s", self.body(entity))
        self.assertEqual(status, 201, made)
        return made["id"]
$cases

if __name__ == "__main__":
    unittest.main()
''')

CASES = Template("""
    def test_${entity}_can_be_created_read_listed_and_deleted(self):
        number = self.create("$entity")
        self.assertEqual(self.backend.call("GET", f"/${entity}s/{number}")[1]["id"], number)
        self.assertEqual([row["id"] for row in self.backend.call("GET", "/${entity}s")[1]], [number])
        self.assertEqual(self.backend.call("DELETE", f"/${entity}s/{number}")[0], 204)
        self.assertEqual(self.backend.call("GET", f"/${entity}s/{number}")[0], 404)

    def test_${entity}_with_a_field_that_nobody_knows_is_refused(self):
        self.assertEqual(self.backend.call("POST", "/${entity}s", {**self.body("$entity"), "no": 1})[0], 422)
""")

REQUIRED = Template("""
    def test_${entity}_without_${field}_is_refused(self):
        body = self.body("$entity")
        del body["$field"]
        self.assertEqual(self.backend.call("POST", "/${entity}s", body)[0], 422)
""")

UNIQUE = Template("""
    def test_no_two_of_${entity}_share_${field}(self):
        body = {**self.body("$entity"), "$field": self.value("$field", ENTITIES["$entity"]["$field"])}
        statuses = [self.backend.call("POST", "/${entity}s", body)[0] for _ in range(2)]
        self.assertEqual(statuses, [201, 409])
""")

REFERS = Template("""
    def test_${entity}_refers_to_${field}_that_exists(self):
        self.assertEqual(self.backend.call("POST", "/${entity}s", {**self.body("$entity"), "$field": 999})[0], 409)
""")

PAGE = Template("""\
<!doctype html>
<meta charset="utf-8">
<title>$title</title>
<h1>$title</h1>
$forms
<script>
async function call(method, path, body) {
  const answer = await fetch(path, {method, body: body && JSON.stringify(body)});
  return answer.status === 204 ? null : answer.json();
}
async function show(section) {
  const list = section.querySelector("ul");
  list.replaceChildren(...(await call("GET", section.dataset.path)).map((row) => {
    const item = document.createElement("li");
    item.textContent = Object.values(row).join(" · ");
    item.onclick = async () => { await call("DELETE", `$${section.dataset.path}/$${row.id}`); show(section); };
    return item;
  }));
}
for (const section of document.querySelectorAll("section")) {
  section.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    const filled = [...new FormData(event.target)].filter(([, value]) => value !== "");
    const numeric = (name) => event.target.elements[name].type === "number";
    await call("POST", section.dataset.path,
      Object.fromEntries(filled.map(([name, value]) => [name, numeric(name) ? Number(value) : value])));
    show(section);
  };
  show(section);
}
</script>
""")

# -- the engine: knows nothing of dagflow -----------------------------------------------------------


@attrs.frozen
class Brief:
    """What the engine wants to know of a phase."""

    specification: str
    done: Mapping[str, Any]
    files: Mapping[str, bytes]

    @property
    def entities(self) -> dict[str, dict[str, Field]]:
        """What was found in the specification."""
        entities: dict[str, dict[str, Field]] = self.done["requirement_analysis"]["entities"]
        return entities

    @property
    def title(self) -> str:
        """What the service is called."""
        return str(self.done["requirement_analysis"]["title"])


@attrs.frozen
class Work:
    """What the engine made of a phase: facts, files by name, and a score from 0 to 1."""

    facts: Any
    files: Mapping[str, str]
    score: float


class Engine:
    """Delivers a service from a specification."""

    def execute(self, phase: str, brief: Brief) -> Work:
        """Do one phase."""
        work: Work = getattr(self, phase)(brief)
        return work

    def requirement_analysis(self, brief: Brief) -> Work:
        """Read the specification; the score is the share of its lines that make sense."""
        analysis = analysed(brief.specification)
        lines = sum(len(fields) for fields in analysis["entities"].values()) + len(analysis["unclear"])
        return Work(analysis, {}, share(lines - len(analysis["unclear"]), lines))

    def design(self, brief: Brief) -> Work:
        """Design tables and API; the score is the share of the fields that the database has taken in."""
        schema = "".join(table_of(entity, fields) for entity, fields in brief.entities.items())
        api = {path: methods for entity in brief.entities for path, methods in paths_of(entity).items()}
        columns = columns_in(schema)
        wanted = {(entity, name) for entity, fields in brief.entities.items() for name in fields}
        design: Design = {"tables": list(brief.entities), "api_specification": api}
        files = {"schema.sql": schema, "api.json": json.dumps(api, indent=2)}
        return Work(design, files, share(len(wanted & columns), len(wanted)))

    def backend_development(self, brief: Brief) -> Work:
        """Generate the backend; the score is the share of the operations of the API that it has."""
        schema = brief.files["design/schema.sql"].decode()
        source = BACKEND.substitute(title=brief.title, schema=schema, entities=json.dumps(brief.entities, indent=1))
        functions = {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
        operations = sorted(functions & set(OPERATIONS))
        return Work({"operations": operations}, {"backend.py": source}, share(len(operations), len(OPERATIONS)))

    def frontend_development(self, brief: Brief) -> Work:
        """Generate the page; the score is the share of the paths of the API that it calls."""
        forms = "\n".join(form_of(entity, fields) for entity, fields in brief.entities.items())
        page = PAGE.substitute(title=brief.title, forms=forms)
        collections = [path for path in brief.done["design"]["api_specification"] if "{" not in path]
        called = [path for path in collections if f'data-path="{path}"' in page]
        return Work({"paths": called}, {"index.html": page}, share(len(called), len(collections)))

    def testing(self, brief: Brief) -> Work:
        """Generate tests and run them in a process of their own; the score is the share of those that pass."""
        cases = "".join(case for entity, fields in brief.entities.items() for case in cases_of(entity, fields))
        tests = TESTS.substitute(title=brief.title, entities=json.dumps(brief.entities, indent=1), cases=cases)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "backend.py").write_bytes(brief.files["backend_development/backend.py"])
            Path(folder, "test_backend.py").write_text(tests, encoding="utf-8")
            command = [sys.executable, "-m", "unittest", "-v", "test_backend"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
        ran = int((re.findall(r"^Ran (\d+) test", done.stderr, re.MULTILINE) or ["0"])[0])
        passed = len(re.findall(r"\.\.\. ok$", done.stderr, re.MULTILINE))
        facts: Testing = {"ran": ran, "passed": passed, "log": re.sub(r" in [\d.]+s", "", done.stderr)}
        return Work(facts, {"test_backend.py": tests}, share(passed, ran))

    def review(self, brief: Brief) -> Work:
        """Look for every field in everything that was made; the score is the share of what was found."""
        fields = [(entity, name) for entity, fields in brief.entities.items() for name in fields]
        columns = columns_in(brief.files["design/schema.sql"].decode())
        page = brief.files["frontend_development/index.html"].decode()
        testing = brief.done["testing"]
        checks = {
            "fields with a column": share(sum(field in columns for field in fields), len(fields)),
            "fields with an input": share(sum(f'id="{entity}-{name}"' in page for entity, name in fields), len(fields)),
            "tests that pass": share(testing["passed"], testing["ran"]),
            "lines that are clear": 1.0 - share(len(brief.done["requirement_analysis"]["unclear"]), len(fields)),
        }
        score = sum(checks.values()) / len(checks)
        lines = [f"# Review of {brief.title}", "", f"Score: {score:.2f}", ""]
        lines += [f"- {what}: {found:.0%}" for what, found in checks.items()]
        lines += [f"- not understood: `{line}`" for line in brief.done["requirement_analysis"]["unclear"]]
        return Work({"score": score, "checks": checks}, {"review.md": "\n".join(lines) + "\n"}, score)


def share(part: int, whole: int) -> float:
    """Return a part as a fraction; of nothing there is nothing."""
    return part / whole if whole else 0.0


def analysed(specification: str) -> Analysis:
    """Read a specification: entities at the margin, their fields below them, a title after ``#``."""
    lines = [line.rstrip() for line in specification.splitlines() if line.strip()]
    names = [line for line in lines if re.fullmatch(r"[a-z_]+", line)]
    analysis: Analysis = {"title": "A service", "entities": {name: {} for name in names}, "unclear": []}
    entity = ""
    for line in lines:
        found = re.fullmatch(r"\s+([a-z_]+): ([a-z_]+)((?:, (?:required|unique))*)", line)
        if line.startswith("#"):
            analysis["title"] = re.sub(r"[^\w ]", "", line).strip()
        elif line in names:
            entity = line
        elif found and entity and (found[2] in COLUMN_TYPES or found[2] in names):
            refers = found[2] if found[2] in names else ""
            field = Field(type=found[2], refers=refers, required="required" in found[3], unique="unique" in found[3])
            analysis["entities"][entity][found[1]] = field
        else:
            analysis["unclear"].append(line.strip())
    return analysis


def table_of(entity: str, fields: Mapping[str, Field]) -> str:
    """Return the table of an entity in SQL."""
    columns = ["id INTEGER PRIMARY KEY"]
    for name, field in fields.items():
        kind = f"INTEGER REFERENCES {field['refers']}(id)" if field["refers"] else COLUMN_TYPES[field["type"]]
        columns.append(f"{name} {kind}{' NOT NULL' * field['required']}{' UNIQUE' * field['unique']}")
    return f"CREATE TABLE {entity} (\n    " + ",\n    ".join(columns) + "\n);\n"


def columns_in(schema: str) -> set[tuple[str, str]]:
    """Return the columns that a database has after a schema was run, each with its table."""
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(schema)
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {(table, row[1]) for table in tables for row in database.execute(f"PRAGMA table_info({table})")}
    finally:
        database.close()


def paths_of(entity: str) -> dict[str, dict[str, str]]:
    """Return the paths of an entity, with the operation behind each method."""
    return {f"/{entity}s": {"GET": "list", "POST": "create"}, f"/{entity}s/{{id}}": {"GET": "read", "DELETE": "delete"}}


def form_of(entity: str, fields: Mapping[str, Field]) -> str:
    """Return the part of the page that lists and creates what an entity has."""
    kinds = {"text": "text", "date": "date"}
    inputs = [
        f'<label>{name} <input id="{entity}-{name}" name="{name}" type="{kinds.get(field["type"], "number")}"'
        f"{' required' * field['required']}></label>"
        for name, field in fields.items()
    ]
    form = ["<form>", *inputs, "<button>add</button>", "</form>"]
    return "\n".join([f'<section data-path="/{entity}s">', f"<h2>{entity}</h2>", "<ul></ul>", *form, "</section>"])


def cases_of(entity: str, fields: Mapping[str, Field]) -> Iterator[str]:
    """Yield the tests of an entity."""
    yield CASES.substitute(entity=entity)
    for name, field in fields.items():
        asked = {REQUIRED: field["required"], UNIQUE: field["unique"], REFERS: bool(field["refers"])}
        yield from (case.substitute(entity=entity, field=name) for case, wanted in asked.items() if wanted)


# -- between the engine and dagflow -----------------------------------------------------------------


class Phases:
    """Lets the engine do phases."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def execute_phase(self, phase: str, brief: Brief) -> PhaseResult:
        """Do one phase; its files become artifacts."""
        work = self._engine.execute(phase, brief)
        files = {name: text.encode() for name, text in work.files.items()}
        return PhaseResult(work.facts, files, work.score)


class Desk:
    """A context factory: puts a brief together, with the files of the phases before."""

    def create(self, context: PhaseContext) -> Brief:
        """Return the brief of a phase."""
        files = {}
        for phase, artifacts in context.artifacts.items():
            for name, ref in artifacts.items():
                files[f"{phase}/{name}"] = context.node.artifacts.read(ref) if context.node else b""
        return Brief(context.requirement, context.outputs, files)


def delivery() -> Workflow:
    """Return the six phases, backend and frontend side by side."""
    return parallel_workflow(
        "sdlc",
        Phases(Engine()),
        Desk(),
        quality_threshold=0.8,
        input_contracts=INPUTS,
        output_contracts=OUTPUTS,
        retry=RetryPolicy(max_attempts=2, delay=0.1),
    )


def told(event: Event) -> None:
    """Say what has been recorded."""
    if event.node and event.kind in (EventKind.NODE_COMPLETED, EventKind.NODE_RETRY, EventKind.NODE_FAILED):
        print(f"  {event.node}: {event.kind.removeprefix('node_')}", flush=True)


async def deliver(executor: DAGExecutor, workflow: Workflow, specification: str) -> Run:
    """Run the phases, or go on with them where an earlier process ended."""
    run_id = f"sdlc-{hashlib.sha256(specification.encode()).hexdigest()[:12]}"
    try:
        status = (await executor.get(run_id)).status
    except RunNotFoundError:
        status = RunStatus.PENDING
    try:
        if status in (RunStatus.FAILED, RunStatus.CANCELLED):
            return await executor.resume(run_id)
        return await executor.run(workflow, {"requirement": specification}, run_id=run_id)
    except RunFailedError as failure:
        print(failure, file=sys.stderr)
        return failure.run


def write_files(run: Run, out: Path) -> list[Path]:
    """Copy what the phases have made into the folder."""
    written = []
    for result in run.outputs.values():
        refs = [ref for ref in result.artifacts.values() if isinstance(ref, ArtifactRef)]
        for ref in refs:
            shutil.copyfile(url2pathname(urlsplit(ref.uri).path), out / ref.name)
            written.append(out / ref.name)
    return written


async def work(specification: str, out: Path, port: int | None) -> int:
    """Deliver into a folder, and keep the web app up when there is a port for it."""
    collector = MetricsCollector(CollectorRegistry(), info={"application": "sdlc_phases"}, interval=0.5)
    workflow = delivery()
    store = SQLiteStore(out / "runs.db")
    executor = DAGExecutor(store, workflows=[workflow], observers=[collector, told], artifacts=out / "artifacts")
    health = HealthRegistry(metrics=collector)
    for name, check in {"leases": lease_check(executor), "loop": loop_check(), "disk": disk_check(out)}.items():
        health.add(name, check)
    if port is None:
        health.add("store", store_check(executor))
    async with executor:
        run = await deliver(executor, workflow, specification)
        for path in write_files(run, out):
            print(f"written: {path}")
        await health.report()
        collector.write(out / "metrics.prom")
        if port is not None:
            await serve(executor, collector, health, port)
            collector.write(out / "metrics.prom")
    print(f"{run.run_id}: {run.status}, figures in {out / 'metrics.prom'}")
    return 0 if run.status is RunStatus.COMPLETED else 1


async def serve(executor: DAGExecutor, collector: MetricsCollector, health: HealthRegistry, port: int) -> None:
    """Serve the web app until SIGTERM or Ctrl-C."""
    import uvicorn  # noqa: PLC0415 - an extra that only this needs

    from dagflow.web import create_app  # noqa: PLC0415 - the same

    app = create_app(executor, metrics=collector, health=health)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn ends by them and raises them again, which would end the process before its figures are written.
        signal.signal(number, lambda *_: None)
    with socket.create_server(("127.0.0.1", port)) as listening:
        print(f"serving http://127.0.0.1:{listening.getsockname()[1]}/metrics", flush=True)
        await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listening])


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Deliver a small service in six phases.")
    parser.add_argument("specification", nargs="?", type=Path, help="a text file (default: a lending library)")
    parser.add_argument("--out", type=Path, default=Path("delivery"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--serve", action="store_true", help="keep the web app up when the phases are done")
    parser.add_argument("--port", type=int, default=8000, help="of the web app, 0 for any (default: %(default)s)")
    options = parser.parse_args(words)
    if options.specification is not None and not options.specification.is_file():
        parser.error(f"there is no file {options.specification}")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"nothing can be written to {options.out}: {error.strerror}")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Deliver, and say how it went by the exit code."""
    options = arguments(words)
    specification = LIBRARY if options.specification is None else options.specification.read_text(encoding="utf-8")
    try:
        return asyncio.run(work(specification, options.out.resolve(), options.port if options.serve else None))
    except DagflowError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
