"""What comes of a call that somebody else answers, for one who awaits it and for one who is told at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

__all__ = ["Answer"]

ResultT_co = TypeVar("ResultT_co", covariant=True)

# A class with the methods of a coroutine is one for asyncio; the base class would only make it dear to ask what is an
# answer, which is done on the way of every node.
if TYPE_CHECKING:
    _Coroutine = Coroutine[Any, Any, ResultT_co]
else:
    _Coroutine = Generic


class Answer(_Coroutine[ResultT_co]):
    """A coroutine that has begun already, and that can tell one caller of its end without a turn of the loop."""

    __slots__ = ("_waiting",)

    _waiting: Generator[Any, Any, ResultT_co]

    def __await__(self) -> Generator[Any, Any, ResultT_co]:
        """Wait for its end; a caller that is cancelled meanwhile learns of that afterwards."""
        raise NotImplementedError

    def then(self, told: Callable[[Answer[Any], BaseException | None], None]) -> None:
        """Call a function on the loop when it has ended: now, or as soon as it has.

        Args:
            told: Gets this, and what was raised, ``None`` when all is well. After Ctrl-C it may be called once more.
        """
        raise NotImplementedError

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
