"""The laws of the scheduler alone: any order of facts, with crashes in between, leads a run to the same end.

There is no store, no call and no clock here, so thousands of graphs are led to their ends in every order of facts.
"""

from __future__ import annotations

import zlib
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from dagflow import Node, RetryPolicy, Workflow
from dagflow._facts import Parked
from dagflow._node import JOINS
from dagflow._specs import ChildSpec, MapSpec, ReviewSpec, SignalSpec, SleepSpec
from dagflow._state import fold
from pure_run import PureRun, snapshot
from worlds import QUICKLY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagflow import Event
    from dagflow._state import NodeState

EXAMPLES = settings(QUICKLY, max_examples=4000)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ENDED = {"completed", "failed", "skipped", "blocked", "cancelled"}
INNER = Workflow("inner", [Node("a", lambda: None)])
INNER_OF_ITEMS = Workflow("inner_of_items", [Node("a", lambda x: None)])
SPECS: dict[str, list[Any]] = {
    "map": [MapSpec({"x": "xs"}), MapSpec({"x": "xs"}, on_error="collect"), MapSpec({"x": "xs"}, depth=2)],
    "wait": [SleepSpec(5), SignalSpec(), SignalSpec(5), ReviewSpec(), ReviewSpec(None, (), 5, "fail", "continue")],
    "child": [ChildSpec(INNER)],
}


def graph(seed: int, *, in_doubt: bool = False) -> Workflow:
    """Return a workflow of up to seven nodes of every kind; its name decides what becomes of them.

    Args:
        seed: Decides about everything.
        in_doubt: Whether there are calls that are made at most once.
    """
    chance = Random(seed)
    nodes: list[Node] = []
    for number in range(chance.randint(1, 7)):
        options: dict[str, Any] = {"join": chance.choice(JOINS), "allow_failure": chance.random() < 0.3}
        kind = chance.choice(["call", "call", "map", "wait", "child"])
        if kind != "call":
            options[kind] = chance.choice(SPECS[kind])
        if kind == "map" and chance.random() < 0.5:
            options["child"] = ChildSpec(INNER_OF_ITEMS)
        if chance.random() < 0.3:
            options["when"] = lambda: True
        if kind != "wait":
            options["retry"] = RetryPolicy(max_attempts=chance.randint(1, 3), delay=1, jitter=0)
            options["max_interruptions"] = chance.randint(1, 5) if in_doubt else 5
        if in_doubt and kind != "wait" and "child" not in options and chance.random() < 0.5:
            options["effects"] = "at_most_once"
        sources = [node.name for node in chance.sample(nodes, min(len(nodes), chance.randint(0, 2)))]
        function = (lambda x: None) if kind == "map" else (lambda: None)
        nodes.append(Node(f"n{number}", function, sources, **options))
    return Workflow(f"w{seed}", nodes, on_failure="drain" if chance.random() < 0.5 else "continue")


class Led(PureRun):
    """A run that is led to its end, one random step after the other."""

    def __init__(self, workflow: Workflow, chance: Random) -> None:
        super().__init__(workflow)
        self._chance = chance
        self._definitions = {node.name: node for node in workflow.nodes}
        self._epoch = 1

    def digest(self, *facts: object) -> int:
        """Return what decides about a node: the same in every order of events."""
        return zlib.crc32(repr((self.plan.workflow, *facts)).encode())

    def layout(self, name: str, depth: int) -> Any:
        """Return how many items a map has, or how they lie."""
        count = self.digest(name, "items") % 4
        return [self.digest(name, number) % 3 for number in range(count)] if depth > 1 else count

    def lead(self, crashes: int = 0) -> None:
        """Go on until the run has ended, with so many interruptions on the way."""
        left = [self._chance.randint(1, 25) for _ in range(crashes)]
        for step in range(1000):
            if step in left:
                self.disturb()
            if self.step():
                return
        raise AssertionError(f"it never ends: {self.statuses}")

    def step(self) -> bool:
        """Do one thing that can be done, and return whether the run has ended."""
        steps = [lambda name=name: self.begin(name) for name in self.startable()]
        steps += [lambda name=name: self.end(self[name]) for name in self.of("running")]
        steps += [lambda name=name: self.again(name) for name in self.of("waiting") if self.due(name)]
        if not steps:
            end = self.finish()
            if isinstance(end, list):
                self.ready += end
                return False
            if end is not None:
                return self.status.is_terminal
            steps = [lambda name=name: self.tell(self[name]) for name in self.of("waiting")]
        assert steps, f"stuck: {self.statuses}"
        self._chance.choice(steps)()
        return False

    def startable(self) -> list[str]:
        """Return what is ready and may start."""
        return [name for name in self.ready if self.may_start(name)]

    def of(self, status: str) -> list[str]:
        """Return the nodes of a status, but for maps, which call nothing."""
        return [node.name for node in self.state.by_name.values() if node.status == status and node.items is None]

    def due(self, name: str) -> bool:
        """Return whether a node waits for something that comes by itself: half of the runs that it starts do."""
        waits_for = self[name].waits_for
        return waits_for == "retry" or (waits_for == "run" and self.digest(name, "run") % 2 == 0)

    def begin(self, name: str) -> None:
        """Start a node, after its condition and its list were looked at."""
        node, definition = self[name], self._definitions[name.partition("[")[0]]
        is_first = node.map is None and node.started_at is None
        if is_first and definition.when is not None and self.digest(name, "when") % 4 == 0:
            self.judged(name)
        elif is_first and definition.when is not None and self.digest(name, "when") % 9 == 0:
            self.ready.remove(name)
            self.raises(name)
        elif is_first and definition.map is not None and node.items is None:
            self.expand(name, self.layout(name, definition.map.depth))
        else:
            self.start(name)

    def again(self, name: str) -> None:
        """Make the next attempt, when it is due."""
        node = self[name]
        if node.due_at is not None:
            self.now = max(self.now, node.due_at)
        self.start(name)

    def end(self, node: NodeState) -> None:
        """Let an attempt end: what comes of it depends on the node and the attempt alone."""
        verdict = self.digest(node.name, node.attempts)
        is_child = self._definitions[node.name.partition("[")[0]].child is not None
        if is_child and self._chance.random() < 0.3:
            self.advance(Parked(node, node.attempts, f"r/{node.name}"))
        elif verdict % 3 == 0:
            self.raises(node.name, retryable=verdict % 2 == 0)
        else:
            self.returns(node.name)

    def tell(self, node: NodeState) -> None:
        """Let come what a node waits for: its time, when it has one, else an answer."""
        if node.due_at is not None:
            self.now = max(self.now, node.due_at)
            self.elapsed(node.name)
        elif node.waits_for == "signal":
            self.signal(node.name)
        elif node.waits_for == "run":
            self.again(node.name)
        else:
            self.decide(node.name, approved=self.digest(node.name, "review") % 2 == 0)

    def disturb(self) -> None:
        """Crash, stop in good order, pause, or cancel; and go on."""
        self._epoch += 1
        what = self._chance.choice(["crash", "close", "pause", "cancel"])
        if what == "cancel":
            self.cancel()
        elif what == "pause" and not self.of("running"):
            self.pause()
        self.crash()
        self.open(graceful=what == "close", epoch=self._epoch)

    def _keep(self, events: Sequence[Event]) -> None:
        # Folding the journal at each step would take most of the time; it is folded at each crash, and at the end.
        self.journal += events


