"""The codec on plain values, and what it says when it refuses."""

from __future__ import annotations

import asyncio
import collections
import enum
import hashlib
import json
import math
import os
import subprocess
import sys
import threading
import tracemalloc
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import attrs
import pytest

from dagflow._events import Payload
from dagflow._json import plain_encoder
from dagflow._node import ItemError
from dagflow.errors import SerializationError
from dagflow.protocols import Codec
from dagflow.serialization import JsonCodec, immutable

if TYPE_CHECKING:
    from collections.abc import Callable

CODEC = JsonCodec()


def payload(text: str | bytes) -> Payload:
    data = text if isinstance(text, bytes) else text.encode()
    return Payload("json", data, hashlib.sha256(data).digest())


def written(value: object, codec: JsonCodec = CODEC) -> str:
    return codec.encode(value).data.decode()


def read_back(value: object) -> Any:
    """Return what its bytes are read as, by whoever has not written them."""
    return CODEC.decode(payload(CODEC.encode(value).data))


def refusal(value: object, codec: JsonCodec = CODEC) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        codec.encode(value)
    return caught.value


def nested(depth: int, kind: Any = list) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = kind([value])
    return value


# -- what is written ------------------------------------------------------------------------------


def test_it_is_a_codec_named_json() -> None:
    assert isinstance(CODEC, Codec)
    assert CODEC.name == "json"
    assert CODEC.encode(None) == payload("null")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (-7, "-7"),
        (-0.0, "-0.0"),
        (1e300, "1e+300"),
        ('a "b"\n', r'"a \"b\"\n"'),
        ("Zürich 東京 \U0001f600", '"Zürich 東京 \U0001f600"'),
        ("nul\0", r'"nul\u0000"'),
        ("lone \udc80", r'"lone \udc80"'),
        ([], "[]"),
        ({}, "{}"),
        ({"n": 1, "ok": True}, '{"n":1,"ok":true}'),
        ({"rows": [{"id": 1, "tags": []}, None]}, '{"rows":[{"id":1,"tags":[]},null]}'),
        ({"$a": 1, "$b": 2}, '{"$a":1,"$b":2}'),
    ],
)
def test_plain_values_are_written_as_the_json_that_people_read(value: object, text: str) -> None:
    assert written(value) == text
    assert repr(CODEC.decode(CODEC.encode(value))) == repr(read_back(value)) == repr(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((), '{"$tuple":[]}'),
        ((1, "a"), '{"$tuple":[1,"a"]}'),
        ([(1,), 2], '[{"$tuple":[1]},2]'),
        ({3, 1, 20}, '{"$set":[1,20,3]}'),
        (frozenset({3, 1, 20}), '{"$frozenset":[1,20,3]}'),
        ({1: "a", "1": "b"}, '{"$dict":[[1,"a"],["1","b"]]}'),
        ({True: 1, "true": 2}, '{"$dict":[[true,1],["true",2]]}'),
        ({"$a": 1}, '{"$dict":[["$a",1]]}'),
        ({"$tuple": [1]}, '{"$dict":[["$tuple",[1]]]}'),
        ({"$": (1,)}, '{"$dict":[["$",{"$tuple":[1]}]]}'),
        ([{"$set": 1}], '[{"$dict":[["$set",1]]}]'),
        ({"when": {(1, 2): None}}, '{"when":{"$dict":[[{"$tuple":[1,2]},null]]}}'),
        ("\ud83d\ude00", r'{"$str":["\ud83d","\ude00"]}'),
        (["\ud83d\ude00"], r'[{"$str":["\ud83d","\ude00"]}]'),
        ({"\ud83d\ude00": 1}, r'{"$dict":[[{"$str":["\ud83d","\ude00"]},1]]}'),
        ({"\ud83d\ude00": (), "b": 1}, r'{"$dict":[[{"$str":["\ud83d","\ude00"]},{"$tuple":[]}],["b",1]]}'),
        ([math.inf, -math.inf], '[{"$float":"inf"},{"$float":"-inf"}]'),
        (math.nan, '{"$float":"nan"}'),
    ],
)
def test_what_json_has_not_stands_under_a_tag(value: object, text: str) -> None:
    assert written(value) == text
    assert repr(CODEC.decode(CODEC.encode(value))) == repr(read_back(value)) == repr(value)


