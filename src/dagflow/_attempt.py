"""One attempt of a node: bind its parameters, call its function, encode what it returned.

Whatever goes wrong here is the node's own affair and comes back as a fact; nothing is written and no state is changed.
Every value that a function gets is a decoded copy of its own, so that no function can change what another one sees.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import logging
import random
import traceback
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from dagflow._binding import SourceKind, is_async
from dagflow._checking import enter, kept, leave
from dagflow._events import NodeStatus, Payload, RunStatus
from dagflow._facts import Expanded, Fact, Judged, Parked, Raised, Returned, describe
from dagflow._items import Items, short
from dagflow._node import NodeContext
from dagflow._run import decode, node_output
from dagflow._states import child_run_id
from dagflow._tagging import is_flat
from dagflow.errors import (
    ContractError,
    ExecutorError,
    InDoubtError,
    InputError,
    QualityGateError,
    RunFailedError,
    SerializationError,
    WorkflowError,
)
from dagflow.runners._heartbeat import call_watched

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from dagflow._binding import Source
    from dagflow._checking import Broken
    from dagflow._events import MessageKind
    from dagflow._node import ChildSpec, Node
    from dagflow._plan import Plan, PlanNode
    from dagflow._resources import Resources
    from dagflow._run import Run
    from dagflow._spilling import Shelf
    from dagflow._state import NodeState, RunState
    from dagflow.protocols import Codec, Meter, Runner

__all__ = ["Attempts", "Children", "idempotency_key"]

_LOGGER = logging.getLogger("dagflow.node")
_COMPLETED = NodeStatus.COMPLETED
_MAX_TRACEBACK = 20_000
# Another attempt would find the executor, or the definition, as they are.
_FINAL = (ExecutorError, WorkflowError)
_IN_DOUBT = f"{InDoubtError.__module__}.{InDoubtError.__qualname__}"


class Children(Protocol):
    """Runs sub-workflows on behalf of attempts."""

    async def run(self, child: ChildSpec, run_id: str, parent: str, inputs: Mapping[str, Any], *, asked_by: str) -> Run:
        """Start a run, or go on with it, and return it when it has completed or waits."""
        ...

    async def change(self, run_id: str, kind: MessageKind) -> None:
        """Cancel or pause a run, if it exists and has not ended."""


def idempotency_key(run_id: str, node: str) -> str:
    """Return the key that all attempts of a node in a run share: 32 hexadecimal digits."""
    return hashlib.sha256(f"{run_id}\0{node}".encode()).hexdigest()[:32]


class Attempts:
    """Makes the attempts of one run.

    Args:
        plan: The workflow.
        state: The run; read, never changed.
        codec: Turns values into payloads and back.
        runners: By name; ``"loop"`` and ``"thread"`` are those that nodes use unless they name another one.
        resources: Values that parameters may be bound to and that are never stored.
        children: Runs sub-workflows.
        meter: Takes the figures of contracts, phases and artifacts.
        shelf: What the run has to do with the artifact store, if there is one.
    """

    __slots__ = (
        "_asking",
        "_children",
        "_codec",
        "_copies",
        "_items",
        "_meter",
        "_patience",
        "_plan",
        "_resources",
        "_runners",
        "_shelf",
        "_state",
    )

    def __init__(
        self,
        plan: Plan,
        state: RunState,
        *,
        codec: Codec,
        runners: Mapping[str, Runner],
        resources: Resources,
        children: Children | None = None,
        meter: Meter | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        self._plan = plan
        self._state = state
        self._codec = codec
        self._runners = runners
        self._resources = resources
        self._children = children
        self._meter = meter
        self._shelf = shelf
        self._items = Items(plan, state, codec)
        self._copies: dict[int, Callable[[], Any]] = {}
        self._asking: asyncio.Future[object] | None = None
        self._patience: asyncio.Future[None]

    def call(self, node: NodeState, attempt: int) -> Awaitable[Fact]:
        """Make one attempt and return, when it is awaited, what came of it.

        Raises:
            asyncio.CancelledError: The attempt was cancelled from outside; nothing came of it.
        """
        shelf = self._shelf
        return self._attempt(node, attempt) if shelf is None else self._attempt_with(shelf, node, attempt)

    async def _attempt_with(self, shelf: Shelf, node: NodeState, attempt: int) -> Fact:
        """Make an attempt whose arguments may lie in the artifact store, and whose output may go there."""
        try:
            async with shelf.attempt(self._payloads(node)):
                fact = await self._attempt(node, attempt)
                if type(fact) is Returned:
                    fact.payload = await shelf.settle(fact.payload, node.name, attempt)
        except BaseException as exc:  # noqa: BLE001 - of the artifact store, which may be a plug-in
            return self._raised(node, attempt, exc)
        return fact

    def _payloads(self, node: NodeState) -> Iterator[Payload | None]:
        """Yield what an attempt may decode; of the lists of a map, each item takes its own part."""
        planned = self._plan.nodes[node.index]
        taken: set[str] = set()
        if node.map is not None:
            yield from self._items.row(node).values()
            taken = {source.name for source in planned.sources if source.kind is SourceKind.ITEM}
        for upstream in self._upstream_of(node):
            if upstream.name not in taken:
                yield upstream.output
                yield from (item.output for item in upstream.items or ())

    def _upstream_of(self, node: NodeState) -> list[NodeState]:
        """Return the nodes whose outputs an attempt may ask for: its dependencies, and what its guard names."""
        state, guard = self._state, self._plan.nodes[node.index].guard
        names = {state.nodes[index].name: None for index in state.shape.predecessors[node.index]}
        if guard is not None:
            names |= dict.fromkeys(guard.beyond)
        return [state.by_name[name] for name in names]

    async def _attempt(self, node: NodeState, attempt: int) -> Fact:
        planned = self._plan.nodes[node.index]
        definition = planned.node
        try:
            if node.in_doubt and definition.reconcile is not None:
                value = await self._reconcile(definition, node, attempt)
                return self._returned(planned, node, attempt, value)
            arguments = self._upstream(planned)
            if planned.others:
                await self._open_resources(planned.others)
                self._bind(planned.others, node, attempt, arguments)
            if planned.guard is not None and planned.guard.input is not None:
                seen = self._seen(planned, arguments)
                broken = enter(planned.guard, node.name, seen, self._outputs_of, self._meter)
                if broken is not None:
                    return self._broken(node, attempt, broken)
            if definition.child is not None:
                return await self._call_child(planned, definition.child, node, attempt, arguments)
            call = self._runners[definition.runner or ("loop" if planned.is_async else "thread")].call
            if definition.heartbeat_timeout is not None:
                call = functools.partial(call_watched, call, definition.heartbeat_timeout)
            value = await call(definition.function, arguments, timeout=definition.timeout, node=node.name)
            if planned.guard is not None:
                return self._returned(planned, node, attempt, value)
            return Returned(node, attempt, self._encode(value, node))
        except BaseException as exc:  # noqa: BLE001 - the user's function: SystemExit and the like fail the node as well
            return self._raised(node, attempt, exc)

    async def _reconcile(self, definition: Node, node: NodeState, attempt: int) -> Any:
        """Find out what a call that was cut off has done."""
        await self._resources.open()
        reconcile, context = definition.reconcile, self._context(node, attempt)
        if reconcile is None:
            raise InDoubtError(node.name)
        runner = self._runners["loop" if is_async(reconcile) else "thread"]
        bound = functools.partial(reconcile, context)
        return await runner.call(bound, {}, timeout=definition.timeout, node=node.name)

    async def _call_child(
        self, planned: PlanNode, child: ChildSpec, node: NodeState, attempt: int, arguments: dict[str, Any]
    ) -> Fact:
        if self._children is None:
            raise ExecutorError("sub-workflows cannot be run here")
        run_id = child_run_id(self._state.run_id, node)
        asked_by = f"{self._state.reopenings}.{attempt}"
        # A resource is never stored: the nodes of the other run get it from the executor, as those of this one do.
        values = self._resources.values
        inputs = {name: x for name, x in arguments.items() if name not in values or x is not values[name]}
        run = await self._children.run(child, run_id, self._state.run_id, inputs, asked_by=asked_by)
        if run.status is not RunStatus.COMPLETED:
            return Parked(node, attempt, run_id)
        value = run.outputs if child.output is None else run.outputs.get(child.output)
        return self._returned(planned, node, attempt, value)

    async def change_children(self, kind: MessageKind) -> None:
        """Ask the runs that nodes have started, and that have not ended, to do what their parent does."""
        for node in self._state.by_name.values() if self._children is not None else ():
            # A node whose call was cut off has left its run to whoever goes on with it.
            begun = (node.status in (NodeStatus.RUNNING, NodeStatus.WAITING) or node.in_doubt) and node.items is None
            if begun and self._plan.nodes[node.index].node.child is not None and self._children is not None:
                await self._children.change(child_run_id(self._state.run_id, node), kind)

    def judge(self, node: NodeState) -> Awaitable[Fact | None]:
        """Ask the node's condition, and expand a map whose items are not known; ``None`` means that it may start."""
        shelf = self._shelf
        return self._judge(node) if shelf is None else self._judge_with(shelf, node)

    async def _judge_with(self, shelf: Shelf, node: NodeState) -> Fact | None:
        try:
            async with shelf.attempt(self._payloads(node)):
                return await self._judge(node)
        except BaseException as exc:  # noqa: BLE001 - of the artifact store, which may be a plug-in
            return self._raised(node, 0, exc)

    async def _judge(self, node: NodeState) -> Fact | None:
        planned = self._plan.nodes[node.index]
        condition = planned.node.when
        if condition is None:
            return self._expand_new(node)
        try:
            await self._open_resources(planned.condition)
            arguments = self._bind(planned.condition, node, 0, {})
            verdict = condition(**arguments)
            if inspect.isawaitable(verdict):
                verdict = await self._answer(verdict)
            if verdict:
                return self._expand_new(node)
        except BaseException as exc:  # noqa: BLE001 - the user's condition
            return self._raised(node, 0, exc)
        name = getattr(condition, "__qualname__", type(condition).__qualname__)
        return Judged(node, name, {key: short(value) for key, value in arguments.items()})

    async def _answer(self, verdict: Awaitable[object]) -> object:
        asking = self._asking = asyncio.ensure_future(verdict)
        self._patience = asyncio.get_running_loop().create_future()
        either: list[asyncio.Future[Any]] = [asking, self._patience]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return asking.result() if asking.done() else None
        finally:
            asking.cancel()
            self._asking = None

    def stop_asking(self, grace: float) -> None:
        """Wait no longer for the answer of a condition; what `judge` returns then is nobody's answer.

        Args:
            grace: Seconds that the condition may take to end; then it is abandoned.
        """
        if self._asking is not None and not self._asking.done():
            self._asking.cancel()
            self._patience.get_loop().call_later(grace, self._patience.cancel)

    def _expand_new(self, node: NodeState) -> Fact | None:
        return self._expand(node) if self._plan.nodes[node.index].node.map is not None and node.items is None else None

    def _expand(self, node: NodeState) -> Fact:
        """Find out which items a map has."""
        planned = self._plan.nodes[node.index]
        try:
            return Expanded(node, self._items.of(planned))
        except BaseException as exc:  # noqa: BLE001 - the user's key function and values
            return self._raised(node, 0, exc)

    # -- binding ----------------------------------------------------------------------------------

    def _upstream(self, planned: PlanNode) -> dict[str, Any]:
        """Return what is bound to upstream nodes; the way of almost every argument, so it is short."""
        nodes, copies = self._state.nodes, self._copies
        arguments = {}
        for parameter, index in planned.upstream:
            upstream = nodes[index]
            if upstream.status is _COMPLETED:
                copy = copies.get(index)
                arguments[parameter] = self._output(upstream) if copy is None else copy()
        return arguments

    def _output(self, upstream: NodeState) -> Any:
        """Return a decoded copy of an output; one that several nodes take and that is flat is decoded only once."""
        value = node_output(self._state, upstream, self._codec)
        if len(self._state.shape.successors[upstream.index]) < 2 or not is_flat(value):  # noqa: PLR2004 - several
            return value
        copy = self._copies[upstream.index] = value.copy
        return copy()

    async def _open_resources(self, sources: Iterable[Source]) -> None:
        """Open what the sources may ask for; a context may be asked for anything."""
        if any(source.kind is SourceKind.CONTEXT for source in sources):
            await self._resources.open()
        else:
            await self._resources.open(source.name for source in sources if source.kind is SourceKind.INPUT)

    def _bind(
        self, sources: Iterable[Source], node: NodeState, attempt: int, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        for source in sources:
            kind = source.kind
            if kind is SourceKind.NODE:
                upstream = self._state.by_name[source.name]
                if upstream.status is NodeStatus.COMPLETED:
                    arguments[source.parameter] = node_output(self._state, upstream, self._codec)
            elif kind is SourceKind.INPUT:
                self._bind_input(source, arguments)
            elif kind is SourceKind.CONTEXT:
                arguments[source.parameter] = self._context(node, attempt)
            else:
                payload = self._items.row(node)[source.parameter]
                arguments[source.parameter] = decode(payload, self._codec, self._state.run_id, node.name)
        return arguments

    def _bind_input(self, source: Source, arguments: dict[str, Any]) -> None:
        payload = self._items.inputs.get(source.name)
        if payload is not None:
            arguments[source.parameter] = decode(payload, self._codec, self._state.run_id, None)
        elif source.name in self._resources:
            arguments[source.parameter] = self._resources.values[source.name]
        elif not source.optional:
            raise InputError(self._plan.workflow, missing=(source.name,))

    def _context(self, node: NodeState, attempt: int) -> NodeContext:
        state, planned = self._state, self._plan.nodes[node.index]
        sources = [state.nodes[index] for index in state.shape.predecessors[node.index]]
        if planned.guard is not None and planned.guard.before:
            sources = [state.by_name[name] for name in planned.guard.before]
        facts = {"run_id": state.run_id, "node": node.name, "attempt": attempt}
        return NodeContext(
            run_id=state.run_id,
            workflow=state.workflow,
            node=node.name,
            attempt=attempt,
            idempotency_key=idempotency_key(state.run_id, node.name),
            inputs=decode(state.inputs, self._codec, state.run_id, None) or {},
            outputs={
                source.name: node_output(state, source, self._codec)
                for source in sources
                if source.status is NodeStatus.COMPLETED
            },
            config=planned.node.config,
            resources=MappingProxyType(self._resources.values),
            logger=logging.LoggerAdapter(_LOGGER, facts),
            artifacts=None if self._shelf is None else self._shelf.artifacts(node.name, attempt),
            meter=self._meter,
        )

    # -- outcome ----------------------------------------------------------------------------------

    def _seen(self, planned: PlanNode, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments that are values of the run: a contract sees neither the context nor a resource."""
        inputs = self._items.inputs
        others = {
            source.parameter
            for source in planned.others
            if source.kind is SourceKind.CONTEXT or (source.kind is SourceKind.INPUT and source.name not in inputs)
        }
        return {name: value for name, value in arguments.items() if name not in others}

    def _outputs_of(self, names: Iterable[str]) -> dict[str, Any]:
        nodes = [self._state.by_name[name] for name in names]
        return {node.name: node_output(self._state, node, self._codec) for node in nodes if node.status is _COMPLETED}

    def _returned(self, planned: PlanNode, node: NodeState, attempt: int, value: object) -> Fact:
        broken = leave(planned.guard, node.name, value, self._meter) if planned.guard is not None else None
        if broken is not None:
            return self._broken(node, attempt, broken)
        return Returned(node, attempt, self._encode(value, node))

    def _broken(self, node: NodeState, attempt: int, broken: Broken) -> Raised:
        """Return what became of an attempt that broke a contract."""
        raised = self._raised(node, attempt, broken.error)
        # The arguments of the next attempt would be the same.
        named = any(issubclass(cls, ContractError) for cls in self._plan.nodes[node.index].node.retry.retry_on)
        retryable = raised.retryable and (named or broken.error.direction == "output")
        value = kept(broken.value, self._codec)
        return attrs.evolve(raised, retryable=retryable, contract=broken.facts, value=value)

    def _encode(self, value: object, node: NodeState) -> Payload:
        try:
            return self._codec.encode(value)
        except SerializationError as exc:
            raise attrs.evolve(exc, run_id=self._state.run_id, node=node.name) from None

    def _raised(self, node: NodeState, attempt: int, exc: BaseException) -> Raised:
        task = asyncio.current_task()
        if isinstance(exc, asyncio.CancelledError) and task is not None and task.cancelling():
            raise exc
        policy = self._plan.nodes[node.index].node.retry
        retryable = bool(attempt) and isinstance(exc, policy.retry_on) and not _is_final(exc)
        if self._meter is not None and isinstance(exc, QualityGateError):
            self._meter.record_quality_score(exc.phase, exc.score)
        error = describe(exc, _traceback(exc))
        return Raised(node, attempt, error, retryable, random.uniform(-1, 1), exc)  # noqa: S311 - spreads retries


def _is_final(exc: BaseException) -> bool:
    """Return whether another attempt would find the same, or must not be made without a person."""
    if isinstance(exc, RunFailedError):
        return any(error.type == _IN_DOUBT for error in exc.failures.values())
    return isinstance(exc, _FINAL)


def _traceback(exc: BaseException) -> str:
    """Return the formatted traceback, from the user's first frame on."""
    frames = exc.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__", "").startswith("dagflow."):
        frames = frames.tb_next
    try:
        text = "".join(traceback.format_exception(type(exc), exc, frames))
    except BaseException:  # noqa: BLE001 - the user's __str__, which may even call sys.exit()
        text = "".join(traceback.format_tb(frames))
    return text[-_MAX_TRACEBACK:]
