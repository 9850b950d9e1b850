"""The definition of a workflow and the checks before anything runs."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from dagflow import Node, RetryPolicy, Workflow
from dagflow.errors import CycleError, WorkflowError

untyped: Any = Workflow  # callers without a type checker


def node(name: str, *depends_on: str, **options: Any) -> Node:
    return Node(name, lambda: None, depends_on, **options)


class TestDecorators:
    def test_a_decorated_function_stays_directly_callable(self) -> None:
        workflow = Workflow("w")

        @workflow.node
        def double(x: int) -> int:
            return 2 * x

        @workflow.node(retry=3)
        def triple(x: int) -> int:
            return 3 * x

        @workflow.map(over={"x": "xs"})
        def square(x: int) -> int:
            return x * x

        assert (double(1), triple(1), square(3)) == (2, 3, 9)
        assert [n.name for n in workflow.nodes] == ["double", "triple", "square"]

    def test_a_decorator_takes_every_option_of_a_node(self) -> None:
        workflow = Workflow("w")
        policy = RetryPolicy(max_attempts=2)

        @workflow.node(name="other", retry=policy, timeout=3, depends_on=["first"], config={"k": 1})
        def function() -> None: ...

        added = workflow.nodes[0]
        assert (added.name, added.retry, added.timeout, added.depends_on) == ("other", policy, 3, ("first",))
        assert added.config == {"k": 1}

    def test_adding_a_node_is_the_same_without_a_decorator(self) -> None:
        first = node("a")
        workflow = Workflow("w", [first])

        assert workflow.add(second := node("b")) is second
        assert workflow.nodes == (first, second)
        assert repr(workflow) == "<Workflow 'w', 2 nodes>"

    def test_a_map_has_its_type_unless_another_is_set(self) -> None:
        workflow = Workflow("w")

        @workflow.map(over={"x": "xs"}, name="a")
        @workflow.map(over={"x": "xs"}, name="b", type="model")
        def function(x: int) -> None: ...

        assert {n.name: n.type for n in workflow.nodes} == {"a": "map", "b": "model"}

    def test_a_function_without_a_name_asks_for_one(self) -> None:
        workflow = Workflow("w")

        with pytest.raises(WorkflowError, match="has no name of its own: set name="):
            workflow.node(functools.partial(print))
        with pytest.raises(WorkflowError, match="has no name of its own: set name="):
            workflow.map(over={"x": "xs"})(functools.partial(print))

    def test_a_lambda_asks_for_a_name(self) -> None:
        with pytest.raises(WorkflowError, match="'<lambda>' is no name for a node"):
            Workflow("w").node(lambda: None)

    @pytest.mark.parametrize("over", ["pages", ["page"], None])
    def test_over_that_is_no_dictionary_is_refused(self, over: Any) -> None:
        with pytest.raises(WorkflowError, match=r"over= takes a dictionary, for example \{'page': 'pages'\}"):
            Workflow("w").map(over=over)(len)

    def test_an_option_that_no_node_has_is_refused_with_the_near_miss(self) -> None:
        with pytest.raises(WorkflowError, match=r"'retries' is no option of a node, did you mean 'retry'\?") as caught:
            Workflow("w").node(retries=3)(print)

        assert (caught.value.workflow, caught.value.node) == ("w", "print")


class TestValidation:
    def test_a_right_definition_is_valid(self) -> None:
        Workflow("w", [node("a"), node("b", "a")]).validate()

    def test_a_workflow_is_checked_anew_after_a_node_was_added(self) -> None:
        workflow = Workflow("w", [node("a")])
        workflow.validate()

        workflow.add(node("b", "c"))

        with pytest.raises(WorkflowError):
            workflow.validate()

    def test_a_workflow_is_compiled_once(self) -> None:
        workflow = Workflow("w", [node("a")])

        assert workflow.compile() is workflow.compile()

    def test_a_workflow_without_nodes_is_refused(self) -> None:
        with pytest.raises(WorkflowError, match="workflow 'w': it has no nodes: decorate a function"):
            Workflow("w").validate()

    @pytest.mark.parametrize("name", ["", "a\nb", None, "x" * 129])
    def test_a_wrong_name_is_refused(self, name: Any) -> None:
        with pytest.raises(WorkflowError, match="no name for a workflow"):
            Workflow(name)

    def test_a_wrong_on_failure_is_refused(self) -> None:
        with pytest.raises(WorkflowError, match="on_failure='stop' is neither 'drain' nor 'continue'"):
            untyped("w", on_failure="stop")

    def test_what_is_no_node_cannot_be_added(self) -> None:
        with pytest.raises(WorkflowError, match=r"add\(\) takes a Node, not .*: use Node\(name, function\)"):
            Workflow("w").add(print)  # type: ignore[arg-type]

    def test_a_duplicate_name_is_refused(self) -> None:
        with pytest.raises(WorkflowError, match="its name is taken by another node") as caught:
            Workflow("w", [node("a"), node("b"), node("a")]).validate()

        assert (caught.value.workflow, caught.value.node) == ("w", "a")

    def test_an_unknown_dependency_is_named_with_the_near_miss(self) -> None:
        with pytest.raises(WorkflowError, match=r"depends on 'extrat', .* did you mean 'extract'\?") as caught:
            Workflow("w", [node("extract"), node("load", "extrat")]).validate()

        assert (caught.value.workflow, caught.value.node) == ("w", "load")

    def test_an_input_named_like_a_node_is_refused(self) -> None:
        with pytest.raises(WorkflowError, match="'a' is declared as an input and is the name of a node"):
            Workflow("w", [node("a")], inputs=["a"]).validate()

    def test_a_cycle_is_reported_as_its_path(self) -> None:
        workflow = Workflow("w", [node("a", "c"), node("b", "a"), node("c", "b"), node("d", "a")])

        with pytest.raises(CycleError) as caught:
            workflow.validate()

        cycle = caught.value.cycle
        assert cycle[0] == cycle[-1]
        assert set(cycle) == {"a", "b", "c"}
        assert " -> ".join(cycle) in str(caught.value)
        assert caught.value.workflow == "w"

    def test_a_cycle_through_parameters_and_conditions_is_found(self) -> None:
        workflow = Workflow(
            "w", [Node("a", lambda b: None), Node("b", lambda: None, when=lambda c: True), Node("c", lambda a: None)]
        )

        with pytest.raises(CycleError):
            workflow.validate()
        with pytest.raises(CycleError):
            workflow.generations()

    def test_a_parameter_of_the_nodes_own_name_is_a_cycle(self) -> None:
        with pytest.raises(CycleError) as caught:
            Workflow("w", [Node("a", lambda a: None)]).validate()

        assert caught.value.cycle == ("a", "a")

    def test_an_error_of_the_binding_names_workflow_and_node(self) -> None:
        with pytest.raises(WorkflowError) as caught:
            Workflow("w", [Node("a", lambda *args: None)]).validate()

        assert str(caught.value).startswith("workflow 'w', node 'a': ")


class TestGraph:
    def test_the_graph_holds_the_nodes(self) -> None:
        workflow = Workflow("w", [node("a"), node("b", "a")])

        graph = workflow.graph

        assert list(graph.edges) == [("a", "b")]
        assert graph.nodes["b"]["node"] is workflow.nodes[1]
        assert workflow.graph is not graph

    def test_generations_are_layers(self) -> None:
        workflow = Workflow("w", [node("c", "a", "b"), node("a"), node("b")])

        assert workflow.generations() == [["a", "b"], ["c"]]

    def test_parameters_conditions_and_maps_make_arrows(self) -> None:
        workflow = Workflow("w", [node("a"), node("b"), node("c"), node("d")])

        @workflow.map(over={"x": "b"}, when=lambda c: True, depends_on="d")
        def e(x: int, a: int) -> None: ...

        assert {source for source, _ in workflow.graph.edges} == {"a", "b", "c", "d"}

    def test_a_node_that_is_named_twice_is_one_arrow(self) -> None:
        workflow = Workflow("w", [node("a"), Node("b", lambda x, y: None, ["a"], bind={"x": "a", "y": "a"})])

        assert workflow.compile().shape.predecessors == ((), (0,))


class TestInputs:
    def test_inputs_are_what_no_node_gives(self) -> None:
        workflow = Workflow("w", [node("a"), Node("b", lambda a, site, limit=3: None)], inputs="note")

        assert workflow.compile().inputs == {"note": True, "site": False, "limit": True}

    def test_an_input_is_needed_when_one_that_takes_it_cannot_do_without(self) -> None:
        workflow = Workflow("w", [Node("a", lambda x=1: None), Node("b", lambda x: None), Node("c", lambda x=1: None)])

        assert workflow.compile().inputs == {"x": False}

    def test_conditions_and_maps_take_inputs_too(self) -> None:
        workflow = Workflow("w", [node("a", when=lambda flag: True)])

        @workflow.map(over={"x": "xs"})
        def each(x: int) -> None: ...

        assert workflow.compile().inputs == {"flag": False, "xs": False}


class TestWaitingNodes:
    def test_waiting_nodes_depend_on_what_they_are_told(self) -> None:
        workflow = Workflow("w", [node("a")])
        workflow.sleep("night", 3.0, depends_on="a")
        workflow.wait_for_signal("paid", timeout=5, depends_on=["night"])
        workflow.review("approve", depends_on="paid", assignees="ada", deadline=9)

        assert workflow.generations() == [["a"], ["night"], ["paid"], ["approve"]]
        assert [n.kind for n in workflow.nodes] == ["function", "timer", "signal", "review"]

    def test_a_waiting_node_takes_no_longer_than_it_may(self) -> None:
        with pytest.raises(WorkflowError, match="cannot wait"):
            Workflow("w").sleep("night", -1)


class TestSubworkflows:
    def test_the_inputs_of_the_other_workflow_are_bound_like_parameters(self) -> None:
        child = Workflow("child", [Node("c", lambda site, limit=1: None)])
        workflow = Workflow("w", [node("sites")])
        workflow.subworkflow("one", child, bind={"site": "sites"})

        assert workflow.generations() == [["sites"], ["one"]]
        assert workflow.compile().inputs == {"limit": True}

    def test_what_is_no_workflow_is_refused(self) -> None:
        with pytest.raises(WorkflowError, match=r"subworkflow\(\) takes a Workflow, not 'child'"):
            Workflow("w").subworkflow("one", "child")  # type: ignore[arg-type]

    def test_an_output_that_does_not_exist_names_the_near_miss(self) -> None:
        with pytest.raises(WorkflowError, match=r"'totl' is no node of workflow 'child', did you mean 'total'\?"):
            Workflow("w").subworkflow("one", Workflow("child", [node("total")]), output="totl")

    @pytest.mark.parametrize("option", [{"limit": 2}, {"key": str}, {"on_error": "collect"}])
    def test_what_is_said_of_many_runs_needs_a_list(self, option: dict[str, Any]) -> None:
        with pytest.raises(WorkflowError, match="name the list in over="):
            Workflow("w").subworkflow("one", Workflow("child", [node("a")]), **option)

    def test_an_input_that_the_other_workflow_does_not_take_is_refused(self) -> None:
        workflow = Workflow("w")
        workflow.subworkflow("one", Workflow("child", [Node("a", lambda site: site)]), bind={"sites": "site"})

        with pytest.raises(WorkflowError, match="'sites', which is no input of workflow 'child', did you mean 'site'"):
            workflow.validate()

    def test_what_is_added_to_the_other_workflow_is_seen(self) -> None:
        child, workflow = Workflow("child", [node("a")]), Workflow("w")
        workflow.subworkflow("one", child)
        workflow.validate()
        assert workflow.compile() is workflow.compile()
        assert not workflow.compile().inputs

        child.add(Node("b", lambda site: site))

        assert list(workflow.compile().inputs) == ["site"]

    def test_an_error_in_the_other_workflow_names_the_other_workflow(self) -> None:
        workflow = Workflow("w")
        workflow.subworkflow("one", Workflow("child", [node("a", "b")]))

        with pytest.raises(WorkflowError) as caught:
            workflow.validate()

        assert (caught.value.workflow, caught.value.node) == ("child", "a")

    def test_a_workflow_that_runs_itself_is_refused(self) -> None:
        outer, inner = Workflow("outer"), Workflow("inner")
        outer.subworkflow("one", inner)
        inner.subworkflow("two", outer)

        with pytest.raises(WorkflowError, match="it runs itself as a sub-workflow"):
            outer.validate()
        with pytest.raises(WorkflowError, match="it runs itself as a sub-workflow"):
            outer.validate()
