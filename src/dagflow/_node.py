"""One step of a workflow as data: a function and its policies."""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import attrs

from dagflow._names import check_node_name
from dagflow._specs import (
    KINDS,
    LONGEST_S,
    ChildSpec,
    MapSpec,
    ReviewSpec,
    SignalSpec,
    SleepSpec,
    WaitSpec,
    between,
    map_faults,
    wait_faults,
    whole,
)
from dagflow.contracts import compile_contract
from dagflow.errors import ExecutorError, WorkflowError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterator

    from dagflow.artifacts import NodeArtifacts
    from dagflow.contracts import Contract
    from dagflow.protocols import Meter

__all__ = [
    "ChildSpec",
    "ItemError",
    "Join",
    "MapSpec",
    "Node",
    "NodeContext",
    "NodeType",
    "RetryPolicy",
    "ReviewSpec",
    "SignalSpec",
    "SleepSpec",
    "WaitSpec",
]

Join = Literal["all_success", "all_done", "any_success", "none_failed"]
JOINS: tuple[Join, ...] = ("all_success", "all_done", "any_success", "none_failed")


class NodeType(enum.StrEnum):
    """What sort of work a node does; a label for people and metrics, without effect on the run."""

    CUSTOM = "custom"
    PHASE = "phase"
    MAP = "map"


def _classes(value: type[BaseException] | Iterable[type[BaseException]]) -> tuple[type[BaseException], ...]:
    """Take one exception class or many."""
    return (value,) if isinstance(value, type) else tuple(value)


@attrs.frozen
class RetryPolicy:
    """When a failed attempt is followed by another one.

    The wait after failed attempt *n* is ``min(delay * backoff ** (n - 1), max_delay)``, made longer or shorter by a
    random share of at most ``jitter``, and never longer than ``max_delay``: exponential back-off with a jitter, so that
    many runs do not come back at once.

    Attributes:
        max_attempts: How many calls may fail, the first one included; restarts of the process do not add to it.
        delay: Seconds to wait after the first failed attempt.
        backoff: Factor by which the wait grows with each further failure, at least 1.
        max_delay: Longest wait in seconds.
        jitter: Largest random share by which a wait is changed, from 0 to 1.
        retry_on: Exception classes that are worth another attempt.
    """

    max_attempts: int = 3
    delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 60.0
    jitter: float = 0.1
    retry_on: tuple[type[BaseException], ...] = attrs.field(default=(Exception,), converter=_classes)

    def __attrs_post_init__(self) -> None:
        if not whole(self.max_attempts):
            raise WorkflowError(f"max_attempts must be a whole number of at least 1, not {self.max_attempts!r}")
        if not between(0, self.delay, LONGEST_S) or not between(0, self.max_delay, LONGEST_S):
            raise WorkflowError("delay and max_delay are seconds, from 0 to a hundred years")
        if not between(1, self.backoff, math.inf) or not between(0, self.jitter, 1):
            raise WorkflowError("backoff must be at least 1, and jitter a fraction from 0 to 1")
        if not all(isinstance(cls, type) and issubclass(cls, BaseException) for cls in self.retry_on):
            raise WorkflowError(f"retry_on takes exception classes, not {self.retry_on!r}")

    def wait_s(self, attempt: int, *, chance: float = 0.0) -> float:
        """Return the seconds to wait after failed attempt ``attempt``, counted from 1.

        Args:
            attempt: Number of the attempt that failed.
            chance: A random number from -1 to 1 that places the wait within the jitter.
        """
        try:
            wait = min(self.delay * self.backoff ** (attempt - 1), self.max_delay)
        except OverflowError:
            # The wait has long reached its limit, unless it never grows.
            wait = self.max_delay if self.delay else 0.0
        return min(wait * (1 + self.jitter * chance), self.max_delay)


@attrs.frozen
class ItemError:
    """Stands in a map's output at the place of an item that failed.

    Attributes:
        key: Key of the item.
        type: Name of the exception's class; with its module, unless it is a built-in.
        message: Its text.
        traceback: The formatted traceback.
    """

    key: str
    type: str
    message: str
    traceback: str = ""


def _retry_policy(value: RetryPolicy | int | None) -> RetryPolicy:
    if value is None:
        return _ONCE
    if isinstance(value, RetryPolicy):
        return value
    return RetryPolicy(max_attempts=value)


_ONCE = RetryPolicy(max_attempts=1)


def _names(value: str | Iterable[str]) -> tuple[str, ...]:
    """Take one name or many: a lone string is a name, not a list of letters."""
    return (value,) if isinstance(value, str) or not isinstance(value, Iterable) else tuple(value)


