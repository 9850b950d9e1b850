"""Going on with runs: after a failure, a cancellation, a crash, and with other code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagflow import Node, Workflow
from dagflow.errors import RunFailedError

if TYPE_CHECKING:
    from executors import OpenExecutor


class TestChangedCode:
    async def test_nodes_that_changed_their_places_in_the_code_are_still_the_same_nodes(
        self, open_executor: OpenExecutor
    ) -> None:
        broken = True

        def gate() -> None:
            if broken:
                raise ValueError("not yet")

        a = Node("a", lambda gate: "of a")
        b = Node("b", lambda gate: "of b", allow_failure=True)
        with pytest.raises(RunFailedError):
            await (await open_executor()).run(Workflow("w", [Node("gate", gate), a, b]), run_id="r")
        broken = False

        other = await open_executor(Workflow("w", [b, a, Node("gate", gate)]))
        run = await other.resume("r")

        assert run.outputs == {"gate": None, "a": "of a", "b": "of b"}
