"""One step of a workflow as data: a function and its policies."""

from __future__ import annotations

import enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import attrs

from dagflow._names import check_node_name
from dagflow.errors import WorkflowError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Mapping

    from dagflow._model import Workflow

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


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """When a failed attempt is followed by another one.

    The wait after failed attempt *n* is ``min(delay * backoff ** (n - 1), max_delay)``, made longer or shorter by a
    random share of at most ``jitter``: exponential back-off as in A. Tanenbaum, "Computer Networks", with a jitter so
    that many runs do not come back at once.

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
        if not isinstance(self.max_attempts, int) or isinstance(self.max_attempts, bool) or self.max_attempts < 1:
            raise WorkflowError(f"max_attempts must be a whole number of at least 1, not {self.max_attempts!r}")
        if self.delay < 0 or self.max_delay < 0:
            raise WorkflowError("delay and max_delay are seconds and cannot be negative")
        if self.backoff < 1 or not 0 <= self.jitter <= 1:
            raise WorkflowError("backoff must be at least 1, and jitter a fraction from 0 to 1")

    def wait_s(self, attempt: int, *, chance: float = 0.0) -> float:
        """Return the seconds to wait after failed attempt ``attempt``, counted from 1.

        Args:
            attempt: Number of the attempt that failed.
            chance: A random number from -1 to 1 that places the wait within the jitter.
        """
        # A float overflows beyond attempt 1,000 or so; by then the wait has long reached its limit.
        exponent = min(attempt - 1, 200)
        wait = min(self.delay * self.backoff**exponent, self.max_delay)
        return min(wait * (1 + self.jitter * chance), self.max_delay)


@attrs.frozen
class MapSpec:
    """How a map makes its items.

    Attributes:
        over: For each parameter of the function, the node or input whose list it is taken from.
        limit: How many items run at a time, ``None`` for no limit.
        key: Function of an item that names it; the position names it otherwise.
        on_error: ``"fail"``: a failed item fails the map; ``"collect"``: an `ItemError` stands at its place.
        depth: How many levels of lists lie around an item.
    """

    over: Mapping[str, str]
    limit: int | None = None
    key: Callable[[Any], object] | None = None
    on_error: Literal["fail", "collect"] = "fail"
    depth: int = 1


@attrs.frozen
class SleepSpec:
    """A node that waits for a time, in seconds."""

    seconds: float


@attrs.frozen
class SignalSpec:
    """A node that waits for a signal of its own name, for ``timeout`` seconds at the most."""

    timeout: float | None = None


@attrs.frozen
class ReviewSpec:
    """A node that waits for a person; see ``Workflow.review`` for the fields."""

    form: Mapping[str, Any] | type | None = None
    assignees: tuple[str, ...] = ()
    deadline: float | None = None
    on_deadline: Literal["reject", "approve", "fail"] = "reject"
    on_reject: Literal["fail", "continue"] = "fail"


WaitSpec = SleepSpec | SignalSpec | ReviewSpec


@attrs.frozen
class ChildSpec:
    """A node whose work is a run of another workflow.

    Attributes:
        workflow: What is run.
        output: The node of it whose output is taken; ``None`` for all outputs by name.
    """

    workflow: Workflow
    output: str | None = None


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
    return (value,) if isinstance(value, str) else tuple(value)


def _read_only(value: Mapping[str, Any]) -> Mapping[str, Any]:
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
        when: Its parameters are bound like the node's; when it returns something false the node is skipped.
        join: What the node needs of its dependencies, all of which have ended when it is decided:
            ``all_success``, ``all_done``, ``any_success`` or ``none_failed``.
        runner: Name of one of the executor's runners; default: the loop for async functions, a thread for others.
        uses: Names of the executor's limits that an attempt counts against.
        allow_failure: When true, the failure of the node does not fail the run.
        max_interruptions: How often a crash may cut the node off before it fails.
        config: Plain settings for the function, in ``NodeContext.config``.
        type: A label for people and metrics.
        phase_name: Name of the phase that the node stands for; a label for metrics.
        map: Makes the node a map; see ``Workflow.map``.
        wait: Makes the node one that waits instead of calling its function; see ``Workflow.sleep`` and its like.
        child: Makes the node one that runs another workflow; see ``Workflow.subworkflow``.
    """

    name: str
    function: Callable[..., Any]
    depends_on: tuple[str, ...] = attrs.field(default=(), converter=_names)
    bind: Mapping[str, str] = attrs.field(factory=dict, converter=_read_only, kw_only=True)
    retry: RetryPolicy = attrs.field(default=None, converter=_retry_policy, kw_only=True)
    timeout: float | None = attrs.field(default=None, kw_only=True)
    when: Callable[..., object] | None = attrs.field(default=None, kw_only=True)
    join: Join = attrs.field(default="all_success", kw_only=True)
    runner: str | None = attrs.field(default=None, kw_only=True)
    uses: tuple[str, ...] = attrs.field(default=(), converter=_names, kw_only=True)
    allow_failure: bool = attrs.field(default=False, kw_only=True)
    max_interruptions: int = attrs.field(default=5, kw_only=True)
    config: Mapping[str, Any] = attrs.field(factory=dict, converter=_read_only, kw_only=True)
    type: NodeType | str = attrs.field(default=NodeType.CUSTOM, kw_only=True)
    phase_name: str | None = attrs.field(default=None, kw_only=True)
    map: MapSpec | None = attrs.field(default=None, kw_only=True)
    wait: WaitSpec | None = attrs.field(default=None, kw_only=True)
    child: ChildSpec | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        check_node_name(self.name)
        for wrong, reason in self._faults():
            if wrong:
                raise WorkflowError(reason, node=self.name)

    @property
    def kind(self) -> str:
        """What the node is: ``function``, ``map``, ``subworkflow``, ``timer``, ``signal`` or ``review``."""
        if self.wait is not None:
            return _KINDS[type(self.wait)]
        if self.map is not None:
            return "map"
        return "function" if self.child is None else "subworkflow"

    def _faults(self) -> list[tuple[bool, str]]:
        interruptions = self.max_interruptions
        return [
            (not callable(self.function), f"its function must be callable, not {self.function!r}"),
            (self.when is not None and not callable(self.when), f"when= must be callable, not {self.when!r}"),
            (self.timeout is not None and self.timeout <= 0, "timeout= is in seconds and must be above 0"),
            (self.join not in JOINS, f"join={self.join!r} is none of {', '.join(JOINS)}"),
            (interruptions < 1, f"max_interruptions= must be at least 1, not {interruptions!r}"),
            (
                self.map is not None and self.map.limit is not None and self.map.limit < 1,
                "limit= must be at least 1, or None for no limit",
            ),
            (self.map is not None and self.map.depth < 1, "depth= must be at least 1"),
            (
                self.map is not None and self.map.depth > 1 and self.map.key is not None,
                "key= names the items of one list: it does not go with depth=",
            ),
            (self.map is not None and not self.map.over, "over= must name at least one parameter"),
            (
                self.map is not None and self.map.on_error not in ("fail", "collect"),
                "on_error= must be 'fail' or 'collect'",
            ),
            (self.wait is not None and _wait_s(self.wait) < 0, "it cannot wait for fewer than 0 seconds"),
            (
                isinstance(self.wait, ReviewSpec)
                and (
                    self.wait.on_deadline not in ("reject", "approve", "fail")
                    or self.wait.on_reject not in ("fail", "continue")
                ),
                "on_deadline= must be 'reject', 'approve' or 'fail', and on_reject= 'fail' or 'continue'",
            ),
        ]


_KINDS: dict[type, str] = {SleepSpec: "timer", SignalSpec: "signal", ReviewSpec: "review"}


def _wait_s(wait: WaitSpec) -> float:
    """Return the seconds that a node waits at the most, 0 for no limit."""
    if isinstance(wait, SleepSpec):
        return wait.seconds
    return (wait.timeout if isinstance(wait, SignalSpec) else wait.deadline) or 0.0


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
