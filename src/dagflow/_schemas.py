"""JSON Schema: the one room with jsonschema, for contracts and for the forms of reviews.

A schema stands for itself: what it refers to has to lie in it, and nothing is ever fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagflow.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BadSchemaError", "compile_schema"]

_MOST_CHARACTERS = 300


class BadSchemaError(ValueError):
    """The schema is none, or refers to what does not lie in it; the text says what is wrong."""


def compile_schema(schema: Mapping[str, Any], feature: str) -> Callable[[Any], tuple[str, str] | None]:
    """Return a function that tells where a value does not fit a schema, and why; ``None``: it fits.

    Tuples count as arrays and every mapping as an object.

    Args:
        schema: The schema; of draft 2020-12 unless its ``$schema`` says otherwise.
        feature: What needs it, for the error.

    Raises:
        BadSchemaError: The schema is wrong.
        MissingExtraError: jsonschema is not installed.
    """
    try:
        import jsonschema  # noqa: PLC0415 - an extra, loaded when there is a schema
        from referencing import Registry  # noqa: PLC0415 - comes with jsonschema
    except ImportError as exc:
        raise MissingExtraError(feature, "schema") from exc
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as exc:
        raise BadSchemaError(f"at {exc.json_path}: {exc.message}"[:_MOST_CHARACTERS]) from None
    types = kind.TYPE_CHECKER.redefine("array", _is_array).redefine("object", _is_object)
    # A registry of its own: the default one fetches what a schema refers to.
    validator = jsonschema.validators.extend(kind, type_checker=types)(schema, registry=Registry())
    _check_references(schema, validator)

    def fault(value: Any) -> tuple[str, str] | None:
        try:
            first = jsonschema.exceptions.best_match(validator.iter_errors(value))
        except Exception as exc:  # noqa: BLE001 - of the user's classes: errors quote the value
            return "$", f"looking at it raised {type(exc).__name__}"
        return None if first is None else (first.json_path, first.message[:_MOST_CHARACTERS])

    return fault


def _check_references(schema: Mapping[str, Any], validator: Any) -> None:
    """Look up what the schema refers to, unless parts of it have addresses of their own."""
    from referencing.exceptions import Unresolvable  # noqa: PLC0415 - as above

    parts = list(_parts(schema))
    if any("$id" in part for part in parts[1:]):
        return
    for reference in (part["$ref"] for part in parts if isinstance(part.get("$ref"), str)):
        try:
            validator._resolver.lookup(reference)  # noqa: SLF001 - there is no public one of the same address
        except Unresolvable:
            raise BadSchemaError(f"it refers to {reference!r}, which does not lie in it") from None


def _parts(schema: object) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, Mapping):
        yield schema
        for key, part in schema.items():
            if key not in ("const", "default", "enum", "examples"):
                yield from _parts(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from _parts(part)


def _is_array(_checker: object, value: object) -> bool:
    return isinstance(value, list | tuple)


def _is_object(_checker: object, value: object) -> bool:
    return isinstance(value, Mapping)
