"""Events as they are committed, to many clients, none of which can hold a run up.

Runs that are driven here push their events in the lines of those who watch, which are bounded; a line that is full is
emptied, and its client reads what it missed from the journal, as it does for runs that others drive.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING

import attrs

from dagflow._events import EventKind
from dagflow.web._documents import event_document

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from dagflow._events import Event
    from dagflow._plan import Plan
    from dagflow._state import RunState
    from dagflow.executor import DAGExecutor

__all__ = ["Live", "Told"]

_CAPACITY = 1_000
_ENDS = frozenset({EventKind.RUN_COMPLETED, EventKind.RUN_FAILED, EventKind.RUN_CANCELLED})
_RUN_KINDS = frozenset(kind for kind in EventKind if kind.startswith("run_"))


class Told:
    """An event, and its JSON that is made once for all who want it."""

    __slots__ = ("_text", "event")

    def __init__(self, event: Event) -> None:
        self.event = event
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The event as JSON."""
        if self._text is None:
            self._text = json.dumps(event_document(self.event), ensure_ascii=False, separators=(",", ":"))
        return self._text


@attrs.define(eq=False)
class _Line:
    """What was committed of a run and has not been sent to one client."""

    events: deque[Told] = attrs.field(factory=deque)
    came: asyncio.Event = attrs.field(factory=asyncio.Event)

    def put(self, told: Sequence[Told]) -> None:
        if len(self.events) + len(told) > _CAPACITY:
            self.events.clear()
        else:
            self.events.extend(told)
        self.came.set()

    async def wait(self, timeout: float) -> None:
        if not self.came.is_set():
            await _either(self.came, timeout)
        self.came.clear()


async def _either(came: asyncio.Event, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await came.wait()
    except TimeoutError:
        return


class Live:
    """Follows an executor on behalf of all clients.

    Args:
        executor: Its runs are watched.
        poll: Seconds between two looks at the journal of a run that somebody else may drive.
    """

    def __init__(self, executor: DAGExecutor, *, poll: float) -> None:
        self._executor = executor
        self._poll = poll
        self._lines: dict[str, set[_Line]] = {}
        self._detach: Callable[[], None] | None = None

    def follow(self, events: Sequence[Event], _state: RunState | None, _plan: Plan | None) -> None:
        """Take in what was committed; costs one look-up for a run that nobody watches."""
        lines = self._lines.get(events[0].run_id)
        if lines:
            told = [Told(event) for event in events]
            for line in lines:
                line.put(told)

    def leave(self, state: RunState, _error: BaseException | None) -> None:
        """Let those look again who watch a run that is no longer driven here."""
        for line in self._lines.get(state.run_id, ()):
            line.came.set()

    async def events(self, run_id: str, *, after: int) -> AsyncGenerator[Told | None]:
        """Yield the events of a run beyond a version until it has ended, and ``None`` while there is nothing new.

        Raises:
            RunNotFoundError: No run has this id.
        """
        line = self._watch(run_id)
        try:
            journal = await self._executor.history(run_id)
            kinds = [event.kind for event in journal if event.kind in _RUN_KINDS]
            version, has_ended = after, bool(kinds) and kinds[-1] in _ENDS
            news = [Told(event) for event in journal if event.version > after]
            while True:
                for told in news:
                    yield told
                    version = told.event.version
                    if told.event.kind in _RUN_KINDS:
                        has_ended = told.event.kind in _ENDS
                if has_ended and not line.events:
                    return
                if not news:
                    yield None
                    await line.wait(self._poll)
                news = await self._news(run_id, line, version)
        finally:
            self._leave(run_id, line)

    async def _news(self, run_id: str, line: _Line, version: int) -> list[Told]:
        """Return what lies beyond a version: from the line if that begins there, else from the journal."""
        news = [told for told in line.events if told.event.version > version]
        line.events.clear()
        if news and news[0].event.version == version + 1:
            return news
        return [Told(event) for event in await self._executor.history(run_id, after=version)]

    def _watch(self, run_id: str) -> _Line:
        if self._detach is None:
            self._detach = self._executor.follow(self)
        line = _Line()
        self._lines.setdefault(run_id, set()).add(line)
        return line

    def _leave(self, run_id: str, line: _Line) -> None:
        lines = self._lines[run_id]
        lines.discard(line)
        if not lines:
            del self._lines[run_id]
        if not self._lines and self._detach is not None:
            self._detach()
            self._detach = None
