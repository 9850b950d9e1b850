"""What events change: every legal move, every illegal one, and the fold."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from dagflow import Node, Workflow
from dagflow._events import Event, EventKind, NodeStatus
from dagflow._facts import Parked
from dagflow._state import RunState, apply, fold
from dagflow.errors import IllegalMoveError
from pure_run import NOTHING, START, PureRun, nodes, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

K = EventKind
ERROR = {"type": "ValueError", "message": "no", "traceback": ""}
DATA: dict[EventKind, dict[str, Any]] = {
    K.NODE_FAILED: {"error": ERROR},
    K.NODE_RETRY: {"error": ERROR, "due_at": START.isoformat()},
    K.NODE_WAITING: {"for": "timer"},
    K.REVIEW_REQUESTED: {"for": "review"},
    K.REVIEW_DECIDED: {"approved": True},
    K.MAP_EXPANDED: {"keys": 2},
    K.RUN_FAILED: {"error": ERROR, "nodes": ["a"]},
}

# -- moves of nodes -------------------------------------------------------------------------------

LEGAL: dict[EventKind, dict[str, str]] = {
    K.NODE_STARTED: {"pending": "running", "waiting": "running"},
    K.NODE_COMPLETED: {"running": "completed", "waiting": "completed"},
    K.NODE_FAILED: {"pending": "failed", "running": "failed", "waiting": "failed"},
    K.NODE_RETRY: {"running": "waiting"},
    K.NODE_INTERRUPTED: {"running": "pending"},
    K.NODE_SKIPPED: {"pending": "skipped"},
    K.NODE_BLOCKED: {"pending": "blocked"},
    K.NODE_CANCELLED: {"pending": "cancelled", "running": "cancelled", "waiting": "cancelled"},
    K.NODE_WAITING: {"pending": "waiting", "running": "waiting"},
    K.REVIEW_REQUESTED: {"pending": "waiting"},
    K.REVIEW_DECIDED: {"waiting": "waiting"},
    K.MAP_EXPANDED: {"pending": "running"},
}


def put(run: PureRun, status: str) -> None:
    """Bring node ``a`` into a status."""
    started = status in ("running", "completed", "failed")
    if started:
        run.apply(run.event(K.NODE_STARTED, "a", 1))
    last: dict[str, Callable[[], Event]] = {
        "completed": lambda: run.event(K.NODE_COMPLETED, "a", 1),
        "failed": lambda: run.event(K.NODE_FAILED, "a", 1, **DATA[K.NODE_FAILED]),
        "waiting": lambda: run.event(K.NODE_WAITING, "a", 0, **DATA[K.NODE_WAITING]),
        "skipped": lambda: run.event(K.NODE_SKIPPED, "a"),
        "blocked": lambda: run.event(K.NODE_BLOCKED, "a"),
        "cancelled": lambda: run.event(K.NODE_CANCELLED, "a"),
    }
    if status in last:
        run.apply(last[status]())
    assert run["a"].status == status


def two_nodes() -> PureRun:
    return PureRun(Workflow("w", [*nodes("a"), Node("z", lambda: None, "a")]))


@pytest.mark.parametrize(("kind", "status"), list(itertools.product(LEGAL, NodeStatus)))
def test_a_node_makes_the_legal_moves_and_no_other(kind: EventKind, status: NodeStatus) -> None:
    run = two_nodes()
    put(run, status)
    event = run.event(kind, "a", 1, **DATA.get(kind, {}))

    if status in LEGAL[kind]:
        run.apply(event)

        assert run["a"].status == LEGAL[kind][status]
        return
    before = snapshot(run.state)
    with pytest.raises(IllegalMoveError) as caught:
        run.apply(event)

    assert (caught.value.kind, caught.value.node, caught.value.status) == (kind, "a", status)
    assert snapshot(run.state) == before


@pytest.mark.parametrize("kind", LEGAL)
@pytest.mark.parametrize("node", ["b", "a[0]", None])
def test_no_move_is_legal_for_a_node_that_does_not_exist(kind: EventKind, node: str | None) -> None:
    run = two_nodes()
    before = snapshot(run.state)

    with pytest.raises(IllegalMoveError, match="unknown"):
        run.apply(run.event(kind, node, 1, **DATA.get(kind, {})))

    assert snapshot(run.state) == before


# -- moves of runs --------------------------------------------------------------------------------

RUN_LEGAL: dict[EventKind, dict[str, str]] = {
    K.RUN_STARTED: {"pending": "running"},
    K.RUN_RESUMED: dict.fromkeys(("running", "paused", "failed", "cancelled"), "running"),
    K.RUN_PAUSED: {"pending": "paused", "running": "paused"},
    K.RUN_COMPLETED: {"running": "completed"},
    K.RUN_FAILED: {"running": "failed"},
    K.RUN_CANCELLED: dict.fromkeys(("pending", "running", "paused"), "cancelled"),
}
PHASES: dict[str, list[EventKind]] = {
    "pending": [],
    "running": [K.RUN_STARTED],
    "paused": [K.RUN_STARTED, K.RUN_PAUSED],
    "completed": [K.RUN_STARTED, K.RUN_COMPLETED],
    "failed": [K.RUN_STARTED, K.RUN_FAILED],
    "cancelled": [K.RUN_STARTED, K.RUN_CANCELLED],
}


def in_phase(phase: str) -> PureRun:
    run = PureRun(Workflow("w", nodes("a")), opened=False)
    for kind in PHASES[phase]:
        run.apply(run.event(kind, **DATA.get(kind, {})))
    return run


@pytest.mark.parametrize(("kind", "phase"), list(itertools.product(RUN_LEGAL, PHASES)))
def test_a_run_makes_the_legal_moves_and_no_other(kind: EventKind, phase: str) -> None:
    run = in_phase(phase)
    event = run.event(kind, **DATA.get(kind, {}))

    if phase in RUN_LEGAL[kind]:
        run.apply(event)

        assert run.status == RUN_LEGAL[kind][phase]
        return
    before = snapshot(run.state)
    with pytest.raises(IllegalMoveError, match=f"{kind.value} is not a legal move while the run is {phase}"):
        run.apply(event)

    assert snapshot(run.state) == before


@pytest.mark.parametrize(("kind", "phase"), list(itertools.product(LEGAL, sorted(set(PHASES) - {"running"}))))
def test_nodes_move_only_while_their_run_goes_on_but_may_be_cancelled_while_it_is_paused(
    kind: EventKind, phase: str
) -> None:
    run = in_phase(phase)
    event = run.event(kind, "a", 1, **DATA.get(kind, {}))

    if kind is K.NODE_CANCELLED and phase == "paused":
        run.apply(event)

        assert run["a"].status == "cancelled"
        return
    before = snapshot(run.state)
    with pytest.raises(IllegalMoveError):
        run.apply(event)

    assert snapshot(run.state) == before


# -- journals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [0, 1, 2, 4])
def test_a_journal_has_no_gaps(version: int) -> None:
    run = two_nodes()
    event = attrs.evolve(run.event(K.NODE_STARTED, "a", 1), version=version)

    with pytest.raises(IllegalMoveError, match=f"at version 2, not {version}"):
        run.apply(event)


def test_a_run_is_created_once() -> None:
    run = two_nodes()

    with pytest.raises(IllegalMoveError, match="run_created is not a legal move"):
        run.apply(run.event(K.RUN_CREATED, **run.plan.opening))


@pytest.mark.parametrize(("kind", "data"), [(K.RUN_STARTED, {"workflow": "w"}), (K.RUN_CREATED, None)])
def test_a_journal_begins_with_the_creation_of_its_run(kind: EventKind, data: dict[str, Any] | None) -> None:
    with pytest.raises(IllegalMoveError, match="not yet created"):
        fold([Event("r", 1, kind, None, 0, START, data)])


def test_the_state_of_a_new_run_knows_its_graph_and_its_inputs() -> None:
    run = PureRun(Workflow("w", [Node("b", lambda a: None), *nodes("a")]), opened=False)

    assert (run.state.run_id, run.state.workflow, run.status, run.state.version) == ("r", "w", "pending", 1)
    assert run.state.inputs == NOTHING
    assert (run["a"].open, run["b"].open) == (0, 1)
    assert run.state.settled == [run["a"]]


def test_a_shape_at_hand_is_not_read_from_the_journal_again() -> None:
    run = two_nodes()

    assert RunState.created(run.journal[0], shape=run.plan.shape).shape is run.plan.shape
    assert fold(run.journal, shape=run.plan.shape).shape is run.plan.shape
    assert fold(run.journal).shape is not run.plan.shape


def test_every_version_of_a_run_can_be_read_back_from_the_beginning_of_its_journal() -> None:
    run = two_nodes()
    state = RunState.created(run.journal[0])
    run.complete("a", "z")
    run.finish()

    for event in run.journal[1:]:
        apply(state, event)

        assert snapshot(fold(run.journal[: event.version])) == snapshot(state)


# -- what moves leave behind ----------------------------------------------------------------------


class TestNodes:
    def test_times_are_those_of_the_first_start_and_of_the_end(self) -> None:
        run = PureRun(Workflow("w", nodes("a", retry=2)))
        run.wait(1)
        run.start("a")
        run.wait(1)
        run.raises("a", retryable=True)
        run.wait(5)
        run.start("a")
        run.wait(1)
        run.returns("a")

        assert run["a"].started_at == START + timedelta(seconds=1)
        assert run["a"].ended_at == START + timedelta(seconds=8)
        assert run["a"].attempts == 2
        assert run.state.updated_at == run["a"].ended_at

    def test_a_node_that_completes_in_the_end_has_no_error(self) -> None:
        run = PureRun(Workflow("w", nodes("a", retry=2)))
        run.start("a")
        run.raises("a", retryable=True)

        assert (run["a"].error is not None, run["a"].due_at is not None) == (True, True)
        run.complete("a")
        assert (run["a"].error, run["a"].due_at, run["a"].waits_for) == (None, None, None)

    def test_running_and_waiting_nodes_are_counted(self) -> None:
        run = PureRun(Workflow("w", nodes("a", "b", "c", retry=2)))
        run.start("a", "b", "c")
        run.raises("a", retryable=True)
        run.returns("b")

        assert (run.state.running, run.state.waiting, run.state.unfinished) == (1, 1, 2)

    def test_a_node_waits_for_the_last_of_its_dependencies(self) -> None:
        run = PureRun(Workflow("w", [*nodes("a", "b"), Node("z", lambda a, b: None)]))

        run.complete("a")
        assert (run["z"].open, run.ready) == (1, ["b"])
        run.complete("b")
        assert (run["z"].open, run.ready) == (0, ["z"])

    def test_a_dependency_that_did_not_complete_is_counted_as_unmet(self) -> None:
        run = PureRun(Workflow("w", [*nodes("a", "b"), Node("z", lambda: None, ["a", "b"], join="all_done")]))
        run.fail("a")
        run.complete("b")

        assert run["z"].unmet == 1


class TestStatus:
    def test_a_run_in_which_something_runs_is_running(self) -> None:
        workflow = Workflow("w", nodes("a"))
        workflow.sleep("s", 1)
        run = PureRun(workflow)
        run.start("a", "s")

        assert run.status == "running"
        run.returns("a")
        assert run.status == "waiting"
        run.wait(1)
        run.elapsed("s")
        assert run.status == "running"

    def test_a_run_in_which_something_is_ready_is_running(self) -> None:
        workflow = Workflow("w", nodes("a"))
        workflow.sleep("s", 1)
        run = PureRun(workflow)
        run.start("s")

        assert (run.ready, run.status) == (["a"], "running")

    def test_a_run_in_which_an_item_is_ready_is_running(self) -> None:
        workflow = Workflow("w")
        workflow.sleep("s", 1)
        workflow.map(over={"x": "xs"}, name="m")(lambda x: None)
        run = PureRun(workflow)
        run.start("s")
        run.expand("m", 2)

        assert run.status == "running"
        run.complete("m[0]", "m[1]")
        assert run.status == "waiting"

    def test_an_item_that_waits_makes_its_run_wait(self) -> None:
        workflow = Workflow("w")
        workflow.map(over={"x": "xs"}, name="m", retry=2)(lambda x: None)
        run = PureRun(workflow)
        run.expand("m", 1)
        run.start("m[0]")
        run.raises("m[0]", retryable=True)

        assert run.status == "waiting"

    def test_a_paused_run_is_paused_although_something_waits(self) -> None:
        workflow = Workflow("w")
        workflow.sleep("s", 1)
        run = PureRun(workflow)
        run.start("s")
        run.pause()

        assert run.status == "paused"


class TestMaps:
    def test_a_map_gets_its_items_when_it_is_expanded(self) -> None:
        workflow = Workflow("w")
        workflow.map(over={"x": "xs"}, name="m")(lambda x: None)
        run = PureRun(workflow)
        run.expand("m", 2)

        items = run["m"].items or []
        assert [(item.name, item.key, item.position) for item in items] == [("m[0]", "0", 0), ("m[1]", "1", 1)]
        assert all(item.map is run["m"] and item.index == run["m"].index for item in items)
        assert (run["m"].status, run.state.running, run.ready) == ("running", 0, ["m[0]", "m[1]"])

    def test_items_are_named_by_their_keys(self) -> None:
        workflow = Workflow("w")
        workflow.map(over={"x": "xs"}, name="m", key=str)(lambda x: None)
        run = PureRun(workflow)
        run.expand("m", ["ada", "bob"])

        assert run.ready == ["m[ada]", "m[bob]"]

    def test_items_of_nested_lists_are_named_by_their_places(self) -> None:
        workflow = Workflow("w")
        workflow.map(over={"x": "xs"}, name="m", depth=3)(lambda x: None)
        run = PureRun(workflow)
        run.expand("m", [[2, 0], [], [1]])

        assert run.ready == ["m[0,0,0]", "m[0,0,1]", "m[2,0,0]"]
        assert run["m"].layout == [[2, 0], [], [1]]

    def test_a_map_counts_its_items(self) -> None:
        workflow = Workflow("w", on_failure="continue")
        workflow.map(over={"x": "xs"}, name="m")(lambda x: None)
        run = PureRun(workflow)
        run.expand("m", 4)
        run.start("m[0]", "m[1]", "m[2]")
        run.returns("m[0]")
        run.raises("m[1]")

        assert (run["m"].open_items, run["m"].active_items, run["m"].failed_items) == (2, 1, 1)
        assert run.state.unfinished == 1

    def test_an_item_may_end_without_having_been_started(self) -> None:
        workflow = Workflow("w")
        workflow.map(over={"x": "xs"}, name="m")(lambda x: None)
        run = PureRun(workflow)
        run.expand("m", 2)
        run.apply(run.event(K.NODE_CANCELLED, "m[0]"))

        assert (run["m"].open_items, run["m"].active_items, run["m"].failed_items) == (1, 0, 0)


class TestSubworkflows:
    def test_an_attempt_that_waits_for_its_run_goes_on_as_the_same_attempt(self) -> None:
        workflow = Workflow("w")
        workflow.subworkflow("c", Workflow("child", nodes("x")))
        run = PureRun(workflow)
        run.start("c")
        run.advance(Parked(run["c"], 1, "r/c"))

        assert (run["c"].status, run["c"].waits_for, run["c"].attempts) == ("waiting", "run", 0)
        run.complete("c")
        assert (run["c"].status, run["c"].attempts) == ("completed", 1)
