"""What comes of a call that somebody else answers, for one who awaits it and for one who is told at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

__all__ = ["Answer"]

ResultT_co = TypeVar("ResultT_co", covariant=True)


class Answer(Coroutine[Any, Any, ResultT_co]):
    """A coroutine that has begun already, and that can tell one caller of its end without a turn of the loop."""

    __slots__ = ("_waiting",)

    _waiting: Generator[Any, Any, ResultT_co]

    @abstractmethod
    def __await__(self) -> Generator[Any, Any, ResultT_co]:
        """Wait for its end; a caller that is cancelled meanwhile learns of that afterwards."""

    @abstractmethod
    def then(self, told: Callable[[Answer[Any], BaseException | None], None]) -> None:
        """Call a function on the loop when it has ended: now, or as soon as it has.

        Args:
            told: Gets this, and what was raised, ``None`` when all is well. After Ctrl-C it may be called once more.
        """

    def send(self, value: Any, /) -> Any:
        """Go on waiting: so a task can be made of it."""
        return self._generator.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise something where it waits."""
        return self._generator.throw(*error)

    def close(self) -> None:
        """Wait no longer."""
        self._generator.close()

    @property
    def _generator(self) -> Generator[Any, Any, ResultT_co]:
        if not hasattr(self, "_waiting"):
            self._waiting = self.__await__()
        return self._waiting
