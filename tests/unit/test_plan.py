"""A workflow in the form that runs use, and what journals keep of it."""

from __future__ import annotations

import json

from dagflow import Node, Workflow
from dagflow._plan import Shape


def workflow() -> Workflow:
    workflow = Workflow("w", on_failure="continue", inputs=["note"])
    workflow.add(Node("d", lambda b, c=None: None, when=lambda a: True))

    @workflow.map(over={"x": "a"}, name="b")
    def each(x: int, site: str) -> None: ...

    workflow.add(Node("c", lambda a=1: None))
    workflow.add(Node("a", lambda: [1]))
    workflow.sleep("e", 1.0, depends_on="d")
    return workflow


class TestShape:
    def test_nodes_are_numbered_after_everything_that_they_depend_on(self) -> None:
        shape = workflow().compile().shape

        assert sorted(shape.names) == ["a", "b", "c", "d", "e"]
        assert all(source < index for index, sources in enumerate(shape.predecessors) for source in sources)

    def test_neighbours_know_each_other(self) -> None:
        shape = workflow().compile().shape
        arrows = {(source, index) for index, sources in enumerate(shape.predecessors) for source in sources}

        assert arrows == {(index, target) for index, targets in enumerate(shape.successors) for target in targets}

    def test_the_kinds_of_nodes_that_are_no_functions_are_known(self) -> None:
        shape = workflow().compile().shape

        assert {shape.names[index]: kind for index, kind in shape.kinds.items()} == {"b": "map", "e": "timer"}

    def test_a_shape_comes_back_from_its_journal(self) -> None:
        shape = workflow().compile().shape

        kept = Shape.from_journal(json.loads(json.dumps(shape.to_journal())))

        assert (kept.names, kept.predecessors, kept.successors) == (shape.names, shape.predecessors, shape.successors)
        assert kept.kinds == shape.kinds

    def test_a_shape_of_functions_alone_keeps_no_kinds(self) -> None:
        assert Shape.of({"a": [], "b": ["a"]}).to_journal() == {"nodes": {"a": [], "b": ["a"]}}


class TestPlan:
    def test_a_plan_keeps_what_the_workflow_says(self) -> None:
        plan = workflow().compile()

        assert (plan.workflow, plan.on_failure) == ("w", "continue")
        assert plan.inputs == {"note": True, "site": False}
        assert plan.opening == {"workflow": plan.workflow, "graph": plan.shape.to_journal()}
        assert [planned.node.name for planned in plan.nodes] == list(plan.shape.names)
        assert [planned.index for planned in plan.nodes] == [0, 1, 2, 3, 4]

    def test_parameters_of_upstream_nodes_are_told_from_all_others(self) -> None:
        plan = workflow().compile()
        by_name = {planned.node.name: planned for planned in plan.nodes}
        position = {name: index for index, name in enumerate(plan.shape.names)}

        assert by_name["d"].upstream == (("b", position["b"]), ("c", position["c"]))
        assert by_name["d"].others == ()
        assert by_name["b"].upstream == ()
        assert [source.parameter for source in by_name["b"].others] == ["x", "site"]
        assert [source.name for source in by_name["d"].condition] == ["a"]

    def test_a_dependency_is_tolerated_when_every_parameter_that_takes_it_has_a_default(self) -> None:
        plan = Workflow(
            "w",
            [
                *(Node(name, lambda: None) for name in ("a", "b", "c", "d", "e")),
                Node(
                    "z",
                    lambda a, b=1, c=1, d=1, x=1: None,
                    ["c", "e"],
                    when=lambda d: True,
                    bind={"x": "a"},
                ),
            ],
        ).compile()
        tolerated = plan.nodes[-1].tolerated

        assert [plan.shape.names[index] for index in tolerated] == ["b"]

    def test_only_plain_nodes_start_without_being_asked_anything(self) -> None:
        plan = workflow().compile()

        assert {planned.node.name for planned in plan.nodes if planned.is_plain} >= {"a", "c"}
        assert not {planned.node.name for planned in plan.nodes if planned.is_plain} & {"b", "d"}

    def test_async_functions_are_known(self) -> None:
        async def function() -> None: ...

        plan = Workflow("w", [Node("a", function), Node("b", lambda a: None)]).compile()

        assert [planned.is_async for planned in plan.nodes] == [True, False]
