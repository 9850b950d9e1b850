"""Graphs as Mermaid and DOT."""

from __future__ import annotations

from dagflow import DAGExecutor, Workflow


def order() -> Workflow:
    workflow = Workflow("order")

    @workflow.node
    def lines() -> list[int]:
        return [1, 2]

    @workflow.map(over={"line": "lines"})
    def price(line: int) -> int:
        return line * 10

    workflow.review("gate", depends_on="price")
    workflow.wait_for_signal("paid", depends_on="gate")
    workflow.sleep("pause", 1, depends_on="paid")
    workflow.subworkflow("child", Workflow("other", workflow.nodes[:1]), depends_on="pause")
    return workflow


def test_a_workflow_is_a_flowchart_with_a_shape_for_each_kind_of_node() -> None:
    assert order().to_mermaid().splitlines() == [
        "flowchart TD",
        '    n0["lines"]',
        '    n1[["price"]]',
        '    n2{{"gate"}}',
        '    n3>"paid"]',
        '    n4(["pause"])',
        '    n5[/"child"/]',
        "    n0 --> n1",
        "    n1 --> n2",
        "    n2 --> n3",
        "    n3 --> n4",
        "    n4 --> n5",
    ]


def test_a_workflow_is_a_graph_in_dot() -> None:
    workflow = Workflow("two")

    @workflow.node
    def a() -> int:
        return 1

    @workflow.node
    def b(a: int) -> int:
        return a

    assert workflow.to_dot() == 'digraph "two" {\n    "a";\n    "b";\n    "a" -> "b";\n}'


async def test_a_run_is_coloured_by_the_statuses_of_its_nodes() -> None:
    async with DAGExecutor("memory://") as executor:
        run = await executor.run(order())

    mermaid = run.to_mermaid()
    assert '    n0["lines"]:::completed' in mermaid
    assert '    n2{{"gate"}}:::waiting' in mermaid
    assert "    classDef completed fill:#a6e3a1,stroke:#555,color:#111" in mermaid
    assert run._repr_mimebundle_()["text/vnd.mermaid"] == mermaid


def test_a_notebook_shows_the_picture_of_a_workflow_and_the_text_of_a_wrong_one() -> None:
    assert set(order()._repr_mimebundle_()) == {"text/plain", "text/vnd.mermaid"}
    assert "it has no nodes" in Workflow("empty")._repr_mimebundle_()["text/plain"]
