"""Values that break what was not made with care: none of them is changed, lost, or taken for a command."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from dagflow._events import Payload, RunQuery, RunStatus
from dagflow.errors import MessageExistsError, RunNotFoundError
from dagflow.testing._store_facts import claimed, event, kept, message, payload, record, steps

if TYPE_CHECKING:
    from dagflow.protocols import ContextStore

__all__ = ["HostileTests"]

IDS = ["ünïcödé", "実行", "запуск", "تشغيل", "a/b:c.d-e_f", "0", "-", "None", "x" * 255, "𝒳1"]

TEXTS = [
    "'; DROP TABLE runs; --",
    '"quoted"',
    "back\\slash",
    "per%cent_",
    "{braces} %s ?1 :name $1",
    "new\nline\ttab",
    "emoji 🧪👩‍🔬",
    "right\u202eleft",
    " spaces ",
    "e\u0301",
]

DATA: list[dict[str, Any]] = [
    {},
    {"empty": [{}, [], ""], "none": None, "true": True, "false": False},
    {"int": 2**62, "negative": -1, "float": 1.5, "tiny": 5e-324, "big": 1.7976931348623157e308},
    {"text": "nul \x00, quote ' \" \\, line \r\n\u2028, 🧪"},
    {"message": "a lone surrogate \udcff in an error"},
    {"": "an empty key", "nul\x00": "in a key", "ключ": "значение"},
    {"items": [[[[[[1, [2, {"three": [4]}]]]]]]]},
    {"traceback": "line\n" * 50_000},
]


class HostileTests:
    """Names, payloads, data and times at their limits."""

    @pytest.mark.parametrize("run_id", IDS)
    async def test_any_id_that_the_naming_rule_allows_is_kept(self, store: ContextStore, run_id: str) -> None:
        claim = await claimed(store, run_id)
        await store.append(steps(2, 2, run_id=run_id), claim=claim, version=1, status=RunStatus.RUNNING, release=True)
        sent = await store.send(message(run_id))

        read, events = await store.read(run_id)
        listed = await store.find(RunQuery())

        assert (read.run_id, listed) == (run_id, [read])
        assert events == steps(1, 2, run_id=run_id)
        assert await store.receive({run_id: 0}) == [sent]

    async def test_ids_that_look_alike_are_different_runs(self, store: ContextStore) -> None:
        alike = ["Run", "run", "RUN", "run.", "run/", unicodedata.normalize("NFC", "é"), "é".upper(), "e"]

        for version, run_id in enumerate(alike, 1):
            await kept(store, run_id, version=version)
        versions = [(await store.read(run_id))[0].version for run_id in alike]

        assert versions == list(range(1, len(alike) + 1))

    @pytest.mark.parametrize("text", TEXTS)
    async def test_names_are_values_and_never_commands(self, store: ContextStore, text: str) -> None:
        await kept(store, "other", workflow="safe")
        await store.create(record(workflow=text, parent=text), [event(1, node=text)])
        claim = (await store.claim("run", owner=text, lease=600)).claim

        await store.append([event(2, node=text)], claim=claim, version=1, status=RunStatus.RUNNING)
        read, events = await store.read("run")

        assert (read.workflow, read.parent, read.owner) == (text, text, text)
        assert [one.node for one in events] == [text, text]
        assert await store.find(RunQuery(workflow=text)) == [read]
        assert await store.find(RunQuery(parent=text)) == [read]

    @pytest.mark.parametrize("text", TEXTS)
    async def test_names_and_keys_of_messages_are_values_and_never_commands(
        self, store: ContextStore, text: str
    ) -> None:
        await kept(store)
        sent = await store.send(message(name=text, key=text))

        with pytest.raises(MessageExistsError):
            await store.send(message(key=text))

        assert await store.receive({"run": 0}) == [sent]

    @pytest.mark.parametrize("text", ["%", "_", "workfl%", "workflo_", "WORKFLOW", "*", "' OR '1'='1"])
    async def test_a_filter_means_the_name_itself(self, store: ContextStore, text: str) -> None:
        await kept(store, workflow="workflow", parent="workflow")

        assert await store.find(RunQuery(workflow=text)) == []
        assert await store.find(RunQuery(parent=text)) == []
        with pytest.raises(RunNotFoundError):
            await store.read(text)

    async def test_a_name_that_nothing_can_have_is_nobodys(self, store: ContextStore) -> None:
        await kept(store)

        assert await store.find(RunQuery(workflow="nul\x00")) == []
        assert await store.find(RunQuery(parent="nul\x00")) == []
        for call in (store.read, store.delete):
            with pytest.raises(RunNotFoundError):
                await call("nul\x00")
        with pytest.raises(RunNotFoundError):
            await store.claim("nul\x00", owner="me", lease=60)
        with pytest.raises(RunNotFoundError):
            await store.find(RunQuery(after="nul\x00"))

    @pytest.mark.parametrize("data", [b"", bytes(range(256)), b"\x00" * 9, b"'\"\\;--", b"\xff\xfe\xfd", b"\\x00"])
    async def test_payloads_are_bytes_of_any_value(self, store: ContextStore, data: bytes) -> None:
        await kept(store, "other")
        events = [event(1, payload=payload(data))]
        await store.create(record(), events)
        sent = await store.send(message(payload=payload(data)))

        _, read = await store.read("run")

        assert read == events
        assert await store.receive({"run": 0}) == [sent]

    async def test_a_payload_of_a_mebibyte_is_kept(self, store: ContextStore) -> None:
        claim = await claimed(store)
        events = [event(2, payload=payload(bytes(range(256)) * 4096))]

        await store.append(events, claim=claim, version=1, status=RunStatus.RUNNING)
        _, read = await store.read("run", after=1)

        assert read == events

    async def test_several_large_payloads_are_one_append(self, store: ContextStore) -> None:
        claim = await claimed(store)
        events = [event(number, payload=payload(b"%d" % number * 300_000)) for number in range(2, 6)]

        await store.append(events, claim=claim, version=1, status=RunStatus.RUNNING)
        _, read = await store.read("run", after=1)

        assert read == events

    async def test_a_store_does_not_judge_checksums_and_codecs(self, store: ContextStore) -> None:
        events = [event(1, payload=Payload("кодек/2", b"data", b"\x00" * 32))]

        await store.create(record(), events)
        _, read = await store.read("run")

        assert read == events

    @pytest.mark.parametrize("data", DATA, ids=[next(iter(data), "empty") or "key" for data in DATA])
    async def test_data_is_any_plain_json(self, store: ContextStore, data: dict[str, Any]) -> None:
        await store.create(record(), [event(1, data=data)])
        sent = await store.send(message(data=data))

        _, [read] = await store.read("run")

        assert read.data == data
        assert await store.receive({"run": 0}) == [sent]

    async def test_no_data_is_not_the_same_as_empty_data(self, store: ContextStore) -> None:
        await store.create(record(version=2), [event(1, data=None), event(2, data={})])

        _, events = await store.read("run")

        assert [one.data for one in events] == [None, {}]

    async def test_true_is_not_one_and_one_is_not_a_float(self, store: ContextStore) -> None:
        await store.create(record(), [event(1, data={"values": [True, 1, 1.0, "1", None, False, 0]})])

        _, [read] = await store.read("run")

        assert read.data is not None
        assert [repr(value) for value in read.data["values"]] == ["True", "1", "1.0", "'1'", "None", "False", "0"]

    @pytest.mark.parametrize(
        "at",
        [
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            datetime(2400, 2, 29, 23, 59, 59, 999999, tzinfo=UTC),
        ],
    )
    async def test_times_far_away_are_kept(self, store: ContextStore, at: datetime) -> None:
        await store.create(record(created_at=at, updated_at=at, wake_at=at), [event(1, at=at)])

        read, [kept_event] = await store.read("run")

        assert (read.created_at, read.updated_at, read.wake_at, kept_event.at) == (at, at, at, at)

    @pytest.mark.parametrize("priority", [0, -1, 2**31 - 1, -(2**31)])
    async def test_priorities_are_kept(self, store: ContextStore, priority: int) -> None:
        await kept(store, priority=priority)

        read, _ = await store.read("run")

        assert read.priority == priority