@pytest.mark.parametrize("number", [10**640, -(10**640), 7**2000, 10**5000, -(2**20000)], ids=int.bit_length)
@pytest.mark.parametrize("surround", [lambda n: n, lambda n: [n, 1], lambda n: {"n": n}, lambda n: (n, [n])])
def test_an_int_with_more_digits_than_some_process_reads_is_written_in_hexadecimal(number: int, surround: Any) -> None:
    value = surround(number)

    kept = CODEC.encode(value)

    assert b'{"$int":"' in kept.data
    assert CODEC.decode(kept) == value


def test_what_was_written_here_is_read_as_it_was_then_by_everyone() -> None:
    value = {"n": 1, "text": "a"}
    kept = CODEC.encode(value)
    value["n"] = 2

    first = CODEC.decode(kept)
    first["n"] = 3

    assert [CODEC.decode(kept), CODEC.decode(kept)] == [{"n": 1, "text": "a"}] * 2


def test_threads_that_read_at_the_same_time_share_nothing() -> None:
    all_kept = [CODEC.encode({"n": number}) for number in range(2000)]
    begin = threading.Barrier(4)
    read: list[list[Any]] = []

    def decode_all() -> None:
        begin.wait()
        read.append([CODEC.decode(kept) for kept in all_kept])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=decode_all) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert read == [[{"n": number} for number in range(2000)]] * 4
    assert len({id(value) for values in read for value in values}) == 4 * 2000


def test_an_int_is_written_alike_whatever_this_process_reads() -> None:
    value = [10**700, 10**5000]
    usual = CODEC.encode(value)
    limit = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(0)
        unlimited = CODEC.encode(value)
        sys.set_int_max_str_digits(640)
        assert CODEC.decode(CODEC.encode([10**639])) == [10**639]
    finally:
        sys.set_int_max_str_digits(limit)

    assert unlimited == usual


def test_long_lists_of_numbers_and_texts_of_digits_stay_plain() -> None:
    numbers = list(range(10**18, 10**18 + 200))

    assert written(numbers) == json.dumps(numbers, separators=(",", ":"))
    assert written(["9" * 2000]) == '["' + "9" * 2000 + '"]'


def test_equal_sets_are_written_alike_in_every_process() -> None:
    words = [f"word {number}" for number in range(100)]
    program = (
        "from dagflow.serialization import JsonCodec\n"
        "words = {f'word {number}' for number in range(100)}\n"
        "print(JsonCodec().encode(words).checksum.hex())"
    )
    ours = CODEC.encode(set(words)).checksum.hex()

    theirs = {
        subprocess.check_output([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, text=True)
        for seed in ("1", "2")
    }

    assert theirs == {f"{ours}\n"}


def test_a_dictionary_keeps_its_order() -> None:
    assert list(CODEC.decode(CODEC.encode({"b": 1, "a": 2}))) == list(read_back({"b": 1, "a": 2})) == ["b", "a"]
    assert list(CODEC.decode(CODEC.encode({2: (), 1: ()}))) == [2, 1]


def test_a_value_in_two_places_is_written_twice_and_read_as_two() -> None:
    row = [1]

    rows = CODEC.decode(CODEC.encode([row, row, {"row": row}]))

    assert rows == [[1], [1], {"row": [1]}]
    assert rows[0] is not rows[1]
    assert rows[0] is not row


def test_without_an_encoder_in_c_the_same_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("json.encoder.c_make_encoder", None)
    slow, ascii_alone = plain_encoder(ascii_only=False), plain_encoder(ascii_only=True)

    assert slow({"a": [1, "ü", 2.5, None]}) == '{"a":[1,"ü",2.5,null]}'
    assert ascii_alone(["ü"]) == '["\\u00fc"]'
    with pytest.raises(ValueError, match="Out of range"):
        slow([math.nan])


def test_errors_of_collected_maps_are_kept_without_being_allowed() -> None:
    value = [1, ItemError("a", "ValueError", "no", "")]

    assert CODEC.decode(CODEC.encode(value)) == value


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "a", b"a", Decimal(1), datetime.now(UTC)])
def test_atoms_may_be_shared(value: object) -> None:
    assert immutable(value)