def check_end(run: Led, workflow: Workflow) -> None:
    """The journal folds to the state, and every node has ended with a reason, unless the run drained."""
    assert [event.version for event in run.journal] == list(range(1, len(run.journal) + 1))
    assert snapshot(fold(run.journal)) == snapshot(run.state)
    drained = run.status == "failed" and workflow.on_failure == "drain"
    for node in run.state.by_name.values():
        assert node.status in ENDED or (node.status == "pending" and (drained or node.map is not None)), node
        assert node.items is None or node.status in ENDED or not _is_doomed(workflow, node), node
        assert (node.reason is not None) == (node.status in ("skipped", "blocked")), node
        assert (node.error is not None) == (node.status == "failed") or node.status not in ENDED, node
    fatal = {node.name for node in workflow.nodes if not node.allow_failure and run[node.name].status == "failed"}
    assert run.status == ("failed" if fatal else "completed")


def _is_doomed(workflow: Workflow, node: NodeState) -> bool:
    """Return whether an item has failed whose map fails by that."""
    spec = next(definition.map for definition in workflow.nodes if definition.name == node.name)
    return spec is not None and spec.on_error == "fail" and node.failed_items > 0


def facts(run: Led) -> dict[str, Any]:
    """Return what must not depend on the order of events."""
    return {node.name: (node.status.value, node.attempts, node.reason) for node in run.state.by_name.values()}


@given(seed=st.integers(0, 2**32))
@EXAMPLES
def test_every_order_of_events_leads_every_graph_to_an_end(seed: int) -> None:
    workflow = graph(seed)
    note(repr(workflow.nodes))
    run = Led(workflow, Random(seed + 1))

    run.lead()

    check_end(run, workflow)


@given(seed=st.integers(0, 2**32), crashes=st.integers(0, 4))
@EXAMPLES
def test_interruptions_and_other_orders_lead_to_the_same_end(seed: int, crashes: int) -> None:
    workflow = graph(seed)
    note(repr(workflow.nodes))
    calm, disturbed = Led(workflow, Random(seed + 1)), Led(workflow, Random(seed + 2))

    calm.lead()
    disturbed.lead(crashes)

    check_end(disturbed, workflow)
    if workflow.on_failure == "continue":
        # Under "drain" it depends on the order what had started when the first failure came.
        assert facts(disturbed) == facts(calm)
        assert disturbed.status == calm.status


@given(seed=st.integers(0, 2**32), place=st.floats(0, 1), crashes=st.integers(0, 2))
@EXAMPLES
def test_a_run_goes_on_from_wherever_its_journal_was_cut(seed: int, place: float, crashes: int) -> None:
    workflow = graph(seed, in_doubt=True)
    note(repr(workflow.nodes))
    run = Led(workflow, Random(seed + 1))
    run.lead(crashes)
    cut = max(1, round(place * len(run.journal)))
    # What a cancellation consists of is written at once.
    while run.journal[cut - 1].kind in ("node_cancelled", "run_completed"):
        cut -= 1

    run.journal = run.journal[:cut]
    run.crash()
    run.open(epoch=100)
    run.lead()

    check_end(run, workflow)
