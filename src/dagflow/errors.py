"""Every error that dagflow raises on purpose.

::

    DagflowError
    ├── WorkflowError                 the definition is wrong; nothing has run
    │   ├── CycleError                the arrows form a circle
    │   ├── WorkflowChangedError      the code's graph is no longer the run's graph
    │   └── UnknownWorkflowError      no workflow of this name was given to the executor
    ├── InputError                    the inputs of a run do not fit its workflow
    ├── ContractError                 a value breaks the contract of a node
    ├── SerializationError            a value cannot be kept, or was not kept as written
    ├── ArtifactError                 an artifact cannot be kept or had
    │   ├── ArtifactNotFoundError     its bytes are not in the artifact store
    │   └── ArtifactDamagedError      its bytes are not those that were written
    ├── StoreError                    the store refused or could not be reached
    │   ├── StoreFaultError           something is wrong with the store itself
    │   │   ├── StoreUnavailableError     it is not known whether the write was kept
    │   │   ├── StoreRefusedError         read-only, full or forbidden; nothing was kept
    │   │   └── StoreFormatError          the file or schema is not what this library writes
    │   ├── StoreURLError             no store can be made of this URL or path
    │   ├── RunNotFoundError
    │   ├── RunExistsError            the id belongs to another workflow or other inputs
    │   ├── RunOwnedError             another executor holds a living lease
    │   ├── LeaseLostError            another executor has taken the run over
    │   └── MessageExistsError        a message with this key has been sent before
    ├── RunError                      the run ended otherwise than completed
    │   ├── RunFailedError
    │   ├── RunCancelledError
    │   ├── RunStateError             the run cannot do that in its present status
    │   ├── NodeError                 an error that was recorded by an earlier process
    │   ├── NodeTimeoutError
    │   ├── WorkerDiedError           the process that called a node's function died
    │   ├── QualityGateError          the score of a phase is below the threshold
    │   ├── ReviewRejectedError
    │   ├── AlreadyDecidedError       somebody decided the review before
    │   ├── DecisionError             the decision does not fit the review
    │   ├── MapError                  a map cannot be expanded, or items of it failed
    │   ├── InDoubtError              a crash cut off a call that must not be repeated
    │   └── InterruptedTooOftenError
    ├── IllegalMoveError              a bug: an event that the state does not allow
    ├── ExecutorError                 the executor is used in a way it cannot serve
    └── MissingExtraError             an optional package is not installed

Each error is data: its fields are the facts, the sentence is made in ``__str__``, and all of them survive
pickling on their way between processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from dagflow._events import ErrorInfo
    from dagflow._run import Run

__all__ = [
    "AlreadyDecidedError",
    "ArtifactDamagedError",
    "ArtifactError",
    "ArtifactNotFoundError",
    "ContractError",
    "CycleError",
    "DagflowError",
    "DecisionError",
    "ExecutorError",
    "IllegalMoveError",
    "InDoubtError",
    "InputError",
    "InterruptedTooOftenError",
    "LeaseLostError",
    "MapError",
    "MessageExistsError",
    "MissingExtraError",
    "NodeError",
    "NodeTimeoutError",
    "QualityGateError",
    "ReviewRejectedError",
    "RunCancelledError",
    "RunError",
    "RunExistsError",
    "RunFailedError",
    "RunNotFoundError",
    "RunOwnedError",
    "RunStateError",
    "SerializationError",
    "StoreError",
    "StoreFaultError",
    "StoreFormatError",
    "StoreRefusedError",
    "StoreURLError",
    "StoreUnavailableError",
    "UnknownWorkflowError",
    "WorkerDiedError",
    "WorkflowChangedError",
    "WorkflowError",
]


class DagflowError(Exception):
    """The root of all errors that dagflow raises on purpose."""


_SHOWN = 3
"""How many failures the text of an error names."""


# -- definition -----------------------------------------------------------------------------------


@attrs.define(eq=False)
class WorkflowError(DagflowError, ValueError):
    """The definition of a workflow is wrong; nothing has run.

    Attributes:
        reason: What is wrong and what to do about it.
        workflow: Name of the workflow, as far as it is known.
        node: Name of the node, when one is to blame.
    """

    reason: str
    workflow: str | None = None
    node: str | None = None

    def __str__(self) -> str:
        where = [f"workflow {self.workflow!r}"] if self.workflow is not None else []
        where += [f"node {self.node!r}"] if self.node is not None else []
        return f"{', '.join(where)}: {self.reason}" if where else self.reason


@attrs.define(eq=False)
class CycleError(WorkflowError):
    """The arrows form a circle; ``cycle`` is its path, the first name repeated at the end."""

    cycle: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = f"workflow {self.workflow!r}: " if self.workflow is not None else ""
        return f"{head}the nodes wait for each other in a circle: {' -> '.join(self.cycle)}"


@attrs.define(eq=False)
class WorkflowChangedError(WorkflowError):
    """The graph in the code is not the graph that the run was started with.

    Attributes:
        run_id: The run that cannot go on.
        added: Nodes that only the code has.
        removed: Nodes that only the run has.
        rewired: Nodes that both have, with other dependencies or of another kind.
    """

    run_id: str = ""
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    rewired: tuple[str, ...] = ()

    def __str__(self) -> str:
        facts = [("added", self.added), ("removed", self.removed), ("rewired", self.rewired)]
        diff = "; ".join(f"{word}: {', '.join(names)}" for word, names in facts if names)
        return (
            f"run {self.run_id!r} was started with another graph of workflow {self.workflow!r} ({diff}): "
            "resume it with the code that started it, or start a new run"
        )


@attrs.define(eq=False)
class UnknownWorkflowError(WorkflowError, LookupError):
    """The executor was not given the workflow that a run belongs to."""

    def __str__(self) -> str:
        return f"no workflow {self.workflow!r} is known to this executor: pass it in DAGExecutor(..., workflows=[...])"


@attrs.define(eq=False)
class InputError(DagflowError, ValueError):
    """The inputs given to a run do not fit its workflow.

    Attributes:
        workflow: Name of the workflow.
        missing: Inputs that a parameter needs and the caller did not give.
        unexpected: Inputs that no parameter takes and the workflow does not declare, with the near misses.
        reason: Anything else that is wrong.
    """

    workflow: str
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        facts = []
        if self.missing:
            facts.append(f"missing inputs: {', '.join(self.missing)}")
        if self.unexpected:
            facts.append(f"inputs that nothing takes: {', '.join(self.unexpected)}")
        if self.reason:
            facts.append(self.reason)
        return f"workflow {self.workflow!r}: {'; '.join(facts)}"


@attrs.define(eq=False)
class ContractError(DagflowError, ValueError):
    """A value breaks the contract of a node.

    Attributes:
        node: The node whose contract it is.
        direction: ``"input"`` or ``"output"``.
        path: Where in the value, ``$`` being the whole.
        reason: What the contract asks for and what it met.
    """

    node: str
    direction: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"node {self.node!r}: the {self.direction} breaks its contract at {self.path}: {self.reason}"


@attrs.define(eq=False)
class SerializationError(DagflowError, ValueError):
    """A value cannot be kept faithfully, or what was kept is damaged.

    Attributes:
        reason: What is wrong and what to do about it.
        path: Where in the value, for example ``$.rows[3].when``.
        type: Name of the offending type, when one is to blame.
        run_id: The run, when it is known.
        node: The node, when it is known.
    """

    reason: str
    path: str = "$"
    type: str | None = None
    run_id: str | None = None
    node: str | None = None

    def __str__(self) -> str:
        where = [f"run {self.run_id!r}"] if self.run_id is not None else []
        where += [f"node {self.node!r}"] if self.node is not None else []
        where.append(f"value at {self.path}" + (f" of type {self.type}" if self.type else ""))
        return f"{', '.join(where)}: {self.reason}"


# -- artifacts ------------------------------------------------------------------------------------


class ArtifactError(DagflowError):
    """An artifact cannot be kept, or cannot be had; the text says why."""


@attrs.define(eq=False)
class ArtifactNotFoundError(ArtifactError, LookupError):
    """The bytes of an artifact are not in the artifact store."""

    name: str
    uri: str
    run_id: str
    node: str

    def __str__(self) -> str:
        return (
            f"run {self.run_id!r}, node {self.node!r}: its artifact {self.name!r} is not in the artifact store "
            f"({self.uri}): give the executor the same artifacts= as its writer; or was the run deleted?"
        )


@attrs.define(eq=False)
class ArtifactDamagedError(ArtifactError):
    """The bytes of an artifact are not those that were written."""

    name: str
    uri: str
    run_id: str
    node: str
    reason: str

    def __str__(self) -> str:
        return (
            f"run {self.run_id!r}, node {self.node!r}: its artifact {self.name!r} is damaged ({self.uri}): "
            f"{self.reason}; let the node write it again"
        )


# -- store ----------------------------------------------------------------------------------------


class StoreError(DagflowError):
    """The store refused, or could not do, what was asked."""


@attrs.define(eq=False)
class StoreFaultError(StoreError):
    """Something is wrong with the store itself.

    Attributes:
        reason: What happened and what to do about it.
        store: The store, without credentials.
    """

    reason: str
    store: str | None = None

    def __str__(self) -> str:
        return f"{self.store}: {self.reason}" if self.store else self.reason


@attrs.define(eq=False)
class StoreUnavailableError(StoreFaultError):
    """The store cannot be reached, or failed in the middle of a write.

    It is not known whether the write was kept; read before trying again.
    """


@attrs.define(eq=False)
class StoreRefusedError(StoreFaultError):
    """The store is read-only, full, or closed to this user; nothing was kept of this write."""


@attrs.define(eq=False)
class StoreFormatError(StoreFaultError):
    """The file or schema is damaged, is no store of this library, or is newer than the library."""


@attrs.define(eq=False)
class StoreURLError(StoreError, ValueError):
    """No store can be made of this URL or path.

    Attributes:
        url: What was given, without credentials.
        reason: What is wrong and what to give instead.
    """

    url: str
    reason: str

    def __str__(self) -> str:
        return f"{self.url!r}: {self.reason}"


@attrs.define(eq=False)
class RunNotFoundError(StoreError, LookupError):
    """No run has this id."""

    run_id: str

    def __str__(self) -> str:
        return f"no run {self.run_id!r}"


@attrs.define(eq=False)
class RunExistsError(StoreError):
    """The run id is taken by a run of another workflow, or with other inputs."""

    run_id: str
    conflict: str = "its id is taken"

    def __str__(self) -> str:
        return f"run {self.run_id!r} exists already: {self.conflict}"


@attrs.define(eq=False)
class RunOwnedError(StoreError):
    """Another executor owns the run under a lease that has not lapsed."""

    run_id: str
    owner: str
    lease_until: datetime | None = None

    def __str__(self) -> str:
        until = f" until {self.lease_until.isoformat()}" if self.lease_until else ""
        return f"run {self.run_id!r} is owned by {self.owner}{until}: wait for it, or cancel it first"


@attrs.define(eq=False)
class LeaseLostError(StoreError):
    """Another executor has taken the run over; nothing was kept of this write."""

    run_id: str
    epoch: int

    def __str__(self) -> str:
        return f"run {self.run_id!r} is no longer ours (epoch {self.epoch} is over): its new owner goes on with it"


@attrs.define(eq=False)
class MessageExistsError(StoreError):
    """A message with this key has been sent to the run before; the first one counts."""

    run_id: str
    key: str

    def __str__(self) -> str:
        return f"run {self.run_id!r} has got a message {self.key!r} before: the first one counts"


# -- runs -----------------------------------------------------------------------------------------


class RunError(DagflowError):
    """A run ended otherwise than completed, or cannot do what was asked."""


@attrs.define(eq=False)
class RunFailedError(RunError):
    """The run failed; ``executor.resume(run_id)`` goes on with it.

    Attributes:
        run: The run as it ended.
        failures: What was recorded of each failed node, by its name.
    """

    run: Run
    failures: Mapping[str, ErrorInfo]

    def __str__(self) -> str:
        shown = dict(list(self.failures.items())[:_SHOWN])
        facts = "; ".join(f"{node}: {error}" for node, error in shown.items())
        more = f" and {len(self.failures) - _SHOWN} more" if len(self.failures) > _SHOWN else ""
        return f"run {self.run.run_id!r} failed ({facts}{more}): resume({self.run.run_id!r}) goes on with it"


@attrs.define(eq=False)
class RunCancelledError(RunError):
    """The run was cancelled; ``executor.resume(run_id)`` goes on with it."""

    run: Run

    def __str__(self) -> str:
        return f"run {self.run.run_id!r} was cancelled: resume({self.run.run_id!r}) goes on with it"


@attrs.define(eq=False)
class RunStateError(RunError):
    """The run cannot do that in its present status."""

    run_id: str
    status: str
    reason: str

    def __str__(self) -> str:
        return f"run {self.run_id!r} is {self.status}: {self.reason}"


@attrs.define(eq=False)
class NodeError(RunError):
    """The error of a node, as an earlier process recorded it."""

    node: str
    error: ErrorInfo

    def __str__(self) -> str:
        return f"node {self.node!r}: {self.error}\n{self.error.traceback}".rstrip()


@attrs.define(eq=False)
class NodeTimeoutError(RunError, TimeoutError):
    """An attempt took longer than its node's timeout, or gave no sign of life.

    Attributes:
        node: The node.
        timeout: The limit in seconds.
        abandoned: True for a function that cannot be stopped, as in a thread: it goes on and its result is refused.
        verdict: What the node did for longer than the limit.
    """

    node: str
    timeout: float
    abandoned: bool = False
    verdict: str = "took longer than"

    def __str__(self) -> str:
        note = " (its call cannot be stopped and was abandoned)" if self.abandoned else ""
        return f"node {self.node!r} {self.verdict} {self.timeout:g} seconds{note}"


@attrs.define(eq=False)
class WorkerDiedError(RunError):
    """The process that called a node's function died before it had answered.

    Attributes:
        node: The node.
        exit_code: What the process exited with; ``None`` when a signal ended it, or when nobody knows.
        signal: Name of the signal that ended it, ``SIGKILL`` for example.
    """

    node: str
    exit_code: int | None = None
    signal: str | None = None

    def __str__(self) -> str:
        how = f"was ended by {self.signal}" if self.signal else "died"
        if self.signal == "SIGKILL":
            how += ", by somebody or for want of memory,"
        if self.exit_code is not None:
            how = f"exited with code {self.exit_code}"
        return f"node {self.node!r}: its process {how} before the call had returned"


@attrs.define(eq=False)
class QualityGateError(RunError):
    """The quality score of a phase is below its threshold.

    Attributes:
        phase: The phase.
        score: What its engine gave, from 0 to 1.
        threshold: The least score that passes.
    """

    phase: str
    score: float
    threshold: float

    def __str__(self) -> str:
        return f"phase {self.phase!r} has a quality score of {self.score:g}, and {self.threshold:g} is asked for"


@attrs.define(eq=False)
class ReviewRejectedError(RunError):
    """A review was rejected.

    Attributes:
        node: The review.
        by: Who rejected it, ``None`` for its deadline.
        comment: What they said.
    """

    node: str
    by: str | None = None
    comment: str | None = None

    def __str__(self) -> str:
        comment = f": {self.comment}" if self.comment else ""
        return f"review {self.node!r} was rejected by {self.by or 'its deadline'}{comment}"


@attrs.define(eq=False)
class AlreadyDecidedError(RunError):
    """Somebody has decided the review before; the first decision counts.

    Attributes:
        run_id: The run.
        review: The review.
        by: Who decided it, ``None`` for its deadline.
        at: When, aware UTC.
        approved: What was decided.
    """

    run_id: str
    review: str
    by: str | None
    at: datetime | None
    approved: bool

    def __str__(self) -> str:
        verdict = "approved" if self.approved else "rejected"
        at = f" at {self.at.isoformat()}" if self.at else ""
        return f"review {self.review!r} of run {self.run_id!r} was {verdict} by {self.by or 'its deadline'}{at}"


@attrs.define(eq=False)
class DecisionError(RunError, ValueError):
    """The decision does not fit the review: the wrong person, or data that is not what the form asks for."""

    run_id: str
    review: str
    reason: str

    def __str__(self) -> str:
        return f"review {self.review!r} of run {self.run_id!r}: {self.reason}"


@attrs.define(eq=False)
class MapError(RunError):
    """A map cannot be expanded into items, or some of its items failed."""

    node: str
    reason: str

    def __str__(self) -> str:
        return f"map {self.node!r}: {self.reason}"


@attrs.define(eq=False)
class InDoubtError(RunError):
    """A call that must not be repeated was cut off, so it is not known whether it had its effect."""

    node: str

    def __str__(self) -> str:
        return (
            f"node {self.node!r} was cut off in mid-call and its effects are at_most_once: find out what happened, "
            "then resume() to call it again, or give the node reconcile="
        )


@attrs.define(eq=False)
class InterruptedTooOftenError(RunError):
    """The process died again and again while this node was running, so the node is no longer tried."""

    node: str
    interruptions: int

    def __str__(self) -> str:
        return (
            f"node {self.node!r} was interrupted {self.interruptions} times in mid-attempt: "
            "it may be bringing its process down; resume() tries again, max_interruptions= sets the limit"
        )


@attrs.define(eq=False)
class IllegalMoveError(DagflowError):
    """An event that the state does not allow: a damaged journal, or a bug in dagflow."""

    run_id: str
    kind: str
    node: str | None
    status: str

    def __str__(self) -> str:
        what = f"node {self.node!r}" if self.node is not None else "the run"
        return f"run {self.run_id!r}: {self.kind} is not a legal move while {what} is {self.status}"


@attrs.define(eq=False)
class ExecutorError(DagflowError, RuntimeError):
    """The executor is closed, not open, or called from a place where it cannot answer."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@attrs.define(eq=False)
class MissingExtraError(DagflowError, ImportError):
    """An optional package is not installed."""

    feature: str
    extra: str

    def __str__(self) -> str:
        return f"{self.feature} needs an optional package: pip install 'dagflow-sdk[{self.extra}]'"