@pytest.mark.parametrize("value", [[], {}, (), set(), bytearray(), collections.OrderedDict(), object()])
def test_containers_may_not_be_shared(value: object) -> None:
    assert not immutable(value)


# -- what is refused ------------------------------------------------------------------------------


class Text(str):
    __slots__ = ()


class Level(enum.IntEnum):
    LOW = 1


class Pair(NamedTuple):
    x: int
    y: int


@attrs.frozen
class Order:
    number: int


async def coroutine() -> None:
    pass


@pytest.mark.parametrize(
    ("value", "kind", "hint"),
    [
        (iter(()), "tuple_iterator", "TypeAdapter"),
        (object(), "object", "TypeAdapter"),
        (1j, "complex", "TypeAdapter"),
        ((n for n in [1]), "generator", "return list"),
        (threading.Lock(), "_thread.lock", "one process"),
        (threading.RLock(), "_thread.RLock", "one process"),
        (len, "builtin_function_or_method", "code"),
        (coroutine, "function", "code"),
        (int, "type", "code"),
        (json, "module", "code"),
        (ValueError("x"), "ValueError", "raise it"),
        (Text("a"), f"{__name__}.Text", "plain str"),
        (Level.LOW, f"{__name__}.Level", "JsonCodec([Level])"),
        (Pair(1, 2), f"{__name__}.Pair", "JsonCodec([Pair])"),
        (Order(1), f"{__name__}.Order", "JsonCodec([Order])"),
        (collections.OrderedDict(), "collections.OrderedDict", "plain dict"),
        (collections.defaultdict(list), "collections.defaultdict", "plain dict"),
        (type("float64", (float,), {"__module__": "numpy"})(), "numpy.float64", "plain float"),
        (type("ndarray", (), {"__module__": "numpy"})(), "numpy.ndarray", "tolist"),
        (type("Timestamp", (datetime,), {"__module__": "pandas"})(2024, 1, 1), "pandas.Timestamp", "plain datetime"),
    ],
)
@pytest.mark.parametrize("surround", [lambda v: v, lambda v: [v], lambda v: {"a": (v,)}, lambda v: {1: {"b": [v]}}])
def test_what_cannot_be_kept_is_refused_with_its_type_and_a_way_out(
    value: object, kind: str, hint: str, surround: Any
) -> None:
    error = refusal(surround(value))

    assert error.type == kind
    assert hint in error.reason


def test_a_coroutine_is_refused() -> None:
    pending = coroutine()

    assert "await it" in refusal({"pending": pending}).reason

    asyncio.run(pending)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "$"),
        ([0, object()], "$[1]"),
        ({"rows": [0, 1, 2, {"when": object()}]}, "$.rows[3].when"),
        ({"größe": object()}, "$.größe"),
        ({"a b": object()}, '$["a b"]'),
        ({"0": object()}, '$["0"]'),
        ({"\udc80": object()}, r'$["\udc80"]'),
        ({"x" * 100: object()}, '$["' + "x" * 60 + '..."]'),
        ({7: object()}, "$[7]"),
        ({None: object(), True: 1}, "$[None]"),
        ({(1, "a"): [object()]}, "$[(1, 'a')][0]"),
        ({b"b" * 100: object()}, "$[" + repr(b"b" * 100)[:60] + "...]"),
        ({10**5000: object()}, "$[<int>]"),
        ({(1, ()): object()}, "$[<tuple>]"),
        ({object(): 1}, "$[<object>]"),
        ({object(), "a"}, "$[<object>]"),
        ({"tags": frozenset({(1, Text("a"))})}, "$.tags[<tuple>][1]"),
        ({"when": datetime(2024, 1, 1, tzinfo=type("Zone", (tzinfo,), {})())}, "$.when.tzinfo"),
    ],
)
def test_a_refusal_names_the_path(value: object, path: str) -> None:
    assert refusal(value).path == path


def test_the_middle_of_a_long_path_is_left_out() -> None:
    value: Any = object()
    for _ in range(100):
        value = [value]

    assert refusal(value).path == "$" + "[0]" * 10 + " ... " + "[0]" * 10


class Hostile:
    def __raise(self, *_: object) -> Any:
        message = "hostile"
        raise RuntimeError(message)

    __repr__ = __str__ = __eq__ = __bool__ = __len__ = __iter__ = __getattr__ = __reduce__ = __raise

    def __hash__(self) -> int:
        return 1


