"""Events as they are committed, to many clients, none of which can hold a run up.

The journal of a run that is watched is kept here once, for all who watch it; a client is only a place in it. Runs that
are driven here push their events, and for those that others drive one task looks in the store. Who has news waits for
its turn, so that sending takes a small part of the time from runs that are driven here, however many clients there are.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from dagflow._events import EventKind
from dagflow.errors import ExecutorError
from dagflow.web._documents import event_document, json_text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from dagflow._events import Event
    from dagflow._plan import Plan
    from dagflow._state import RunState
    from dagflow.web._pace import Pace
    from dagflow.web._start import Start

__all__ = ["Live", "Told"]

_BATCH = 16
_ENDS = frozenset({EventKind.RUN_COMPLETED, EventKind.RUN_FAILED, EventKind.RUN_CANCELLED})
_RUN_KINDS = frozenset(kind for kind in EventKind if kind.startswith("run_"))


class Told:
    """An event, and its JSON that is made once for all who want it."""

    __slots__ = ("_event", "_text", "kind", "version")

    def __init__(self, event: Event) -> None:
        self.version = event.version
        self.kind = event.kind
        self._event: Event | None = event
        self._text = ""

    @property
    def text(self) -> str:
        """The event as JSON."""
        if self._event is not None:
            self._text = json_text(event_document(self._event))
            self._event = None
        return self._text


class _Watched:
    """The journal of one run while somebody watches it.

    Attributes:
        told: The events, from the first one on.
        watchers: How many watch.
        error: Why there are no more.
    """

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.watchers = 0
        self.error: Exception | None = None
        self.reader: asyncio.Task[None] | None = None
        self._has_ended = False
        self._is_read = False
        self._was_pushed = False
        self._news = asyncio.Event()
        self._call = asyncio.Event()

    def push(self, events: Sequence[Event]) -> None:
        """Take in what was committed here; a gap before it is filled from the store."""
        self._was_pushed = True
        if not self._add(events):
            self._call.set()

    def add(self, events: Sequence[Event]) -> None:
        """Take in what was read."""
        self._is_read = True
        self._add(events)
        if not events:
            self._tell()

    def _add(self, events: Sequence[Event]) -> bool:
        version = len(self.told)
        new = [event for event in events if event.version > version]
        if not new:
            return True
        if new[0].version != version + 1:
            return False
        self.told.extend(map(Told, new))
        for event in new:
            if event.kind in _RUN_KINDS:
                self._has_ended = event.kind in _ENDS
        self._tell()
        return True

    def fail(self, error: Exception) -> None:
        """Let those who watch know that there will be no more."""
        self.error = error
        self._tell()

    def look(self) -> None:
        """Have the store looked at now."""
        self._was_pushed = False
        self._call.set()

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def is_over(self, version: int) -> bool:
        """Return whether nothing comes after a version."""
        return self._is_read and self._has_ended and version >= len(self.told)

    async def changed(self, timeout: float | None) -> None:
        """Return when there is something new, or the time is over."""
        await _either(self._news, timeout)

    async def called(self, timeout: float) -> bool:
        """Return when it is time to look in the store; false when there is no reason to."""
        await _either(self._call, timeout)
        is_called, was_pushed = self._call.is_set(), self._was_pushed
        self._call.clear()
        self._was_pushed = False
        return is_called or not was_pushed


async def _either(came: asyncio.Event, timeout: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            await came.wait()


class Live:
    """Follows an executor on behalf of all clients.

    Args:
        start: Has the executor.
        pace: Says whose turn it is.
        poll: Seconds between two looks at the journal of a run that somebody else may drive.
    """

    def __init__(self, start: Start, pace: Pace, *, poll: float) -> None:
        self._start = start
        self._pace = pace
        self._poll = poll
        self._watched: dict[str, _Watched] = {}
        self._detach: Callable[[], None] | None = None

    def follow(self, events: Sequence[Event], _state: RunState | None, _plan: Plan | None) -> None:
        """Take in what was committed; costs next to nothing for a run that nobody watches."""
        self._pace.moved(asyncio.get_running_loop().time())
        watched = self._watched.get(events[0].run_id)
        if watched is not None:
            watched.push(events)

    def leave(self, state: RunState, _error: BaseException | None) -> None:
        """Have the journal of a run looked at that is no longer driven here."""
        watched = self._watched.get(state.run_id)
        if watched is not None:
            watched.look()
        self._pace.rest()

    def close(self) -> None:
        """Let everybody go."""
        for watched in list(self._watched.values()):
            watched.fail(ExecutorError("the app is closed"))
            self._forget(watched)
        self._watched.clear()

    async def events(self, run_id: str, *, after: int, beat: float | None = None) -> AsyncGenerator[Sequence[Told]]:
        """Yield the events of a run beyond a version, a few at a time, until it has ended.

        Args:
            run_id: A run that exists.
            after: The version.
            beat: Seconds after which nothing is yielded as well; ``None`` for never.

        Raises:
            DagflowError: The run is no more, or the store cannot be read.
        """
        watched = self._join(run_id)
        version = after
        try:
            while True:
                batch = watched.told[version : version + _BATCH]
                if batch:
                    async with self._pace.turn(len(batch)):
                        yield batch
                    version = batch[-1].version
                elif watched.error is not None:
                    raise watched.error
                elif watched.is_over(version):
                    return
                else:
                    before = len(watched.told)
                    await watched.changed(beat)
                    if beat is not None and len(watched.told) == before and watched.error is None:
                        yield ()
        finally:
            self._leave(run_id, watched)

    # -- who watches ------------------------------------------------------------------------------

    def _join(self, run_id: str) -> _Watched:
        watched = self._watched.get(run_id)
        if watched is None:
            watched = self._watched[run_id] = _Watched()
            if self._detach is None:
                self._detach = self._start.executor.follow(self)
            reading = self._read(run_id, watched)
            watched.reader = asyncio.get_running_loop().create_task(reading, name="dagflow-live")
        watched.watchers += 1
        return watched

    def _leave(self, run_id: str, watched: _Watched) -> None:
        watched.watchers -= 1
        if watched.watchers:
            return
        if self._watched.get(run_id) is watched:
            del self._watched[run_id]
        self._forget(watched)

    def _forget(self, watched: _Watched) -> None:
        if watched.reader is not None:
            watched.reader.cancel()
        if not self._watched and self._detach is not None:
            self._detach()
            self._detach = None

    async def _read(self, run_id: str, watched: _Watched) -> None:
        """Look in the store, once at first and then whenever there is a reason to."""
        try:
            while True:
                watched.add(await self._start.executor.history(run_id, after=len(watched.told)))
                while not await watched.called(self._poll):
                    pass
        except Exception as exc:  # noqa: BLE001 - of the store, which may be a plug-in; those who watch are told
            if self._watched.get(run_id) is watched:
                # Whoever comes next tries anew.
                del self._watched[run_id]
            watched.fail(exc)
