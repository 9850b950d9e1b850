"""Every replaceable part of dagflow, on one page.

Implement any of these and hand it to `DAGExecutor`. ``dagflow.testing.ContextStoreSuite`` is the executable form of
the widest one, `ContextStore`; what a store is given and gives back, `RunRecord`, `Claim` and so on, is here as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, runtime_checkable

from dagflow._events import Claim, Message, MessageKind, RunQuery, RunRecord, StoreFigures

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from dagflow._events import Event, Payload, RunStatus

__all__ = [
    "ArtifactStore",
    "Claim",
    "Clock",
    "Codec",
    "ContextStore",
    "MeasuredStore",
    "Message",
    "MessageKind",
    "Meter",
    "Observer",
    "RunQuery",
    "RunRecord",
    "Runner",
    "StoreFigures",
]


@runtime_checkable
class ContextStore(Protocol):
    """Keeps runs: one record, one journal and one row of messages each.

    An executor calls the methods of one store from one event loop and many tasks. Each method keeps all that it was
    given or nothing, and what it kept is durable when it returns. A caller that is cancelled in the middle of a write
    leaves the store usable and the write either kept or not, never half. Leases are counted by one clock that all
    processes of the store share.

    Every method may raise `StoreUnavailableError` (it is not known whether the write was kept), `StoreRefusedError`
    (nothing was kept) or `StoreFormatError`.
    """

    async def open(self) -> None:
        """Connect, create or migrate the schema, and check that the store can be used.

        Opens are counted, so that several executors can share a store: opening an open store only counts.
        """

    async def close(self) -> None:
        """Take back one `open`; the last one finishes what is being written and lets go of everything.

        Closing a closed store does nothing. A closed store can be opened again. An executor that has no more time
        cancels this: then wait for nothing that others have to do, and leave in doubt what is not finished.
        """

    async def create(self, run: RunRecord, events: Sequence[Event], *, lease: float = 0.0) -> RunRecord:
        """Keep a new run with its first events.

        Args:
            run: The record as it shall stand: ``version`` is the number of the last event; with an ``owner``, ``epoch``
                is 1 and the run is owned from the start, without one it is 0.
            events: The events 1 to ``run.version``, at least one.
            lease: Seconds until the claim of ``run.owner`` lapses.

        Returns:
            The record as it was kept, ``lease_until`` included.

        Raises:
            RunExistsError: The id is taken; nothing was kept.
        """
        ...

    async def append(
        self,
        events: Sequence[Event],
        *,
        claim: Claim,
        version: int,
        status: RunStatus,
        wake_at: datetime | None = None,
        received: int | None = None,
        release: bool = False,
    ) -> None:
        """Keep all events of one run or none, and move its record with them.

        Args:
            events: Numbered ``version + 1`` onwards without gaps, at least one.
            claim: The writer's claim.
            version: The last version that the writer knows of.
            status: Status of the run after the events.
            wake_at: When the next timer of the run is due, aware UTC; ``None`` clears it.
            received: Number of the last message that these events take in; ``None`` leaves it.
            release: Give the claim up in the same transaction.

        Raises:
            LeaseLostError: The run is not owned by ``claim`` (any more), is gone, or has another version.
        """

    async def read(self, run_id: str, *, after: int = 0) -> tuple[RunRecord, list[Event]]:
        """Return the record of a run and its events beyond the version ``after``, both of one moment.

        Raises:
            RunNotFoundError: No run has this id.
        """
        ...

    async def find(self, query: RunQuery) -> list[RunRecord]:
        """Return the records that fit, ordered as `RunQuery` says.

        Raises:
            RunNotFoundError: No run has the id ``query.after``.
        """
        ...

    async def claim(self, run_id: str, *, owner: str, lease: float, dead_owner: str | None = None) -> RunRecord:
        """Make ``owner`` the only executor of a run until the lease lapses.

        The decision is made on the record as it is now, in one statement: a claim that succeeded fences out every
        earlier one.

        Args:
            run_id: The run, of any status.
            owner: Name of the executor, unique among all that ever were.
            lease: Seconds until the claim lapses unless it is renewed.
            dead_owner: An owner that is known to be gone: its lease does not count.

        Returns:
            The record with the new owner and an epoch one higher.

        Raises:
            RunNotFoundError: No run has this id.
            RunOwnedError: Another owner holds a lease that has not lapsed.
        """
        ...

    async def renew(self, claims: Sequence[Claim], *, lease: float) -> list[Claim]:
        """Extend many claims to ``lease`` seconds from now, in one statement.

        A lease that has lapsed is renewed as long as nobody else has claimed the run.

        Returns:
            The claims that are lost; the others are renewed.
        """
        ...

    async def release(self, claims: Sequence[Claim]) -> None:
        """Give claims up; one that is lost already is passed over."""

    async def send(self, message: Message) -> Message:
        """Keep a message for the owner of a run, whoever that is or will be.

        Returns:
            The message with its ``number`` and ``sent_at``.

        Raises:
            RunNotFoundError: No run has this id.
            MessageExistsError: The run has a message with this ``key``; nothing was kept.
        """
        ...

    async def receive(self, cursors: Mapping[str, int]) -> list[Message]:
        """Return the messages of many runs, in the order of their numbers within each run.

        Args:
            cursors: For each run id, the number of the last message that is known.

        Returns:
            What lies beyond; nothing for a run that does not exist. Messages stay until their run is deleted.
        """
        ...

    async def delete(self, run_id: str) -> None:
        """Forget a run, its events and its messages, all in one transaction.

        Raises:
            RunNotFoundError: No run has this id.
            RunOwnedError: An owner holds a lease that has not lapsed.
        """


@runtime_checkable
class MeasuredStore(Protocol):
    """A `ContextStore` that can also say how large and how busy it is, for metrics; no store has to."""

    async def measure(self) -> StoreFigures:
        """Return what there is to say, cheaply."""
        ...


@runtime_checkable
class Codec(Protocol):
    """Turns values into bytes and back, faithfully or not at all."""

    @property
    def name(self) -> str:
        """Stands in every payload, so that its reader can be found."""
        ...

    def encode(self, value: object) -> Payload:
        """Return the value as bytes with a checksum.

        Raises:
            SerializationError: It cannot be kept faithfully; names the path and the type.
        """
        ...

    def decode(self, payload: Payload) -> Any:
        """Return a new copy of the value; never imports, calls or instantiates anything that the bytes name.

        Raises:
            SerializationError: The bytes are not what was written, or the codec cannot read them.
        """
        ...


@runtime_checkable
class Runner(Protocol):
    """Calls the function of a node somewhere: on the loop, in a thread, in a process, on another machine."""

    def call(
        self, function: Callable[..., Any], arguments: Mapping[str, Any], *, timeout: float | None, node: str
    ) -> Awaitable[Any]:
        """Return, when it is awaited, what the function returns; raise what it raises.

        When the await is cancelled, the call is stopped or abandoned, and its late result is thrown away.

        Args:
            function: The node's function.
            arguments: Its keyword arguments.
            timeout: Seconds that the call may take, ``None`` for no limit.
            node: Name of the node, for errors.

        Raises:
            NodeTimeoutError: The call took longer than ``timeout``.
        """

    async def close(self) -> None:
        """Let go of threads and processes, for a bounded time; closing again does nothing."""


@runtime_checkable
class ArtifactStore(Protocol):
    """Keeps bytes under keys, beside the journal; what refers to them, and when they may go, is dagflow's business.

    A key is a path like ``objects/ab/ab12``: parts of letters, digits, ``-`` and ``.``, divided by ``/``. The methods
    wait for the file system; they are called from several threads, never for the executor's own work from its loop.
    What was put or removed is seen by all processes at once. A store that pickles works in `ProcessRunner` as well.
    """

    def put(self, key: str, source: BinaryIO) -> None:
        """Keep what ``source.read`` gives under a key, in place of what was there.

        All of it is durable when this returns. A crash, or an error of the source, leaves the key as it was.
        """

    def open(self, key: str) -> BinaryIO:
        """Return the bytes under a key as a stream from the first one on; the caller closes it.

        Raises:
            FileNotFoundError: There is no such key.
        """
        ...

    def size(self, key: str) -> int | None:
        """Return how many bytes lie under a key, ``None`` when there is no such key."""
        ...

    def list(self, prefix: str) -> Iterable[str]:
        """Return the keys that are ``prefix``, a ``/`` and one more part; none for a prefix that is not there."""
        ...

    def remove(self, key: str) -> None:
        """Forget a key; one that is not there is passed over."""

    def uri(self, key: str) -> str:
        """Return where the bytes lie, for people and other programs; ends with the key and holds no credentials."""
        ...


class Observer(Protocol):
    """Is told every event after it was committed, run by run in the order of the journal.

    It is a guest: what it raises is logged, and when it is slow, events are dropped and counted for it; the run never
    waits for it.
    """

    def __call__(self, event: Event, /) -> Awaitable[None] | None:
        """Take one event; a coroutine that is returned is awaited before the next one."""


@runtime_checkable
class Meter(Protocol):
    """Takes figures that are no events; an observer that is a meter as well is handed those of its executor.

    The methods are called from the event loop and from the threads of nodes; they return at once. A meter is a guest:
    what it raises is logged.
    """

    def record_contract_validation(self, contract_type: str, status: bool | str, duration: float) -> None:  # noqa: FBT001 - one of two words, or its truth
        """Count a check of a value that entered or left a node.

        Args:
            contract_type: What was checked: ``"input"`` or ``"output"``.
            status: ``True`` or ``"valid"``, ``False`` or ``"invalid"``.
            duration: Seconds that the check took.
        """

    def record_quality_score(self, phase_name: str, score: float) -> None:
        """Take the score of a phase, from 0 to 1."""

    def record_artifact(self, artifact_type: str, size_bytes: int) -> None:
        """Count an artifact that was written."""

    def record_context_store_operation(self, operation: str, status: bool | str) -> None:  # noqa: FBT001 - as above
        """Count a call of the store.

        Args:
            operation: Name of the method of `ContextStore`.
            status: ``True`` or ``"success"``, ``False`` or ``"failure"``.
        """

    def record_database_query(self, query_type: str, duration: float) -> None:
        """Take the seconds that the store took for a call of this method."""


@runtime_checkable
class Clock(Protocol):
    """Tells the time and waits; ``dagflow.testing.FakeClock`` is the one for tests."""

    def now(self) -> datetime:
        """Return the present as an aware UTC datetime."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return after this many seconds."""