class HostileKind(type):
    def __hash__(cls) -> int:
        message = "hostile"
        raise RuntimeError(message)


def test_a_hostile_value_is_refused_like_any_other() -> None:
    error = refusal({"a": [Hostile()]})

    assert (error.path, error.type) == ("$.a[0]", f"{__name__}.Hostile")
    assert refusal({Hostile(): 1}).path == f"$[<{__name__}.Hostile>]"


def test_a_class_with_a_hostile_metaclass_is_refused() -> None:
    error = refusal([HostileKind("Odd", (), {})()])

    assert error.reason == "writing it raised RuntimeError"
    assert isinstance(error.__cause__, RuntimeError)


def test_a_key_with_a_hostile_zone_is_shown_by_its_type() -> None:
    zone = type("Zone", (tzinfo,), {"__repr__": Hostile.__repr__, "utcoffset": lambda *_: None})()

    assert refusal({datetime(2024, 1, 1, tzinfo=zone): 1}).path == "$[<datetime.datetime>].tzinfo"


# -- cycles, depth and size -----------------------------------------------------------------------


def cycles() -> list[tuple[Any, str, str]]:
    loop: list[Any] = [1]
    loop.append(loop)
    fork: list[Any] = []
    fork.extend([fork, fork])
    table: dict[str, Any] = {"a": {"b": [(1,)]}}
    table["a"]["b"].append(table["a"])
    numbers: dict[int, Any] = {}
    numbers[1] = (numbers,)
    return [
        (loop, "$[1]", "$"),
        (fork, "$[0]", "$"),
        (table, "$.a.b[1]", "$.a"),
        (numbers, "$[1][0]", "$"),
    ]


@pytest.mark.parametrize(("value", "path", "again"), cycles())
def test_a_cycle_is_refused_by_name(value: object, path: str, again: str) -> None:
    error = refusal(value)

    assert error.reason == f"it contains itself: this is the value at {again} again"
    assert error.path == path


@pytest.mark.parametrize("kind", [list, tuple, frozenset, lambda inner: {"a": inner[0]}, lambda inner: {1: inner[0]}])
def test_nesting_is_kept_up_to_the_limit_and_refused_beyond(kind: Any) -> None:
    value = nested(200, kind)

    assert CODEC.decode(CODEC.encode(value)) == value

    assert "more than 200 levels" in refusal(nested(201, kind)).reason


@pytest.mark.parametrize("depth", [1_000, 100_000])
@pytest.mark.parametrize("kind", [list, tuple])
def test_nesting_beyond_the_stack_is_no_recursion_error(depth: int, kind: Any) -> None:
    boundless = JsonCodec(max_depth=10**9)

    assert refusal(nested(depth, kind)).reason.startswith("it is nested")
    assert "left of the stack" in refusal([nested(depth, kind), (), Level.LOW], boundless).reason


def test_a_value_is_kept_up_to_the_limit_of_its_size_and_refused_beyond() -> None:
    small = JsonCodec(max_bytes=10)

    assert small.decode(small.encode("ü" * 4)) == "ü" * 4
    assert "more than 10 bytes" in refusal("ü" * 5, small).reason
    assert refusal([[1], [(), "x" * 20]], small).path == "$[1]"


@pytest.mark.parametrize("many", [lambda row: [row] * 5000, lambda row: {str(i): row for i in range(5000)}])
def test_a_row_that_is_shared_by_thousands_is_refused_before_it_fills_the_memory(many: Callable[[Any], Any]) -> None:
    value = many(list(range(10_000)))
    tracemalloc.start()
    try:
        with pytest.raises(SerializationError, match="it takes more than 1000000 bytes"):
            JsonCodec(max_bytes=1_000_000).encode(value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 10_000_000


def test_what_is_shared_again_and_again_is_refused_for_its_size() -> None:
    value: Any = [1]
    for _ in range(60):
        value = [value, value]

    assert "more than 1000 bytes" in refusal(value, JsonCodec(max_bytes=1000)).reason


@pytest.mark.parametrize("limits", [{"max_bytes": 0}, {"max_depth": 0}])
def test_limits_below_one_are_refused(limits: Any) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        JsonCodec(**limits)
