"""Stores by their URL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dagflow.clock import SYSTEM_CLOCK
from dagflow.errors import StoreURLError

if TYPE_CHECKING:
    from dagflow.protocols import Clock, ContextStore

__all__ = ["open_store"]

_KNOWN = "memory://, sqlite:///relative.db, sqlite:////absolute.db, postgresql://user@host/database"
_URL = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)


def open_store(url: str, *, clock: Clock = SYSTEM_CLOCK) -> ContextStore:
    """Return the store of a URL; nothing is opened before its `open`.

    Args:
        url: ``memory://``, ``sqlite:///relative.db``, ``sqlite:////absolute.db`` or ``postgresql://...``.
        clock: Counts the leases, where that is not the business of a server.

    Raises:
        StoreURLError: The URL is malformed or of an unknown kind.
        MissingExtraError: The store needs an optional package.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise StoreURLError(_redacted(url), f"this is no URL of a store: use one of {_KNOWN}")
    scheme, rest = match["scheme"].lower(), match["rest"]
    if scheme == "memory":
        return _memory(url, rest, clock)
    if scheme == "sqlite":
        return _sqlite(url, rest, clock)
    if scheme in ("postgresql", "postgres"):
        return _postgres(url)
    raise StoreURLError(_redacted(url), f"no store is known for {scheme}://: use one of {_KNOWN}")


def _memory(url: str, rest: str, clock: Clock) -> ContextStore:
    from dagflow.stores.memory import MemoryStore  # noqa: PLC0415 - each store is imported when it is used

    if rest:
        raise StoreURLError(_redacted(url), "a store in memory has no name: use memory://")
    return MemoryStore(clock=clock)


def _sqlite(url: str, rest: str, clock: Clock) -> ContextStore:
    from dagflow.stores.sqlite import SQLiteStore  # noqa: PLC0415 - each store is imported when it is used

    if rest in ("", "/", ":memory:", "/:memory:"):
        raise StoreURLError(url, "a store in SQLite is a file: use sqlite:///path, or memory://")
    if not rest.startswith("/"):
        raise StoreURLError(
            _redacted(url), "there is one slash too few: sqlite:///relative.db or sqlite:////absolute.db"
        )
    if "?" in rest or "#" in rest:
        raise StoreURLError(_redacted(url), "a URL of SQLite takes no options: use SQLiteStore(path, ...)")
    return SQLiteStore(rest[1:], clock=clock)


def _postgres(url: str) -> ContextStore:
    from dagflow.stores.postgres import PostgresStore  # noqa: PLC0415 - each store is imported when it is used

    try:
        return PostgresStore(url)
    except ValueError as exc:
        # The text of the store names what is wrong without quoting the URL.
        raise StoreURLError(_redacted(url), str(exc)) from None


def _redacted(url: str) -> str:
    """Return as much of a URL as cannot hold a password: its scheme, and what follows the last ``@``."""
    scheme, divider, rest = url.partition("://")
    if not divider:
        return "..."
    return (
        f"{scheme}://...@{rest.rpartition('@')[2].partition('?')[0]}"
        if "@" in rest
        else f"{scheme}://{rest.partition('?')[0]}"
    )