def _read_only(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise WorkflowError(f"bind= and config= take dictionaries by name, not {value!r}")
    return MappingProxyType(dict(value))


@attrs.frozen(eq=False)
class Node:
    """One step of a workflow.

    Attributes:
        name: Unique in the workflow: letters, digits, ``_``, ``-``, ``.``, at most 128 characters.
        function: What an attempt calls, sync or async; its parameters are bound by name.
        depends_on: Nodes to wait for besides those that parameters are bound to.
        bind: For a parameter, the node or input that it takes its value from, where the names differ.
        retry: A policy, or a number: ``retry=4`` is ``RetryPolicy(max_attempts=4)``. Default: one attempt.
        timeout: Seconds that one attempt may take; ``None`` for no limit.
        heartbeat_timeout: Seconds after which an attempt fails that neither ends nor calls ``NodeContext.heartbeat()``;
            ``None`` for no limit.
        when: Its parameters are bound like the node's; when it returns something false the node is skipped.
        join: What the node needs of its dependencies, all of which have ended when it is decided:
            ``all_success``, ``all_done``, ``any_success`` or ``none_failed``.
        runner: Name of one of the executor's runners; default: the loop for async functions, a thread for others.
        uses: Names of the executor's limits that an attempt counts against.
        priority: When slots of ``max_concurrency`` or of a limit are short, nodes of higher priority start first, then
            those that have been ready for longer; a whole number, which may be negative.
        allow_failure: When true, the failure of the node does not fail the run.
        max_interruptions: How often a crash may cut the node off before it fails.
        effects: ``"idempotent"``: a call that a crash cut off is made again, with the same ``idempotency_key``;
            ``"at_most_once"``: it is not, and the node fails with `InDoubtError` unless it has ``reconcile``.
        reconcile: Called instead, with the `NodeContext`, after a call of an ``at_most_once`` node was cut off: finds
            out from the outside world what happened and returns the output, or raises.
        config: Plain settings for the function, in ``NodeContext.config``.
        type: A label for people and metrics.
        phase_name: Name of the phase that the node stands for; a label for metrics.
        input_contract: What the arguments have to look like, as ``{parameter: value}``: a JSON Schema, a type, or a
            list of required fields, ``["design.api_specification"]``, of parameters and of outputs of nodes before. An
            attempt that breaks it fails with `ContractError` before the function is called.
        output_contract: What the function has to return; checked before it is recorded. Of a map, both count for each
            item.
        map: Makes the node a map; see ``Workflow.map``.
        wait: Makes the node one that waits instead of calling its function; see ``Workflow.sleep`` and its like.
        child: Makes the node one that runs another workflow; see ``Workflow.subworkflow``.
    """

    name: str
    function: Callable[..., Any]
    depends_on: tuple[str, ...] = attrs.field(default=(), converter=_names)
    bind: Mapping[str, str] = attrs.field(factory=dict, converter=_read_only)
    retry: RetryPolicy = attrs.field(default=None, converter=_retry_policy)
    timeout: float | None = None
    heartbeat_timeout: float | None = attrs.field(default=None, kw_only=True)
    when: Callable[..., object] | None = None
    join: Join = "all_success"
    runner: str | None = None
    uses: tuple[str, ...] = attrs.field(default=(), converter=_names)
    priority: int = attrs.field(default=0, kw_only=True)
    allow_failure: bool = False
    max_interruptions: int = 5
    effects: Literal["idempotent", "at_most_once"] = attrs.field(default="idempotent", kw_only=True)
    reconcile: Callable[[NodeContext], Any] | None = attrs.field(default=None, kw_only=True)
    config: Mapping[str, Any] = attrs.field(factory=dict, converter=_read_only)
    type: NodeType | str = NodeType.CUSTOM
    phase_name: str | None = None
    input_contract: Contract | None = None
    output_contract: Contract | None = None
    map: MapSpec | None = attrs.field(default=None, kw_only=True)
    wait: WaitSpec | None = attrs.field(default=None, kw_only=True)
    child: ChildSpec | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        check_node_name(self.name)
        for reason in self._faults():
            raise WorkflowError(reason, node=self.name)

    @property
    def kind(self) -> str:
        """What the node is: ``function``, ``map``, ``subworkflow``, ``timer``, ``signal`` or ``review``."""
        if self.wait is not None:
            return KINDS[type(self.wait)]
        if self.map is not None:
            return "map"
        return "function" if self.child is None else "subworkflow"

    def _faults(self) -> Iterator[str]:
        if not callable(self.function):
            yield f"its function must be callable, not {self.function!r}"
        if self.when is not None and not callable(self.when):
            yield f"when= must be callable, not {self.when!r}"
        yield from _limit_faults(timeout=self.timeout, heartbeat_timeout=self.heartbeat_timeout)
        if self.join not in JOINS:
            yield f"join={self.join!r} is none of {', '.join(JOINS)}"
        if not whole(self.max_interruptions):
            yield f"max_interruptions= must be at least 1, not {self.max_interruptions!r}"
        if type(self.priority) is not int:
            yield f"priority= must be a whole number, not {self.priority!r}"
        for option, names in (("depends_on", self.depends_on), ("uses", self.uses), ("bind", self.bind.values())):
            if not all(isinstance(name, str) for name in names):
                yield f"{option}= takes names, not {tuple(names)!r}"
        if self.map is not None:
            yield from map_faults(self.map)
        if self.wait is not None:
            yield from wait_faults(self.wait)
        yield from self._kind_faults()
        yield from self._effect_faults()
        yield from self._idle_faults()
        yield from self._contract_faults()

    def _kind_faults(self) -> Iterator[str]:
        if not isinstance(self.allow_failure, bool):
            yield f"allow_failure= must be True or False, not {self.allow_failure!r}"
        if not isinstance(self.type, str):
            yield f"type= takes a NodeType or a word of your own, not {self.type!r}"
        if not isinstance(self.phase_name, str | None):
            yield f"phase_name= takes the name of a phase, not {self.phase_name!r}"

    def _contract_faults(self) -> Iterator[str]:
        for direction, contract in (("input", self.input_contract), ("output", self.output_contract)):
            if contract is None:
                continue
            if self.wait is not None:
                yield f"{direction}_contract= is for nodes that call a function: a review has form="
            try:
                compile_contract(contract, direction)
            except ValueError as exc:
                yield f"{direction}_contract=: {exc}"

    def _effect_faults(self) -> Iterator[str]:
        if self.effects not in ("idempotent", "at_most_once"):
            yield f"effects={self.effects!r} is neither 'idempotent' nor 'at_most_once'"
        if self.reconcile is not None and not (callable(self.reconcile) and self.effects == "at_most_once"):
            yield "reconcile= is a function, for nodes with effects='at_most_once'"

    def _idle_faults(self) -> Iterator[str]:
        """Yield what is said of a call, of a node that calls no function."""
        if self.wait is None and self.child is None:
            return
        for option, unset in _OF_CALLS.items():
            if getattr(self, option) != unset and (self.wait is not None or option in _OF_CHILDLESS):
                hint = "use deadline=" if (self.kind, option) == ("review", "timeout") else "leave it away"
                yield f"{option}= is for nodes that call a function, this one is a {self.kind}: {hint}"


def _limit_faults(**limits: float | None) -> Iterator[str]:
    for option, limit in limits.items():
        if limit is not None and not (between(0, limit, math.inf) and limit):
            yield f"{option}= is in seconds and must be above 0, not {limit!r}"


_OF_CALLS: dict[str, object] = {
    "retry": _ONCE,
    "timeout": None,
    "heartbeat_timeout": None,
    "runner": None,
    "effects": "idempotent",
}
"""Options of nodes that call a function, and what they are when they are not given."""
_OF_CHILDLESS = frozenset({"timeout", "heartbeat_timeout", "runner"})
"""Those that mean nothing for a run of another workflow either."""


@attrs.frozen(eq=False)
class NodeContext:
    """What one attempt of a node may know besides its arguments; bound to a parameter annotated ``NodeContext``.

    Attributes:
        run_id: The run.
        workflow: Name of the workflow.
        node: Name of the node; an item of a map is ``count[0]``.
        attempt: Number of the attempt, the first is 1.
        idempotency_key: The same for every attempt of this node in this run, and for no other; hand it to the outside
            world so that a repeated call has its effect once.
        inputs: The inputs of the run.
        outputs: The outputs of the upstream nodes that completed, by name.
        config: The node's own settings.
        resources: The executor's resources.
        logger: Knows the run and the node.
    """

    run_id: str
    workflow: str
    node: str
    attempt: int
    idempotency_key: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    config: Mapping[str, Any]
    resources: Mapping[str, Any]
    logger: logging.Logger | logging.LoggerAdapter[logging.Logger]
    _artifacts: NodeArtifacts | str | None = attrs.field(default=None, repr=False)
    _beat: Callable[[], object] = attrs.field(default=lambda: None, repr=False, kw_only=True)
    _meter: Meter | None = attrs.field(default=None, repr=False, kw_only=True)

    @property
    def has_artifacts(self) -> bool:
        """True when the executor has an artifact store that can be reached from here."""
        return not (self._artifacts is None or isinstance(self._artifacts, str))

    @property
    def artifacts(self) -> NodeArtifacts:
        """Writes and reads the files of this attempt.

        Raises:
            ExecutorError: The executor has no artifact store, or it cannot be reached from this process.
        """
        if self._artifacts is None or isinstance(self._artifacts, str):
            reason = self._artifacts or "the executor has no artifact store: DAGExecutor(..., artifacts='artifacts/')"
            raise ExecutorError(reason)
        return self._artifacts

    def heartbeat(self) -> None:
        """Say that the attempt is alive: a node with ``heartbeat_timeout=`` that does not do so in time fails."""
        self._beat()

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to another process as a plain copy, whose heartbeats nobody hears and whose figures nobody counts."""
        fields = (getattr(self, field.name) for field in attrs.fields(type(self)) if not field.kw_only)
        return type(self), tuple(dict(field) if isinstance(field, MappingProxyType) else field for field in fields)
