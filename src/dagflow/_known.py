"""The workflows that an executor can go on with: those it was given, and those that these run."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from dagflow._model import Workflow
from dagflow._names import near_miss
from dagflow.errors import UnknownWorkflowError, WorkflowError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from dagflow._node import Node
    from dagflow._plan import Plan

__all__ = ["KnownWorkflows"]


class KnownWorkflows:
    """Checks workflows against what an executor has, and keeps them by name.

    Args:
        runners: Names of the executor's runners.
        limits: Names of its limits.
    """

    def __init__(self, runners: Collection[str], limits: Collection[str]) -> None:
        self._runners = runners
        self._limits = limits
        self._workflows: dict[str, Workflow] = {}
        # Those that come with another one as its sub-workflows give way to these.
        self._given: set[str] = set()
        # What was taken last under each name: most runs are of the same few workflows.
        self._checked: dict[str, Plan] = {}

    @property
    def by_name(self) -> Mapping[str, Workflow]:
        """The workflows, as they are at any time."""
        return MappingProxyType(self._workflows)

    def add_all(self, workflows: Iterable[Workflow]) -> None:
        """Take workflows that stand side by side.

        Raises:
            WorkflowError: A definition is wrong, or two workflows have the same name.
        """
        for workflow in workflows:
            name = getattr(workflow, "name", "")
            if name in self._given and self._workflows[name] is not workflow:
                raise WorkflowError("another workflow in workflows= has this name: rename one of them", name)
            self.add(workflow)

    def add(self, workflow: Workflow) -> Plan:
        """Take a workflow, in the place of one of its name, and return it as runs use it.

        Raises:
            WorkflowError: Its definition is wrong, or asks for what the executor does not have.
        """
        if not isinstance(workflow, Workflow):
            raise WorkflowError(f"{workflow!r} is no Workflow: pass the object, not its name")
        plan = workflow.compile()
        if self._checked.get(workflow.name) is not plan:
            self._check(plan)
            self._workflows[workflow.name] = workflow
            self._given.add(workflow.name)
            self._checked[workflow.name] = plan
        return plan

    def plans(self) -> dict[str, Plan]:
        """Return all of them as runs use them."""
        return {name: workflow.compile() for name, workflow in self._workflows.items()}

    def plan_of(self, workflow: str) -> Plan:
        """Return one as runs use it.

        Raises:
            UnknownWorkflowError: None has this name.
        """
        if workflow not in self._workflows:
            raise UnknownWorkflowError("", workflow)
        return self._workflows[workflow].compile()

    def _check(self, plan: Plan) -> None:
        """Check what nodes ask of the executor, and get to know the workflows that they run."""
        for planned in plan.nodes:
            self._check_node(plan.workflow, planned.node)
            if planned.node.child is not None:
                child = planned.node.child.workflow
                self._check(child.compile())
                if child.name not in self._given:
                    self._workflows[child.name] = child

    def _check_node(self, workflow: str, node: Node) -> None:
        if node.runner is not None and node.runner not in self._runners:
            known = near_miss(node.runner, self._runners)
            reason = f"runner={node.runner!r} is none of the executor's{known}: pass it in runners={{...}}"
            raise WorkflowError(reason, workflow, node.name)
        for name in node.uses:
            if name not in self._limits:
                known = near_miss(name, self._limits)
                reason = f"uses={name!r} is none of the executor's limits{known}: pass it in limits={{...}}"
                raise WorkflowError(reason, workflow, node.name)
