"""Values against type hints: attrs classes, dataclasses, models of pydantic, and what ``typing`` offers.

A mapping fits a class when an instance can be made of it, nested ones included; the value itself stays what it is.
Types are told apart as Python's checkers do it, save that ``True`` is no number. What a hint does not say, or what
cannot be asked of a value, counts as fitting.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import attrs

__all__ = ["UNIONS", "bare", "fault_of", "hints_of", "is_typed_dict", "name_of"]

UNIONS = (typing.Union, types.UnionType)
_WRAPPERS = (typing.Annotated, typing.ClassVar, typing.Final, typing.Required, typing.NotRequired)
_NUMBERS: dict[object, tuple[type, ...]] = {int: (int,), float: (int, float), complex: (int, float, complex)}
_MOST_CHARACTERS = 300


class _Misfit(Exception):  # noqa: N818 - it never leaves this room
    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason[:_MOST_CHARACTERS]


def fault_of(hint: Any, value: Any) -> tuple[str, str] | None:
    """Return where a value does not fit a type hint, and why; ``None``: it fits."""
    try:
        _shape(hint, value, "$")
    except _Misfit as misfit:
        return misfit.path, misfit.reason
    return None


def bare(hint: Any) -> Any:
    """Return a hint without what only decorates it."""
    while True:
        if isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        elif typing.get_origin(hint) in _WRAPPERS:
            hint = typing.get_args(hint)[0]
        else:
            return type(None) if hint is None else hint


@functools.lru_cache(maxsize=1024)
def hints_of(kind: type) -> Mapping[str, Any]:
    """Return the annotations of a class; none when they name what does not exist at run time."""
    try:
        return typing.get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001 - evaluates the user's annotations
        return {}


def is_typed_dict(kind: Any) -> bool:
    """Return whether a class is a ``TypedDict``, that of ``typing_extensions`` included."""
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__required_keys__")


def name_of(hint: Any) -> str:
    """Return a hint as a person would write it."""
    return (
        hint.__qualname__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
    )


def _shape(hint: Any, value: Any, path: str) -> Any:
    """Return the value, or what a class makes of it; raises `_Misfit`."""
    hint = bare(hint)
    origin = typing.get_origin(hint)
    if origin in UNIONS:
        return _one_of(typing.get_args(hint), value, path, hint)
    if origin is typing.Literal:
        return _literal(hint, value, path)
    if isinstance(origin, type):
        return _container(origin, typing.get_args(hint), _plain(origin, value, path), path)
    return _plain(hint, value, path) if isinstance(hint, type) else value


def _refuse(hint: Any, value: Any, path: str) -> NoReturn:
    raise _Misfit(path, f"it asks for {name_of(hint)}, not {type(value).__qualname__}")


def _plain(kind: Any, value: Any, path: str) -> Any:
    if is_typed_dict(kind):
        return _typed_dict(kind, value, path)
    if _is_model(kind):
        return _model(kind, value, path)
    if attrs.has(kind) or dataclasses.is_dataclass(kind):
        return _record(kind, value, path)
    if _is_instance(value, kind):
        return value
    return _made(kind, path, value) if issubclass(kind, enum.Enum) else _refuse(kind, value, path)


def _is_instance(value: Any, kind: Any) -> bool:
    if kind in _NUMBERS:
        return isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool)
    try:
        return isinstance(value, kind)
    except TypeError:
        # A protocol that cannot be asked.
        return True


def _one_of(options: tuple[Any, ...], value: Any, path: str, hint: Any) -> Any:
    misfits = []
    for option in options:
        try:
            return _shape(option, value, path)
        except _Misfit as misfit:
            misfits.append(misfit)
    # What lies deepest is what was meant.
    deepest = max(misfits, key=lambda misfit: len(misfit.path))
    return _refuse(hint, value, path) if deepest.path == path else _again(deepest)


def _again(misfit: _Misfit) -> NoReturn:
    raise misfit


def _literal(hint: Any, value: Any, path: str) -> Any:
    options = typing.get_args(hint)
    if any(type(option) is type(value) and option == value for option in options):
        return value
    raise _Misfit(path, f"it asks for one of {', '.join(map(repr, options))}")


def _container(origin: type, options: tuple[Any, ...], value: Any, path: str) -> Any:
    """Return a container, of which the whole fits, with its elements looked at."""
    if issubclass(origin, Mapping) and len(options) == 2:  # noqa: PLR2004 - keys and values
        for key in value:
            _shape(options[0], key, _at(path, key))
        return {key: _shape(options[1], item, _at(path, key)) for key, item in value.items()}
    if issubclass(origin, tuple):
        # Nothing is said of the elements of a bare `typing.Tuple`.
        return _tuple(options, value, path) if options else value
    if len(options) != 1 or not isinstance(value, Collection) or isinstance(value, str | bytes):
        return value
    items = [_shape(options[0], item, f"{path}[{index}]") for index, item in enumerate(value)]
    return items if isinstance(value, list) else value


def _tuple(options: tuple[Any, ...], value: Any, path: str) -> Any:
    if len(options) == 2 and options[1] is Ellipsis:  # noqa: PLR2004 - any number of one type
        options = (options[0],) * len(value)
    if len(options) != len(value):
        raise _Misfit(path, f"it asks for {len(options)} elements, not {len(value)}")
    pairs = enumerate(zip(options, value, strict=True))
    return tuple(_shape(option, item, f"{path}[{index}]") for index, (option, item) in pairs)


def _typed_dict(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        _refuse(kind, value, path)
    hints = hints_of(kind)
    for name, hint in hints.items():
        # Where annotations are texts, the class does not know which of its keys are required.
        origin = typing.get_origin(hint)
        optional = origin is typing.NotRequired or (origin is not typing.Required and name in kind.__optional_keys__)
        if not optional and name not in value:
            raise _Misfit(_at(path, name), "it is missing")
    return {key: _shape(hints.get(key, Any), item, _at(path, key)) for key, item in value.items()}


def _record(kind: Any, value: Any, path: str) -> Any:
    hints = hints_of(kind)
    if isinstance(value, kind):
        for field in attrs.fields(kind) if attrs.has(kind) else dataclasses.fields(kind):
            _shape(hints.get(field.name, Any), getattr(value, field.name, None), _at(path, field.name))
        return value
    if not isinstance(value, Mapping):
        _refuse(kind, value, path)
    fields = {name: (hints.get(field, Any) if typed else Any) for name, field, typed in _init_fields(kind)}
    for name in value:
        if name not in fields:
            raise _Misfit(_at(path, name), f"{kind.__qualname__} has no such field")
    for name in required_fields(kind):
        if name not in value:
            raise _Misfit(_at(path, name), "it is missing")
    return _made(kind, path, **{name: _shape(fields[name], item, _at(path, name)) for name, item in value.items()})


def _init_fields(kind: Any) -> list[tuple[str, str, bool]]:
    """Return what makes an instance: name of the argument, name of the field, and whether it is kept as it is given."""
    if attrs.has(kind):
        return [(f.alias or f.name, f.name, f.converter is None) for f in attrs.fields(kind) if f.init]
    return [(f.name, f.name, True) for f in dataclasses.fields(kind) if f.init]


def required_fields(kind: Any) -> list[str]:
    """Return the arguments that an attrs class or dataclass cannot do without."""
    if attrs.has(kind):
        return [f.alias or f.name for f in attrs.fields(kind) if f.init and f.default is attrs.NOTHING]
    missing = dataclasses.MISSING
    fields = dataclasses.fields(kind)
    return [f.name for f in fields if f.init and f.default is missing and f.default_factory is missing]


def _made(kind: Any, path: str, *arguments: Any, **fields: Any) -> Any:
    try:
        return kind(*arguments, **fields)
    except Exception as exc:  # noqa: BLE001 - the user's class and its validators
        # Validators of attrs hand over more than the sentence.
        text = exc.args[0] if exc.args and isinstance(exc.args[0], str) else str(exc)
        raise _Misfit(path, text or type(exc).__name__) from None


def _is_model(kind: type) -> bool:
    pydantic: Any = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


def _model(kind: Any, value: Any, path: str) -> Any:
    try:
        return kind.model_validate(value)
    except sys.modules["pydantic"].ValidationError as exc:
        first = exc.errors(include_url=False)[0]
    raise _Misfit(functools.reduce(_at, first["loc"], path), first["msg"])


def _at(path: str, key: object) -> str:
    """Return the path of what lies under a key."""
    return f"{path}.{key}" if isinstance(key, str) and key.isidentifier() else f"{path}[{key!r}]"
