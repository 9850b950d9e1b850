"""Runs of sub-workflows: started, continued and ended together with the node that stands for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagflow._active import Active, result_of
from dagflow._events import MessageKind, RunStatus
from dagflow._inputs import encode_inputs
from dagflow._names import check_run_id
from dagflow._orders import Order
from dagflow._run import Run
from dagflow.errors import ExecutorError, LeaseLostError, RunNotFoundError, RunStateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagflow._engine import Engine
    from dagflow._node import ChildSpec
    from dagflow._requests import Requests
    from dagflow._state import RunState

__all__ = ["ChildRuns"]

_RESTING = frozenset({RunStatus.WAITING, RunStatus.PAUSED})
_ENDED_BADLY = frozenset({RunStatus.FAILED, RunStatus.CANCELLED})


class ChildRuns:
    """Starts and changes the runs of sub-workflows.

    Args:
        engine: Drives runs.
        requests: Sends requests to runs, whoever drives them.
    """

    def __init__(self, engine: Engine, requests: Requests) -> None:
        self._engine = engine
        self._requests = requests

    async def run(self, child: ChildSpec, run_id: str, parent: str, inputs: Mapping[str, Any], *, asked_by: str) -> Run:
        """Start a run, or go on with it, and return it when it has completed, waits or is paused.

        One that has failed or was cancelled is opened again for the next attempt of its node. For the attempt that
        it was run for that is what it came to, whoever drove it.

        Args:
            child: The workflow.
            run_id: Id of the run.
            parent: The run that starts it.
            inputs: Its inputs.
            asked_by: What tells the attempts of the node apart.

        Raises:
            RunFailedError: It failed.
            RunCancelledError: It was cancelled.
        """
        engine = self._engine
        plan = child.workflow.compile()
        check_run_id(run_id, workflow=plan.workflow)
        payload = encode_inputs(plan, inputs, resources=engine.resources, codec=engine.codec, run_id=run_id)
        above = engine.active.get(parent)
        priority = above.driver.journal.record.priority if above is not None else 0
        order = Order(plan, payload, priority, asked_by)
        begun = await engine.begin(order, run_id, is_new=False, wait=True, parent=parent)
        if not isinstance(begun, Active) and begun.status in _ENDED_BADLY and begun.asked_by != asked_by:
            begun = await engine.go_on(run_id, order, reopen_ended=True)
        while isinstance(begun, Active):
            try:
                state = await self._end_of(begun)
            except (LeaseLostError, ExecutorError):
                # A server that drove it was stopped, for instance; when the executor is closed nobody goes on here.
                engine.check_open()
                begun = await engine.go_on(run_id, plan, reopen_ended=False)
                continue
            if begun.is_put_off:
                begun = await engine.go_on(run_id, plan, reopen_ended=False)
                continue
            if state.status in _RESTING:
                return Run.of(state, engine.codec)
            return result_of(state, engine.codec, begun.driver.causes)
        return Run.of(begun, engine.codec) if begun.status in _RESTING else result_of(begun, engine.codec, {})

    async def _end_of(self, active: Active) -> RunState:
        active.is_awaited = True
        try:
            return await self._engine.join(active)
        finally:
            active.is_awaited = False

    async def change(self, run_id: str, kind: MessageKind) -> None:
        """Cancel or pause a run, if it exists and has not ended; wait for its end when it is driven here."""
        active = self._engine.active.get(run_id)
        try:
            await (self._requests.cancel(run_id) if kind is MessageKind.CANCEL else self._requests.pause(run_id))
        except (RunNotFoundError, RunStateError):
            return
        if active is not None and kind is MessageKind.CANCEL:
            await active.ended()
