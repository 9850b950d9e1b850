"""What goes to a worker: a function, its arguments, and the context without the resources that cannot travel."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._facts import describe
from dagflow._node import NodeContext
from dagflow.errors import ExecutorError, SerializationError, WorkflowError
from dagflow.runners._heartbeat import Beating
from dagflow.runners._travel import PROTOCOL, Pickler, load, names_main, pack

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Parcel", "pack_initializer", "short"]

_TOP = "define it with 'def' at the top level of a module, or let the node run in a thread"
_ELSEWHERE = "open it in the function, or let the node run in a thread"
_LONGEST_TEXT = 200


@attrs.frozen
class Parcel:
    """A call, packed.

    Attributes:
        node: Name of the node.
        settings: How to treat the load.
        load: The function and its arguments.
        beat: Is called with each sign of life.
    """

    node: str
    settings: bytes
    load: bytes
    beat: Callable[[], object]

    @classmethod
    def of(cls, function: Callable[..., Any], arguments: Mapping[str, Any], *, node: str) -> Parcel:
        """Return the call as it goes to a worker.

        Raises:
            WorkflowError: The function has no name by which a worker could find it.
            SerializationError: An argument cannot travel; names it.
        """
        beat: Callable[[], object] | None = None
        if isinstance(function, Beating):
            beat, function = function.pulse.beat, function.function
        try:
            packed = _pack((function, dict(arguments)))
        except Exception as exc:
            raise _refusal(function, arguments, node, exc) from exc
        settings = pack((node, names_main(packed), beat is not None))
        return cls(node, settings, packed, beat or (lambda: None))


def pack_initializer(initializer: Callable[[], object] | None) -> bytes:
    """Return what is called once in each worker, as it goes there.

    Raises:
        ExecutorError: It has no name by which a worker could find it.
    """
    try:
        return b"" if initializer is None else pack(initializer)
    except Exception as exc:
        message = f"the initializer cannot travel to another process ({short(exc)}): {_TOP}"
        raise ExecutorError(message) from exc


def short(exc: BaseException) -> str:
    """Return the type and text of an exception, as far as they fit a message."""
    text = f"{type(exc).__name__}: {describe(exc).message}"
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."


class _Packer(Pickler):
    """Packs contexts with the resources that can travel."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, NodeContext) and not isinstance(value.resources, _Brought):
            resources, artifacts = _Brought.of(value.resources), _artifacts_of(value)
            return attrs.evolve(value, resources=resources, artifacts=artifacts).__reduce__()
        return NotImplemented


def _artifacts_of(context: NodeContext) -> Any:
    """Return what a context writes its artifacts with, or why that cannot travel."""
    artifacts = context._artifacts  # noqa: SLF001 - the property refuses where there are none
    try:
        pack(artifacts)
    except Exception as exc:  # noqa: BLE001 - of the user's store
        return f"the artifact store cannot travel to another process ({short(exc)}): let the node run in a thread"
    return artifacts


class _Brought(Mapping[str, Any]):
    """The executor's resources in a worker: unpacked when they are asked for; what could not travel is refused."""

    def __init__(self, packed: dict[str, bytes | str]) -> None:
        self._packed = packed
        self._unpacked: dict[str, Any] = {}

    @classmethod
    def of(cls, resources: Mapping[str, Any]) -> _Brought:
        packed: dict[str, bytes | str] = {}
        for name, value in resources.items():
            try:
                packed[name] = pack(value)
            except Exception as exc:  # noqa: BLE001 - of the user's classes
                packed[name] = short(exc)
        return cls(packed)

    def __getitem__(self, name: str) -> Any:
        if name not in self._unpacked:
            packed = self._packed[name]
            if isinstance(packed, str):
                message = f"resource {name!r} cannot travel to another process ({packed}): {_ELSEWHERE}"
                raise ExecutorError(message)
            self._unpacked[name] = load(packed)
        return self._unpacked[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def _pack(value: object) -> bytes:
    buffer = io.BytesIO()
    _Packer(buffer, PROTOCOL).dump(value)
    return buffer.getvalue()


def _refusal(
    function: Callable[..., Any], arguments: Mapping[str, Any], node: str, exc: Exception
) -> WorkflowError | SerializationError:
    """Return the error that names what cannot travel."""
    try:
        pack(function)
    except Exception as why:  # noqa: BLE001 - of the user's classes
        name = getattr(function, "__qualname__", None) or repr(function)
        reason = f"its function {name} cannot travel to another process ({short(why)}): {_TOP}"
        return WorkflowError(reason, node=node)
    for name, value in arguments.items():
        try:
            _pack(value)
        except Exception as why:  # noqa: BLE001 - of the user's classes
            reason = f"it cannot travel to another process ({short(why)}): {_ELSEWHERE}"
            return SerializationError(reason, path=f"$.{name}", type=type(value).__qualname__, node=node)
    return SerializationError(f"its arguments cannot travel to another process ({short(exc)})", node=node)
