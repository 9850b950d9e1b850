"""Where the parameters of a function get their values."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any, Optional

import pytest

import dagflow  # noqa: TC001 - the annotation is resolved when it runs
from dagflow._binding import Signatures, Source, SourceKind, bind_condition, bind_node, is_async
from dagflow._node import MapSpec, Node, NodeContext
from dagflow.errors import WorkflowError

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal  # the name exists for type checkers only

NODES = {"load", "other", "pages"}


def bound(function: Callable[..., Any], **options: Any) -> dict[str, Source]:
    node = Node("a", function, **options)
    return {source.parameter: source for source in bind_node(node, NODES, Signatures())}


def judged(condition: Callable[..., Any], **options: Any) -> dict[str, Source]:
    node = Node("a", lambda: None, when=condition, **options)
    return {source.parameter: source for source in bind_condition(node, NODES, Signatures())}


class TestBinding:
    def test_a_parameter_named_like_a_node_takes_its_output(self) -> None:
        assert bound(lambda load: load) == {"load": Source("load", SourceKind.NODE, "load")}

    def test_any_other_parameter_is_an_input(self) -> None:
        assert bound(lambda site: site) == {"site": Source("site", SourceKind.INPUT, "site")}

    def test_bind_names_another_node_or_input(self) -> None:
        sources = bound(lambda rows, site: None, bind={"rows": "load", "site": "host"})

        assert sources["rows"] == Source("rows", SourceKind.NODE, "load")
        assert sources["site"] == Source("site", SourceKind.INPUT, "host")

    def test_bind_comes_before_a_node_of_the_name_of_the_parameter(self) -> None:
        assert bound(lambda load: load, bind={"load": "other"})["load"].name == "other"

    def test_a_parameter_with_a_default_may_stay_unbound(self) -> None:
        assert bound(lambda load=1, site=2: None) == {
            "load": Source("load", SourceKind.NODE, "load", optional=True),
            "site": Source("site", SourceKind.INPUT, "site", optional=True),
        }

    def test_keyword_only_parameters_are_bound_too(self) -> None:
        def function(*, load: int, site: str = "") -> None: ...

        sources = bound(function)

        assert (sources["load"].optional, sources["site"].optional) == (False, True)

    def test_over_gives_a_parameter_its_item(self) -> None:
        sources = bound(lambda page, site: None, map=MapSpec({"page": "pages"}))

        assert sources["page"] == Source("page", SourceKind.ITEM, "pages")
        assert sources["site"].kind is SourceKind.INPUT

    def test_a_bound_method_has_no_self(self) -> None:
        class Loader:
            def load_all(self, load: int) -> int:
                return load

        assert set(bound(Loader().load_all)) == {"load"}

    def test_a_callable_object_is_read_by_its_call(self) -> None:
        class Loader:
            def __call__(self, load: int, context: NodeContext) -> int:
                return load

        sources = bound(Loader())

        assert {name: source.kind for name, source in sources.items()} == {
            "load": SourceKind.NODE,
            "context": SourceKind.CONTEXT,
        }

    def test_a_partial_asks_only_for_what_it_has_not_got(self) -> None:
        def function(site: str, load: int, limit: int) -> None: ...

        sources = bound(functools.partial(function, "here", limit=3))

        assert {name: source.optional for name, source in sources.items()} == {"load": False, "limit": True}

    def test_a_decorator_that_wraps_keeps_the_parameters(self) -> None:
        def function(load: int) -> int:
            return load

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> int:
            return function(*args, **kwargs)

        assert set(bound(wrapper)) == {"load"}

    def test_a_class_is_called_like_a_function(self) -> None:
        class Report:
            def __init__(self, load: int) -> None: ...

        assert set(bound(Report)) == {"load"}

    def test_a_parameter_without_a_name_that_need_not_be_given_stays_unbound(self) -> None:
        def function(load: int = 1, /, *, site: str) -> None: ...

        assert set(bound(function)) == {"site"}
        assert set(bound(list)) == set()

    def test_a_signature_is_read_once(self) -> None:
        signatures = Signatures()

        def function(load: int) -> None: ...

        assert signatures.of(function, node="a") is signatures.of(function, node="b")


class TestContext:
    def test_a_parameter_annotated_as_the_context_gets_it(self) -> None:
        def function(context: NodeContext) -> None: ...

        function.__annotations__ = {"context": NodeContext}

        assert bound(function)["context"] == Source("context", SourceKind.CONTEXT, "context")

    def test_string_annotations_resolve(self) -> None:
        def function(context: NodeContext, load: int) -> None: ...

        def qualified(context: dagflow.NodeContext) -> None: ...

        assert bound(function)["context"].kind is SourceKind.CONTEXT
        assert bound(function)["load"].kind is SourceKind.NODE
        assert bound(qualified)["context"].kind is SourceKind.CONTEXT

    @pytest.mark.parametrize(
        "annotation",
        [NodeContext | None, Optional[NodeContext], Annotated[NodeContext, "given"]],  # noqa: UP045
    )
    def test_a_context_may_be_one_of_several_types(self, annotation: Any) -> None:
        def function(context: object = None) -> None: ...

        function.__annotations__ = {"context": annotation}

        assert bound(function)["context"].kind is SourceKind.CONTEXT

    def test_a_list_of_contexts_is_none(self) -> None:
        def function(contexts: object) -> None: ...

        function.__annotations__ = {"contexts": list[NodeContext]}

        assert bound(function)["contexts"].kind is SourceKind.INPUT

    def test_a_context_that_is_imported_under_another_name_resolves(self) -> None:
        module: dict[str, Any] = {"__name__": "other"}
        exec(
            "from __future__ import annotations\n"
            "from dagflow import NodeContext as Context\n"
            "def function(context: Context): ...",
            module,
        )

        assert bound(module["function"])["context"].kind is SourceKind.CONTEXT

    def test_the_context_is_known_beside_annotations_that_cannot_be_resolved(self) -> None:
        def function(context: NodeContext, price: Decimal) -> None: ...

        sources = bound(function)

        assert sources["context"].kind is SourceKind.CONTEXT
        assert sources["price"].kind is SourceKind.INPUT

    def test_a_partial_of_a_function_with_string_annotations_gets_the_context(self) -> None:
        def function(site: str, context: NodeContext) -> None: ...

        assert bound(functools.partial(function, "here"))["context"].kind is SourceKind.CONTEXT

    def test_bind_comes_before_the_annotation(self) -> None:
        def function(context: NodeContext) -> None: ...

        assert bound(function, bind={"context": "load"})["context"].kind is SourceKind.NODE

    def test_a_condition_may_ask_for_the_context(self) -> None:
        def condition(context: NodeContext, load: int) -> bool:
            return True

        sources = judged(condition)

        assert (sources["context"].kind, sources["load"].kind) == (SourceKind.CONTEXT, SourceKind.NODE)


class TestRefused:
    @pytest.mark.parametrize(
        ("function", "parameter"),
        [(lambda *args: None, "*args"), (lambda **options: None, "**options"), (lambda load, /: None, "load")],
    )
    def test_parameters_without_a_name_of_their_own_are_refused(
        self, function: Callable[..., Any], parameter: str
    ) -> None:
        with pytest.raises(WorkflowError, match="cannot be bound by name: give each parameter a name") as caught:
            bound(function)

        assert repr(parameter) in str(caught.value)
        assert caught.value.node == "a"

    def test_an_unreadable_signature_is_refused_with_a_way_out(self) -> None:
        class Odd:
            __signature__ = 7

            def __call__(self) -> None: ...

        with pytest.raises(WorkflowError, match="cannot be read: wrap it in a function of its own"):
            bound(Odd())

    def test_bind_to_a_parameter_that_does_not_exist_names_the_near_miss(self) -> None:
        with pytest.raises(WorkflowError, match=r"bind= names 'row', which is no parameter .* mean 'rows'\?"):
            bound(lambda rows: None, bind={"row": "load"})

    def test_over_a_parameter_that_does_not_exist_names_the_near_miss(self) -> None:
        with pytest.raises(WorkflowError, match=r"over= names 'pag', which is no parameter .* mean 'page'\?"):
            bound(lambda page: None, map=MapSpec({"pag": "pages"}))

    def test_a_parameter_that_is_bound_twice_is_refused(self) -> None:
        with pytest.raises(WorkflowError, match="'page' is bound twice, by bind= and by over="):
            bound(lambda page: None, map=MapSpec({"page": "pages"}), bind={"page": "load"})

    @pytest.mark.parametrize("join", ["all_done", "any_success", "none_failed"])
    def test_a_join_that_may_start_without_an_output_asks_for_a_default(self, join: str) -> None:
        message = f"with join='{join}' parameter 'load' needs a default, because 'load' may end without an output"

        with pytest.raises(WorkflowError, match=message):
            bound(lambda load: None, join=join)
        with pytest.raises(WorkflowError, match=message):
            judged(lambda load: True, join=join)
        assert bound(lambda load=None: None, join=join)["load"].optional
        assert not bound(lambda site: None, join=join)["site"].optional

    @pytest.mark.parametrize("join", ["all_done", "any_success", "none_failed"])
    def test_a_map_over_a_node_needs_its_output(self, join: str) -> None:
        with pytest.raises(WorkflowError, match=f"join='{join}' .* 'pages' may end without an output"):
            bound(lambda page: None, map=MapSpec({"page": "pages"}), join=join)
        assert bound(lambda page: None, map=MapSpec({"page": "urls"}), join=join)["page"].kind is SourceKind.ITEM

    def test_a_condition_cannot_take_an_item(self) -> None:
        with pytest.raises(WorkflowError, match="judged once for the whole map and cannot take the item 'page'"):
            bind_condition(
                Node("a", lambda page: None, when=lambda page: True, map=MapSpec({"page": "pages"})),
                NODES,
                Signatures(),
            )

    def test_a_condition_with_args_is_refused(self) -> None:
        with pytest.raises(WorkflowError, match="cannot be bound by name"):
            judged(lambda *args: True)

    def test_a_node_without_a_condition_binds_nothing_for_it(self) -> None:
        assert bind_condition(Node("a", lambda load: None), NODES, Signatures()) == ()


async def coroutine_function() -> None: ...


class AsyncCallable:
    async def __call__(self) -> None: ...

    async def method(self) -> None: ...


class Callable_:  # noqa: N801 - beside the other one
    def __call__(self) -> None: ...


async def generator() -> Any:
    yield 1


class TestIsAsync:
    @pytest.mark.parametrize(
        "function",
        [
            coroutine_function,
            AsyncCallable(),
            AsyncCallable().method,
            functools.partial(coroutine_function),
            functools.partial(functools.partial(AsyncCallable())),
        ],
    )
    def test_what_gives_a_coroutine_is_async(self, function: Callable[..., Any]) -> None:
        assert is_async(function)

    @pytest.mark.parametrize(
        "function",
        [
            lambda: None,
            print,
            Callable_(),
            AsyncCallable,
            functools.partial(print),
            generator,
            lambda: coroutine_function(),  # noqa: PLW0108 - not inlined: the lambda is what is asked about
        ],
    )
    def test_everything_else_is_not(self, function: Callable[..., Any]) -> None:
        assert not is_async(function)
