"""What comes from a worker: what a function returned, or what it raised with its traceback."""

from __future__ import annotations

import contextlib
import traceback
from typing import TYPE_CHECKING, Any

from dagflow._facts import describe
from dagflow.errors import NodeError, SerializationError, WorkflowError
from dagflow.runners._parcels import short
from dagflow.runners._travel import load, pack

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["lost", "pack_error", "unpack_error", "unpack_result", "unreturnable"]

_MAX_TRACEBACK = 20_000
_PLAINER = "return something plainer"
_IMPORTABLE = "define it at the top level of a module that can be imported"


def lost(exc: BaseException, *, node: str) -> WorkflowError:
    """Return the error of a worker that cannot find what a call names."""
    reason = f"a worker process cannot find its function, or the class of an argument ({short(exc)}): {_IMPORTABLE}"
    return WorkflowError(reason, node=node)


def unreturnable(value: object, exc: BaseException, *, node: str) -> SerializationError:
    """Return the error of a function whose result cannot be packed."""
    reason = f"what it returned cannot leave its process ({short(exc)}): {_PLAINER}"
    return SerializationError(reason, type=type(value).__qualname__, node=node)


def unpack_result(packed: bytes, *, node: str) -> Any:
    """Return what a function returned.

    Raises:
        SerializationError: It could be packed, but cannot be unpacked.
    """
    try:
        return load(packed)
    except Exception as exc:
        reason = f"what it returned does not survive the way from its process ({short(exc)}): {_PLAINER}"
        raise SerializationError(reason, node=node) from exc


def pack_error(error: BaseException) -> bytes:
    """Return an exception as bytes: as itself if that is possible, and as text in any case."""
    text = "".join(_formatted(error))[-_MAX_TRACEBACK:]
    return pack((describe(error, text), _packed_error(error)))


def unpack_error(packed: bytes, *, node: str) -> BaseException:
    """Return an exception with the worker's traceback as a note, or the `NodeError` that stands for it."""
    info, itself = load(packed)
    try:
        error: BaseException = load(itself)
        error.add_note(f"\nin its own process:\n{info.traceback}")
    except Exception:  # noqa: BLE001 - of the user's classes
        return NodeError(node, info)
    return error


def _packed_error(error: BaseException) -> bytes:
    """Return the exception in the first form that survives; nothing when none does."""
    for form in (error, _Parts(error)):
        with contextlib.suppress(Exception):
            packed = pack(form)
            again = load(packed)
            if type(again) is type(error) and isinstance(str(again), str):
                return packed
    return b""


class _Parts:
    """An exception whose class cannot be called with its ``args``, or with something in it that cannot travel."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[object, ...]:
        return _put_together, (type(self._error), self._error.args, _portable(vars(self._error)))


def _put_together(cls: type[BaseException], args: tuple[object, ...], fields: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    vars(error).update(fields)
    return error


def _portable(fields: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in fields.items():
        with contextlib.suppress(Exception):
            load(pack(value))
            found[name] = value
    return found


def _formatted(error: BaseException) -> list[str]:
    """Return the traceback from the user's first frame on."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames):
        frames = frames.tb_next
    try:
        return traceback.format_exception(type(error), error, frames)
    except Exception:  # noqa: BLE001 - the user's __str__
        return traceback.format_tb(frames)


def _is_ours(frame: TracebackType) -> bool:
    return str(frame.tb_frame.f_globals.get("__name__", "")).startswith("dagflow.runners.")
