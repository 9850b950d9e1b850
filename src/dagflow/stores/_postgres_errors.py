"""What an error of psycopg means: may it pass, is its outcome certain, and what do users read."""

from __future__ import annotations

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from dagflow.errors import StoreFaultError, StoreFormatError, StoreRefusedError, StoreUnavailableError

__all__ = ["DAMAGED_ROW", "FAULTS", "is_certain", "may_pass", "text_of", "translate"]

FAULTS = (psycopg.Error, TimeoutError, UnicodeEncodeError)
"""What work on a connection may raise besides dagflow's own errors."""

DAMAGED_ROW = "a row is damaged, or was written by a newer version of dagflow: upgrade it"

# Connections, resources, operators, the system below the server: other people's trouble, which ends.
_PASSING_CLASSES = frozenset({"08", "53", "57", "58"})
# Serialization failure, completion unknown, deadlock, lock not available, a transaction that stood still or took long.
_PASSING_STATES = frozenset({"40001", "40003", "40P01", "55P03", "25P03", "25P04"})
# The server is going away or lost its link, perhaps after the commit: its word says nothing about that.
_UNCERTAIN = ("08", "57P", "40003", "25P03", "25P04")

_DISK_FULL = "53100"
_READ_ONLY = "25006"
_FORBIDDEN = "42501"
_NO_TABLES = frozenset({"3F000", "42P01", "42703"})
_TABLE_EXISTS = "42P07"
_NO_STATEMENT = frozenset({"26000", "42P05"})


def may_pass(error: BaseException) -> bool:
    """Return whether the next try may go well."""
    state = _state(error)
    if state is not None:
        return state[:2] in _PASSING_CLASSES or state in _PASSING_STATES
    # Without a state it comes from this side: the link is gone or cannot be made, or time is up.
    return isinstance(error, TimeoutError | psycopg.OperationalError) and not isinstance(error, PoolClosed)


def is_certain(error: BaseException) -> bool:
    """Return whether the error itself proves that nothing was kept."""
    state = _state(error)
    if state is not None:
        return not state.startswith(_UNCERTAIN)
    return not isinstance(error, TimeoutError | psycopg.OperationalError) or isinstance(
        error, PoolClosed | PoolTimeout | TooManyRequests
    )


def translate(error: BaseException, store: str, *, doubt: bool) -> StoreFaultError:
    """Return what a caller is told; ``doubt`` means that it is not known whether its write was kept."""
    if doubt:
        return StoreUnavailableError(f"it is not known whether the write was kept: {text_of(error)}", store)
    state = _state(error)
    if state == _DISK_FULL:
        return StoreRefusedError(f"no space is left on the server: {text_of(error)}", store)
    if may_pass(error):
        return StoreUnavailableError(text_of(error), store)
    if state in _NO_TABLES:
        return StoreFormatError(
            f"the tables of dagflow are not there: {text_of(error)}: open the store with migrate=True, "
            "or apply the script that PostgresStore.ddl() returns",
            store,
        )
    if state == _TABLE_EXISTS:
        return StoreFormatError(f"the schema has tables of somebody else, choose another one: {text_of(error)}", store)
    return StoreRefusedError(_refusal(error, state), store)


def _refusal(error: BaseException, state: str | None) -> str:
    text = text_of(error)
    if state == _READ_ONLY:
        return f"the server is read-only: connect to the primary (target_session_attrs=read-write): {text}"
    if state == _FORBIDDEN:
        return f"the role lacks a permission: {text}"
    if state in _NO_STATEMENT:
        return f"a pooler swaps connections under prepared statements, pass prepare_threshold=None: {text}"
    if isinstance(error, PoolClosed):
        return f"{text}: open it before the executor, on the same event loop (async with pool)"
    if isinstance(error, UnicodeEncodeError):
        return "a text has half a surrogate pair, which PostgreSQL cannot keep"
    return text


def _state(error: BaseException) -> str | None:
    return error.sqlstate if isinstance(error, psycopg.Error) else None


def text_of(error: BaseException) -> str:
    """Return the error's first words; its detail may quote what users store."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return f"{error.diag.message_primary} ({error.sqlstate})"
    return " ".join(str(error).split()) or "no answer in time"
