"""What every store refuses before it writes: a journal with a gap could never be read back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagflow._events import Event

__all__ = ["check_numbers"]


def check_numbers(events: Sequence[Event], version: int) -> None:
    """Refuse events that do not go on from ``version``.

    Raises:
        ValueError: There are none, or the last one's number is not what it has to be.
    """
    if not events or events[-1].version != version + len(events):
        numbers = [event.version for event in events]
        message = f"the events after version {version} must be numbered onwards from it without gaps, not {numbers}"
        raise ValueError(message)
