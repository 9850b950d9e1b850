"""A run without store, calls or clock: facts go in, events come out, and the journal always folds to the same state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._events import ErrorInfo, Event, EventKind, NodeStatus, Payload, RunStatus
from dagflow._facts import Decided, Elapsed, Expanded, Fact, Judged, Raised, Returned, Signalled
from dagflow._node import Node
from dagflow._scheduler import advance, cancel, finish, may_start, pause, reopen, start
from dagflow._state import NodeState, RunState, apply, fold

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagflow import Workflow

__all__ = ["NOTHING", "PureRun", "nodes", "payload", "snapshot"]

START = datetime(2030, 1, 1, tzinfo=UTC)


def payload(text: str = "null") -> Payload:
    """Return an encoded value."""
    return Payload("json", text.encode(), sha256(text.encode()).digest())


NOTHING = payload()


def nodes(*names: str, **options: Any) -> list[Node]:
    """Return nodes that depend on nothing."""
    return [Node(name, lambda: None, **options) for name in names]


def snapshot(state: RunState) -> dict[str, Any]:
    """Return all that a state says, but for what the scheduler notes in it for itself."""
    run = {
        field.name: getattr(state, field.name)
        for field in attrs.fields(RunState)
        if field.name not in ("shape", "nodes", "by_name", "settled", "failed", "excused")
    }
    run["nodes"] = [_node(node) for node in state.by_name.values()]
    run["failed"] = [node.name for node in state.failed]
    return run


def _node(node: NodeState) -> dict[str, Any]:
    facts = {field.name: getattr(node, field.name) for field in attrs.fields(NodeState)}
    facts["map"] = node.map.name if node.map else None
    facts["items"] = [item.name for item in node.items] if node.items is not None else None
    return facts


class PureRun:
    """Drives the scheduler by hand; after every step the journal is folded and compared with the state."""

    def __init__(self, workflow: Workflow, *, opened: bool = True) -> None:
        self.plan = workflow.compile()
        self.now = START
        facts = self.plan.opening
        created = Event("r", 1, EventKind.RUN_CREATED, None, 0, self.now, facts, NOTHING)
        self.state = RunState.created(created)
        self.journal = [created]
        self.ready: list[str] = []
        if opened:
            self.open()

    def __getitem__(self, name: str) -> NodeState:
        return self.state.by_name[name]

    @property
    def status(self) -> RunStatus:
        """Status of the run."""
        return self.state.status

    @property
    def statuses(self) -> dict[str, str]:
        """Status of every node and item."""
        return {node.name: node.status.value for node in self.state.by_name.values()}

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    # -- steps ------------------------------------------------------------------------------------

    def open(self, *, graceful: bool = False, epoch: int = 1) -> list[Event]:
        """Become the owner, and see what is ready."""
        self.ready = []
        events = reopen(self.plan, self.state, now=self.now, owner="me", epoch=epoch, graceful=graceful)
        self._keep(events)
        return [*events, *self.advance()]

    def crash(self) -> None:
        """Forget everything but the journal."""
        self.state = fold(self.journal)
        self.ready = []

    def advance(self, *facts: Fact) -> list[Event]:
        """Take facts in, and everything that follows."""
        events, ready = advance(self.plan, self.state, facts, now=self.now)
        for node in ready:
            # A clean-up that needs not wait for what it depends on becomes ready once more when that ends.
            assert node.name not in self.ready or self.plan.nodes[node.index].node.join == "all_done"
            self.ready += [node.name] * (node.name not in self.ready)
        self._keep(events)
        return events

    def start(self, *names: str) -> list[Event]:
        """Start nodes that are ready, and see what follows."""
        events = []
        for name in names:
            if name in self.ready:
                self.ready.remove(name)
            event = start(self.plan, self.state, self[name], now=self.now)
            apply(self.state, event)
            events.append(event)
        self._keep(events)
        return [*events, *self.advance()]

    def may_start(self, name: str) -> bool:
        """Return whether a ready node may be started now."""
        return may_start(self.plan, self.state, self[name])

    def returns(self, *names: str, value: str = "null") -> list[Event]:
        """Let running attempts return."""
        return self.advance(*(Returned(self[name], self[name].attempts, payload(value)) for name in names))

    def raises(self, *names: str, retryable: bool = False, chance: float = 0.0) -> list[Event]:
        """Let running attempts raise, or nodes fail to start."""
        error = ErrorInfo("ValueError", "no")
        facts = [
            Raised(node, node.attempts if node.status is NodeStatus.RUNNING else 0, error, retryable, chance)
            for node in map(self.__getitem__, names)
        ]
        return self.advance(*facts)

    def judged(self, name: str) -> list[Event]:
        """Let the condition of a node say no."""
        self.ready.remove(name)
        return self.advance(Judged(self[name], "is_wanted", {"x": "1"}))

    def expand(self, name: str, keys: Sequence[Any] | int) -> list[Event]:
        """Let a map know its items."""
        if name in self.ready:
            self.ready.remove(name)
        return self.advance(Expanded(self[name], keys))

    def elapsed(self, name: str) -> list[Event]:
        """Let the time of a node come."""
        return self.advance(Elapsed(self[name]))

    def signal(self, name: str, value: str = "1", *, message: int | None = None) -> list[Event]:
        """Let a signal come."""
        number = self.state.heard + 1 if message is None else message
        return self.advance(Signalled(name, payload(value), number))

    def decide(self, name: str, *, approved: bool, requested: int | None = None, **data: Any) -> list[Event]:
        """Decide a review."""
        number = self[name].requested if requested is None else requested
        return self.advance(
            Decided(name, number, {"approved": approved, **data}, payload('"decided"'), self.state.heard + 1)
        )

    def finish(self) -> Event | list[str] | None:
        """See how the run ends; its event is kept, and so is all that follows when a map fails first."""
        end = finish(self.plan, self.state, now=self.now)
        if isinstance(end, list):
            return [node.name for node in end]
        if end is not None:
            apply(self.state, end)
            self._keep([end])
            self.advance()
        return end

    def cancel(self) -> list[Event]:
        """Cancel the run."""
        events = cancel(self.state, now=self.now)
        self._keep(events)
        return events

    def pause(self) -> Event:
        """Pause the run."""
        event = pause(self.state, now=self.now)
        self.apply(event)
        return event

    def apply(self, event: Event) -> None:
        """Apply one event."""
        apply(self.state, event)
        self._keep([event])

    def event(self, kind: EventKind, node: str | None = None, attempt: int = 0, **data: Any) -> Event:
        """Return the next event, legal or not."""
        return Event("r", self.state.version + 1, kind, node, attempt, self.now, data or None)

    # -- shorter ----------------------------------------------------------------------------------

    def complete(self, *names: str) -> None:
        """Start nodes and let them return."""
        self.start(*names)
        self.returns(*names)

    def fail(self, *names: str) -> None:
        """Start nodes and let them fail for good."""
        self.start(*names)
        self.raises(*names)

    def _keep(self, events: Sequence[Event]) -> None:
        self.journal += events
        assert [event.version for event in self.journal] == list(range(1, len(self.journal) + 1))
        assert snapshot(fold(self.journal)) == snapshot(self.state)
