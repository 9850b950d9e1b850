"""The codec on bytes of unknown origin: they are what it wrote, or they are refused."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction

import attrs
import pytest

from dagflow._events import Payload
from dagflow.errors import SerializationError
from dagflow.serialization import JsonCodec, TypeAdapter

CODEC = JsonCodec()


def payload(text: str | bytes) -> Payload:
    data = text if isinstance(text, bytes) else text.encode()
    return Payload("json", data, hashlib.sha256(data).digest())


def reading_error(text: str | bytes, codec: JsonCodec = CODEC) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        codec.decode(payload(text))
    return caught.value


def test_a_payload_of_another_codec_is_not_read() -> None:
    with pytest.raises(SerializationError, match="written by the codec 'pickle'"):
        CODEC.decode(attrs.evolve(CODEC.encode(1), codec="pickle"))


def test_a_payload_whose_bytes_lie_in_an_artifact_store_is_not_read_and_says_where_they_are() -> None:
    with pytest.raises(SerializationError, match="it lies in an artifact store: give the executor the same artifacts="):
        CODEC.decode(attrs.evolve(CODEC.encode(1), codec="spilled"))


def test_every_flipped_bit_is_noticed() -> None:
    kept = CODEC.encode({"n": (1, "two")})
    for bit in range(8 * len(kept.data)):
        data = bytearray(kept.data)
        data[bit // 8] ^= 1 << bit % 8

        with pytest.raises(SerializationError, match="checksum"):
            CODEC.decode(attrs.evolve(kept, data=bytes(data)))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" 1",
        b"1 ",
        b"1 2",
        b"\xff",
        b"\xef\xbb\xbf1",
        b'"\xed\xb2\x80"',
        b"nul",
        b"NaN",
        b"[Infinity]",
        b"[1,]",
        b'{"a":1,}',
        b'"\n"',
        b"9" * 5000,
        b'{"$unknown":1}',
        b'{"$":1}',
        b'{"$tuple":1}',
        b'{"$tuple":{"$set":[]}}',
        b'{"$set":[1,1]}',
        b'{"$set":[1,true]}',
        b'{"$set":[[]]}',
        b'{"$frozenset":"ab"}',
        b'{"$dict":[[1]]}',
        b'{"$dict":["ab"]}',
        b'{"$dict":[[1,2],[true,3]]}',
        b'{"$dict":[[[],3]]}',
        b'{"$str":["ab","c"]}',
        b'{"$str":[1]}',
        b'{"$str":"a"}',
        b'{"$int":"0x1F"}',
        b'{"$int":5}',
        b'{"$float":"1.0"}',
        b'{"$float":"3ff0000000000000"}',
        b'{"$float":[]}',
        b'{"$bytes":"YR=="}',
        b'{"$bytes":"a"}',
        b'{"$bytes":"Y Q="}',
        b'{"$datetime":"2024-01-01"}',
        b'{"$datetime":{"local":"2024-01-01T00:00:00","tzinfo":1,"fold":1}}',
        b'{"$datetime":{"local":"2024-01-01T00:00:00","tzinfo":null,"fold":0}}',
        b'{"$datetime":null}',
        b'{"$date":"20240101"}',
        b'{"$time":"12:00"}',
        b'{"$timedelta":[0,86400,0]}',
        b'{"$timezone":[1]}',
        b'{"$zone":"../../etc/passwd"}',
        b'{"$zone":"No/Such"}',
        b'{"$zone":["UTC"]}',
        b'{"$decimal":"1e3"}',
        b'{"$decimal":1}',
        b'{"$uuid":"{12345678123456781234567812345678}"}',
        b'{"$uuid":1}',
        b'{"$posixpath":"a//b"}',
        b'{"$posixpath":1}',
        b'{"$item_error":{"key":"a"}}',
        b'{"$item_error":[]}',
    ],
)
def test_bytes_that_were_not_written_like_this_are_not_read(text: bytes) -> None:
    assert reading_error(text).path == "$"


def test_an_unknown_tag_says_what_to_do() -> None:
    assert "JsonCodec([...])" in reading_error('{"$Order":{"number":1}}').reason


def test_a_tag_in_the_bytes_is_never_taken_for_a_class() -> None:
    for tag in ("$dagflow._node.ItemError", "$builtins.eval", "$__class__", "$os.system", "lc"):
        text = json.dumps({tag: ["true"]})

        if tag.startswith("$"):
            reading_error(text)
        else:
            assert CODEC.decode(payload(text)) == {tag: ["true"]}


@pytest.mark.parametrize("other", [str, type("Other", (Fraction,), {})])
def test_what_the_function_of_an_adapter_returns_is_looked_at(other: type) -> None:
    codec = JsonCodec([TypeAdapter("fraction", Fraction, str, other)])

    with pytest.raises(SerializationError, match=r"from_plain of its TypeAdapter returned .*(str|Other)"):
        codec.decode(codec.encode(Fraction(1, 2)))


@pytest.mark.parametrize("text", ["[" * 300_000, "[" * 601 + "]" * 601, '{"a":' * 601 + "1" + "}" * 601])
def test_json_that_is_nested_too_deeply_is_not_read(text: str) -> None:
    assert "nested more than 600" in reading_error(text).reason


def test_json_that_is_too_deep_for_the_stack_is_not_read() -> None:
    text = "[" * 300_000 + "]" * 300_000

    assert "left of the stack" in reading_error(text, JsonCodec(max_depth=10**9)).reason


def test_brackets_in_texts_and_side_by_side_are_no_depth() -> None:
    value = ["\\", "[" * 1000, '\\"' * 5 + "[{" * 1000 + "\\", *([] for _ in range(1000)), "]"]

    assert CODEC.decode(CODEC.encode(value)) == value


def test_what_cannot_hold_a_tag_is_read_as_json_is() -> None:
    assert CODEC.decode(payload('{"a":1,"a":2}')) == {"a": 2}
    assert CODEC.decode(payload('{"\\u0024tuple":[1]}')) == {"$tuple": [1]}
