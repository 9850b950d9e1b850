"""Messages reach the owner of a run, in order and each once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest

from dagflow._events import MessageKind, RunStatus
from dagflow.errors import MessageExistsError, RunNotFoundError
from dagflow.testing._store_facts import claimed, kept, message, payload, steps

if TYPE_CHECKING:
    from dagflow.protocols import ContextStore

__all__ = ["MessageTests"]


class MessageTests:
    """Sending and receiving."""

    async def test_a_message_is_received_as_it_was_sent(self, store: ContextStore) -> None:
        await kept(store)
        sent = message(payload=payload(b"\x00\xff"), data={"by": "ann", "tries": [1, None]}, key="once")

        returned = await store.send(sent)
        received = await store.receive({"run": 0})

        assert returned == attrs.evolve(sent, number=1, sent_at=returned.sent_at)
        assert returned.sent_at is not None
        assert received == [returned]

    async def test_data_of_messages_may_be_changed_afterwards(self, store: ContextStore) -> None:
        await kept(store)
        data: dict[str, Any] = {"tries": [1], "by": "ann"}
        await store.send(message(data=data))

        for _ in range(2):
            data["tries"].append(2)
            data.pop("by")
            [received] = await store.receive({"run": 0})
            assert received.data == {"tries": [1], "by": "ann"}
            data = dict(received.data)

    async def test_a_message_may_be_bare(self, store: ContextStore) -> None:
        await kept(store)

        returned = await store.send(message(kind=MessageKind.CANCEL, name=""))
        [received] = await store.receive({"run": 0})

        assert received == returned
        assert (received.name, received.payload, received.data, received.key) == ("", None, None, None)

    @pytest.mark.parametrize("kind", list(MessageKind))
    async def test_messages_of_every_kind_are_kept(self, store: ContextStore, kind: MessageKind) -> None:
        await kept(store)

        await store.send(message(kind=kind))
        [received] = await store.receive({"run": 0})

        assert received.kind is kind

    async def test_the_messages_of_each_run_are_numbered_from_one(self, store: ContextStore) -> None:
        await kept(store, "first")
        await kept(store, "second")

        given = [(await store.send(message(run_id))).number for run_id in ("first", "second", "first", "first")]

        assert given == [1, 1, 2, 3]

    async def test_messages_are_received_in_the_order_of_their_numbers(self, store: ContextStore) -> None:
        await kept(store)
        for number in range(12):
            await store.send(message(name=f"news{-number}"))

        received = await store.receive({"run": 0})

        assert [one.number for one in received] == list(range(1, 13))
        assert [one.name for one in received] == [f"news{-number}" for number in range(12)]

    @pytest.mark.parametrize(("after", "expected"), [(0, [1, 2, 3]), (2, [3]), (3, []), (8, [])])
    async def test_only_messages_beyond_the_cursor_are_received(
        self, store: ContextStore, after: int, expected: list[int]
    ) -> None:
        await kept(store)
        for _ in range(3):
            await store.send(message())

        received = await store.receive({"run": after})

        assert [one.number for one in received] == expected

    async def test_messages_of_many_runs_are_received_at_once(self, store: ContextStore) -> None:
        for run_id in ("first", "second", "third", "fourth"):
            await kept(store, run_id)
            await store.send(message(run_id))
            await store.send(message(run_id))

        received = await store.receive({"first": 0, "third": 1, "nobody": 0, "fourth": 2})

        assert sorted((one.run_id, one.number) for one in received) == [("first", 1), ("first", 2), ("third", 2)]

    async def test_nothing_is_received_for_no_runs(self, store: ContextStore) -> None:
        assert await store.receive({}) == []

    async def test_nothing_is_sent_to_a_run_that_does_not_exist(self, store: ContextStore) -> None:
        with pytest.raises(RunNotFoundError):
            await store.send(message("nobody"))

    async def test_the_first_message_with_a_key_counts(self, store: ContextStore) -> None:
        await kept(store)
        first = await store.send(message(name="first", key="review"))

        with pytest.raises(MessageExistsError) as refusal:
            await store.send(message(name="second", key="review"))
        received = await store.receive({"run": 0})

        assert (refusal.value.run_id, refusal.value.key) == ("run", "review")
        assert received == [first]

    async def test_a_refused_message_leaves_no_gap_in_the_numbers(self, store: ContextStore) -> None:
        await kept(store)
        await store.send(message(key="review"))
        with pytest.raises(MessageExistsError):
            await store.send(message(key="review"))

        sent = await store.send(message(key="another"))

        assert sent.number == 2

    async def test_another_run_may_have_a_message_with_the_same_key(self, store: ContextStore) -> None:
        await kept(store, "first")
        await kept(store, "second")
        await store.send(message("first", key="review"))

        sent = await store.send(message("second", key="review"))

        assert (sent.run_id, sent.number) == ("second", 1)

    async def test_a_message_without_a_key_may_be_sent_again(self, store: ContextStore) -> None:
        await kept(store)
        await store.send(message())

        sent = await store.send(message())

        assert sent.number == 2

    async def test_an_empty_key_is_a_key(self, store: ContextStore) -> None:
        await kept(store)
        await store.send(message(key=""))

        with pytest.raises(MessageExistsError):
            await store.send(message(key=""))

    async def test_a_message_does_not_touch_the_journal(self, store: ContextStore) -> None:
        claim = await claimed(store)
        before = await store.read("run")

        await store.send(message())
        after = await store.read("run")
        await store.append(steps(2, 2), claim=claim, version=1, status=RunStatus.RUNNING)

        assert after == before

    async def test_messages_stay_when_the_journal_has_taken_them_in(self, store: ContextStore) -> None:
        claim = await claimed(store)
        sent = await store.send(message())

        await store.append(steps(2, 2), claim=claim, version=1, status=RunStatus.RUNNING, received=1)

        assert await store.receive({"run": 0}) == [sent]

    @pytest.mark.parametrize("status", list(RunStatus))
    async def test_a_run_of_any_status_gets_messages(self, store: ContextStore, status: RunStatus) -> None:
        await kept(store, status=status)

        sent = await store.send(message())

        assert await store.receive({"run": 0}) == [sent]
