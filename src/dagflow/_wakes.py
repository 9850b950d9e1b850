"""Nodes that wait for the runs that they have started, and look at them again when they are told to.

Whoever ends such a run sends a message to the run above before it writes the end; a crash in between could leave
nobody to send it. So a node may look too early, and then waits for the owner of the run. The journal counts the
message as received when the node has begun to look, and not before: until then it is all that is known of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagflow._events import NodeStatus
from dagflow._facts import Parked, Raised, Returned

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dagflow._admission import Admission
    from dagflow._events import Message
    from dagflow._facts import Fact
    from dagflow._journal import Journal
    from dagflow._state import NodeState, RunState

__all__ = ["Wakes"]

_OF_A_CALL = (Returned, Raised, Parked)


class Wakes:
    """Lets the nodes of one run look again.

    Args:
        state: The run.
        journal: Holds back what the next owner has to find as well.
        admission: Starts the nodes.
    """

    def __init__(self, state: RunState, journal: Journal, admission: Admission) -> None:
        self._state = state
        self._held = journal.held
        self._admission = admission

    def take(self, message: Message) -> None:
        """Let a node look at the run that it waits for, or is just about to wait for."""
        node = self._state.by_name.get(message.name)
        if node is not None and (_is_parked(node) or node.status is NodeStatus.RUNNING):
            self._held[node.name] = message.number
            self._look([node])

    def look_at_all(self) -> None:
        """Let all nodes look; what their runs have come to since they were parked is not known."""
        self._look(self._state.by_name.values())

    def calls_ended(self, facts: Iterable[Fact]) -> None:
        """Let the nodes look that have been parked just now, when their runs have come to an end meanwhile."""
        for fact in facts:
            if isinstance(fact, _OF_A_CALL) and fact.node.name in self._held:
                if _is_parked(fact.node):
                    self._look([fact.node])
                else:
                    del self._held[fact.node.name]

    def started(self, nodes: Iterable[NodeState]) -> None:
        """Hold the messages back no longer that have made these nodes look."""
        for node in nodes:
            self._held.pop(node.name, None)

    def _look(self, nodes: Iterable[NodeState]) -> None:
        # A node that is going to look anyway must not stand in line twice.
        self._admission.add([node for node in nodes if _is_parked(node) and node not in self._admission])


def _is_parked(node: NodeState) -> bool:
    return node.status is NodeStatus.WAITING and node.waits_for == "run"
