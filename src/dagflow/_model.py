"""The definition of a workflow: nodes, what they depend on, and the checks before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import attrs

from dagflow._annotations import Annotations
from dagflow._binding import Signatures, Source, SourceKind, bind_condition, bind_node
from dagflow._guards import guard_of, needs_guard
from dagflow._names import check_workflow_name, near_miss
from dagflow._node import ChildSpec, MapSpec, Node, NodeType, ReviewSpec, SignalSpec, SleepSpec
from dagflow._pictures import mimebundle, to_dot, to_mermaid
from dagflow._plan import OnFailure, Plan, Shape, plan_node, upstream
from dagflow.errors import CycleError, WorkflowError

if TYPE_CHECKING:
    from collections.abc import Callable

    import networkx as nx

    from dagflow._guards import Guard

__all__ = ["Workflow"]

F = TypeVar("F", bound="Callable[..., Any]")

_OPTIONS = frozenset(field.name for field in attrs.fields(Node))


class Workflow:
    """A named graph of ordinary functions.

    Example:
        >>> workflow = Workflow("greeting")
        >>> @workflow.node
        ... def greet(name: str) -> str:
        ...     return f"Hello {name}"
        >>> @workflow.node
        ... def shout(greet: str) -> str:
        ...     return greet.upper()
        >>> workflow.generations()
        [['greet'], ['shout']]

    Args:
        name: Name of the workflow: 1 to 128 printable characters.
        nodes: Nodes to begin with.
        on_failure: ``"drain"``: after a failure running nodes finish and nothing new starts; ``"continue"``: whatever
            does not need the failed node goes on.
        inputs: Inputs of a run that no parameter takes by name.
    """

    def __init__(
        self, name: str, nodes: Iterable[Node] = (), *, on_failure: OnFailure = "drain", inputs: Iterable[str] = ()
    ) -> None:
        check_workflow_name(name)
        if on_failure not in ("drain", "continue"):
            raise WorkflowError(f"on_failure={on_failure!r} is neither 'drain' nor 'continue'", workflow=name)
        self.name = name
        self.on_failure: OnFailure = on_failure
        self.inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        self._nodes: list[Node] = []
        self._plan: Plan | None = None
        self._nested: list[tuple[Workflow, Plan]] = []
        for node in nodes:
            self.add(node)

    def __repr__(self) -> str:
        return f"<Workflow {self.name!r}, {len(self._nodes)} nodes>"

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes in the order in which they were added."""
        return tuple(self._nodes)

    def add(self, node: Node) -> Node:
        """Add a node and return it."""
        if not isinstance(node, Node):
            raise WorkflowError(f"add() takes a Node, not {node!r}: use Node(name, function)", workflow=self.name)
        self._nodes.append(node)
        self._plan = None
        return node

    def _add_new(self, name: str, function: Callable[..., Any], **options: Any) -> Node:
        for option in options:
            if option not in _OPTIONS:
                reason = f"{option!r} is no option of a node{near_miss(option, _OPTIONS)}"
                raise WorkflowError(reason, workflow=self.name, node=name)
        return self.add(Node(name, function, **options))

    @overload
    def node(self, function: F, /) -> F: ...
    @overload
    def node(self, *, name: str | None = None, **options: Any) -> Callable[[F], F]: ...
    def node(self, function: Any = None, *, name: str | None = None, **options: Any) -> Any:
        """Make the decorated function a node; it stays directly callable.

        Args:
            function: The function, when the decorator is used bare.
            name: Name of the node; default: that of the function.
            **options: Any option of `Node`.
        """

        def decorate(function: F) -> F:
            self._add_new(name or _name_of(function, self.name), function, **options)
            return function

        return decorate if function is None else decorate(function)

    def map(
        self,
        *,
        over: Mapping[str, str],
        limit: int | None = None,
        key: Callable[[Any], object] | None = None,
        on_error: Literal["fail", "collect"] = "fail",
        depth: int = 1,
        name: str | None = None,
        **options: Any,
    ) -> Callable[[F], F]:
        """Make the decorated function a map: one call for each item of a list.

        Each item is a node of its own, ``name[0]``, durable and retried by itself. The output is the list of the
        items' outputs in the order of the items.

        Args:
            over: For each parameter that takes an item, the node or input whose list it is taken from; several are
                zipped strictly.
            limit: How many items run at a time, ``None`` for no limit.
            key: Function of an item that names it, so that it is found again when the list changes its order; it gets
                one argument for each entry of ``over``.
            on_error: ``"fail"``: a failed item fails the map; ``"collect"``: an `ItemError` stands at its place.
            depth: 1: one call for each element of the list; 2: one for each element of its elements, ``name[0,2]``,
                with the structure kept in the output; and so on.
            name: Name of the node; default: that of the function.
            **options: Any option of `Node`; ``retry`` and ``timeout`` count for each item, ``when`` for the map.
        """
        if not isinstance(over, Mapping):
            raise WorkflowError(f"over= takes a dictionary, for example {{'page': 'pages'}}, not {over!r}", self.name)

        def decorate(function: F) -> F:
            spec = MapSpec(dict(over), limit, key, on_error, depth)
            options.setdefault("type", NodeType.MAP)
            self._add_new(name or _name_of(function, self.name), function, map=spec, **options)
            return function

        return decorate

    def wait_for_signal(
        self, name: str, *, timeout: float | None = None, depends_on: str | Iterable[str] = (), **options: Any
    ) -> Node:
        """Add a node that waits for a signal of its own name; its output is the value of the signal.

        A signal that comes before the node is ready waits for it. While a run waits it has no owner and costs nothing.

        Args:
            name: Name of the node and of the signal that ``executor.signal(run_id, name, value)`` sends.
            timeout: Seconds after which the node fails with `NodeTimeoutError`, counted from when it starts to wait.
            depends_on: Nodes that have to complete before.
            **options: ``when``, ``join``, ``allow_failure`` and other options of `Node`.
        """
        return self._add_new(name, _no_call, depends_on=depends_on, wait=SignalSpec(timeout), **options)

    def sleep(self, name: str, seconds: float, *, depends_on: str | Iterable[str] = (), **options: Any) -> Node:
        """Add a node that completes when some seconds have passed since its dependencies did; restarts do not matter.

        Args:
            name: Name of the node; its output is ``None``.
            seconds: How long it waits, at least 0.
            depends_on: Nodes that have to complete before.
            **options: ``when``, ``join`` and other options of `Node`.
        """
        return self._add_new(name, _no_call, depends_on=depends_on, wait=SleepSpec(seconds), **options)

    def review(
        self,
        name: str,
        *,
        depends_on: str | Iterable[str] = (),
        form: Mapping[str, Any] | type | None = None,
        assignees: str | Iterable[str] = (),
        deadline: float | None = None,
        on_deadline: Literal["reject", "approve", "fail"] = "reject",
        on_reject: Literal["fail", "continue"] = "fail",
        **options: Any,
    ) -> Node:
        """Add a node that waits for a person.

        Its output is ``{"approved", "by", "at", "comment", "data"}``. While a run waits it has no owner and costs
        nothing.

        Args:
            name: Name of the node, which ``executor.decide(run_id, name, ...)`` answers.
            depends_on: Nodes that have to complete before.
            form: What ``data`` of a decision has to look like: an attrs class or dataclass whose fields it must have,
                or a JSON Schema (extra ``schema``).
            assignees: Who may decide; everybody when there is none.
            deadline: Seconds until ``on_deadline`` decides, counted from when the node starts to wait.
            on_deadline: What the deadline does: reject, approve, or fail the node.
            on_reject: A rejection fails the node, or the node completes with ``approved`` false.
            **options: ``when``, ``join``, ``allow_failure`` and other options of `Node`.
        """
        people = (assignees,) if isinstance(assignees, str) or not isinstance(assignees, Iterable) else tuple(assignees)
        spec = ReviewSpec(form, people, deadline, on_deadline, on_reject)
        return self._add_new(name, _no_call, depends_on=depends_on, wait=spec, **options)

    def subworkflow(
        self,
        name: str,
        workflow: Workflow,
        *,
        bind: Mapping[str, str] | None = None,
        over: Mapping[str, str] | None = None,
        output: str | None = None,
        limit: int | None = None,
        key: Callable[[Any], object] | None = None,
        on_error: Literal["fail", "collect"] = "fail",
        **options: Any,
    ) -> Node:
        """Add a node that runs another workflow, in a run of its own: ``run_id/name``.

        That run starts, stops and resumes with the node.

        The inputs of the other workflow are bound like the parameters of a function. The output of the node is that of
        the node ``output``, or the outputs of all nodes by their names.

        Args:
            name: Name of the node.
            workflow: What it runs.
            bind: For an input of the other workflow, the node or input of this one that gives it, where the names
                differ.
            over: For inputs of the other workflow, the lists that items are taken from: one run for each item,
                ``run_id/name/key``.
            output: The node of the other workflow whose output is taken.
            limit: With ``over``, how many runs go on at a time.
            key: With ``over``, function of an item that names it.
            on_error: With ``over``, whether a failed run fails the node, or an `ItemError` stands at its place.
            **options: Any other option of `Node`.
        """
        if not isinstance(workflow, Workflow):
            raise WorkflowError(f"subworkflow() takes a Workflow, not {workflow!r}", workflow=self.name, node=name)
        if output is not None and output not in (names := [node.name for node in workflow.nodes]):
            reason = f"output={output!r} is no node of workflow {workflow.name!r}{near_miss(output, names)}"
            raise WorkflowError(reason, workflow=self.name, node=name)
        if over is None and (limit, key, on_error) != (None, None, "fail"):
            reason = "limit=, key= and on_error= are for one run for each item of a list: name the list in over="
            raise WorkflowError(reason, workflow=self.name, node=name)
        spec = None if over is None else MapSpec(over, limit, key, on_error)
        child = ChildSpec(workflow, output)
        return self._add_new(name, _no_call, bind=bind or {}, map=spec, child=child, **options)

    @property
    def graph(self) -> nx.DiGraph[str]:
        """A new networkx graph of the nodes, with the `Node` of each as its attribute ``node``.

        Raises:
            WorkflowError: The definition is wrong.
        """
        import dagflow._graph as _graph  # noqa: PLC0415 - networkx is loaded when a graph is first built

        nodes, arrows, _, _ = self._arrows()
        graph = _graph.build(arrows)
        for name, node in nodes.items():
            graph.nodes[name]["node"] = node
        return graph

    def generations(self) -> list[list[str]]:
        """Return the names in layers, each of which depends only on earlier ones; for people, not for scheduling."""
        import dagflow._graph as _graph  # noqa: PLC0415 - as above

        return _graph.generations(self._acyclic())

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart."""
        return to_mermaid(self.compile().shape)

    def to_dot(self) -> str:
        """Return the graph in DOT, the language of Graphviz."""
        return to_dot(self.name, self.compile().shape)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Show the graph in a notebook; a definition that is wrong is shown as text alone."""
        del include, exclude
        try:
            return mimebundle(repr(self), self.to_mermaid())
        except WorkflowError as exc:
            return {"text/plain": f"{self!r}: {exc}"}

    def validate(self) -> None:
        """Check the whole definition.

        Raises:
            WorkflowError: Names the node and what is wrong with it: a duplicate name, an unknown dependency, a
                parameter that cannot be bound. `CycleError` carries the circle.
        """
        self.compile()

    def compile(self) -> Plan:
        """Return the checked definition in the form that runs use; made once and kept until a node is added."""
        if self._plan is None or any(child.compile() is not plan for child, plan in self._nested):
            _check_nesting(self)
            self._plan = self._compiled()
            children = [node.child.workflow for node in self._nodes if node.child is not None]
            self._nested = [(child, child.compile()) for child in children]
        return self._plan

    # -- checks -----------------------------------------------------------------------------------

    def _compiled(self) -> Plan:
        import dagflow._graph as _graph  # noqa: PLC0415 - as above

        nodes, arrows, sources, conditions = self._arrows()
        graph = self._acyclic(_graph.build(arrows))
        order = _graph.topological_order(graph)
        shape = Shape.of(
            {name: arrows[name] for name in order},
            kinds={name: node.kind for name, node in nodes.items() if node.kind != "function"},
        )
        position = {name: index for index, name in enumerate(order)}
        guards = {
            name: self._guard(nodes[name], sources[name], graph, order) for name in order if needs_guard(nodes[name])
        }
        return Plan(
            self.name,
            shape,
            {"workflow": self.name, "graph": shape.to_journal()},
            tuple(plan_node(nodes[name], position, sources[name], conditions[name], guards) for name in order),
            self.on_failure,
            self._input_names([*sources.values(), *conditions.values()]),
        )

    def _guard(self, node: Node, sources: tuple[Source, ...], graph: nx.DiGraph[str], order: list[str]) -> Guard:
        import dagflow._graph as _graph  # noqa: PLC0415 - as above

        def before() -> list[str]:
            names = _graph.ancestors(graph, node.name)
            return [name for name in order if name in names]

        try:
            return guard_of(node, sources, before)
        except WorkflowError as exc:
            exc.workflow = self.name
            raise

    def _acyclic(self, graph: nx.DiGraph[str] | None = None) -> nx.DiGraph[str]:
        import dagflow._graph as _graph  # noqa: PLC0415 - as above

        graph = graph if graph is not None else self.graph
        cycle = _graph.find_cycle(graph)
        if cycle:
            raise CycleError("", workflow=self.name, node=cycle[0], cycle=cycle)
        return graph

    def _arrows(
        self,
    ) -> tuple[dict[str, Node], dict[str, list[str]], dict[str, tuple[Source, ...]], dict[str, tuple[Source, ...]]]:
        """Return the nodes by name, what each depends on, and what its parameters are bound to."""
        nodes = self._by_name()
        signatures, annotations = Signatures(), Annotations()
        arrows: dict[str, list[str]] = {}
        sources: dict[str, tuple[Source, ...]] = {}
        conditions: dict[str, tuple[Source, ...]] = {}
        for name, node in nodes.items():
            try:
                sources[name] = bind_node(node, nodes, signatures)
                conditions[name] = bind_condition(node, nodes, signatures)
                self._check_known(node, nodes)
                annotations.check(node, node.function, sources[name], nodes)
                if node.when is not None:
                    annotations.check(node, node.when, conditions[name], nodes)
            except WorkflowError as exc:
                exc.workflow = exc.workflow or self.name
                raise
            bound = upstream([*sources[name], *conditions[name]], nodes)
            arrows[name] = list(dict.fromkeys([*node.depends_on, *bound]))
        return nodes, arrows, sources, conditions

    def _by_name(self) -> dict[str, Node]:
        if not self._nodes:
            raise WorkflowError("it has no nodes: decorate a function with @workflow.node", workflow=self.name)
        nodes: dict[str, Node] = {}
        for node in self._nodes:
            if node.name in nodes:
                reason = "its name is taken by another node: names are unique in a workflow, set name="
                raise WorkflowError(reason, workflow=self.name, node=node.name)
            nodes[node.name] = node
        for name in self.inputs:
            if name in nodes:
                reason = f"{name!r} is declared as an input and is the name of a node: rename one of them"
                raise WorkflowError(reason, workflow=self.name, node=name)
        return nodes

    def _check_known(self, node: Node, nodes: Mapping[str, Node]) -> None:
        for name in node.depends_on:
            if name not in nodes:
                reason = f"it depends on {name!r}, which is no node of this workflow{near_miss(name, nodes)}"
                raise WorkflowError(reason, node=node.name)

    def _input_names(self, bindings: Iterable[Iterable[Source]]) -> dict[str, bool]:
        """Return every input, and whether all that take it can do without."""
        optional = dict.fromkeys(self.inputs, True)
        nodes = {node.name for node in self._nodes}
        for sources in bindings:
            for source in sources:
                if source.kind is SourceKind.INPUT or (source.kind is SourceKind.ITEM and source.name not in nodes):
                    optional[source.name] = optional.get(source.name, True) and source.optional
        return optional


def _check_nesting(workflow: Workflow, *outer: Workflow) -> None:
    if workflow in outer:
        raise WorkflowError("it runs itself as a sub-workflow", workflow=workflow.name)
    for node in workflow.nodes:
        if node.child is not None:
            _check_nesting(node.child.workflow, *outer, workflow)


def _no_call() -> None:
    """Stand in for the function of a node that waits instead of being called."""


def _name_of(function: Callable[..., Any], workflow: str) -> str:
    name = getattr(function, "__name__", None)
    if name is None:
        raise WorkflowError(f"{function!r} has no name of its own: set name=", workflow=workflow)
    return str(name)
