"""The log of the library: the logger ``dagflow``, whose filters and handlers are the application's.

They are guests here: what they raise changes nothing. `logging` itself looks after the faults of handlers only.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["LOGGER"]


class _Log(logging.LoggerAdapter[logging.Logger]):
    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        # The second frame from here that is not one of `logging`: where the line was asked for.
        with suppress(Exception):
            self.logger.log(level, msg, *args, stacklevel=2, **kwargs)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs


LOGGER = _Log(logging.getLogger("dagflow"), {})
