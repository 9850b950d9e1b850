"""What a store can be made of; a mistake is to show where it is made, and not when it is opened."""

from __future__ import annotations

__all__ = ["check_count", "check_list", "check_seconds"]


def check_seconds(name: str, value: object) -> float:
    """Return a number of seconds.

    Raises:
        TypeError: It is no number.
        ValueError: It is below 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}= takes seconds, not {value!r}")
    if not value >= 0:
        raise ValueError(f"{name} is in seconds and must be at least 0, not {value!r}")
    return value


def check_count(name: str, value: object) -> int:
    """Return a whole number.

    Raises:
        TypeError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}= takes a whole number, not {value!r}")
    return value


def check_list(name: str, value: object) -> tuple[str, ...]:
    """Return a list of texts.

    Raises:
        TypeError: It is none; a text alone would be a list of characters.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"{name}= takes a list of texts, not {value!r}: write {name}=[...]")
    return tuple(value)
