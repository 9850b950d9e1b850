"""Phases: nodes whose work an application's own engine does.

An engine is anything with ``execute_phase(phase, context)``, sync or async. dagflow knows no more of it, and imports
nothing of the application: what the engine gets as its context is made by a factory that the application hands in.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from dagflow._binding import is_async
from dagflow._model import Workflow
from dagflow._node import Node, NodeContext, NodeType
from dagflow._results import PhaseResult, is_fraction, output_of
from dagflow.errors import QualityGateError, WorkflowError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from dagflow.contracts import Contract

__all__ = ["SDLC_PHASES", "PhaseContext", "PhaseExecutor", "PhaseResult", "linear_workflow", "parallel_workflow"]

SDLC_PHASES = (
    "requirement_analysis",
    "design",
    "backend_development",
    "frontend_development",
    "testing",
    "review",
)
"""The phases of a software delivery, in their order."""

_SIDE_BY_SIDE = ("backend_development", "frontend_development")
_INPUT = "requirement"


@attrs.frozen(kw_only=True, eq=False)
class PhaseContext:
    """What a phase may know; an engine gets it as it is, or what a context factory makes of it.

    All values are copies of the phase's own: what is changed here is seen by no other phase.

    Attributes:
        phase_name: The phase.
        requirement: What the run is to fulfil: its input of this name.
        inputs: All inputs of the run.
        outputs: What the phases before have made, by their names; nodes that are no phases are among them.
        artifacts: The artifacts of the phases before that left some, by the names of the phases.
        contracts: The contracts of the phases before that gave some, by the names of the phases.
        node: The attempt: its run id, number, idempotency key, artifacts, logger, resources.
    """

    phase_name: str
    requirement: Any = None
    inputs: Mapping[str, Any] = attrs.field(factory=dict)
    outputs: Mapping[str, Any] = attrs.field(factory=dict)
    artifacts: Mapping[str, Any] = attrs.field(factory=dict)
    contracts: Mapping[str, Any] = attrs.field(factory=dict)
    node: NodeContext | None = attrs.field(default=None, repr=False)

    @classmethod
    def of(cls, phase_name: str, node: NodeContext, requirement: Any) -> PhaseContext:
        """Return the context of a phase from that of its node."""
        results = {name: value for name, value in node.outputs.items() if isinstance(value, PhaseResult)}
        return cls(
            phase_name=phase_name,
            requirement=node.inputs.get(_INPUT) if requirement is None else requirement,
            inputs=node.inputs,
            outputs={name: output_of(value) for name, value in node.outputs.items()},
            artifacts={name: result.artifacts for name, result in results.items() if result.artifacts},
            contracts={name: result.contracts for name, result in results.items() if result.contracts},
            node=node,
        )


class PhaseExecutor:
    """The function of a node that lets an engine do the work of a phase.

    A plain mapping that the engine returns is the output of the node; a `PhaseResult` says more. Artifacts that are
    bytes or paths are written to the executor's artifact store, if it has one.

    Example:
        >>> from dagflow import DAGExecutor, Node, Workflow
        >>> class Engine:
        ...     def execute_phase(self, phase, context):
        ...         return {"summary": f"{phase} of {context.requirement}"}
        >>> workflow = Workflow("w", [Node("design", PhaseExecutor("design", Engine()))])
        >>> with DAGExecutor("memory://") as executor:
        ...     run = executor.run(workflow, {"requirement": "a shop"})
        >>> run.outputs["design"]["summary"]
        'design of a shop'

    Args:
        phase_name: What the engine is told.
        engine: Anything with ``execute_phase(phase, context)``; sync ones are called in a thread.
        context_factory: Makes what the engine gets as its context: a callable, or an object with ``create``, which is
            given the `PhaseContext`; without one the engine gets that itself.
        quality_threshold: The phase fails with `QualityGateError` when its score is below this, from 0 to 1. A result
            without a score passes.

    Raises:
        WorkflowError: The engine or the factory cannot be called, or the threshold is no fraction.
    """

    is_phase = True

    def __init__(
        self,
        phase_name: str,
        engine: Any,
        context_factory: Any = None,
        *,
        quality_threshold: float | None = None,
    ) -> None:
        for reason in _faults(phase_name, engine, context_factory, quality_threshold):
            raise WorkflowError(reason, node=phase_name if isinstance(phase_name, str) else None)
        self.phase_name = phase_name
        self.engine = engine
        self.context_factory = context_factory
        self.quality_threshold = quality_threshold

    def __repr__(self) -> str:
        return f"PhaseExecutor({self.phase_name!r}, {type(self.engine).__qualname__})"

    @property
    def is_async(self) -> bool:
        """Whether calling it gives a coroutine."""
        return is_async(self.engine.execute_phase)

    def __call__(self, context: NodeContext, requirement: Any = None) -> Any:
        """Let the engine do the phase.

        Args:
            context: Of the node.
            requirement: What the run is to fulfil.

        Raises:
            QualityGateError: The score is below the threshold.
        """
        given = PhaseContext.of(self.phase_name, context, requirement)
        return self._execute_async(given, context) if self.is_async else self._execute(given, context)

    def _execute(self, given: PhaseContext, context: NodeContext) -> Any:
        made = _waited_for(self._made(given))
        result = _waited_for(self.engine.execute_phase(self.phase_name, made))
        return self._passed(_stored(_plain(result), context))

    async def _execute_async(self, given: PhaseContext, context: NodeContext) -> Any:
        made = self._made(given)
        if inspect.isawaitable(made):
            made = await made
        result = _plain(await self.engine.execute_phase(self.phase_name, made))
        if isinstance(result, PhaseResult) and _files(result, context):
            result = await asyncio.to_thread(_stored, result, context)
        return self._passed(result)

    def _made(self, given: PhaseContext) -> Any:
        factory = self.context_factory
        if factory is None:
            return given
        return factory.create(given) if _creates(factory) else factory(given)

    def _passed(self, result: Any) -> Any:
        threshold = self.quality_threshold
        score = result.quality_score if isinstance(result, PhaseResult) else None
        if threshold is not None and score is not None and score < threshold:
            raise QualityGateError(self.phase_name, score, threshold)
        return result


class _Phase(PhaseExecutor):
    """A phase of a workflow that is nothing but phases: what it is to fulfil has to be given."""

    def __call__(self, requirement: Any, context: NodeContext) -> Any:  # type: ignore[override]
        return super().__call__(context, requirement)


def _creates(factory: Any) -> bool:
    return callable(getattr(factory, "create", None))


def _faults(phase: Any, engine: Any, factory: Any, threshold: Any) -> Iterable[str]:
    if not isinstance(phase, str) or not phase:
        yield f"phase_name must be text, not {phase!r}"
    if not callable(getattr(engine, "execute_phase", None)):
        yield f"engine= needs a method execute_phase(phase, context), and {engine!r} has none"
    if factory is not None and not callable(factory) and not _creates(factory):
        yield f"context_factory= is a callable or has a method create(phase_context), and {factory!r} is neither"
    if threshold is not None and not is_fraction(threshold):
        yield f"quality_threshold= is a fraction from 0 to 1, not {threshold!r}: divide per cent by 100"


def _waited_for(value: Any) -> Any:
    """Return what an awaitable gives that was met in a thread, and any other value as it is."""
    return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _plain(result: Any) -> Any:
    """Return a mapping of any sort as a dictionary, which every codec keeps."""
    is_other = isinstance(result, Mapping) and not isinstance(result, PhaseResult)
    return dict(result) if is_other else result


# -- artifacts ------------------------------------------------------------------------------------


def _files(result: PhaseResult, context: NodeContext) -> bool:
    return context.has_artifacts and any(isinstance(value, bytes | Path) for _, value in _entries(result.artifacts))


def _entries(artifacts: Any) -> Iterable[tuple[Any, Any]]:
    return artifacts.items() if isinstance(artifacts, dict) else enumerate(artifacts)


def _stored(result: Any, context: NodeContext) -> Any:
    """Return a result whose files lie in the artifact store."""
    if not isinstance(result, PhaseResult) or not _files(result, context):
        return result
    artifacts = result.artifacts
    kept = artifacts.copy()
    for key, value in _entries(artifacts):
        if isinstance(value, bytes | Path):
            kept[key] = context.artifacts.write(value.name if isinstance(value, Path) else str(key), value)
    return attrs.evolve(result, artifacts=kept)


# -- workflows ------------------------------------------------------------------------------------


def linear_workflow(
    name: str,
    phases: Iterable[str] = SDLC_PHASES,
    engine: Any = None,
    context_factory: Any = None,
    *,
    quality_threshold: float | None = None,
    input_contracts: Mapping[str, Contract] | None = None,
    output_contracts: Mapping[str, Contract] | None = None,
    **options: Any,
) -> Workflow:
    """Return a workflow of phases, one after the other; its input is ``requirement``.

    Args:
        name: Name of the workflow.
        phases: Their names, which are those of the nodes.
        engine: See `PhaseExecutor`.
        context_factory: See `PhaseExecutor`.
        quality_threshold: See `PhaseExecutor`; for every phase.
        input_contracts: ``input_contract=`` of nodes, by phase.
        output_contracts: ``output_contract=`` of nodes, by phase.
        **options: ``retry``, ``timeout`` and other options of `Node`, for every phase.

    Raises:
        WorkflowError: A phase is named twice, or the engine is none.
    """
    names = [phases] if isinstance(phases, str) else list(phases)
    before = {phase: names[index - 1 : index] if index else [] for index, phase in enumerate(names)}
    if len(before) < len(names):
        raise WorkflowError(f"phases= names a phase twice: {', '.join(map(str, names))}", workflow=name)
    make = functools.partial(
        _Phase, engine=engine, context_factory=context_factory, quality_threshold=quality_threshold
    )
    return _workflow(name, before, make, (input_contracts or {}, output_contracts or {}), options)


def parallel_workflow(
    name: str,
    engine: Any = None,
    context_factory: Any = None,
    *,
    quality_threshold: float | None = None,
    input_contracts: Mapping[str, Contract] | None = None,
    output_contracts: Mapping[str, Contract] | None = None,
    **options: Any,
) -> Workflow:
    """Return a workflow of `SDLC_PHASES` in which backend and frontend are developed side by side.

    The arguments are those of `linear_workflow`.
    """
    analysis, design, *_, testing, review = SDLC_PHASES
    before = {analysis: [], design: [analysis], **{phase: [design] for phase in _SIDE_BY_SIDE}}
    before |= {testing: list(_SIDE_BY_SIDE), review: [testing]}
    make = functools.partial(
        _Phase, engine=engine, context_factory=context_factory, quality_threshold=quality_threshold
    )
    return _workflow(name, before, make, (input_contracts or {}, output_contracts or {}), options)


def _workflow(
    name: str,
    before: Mapping[str, list[str]],
    function_of: Callable[[str], PhaseExecutor],
    contracts: tuple[Mapping[str, Contract], Mapping[str, Contract]],
    options: Mapping[str, Any],
) -> Workflow:
    workflow = Workflow(name, inputs=[_INPUT])
    entering, leaving = contracts
    for phase in [*entering, *leaving]:
        if phase not in before:
            raise WorkflowError(f"there is a contract for {phase!r}, which is none of its phases", workflow=name)
    if _INPUT in before:
        reason = f"{_INPUT!r} is the input of the run: give the phase another name"
        raise WorkflowError(reason, workflow=name, node=_INPUT)
    for phase, sources in before.items():
        facts = {"input_contract": entering.get(phase), "output_contract": leaving.get(phase)}
        labels = {"type": NodeType.PHASE, "phase_name": phase}
        workflow.add(Node(phase, function_of(phase), sources, **{**labels, **facts, **options}))
    return workflow
