"""Looking at runs: now and as they were, in lists, event by event, and forgetting them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest

from dagflow import Node, RunStatus, Workflow
from dagflow._state import fold
from dagflow.errors import RunFailedError, RunNotFoundError, RunOwnedError, RunStateError, StoreRefusedError
from executors import Held, fails

if TYPE_CHECKING:
    from dagflow import DAGExecutor, Run
    from executors import OpenExecutor


def everything() -> Workflow:
    """A workflow in which everything happens."""
    workflow = Workflow("w", [Node("a", fails(times=1), retry=2), Node("skipped", lambda: 1, when=lambda: False)])
    workflow.map(over={"x": "xs"}, name="m", on_error="collect")(lambda x: 1 // x)
    workflow.add(Node("bad", fails(times=1), ["a", "m"]))
    workflow.add(Node("z", lambda bad: bad))
    return workflow


ENDED = {"completed", "failed", "skipped", "blocked", "cancelled"}


def check(run: Run) -> None:
    """A run is consistent at any version."""
    statuses = {name: node.status.value for name, node in run.nodes.items() if "[" not in name}
    if run.status == "completed":
        assert set(statuses.values()) <= ENDED
    if run.status == "failed":
        assert run.error is not None
        assert "failed" in statuses.values() or any(node.status == "failed" for node in run.nodes.values())
    assert (run.error is not None) == (run.status == "failed")
    for name, node in run.nodes.items():
        assert (node.ended_at is not None) == (node.status in ENDED), name
        assert (node.reason is not None) == (node.status in ("skipped", "blocked", "cancelled")), name
        assert node.duration is None or node.duration >= 0
        assert node.started_at is None or run.created_at <= node.started_at <= run.updated_at
    assert set(run.outputs) == {name for name, status in statuses.items() if status == "completed"}


class TestVersions:
    async def test_every_version_of_a_run_can_be_looked_at_and_is_consistent(self, executor: DAGExecutor) -> None:
        workflow = everything()
        with pytest.raises(RunFailedError) as caught:
            await executor.run(workflow, {"xs": [1, 0, 2]}, run_id="r")
        failed = caught.value.run
        completed = await executor.resume("r")

        runs = [await executor.get("r", version=version) for version in range(1, completed.version + 1)]

        for version, run in enumerate(runs, 1):
            assert run.version == version
            assert run.inputs == {"xs": [1, 0, 2]}
            check(run)
        assert runs[0].status == "pending"
        assert (runs[failed.version - 1].status, runs[failed.version - 1].nodes) == ("failed", failed.nodes)
        assert (runs[-1].status, runs[-1].nodes) == ("completed", completed.nodes)
        updates = [run.updated_at for run in runs]
        assert updates == sorted(updates)

    async def test_a_later_version_does_not_change_an_earlier_one(self, executor: DAGExecutor) -> None:
        workflow = everything()
        with pytest.raises(RunFailedError):
            await executor.run(workflow, {"xs": [1]}, run_id="r")
        before = (await executor.get("r", version=5)).nodes
        await executor.resume("r")

        assert (await executor.get("r", version=5)).nodes == before

    @pytest.mark.parametrize("version", [0, -1, 1000, "2", 1.0])
    async def test_a_version_that_a_run_does_not_have_is_named(self, executor: DAGExecutor, version: Any) -> None:
        run = await executor.run(Workflow("w", [Node("a", lambda: 1)]), run_id="r")

        with pytest.raises(RunStateError, match=f"it has versions 1 to {run.version}, not {version!r}"):
            await executor.get("r", version=version)

    async def test_the_same_fold_serves_a_run_that_goes_on_and_one_that_is_read_back(
        self, executor: DAGExecutor
    ) -> None:
        run = await executor.run(Workflow("w", [Node("a", lambda: 1)]), run_id="r")
        state = fold(await executor.history("r"))

        assert {node.name: node.status for node in state.nodes} == {"a": run.nodes["a"].status}


class TestLists:
    async def ids(self, executor: DAGExecutor, **options: Any) -> list[str]:
        return [summary.run_id for summary in await executor.runs(**options)]

    async def test_the_newest_run_comes_first(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1)])
        for name in ("x", "b", "q"):
            await executor.run(workflow, run_id=name)

        assert await self.ids(executor) == ["q", "b", "x"]

    async def test_pages_follow_each_other_without_gaps(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1)])
        for number in range(7):
            await executor.run(workflow, run_id=f"r{number}")

        pages, after = [], None
        while page := await self.ids(executor, limit=3, after=after):
            pages.append(page)
            after = page[-1]

        assert pages == [["r6", "r5", "r4"], ["r3", "r2", "r1"], ["r0"]]

    async def test_runs_that_are_started_meanwhile_do_not_disturb_the_pages(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda: 1)])
        for number in range(4):
            await executor.run(workflow, run_id=f"r{number}")
        first = await self.ids(executor, limit=2)
        await executor.run(workflow, run_id="late")

        assert [*first, *await self.ids(executor, after=first[-1])] == ["r3", "r2", "r1", "r0"]

    async def test_runs_are_listed_by_workflow_and_status(self, executor: DAGExecutor) -> None:
        one, other = Workflow("one", [Node("a", lambda: 1)]), Workflow("other", [Node("a", fails(times=9))])
        await executor.run(one, run_id="1")
        with pytest.raises(RunFailedError):
            await executor.run(other, run_id="2")
        await executor.submit(one, run_id="3")

        assert await self.ids(executor, workflow="one") == ["3", "1"]
        assert await self.ids(executor, workflow=other) == ["2"]
        assert await self.ids(executor, status="failed") == ["2"]
        assert await self.ids(executor, status=RunStatus.COMPLETED) == ["1"]
        assert await self.ids(executor, status=["pending", RunStatus.FAILED]) == ["3", "2"]
        assert await self.ids(executor, status=[]) == []
        assert await self.ids(executor, workflow="one", status="failed") == []
        assert await self.ids(executor, workflow="nobody's") == []

    async def test_a_status_that_does_not_exist_is_refused_with_those_that_do(self, executor: DAGExecutor) -> None:
        with pytest.raises(ValueError, match="'done' is no status of a run: use one of pending, running, waiting"):
            await executor.runs(status="done")
        with pytest.raises(ValueError, match="status= takes a RunStatus or a list of them, not 5"):
            await executor.runs(status=5)  # type: ignore[arg-type]

    @pytest.mark.parametrize("limit", [0, -1, "3", 1.5, None])
    async def test_a_limit_that_is_no_number_of_runs_is_refused(self, executor: DAGExecutor, limit: Any) -> None:
        with pytest.raises(ValueError, match="limit must be a whole number of at least 1"):
            await executor.runs(limit=limit)

    async def test_a_summary_says_what_the_run_says(self, executor: DAGExecutor) -> None:
        run = await executor.run(Workflow("w", [Node("a", lambda: 1)]), run_id="r")

        (summary,) = await executor.runs()

        assert attrs.asdict(summary) == {
            "run_id": "r",
            "workflow": "w",
            "status": run.status,
            "version": run.version,
            "created_at": run.created_at,
            "updated_at": run.updated_at,
            "owner": None,
            "parent": None,
        }

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"limit": 0}, ValueError),
            ({"limit": -1}, ValueError),
            ({"status": "done"}, ValueError),
            ({"after": "nobody"}, RunNotFoundError),
        ],
    )
    async def test_a_question_that_makes_no_sense_is_refused(
        self, executor: DAGExecutor, options: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            await executor.runs(**options)

    @pytest.mark.parametrize("text", ["'; DROP TABLE runs; --", '"', "%", "_", "\x00", "w\\"])
    async def test_a_filter_is_a_value_and_nothing_else(self, executor: DAGExecutor, text: str) -> None:
        await executor.run(Workflow("w", [Node("a", lambda: 1)]))

        assert await self.ids(executor, workflow=text) == []
        with pytest.raises(RunNotFoundError):
            await executor.runs(after=text)
        with pytest.raises(RunNotFoundError):
            await executor.get(text)
        assert len(await executor.runs()) == 1

    async def test_a_name_that_no_store_can_keep_is_nobodys(self, executor: DAGExecutor) -> None:
        with pytest.raises((RunNotFoundError, StoreRefusedError)):
            await executor.get("\ud800")


class TestHistory:
    async def test_the_history_is_the_events_in_order(self, executor: DAGExecutor) -> None:
        run = await executor.run(Workflow("w", [Node("a", lambda x: x)]), {"x": 1}, run_id="r")

        history = await executor.history("r")

        assert [event.version for event in history] == list(range(1, run.version + 1))
        assert [event.kind.value for event in history] == [
            "run_created",
            "run_started",
            "node_started",
            "node_completed",
            "run_completed",
        ]
        assert {event.run_id for event in history} == {"r"}
        assert [(event.node, event.attempt) for event in history[2:4]] == [("a", 1), ("a", 1)]
        assert await executor.history("r", after=3) == history[3:]
        assert await executor.history("r", after=run.version) == []

    async def test_the_history_before_the_first_event_is_refused(self, executor: DAGExecutor) -> None:
        await executor.run(Workflow("w", [Node("a", lambda: 1)]), run_id="r")

        with pytest.raises(ValueError, match="after must be at least 0, not -1"):
            await executor.history("r", after=-1)


class TestDelete:
    async def test_a_run_is_forgotten_with_all_that_belongs_to_it(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w", [Node("a", lambda x: x)])
        await executor.run(workflow, {"x": 1}, run_id="r")

        await executor.delete("r")

        assert await executor.runs() == []
        with pytest.raises(RunNotFoundError):
            await executor.get("r")
        run = await executor.run(workflow, {"x": 2}, run_id="r")
        assert (run.outputs, run.version) == ({"a": 2}, 5)

    async def test_signals_to_a_deleted_run_do_not_reach_its_successor(self, executor: DAGExecutor) -> None:
        workflow = Workflow("w")
        workflow.wait_for_signal("paid")
        await executor.run(workflow, run_id="r")
        await executor.signal("r", "paid", "old")
        await executor.delete("r")

        assert (await executor.run(workflow, run_id="r")).status == "waiting"

    async def test_a_run_that_is_owned_is_not_deleted(self, open_executor: OpenExecutor) -> None:
        held = Held()
        executor = await open_executor()
        handle = await executor.start(Workflow("w", [Node("a", held)]), run_id="r")

        for caller in (executor, await open_executor()):
            with pytest.raises(RunOwnedError):
                await caller.delete("r")

        held.gate.set()
        assert (await handle.result()).status == "completed"
        await executor.delete("r")
