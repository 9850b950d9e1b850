"""The law of the codec: what it gives back is what it was given, or it refuses; there is no third outcome."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import enum
import json
import math
import struct
import subprocess
import sys
import zoneinfo
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from hashlib import sha256
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dagflow._events import Payload
from dagflow.errors import SerializationError
from dagflow.serialization import JsonCodec


class Colour(enum.Enum):
    RED = "r"
    GREEN = "g"


class Point(NamedTuple):
    x: Any
    y: Any


@attrs.frozen
class Order:
    number: Any
    lines: Any


@dataclasses.dataclass(frozen=True)
class Box:
    item: Any


CODEC = JsonCodec([Colour, Point, Order, Box])
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]

# -- values ---------------------------------------------------------------------------------------


def named(strategy: st.SearchStrategy[Any], name: str) -> st.SearchStrategy[Any]:
    """Return the same strategy under a short name: what is built of it would else have a name of pages."""

    def draw_it(draw: st.DrawFn) -> Any:
        return draw(strategy)

    draw_it.__name__ = name
    return st.composite(draw_it)()


surrogates = st.text(st.characters(categories=["Cs"]) | st.sampled_from("a$\0"), max_size=4)
texts = st.text() | surrogates | st.sampled_from(["$", "$tuple", "$dict", "$x", "1", "true", "null"])
nans = st.integers(0, 2**52 - 1).map(lambda bits: struct.unpack(">d", struct.pack(">Q", 0x7FF0 << 48 | bits))[0])
digits = st.builds(lambda size, less: 10**size - less, st.sampled_from([639, 640, 641, 4200]), st.integers(-1, 1))
zones = (
    st.none()
    | st.sampled_from(ZONES).map(zoneinfo.ZoneInfo)
    | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
    | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), surrogates)
)
folds = st.sampled_from([0, 1])
moments = st.builds(lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, folds)
times = st.builds(lambda at, zone, fold: at.replace(tzinfo=zone, fold=fold), st.times(), zones, folds)
atoms = named(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | digits
    | st.floats()
    | nans
    | texts
    | st.binary()
    | moments
    | times
    | st.dates()
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.sampled_from(["1E+30", "-0E-5", "Infinity"]).map(Decimal)
    | st.uuids()
    | texts.map(PurePosixPath)
    | texts.map(PureWindowsPath)
    | st.sampled_from(Colour),
    "atoms",
)
unhashable_atoms = st.binary().map(bytearray) | st.sampled_from(["sNaN", "-sNaN12"]).map(Decimal)
hashable = named(
    st.recursive(
        atoms,
        lambda inner: (
            st.lists(inner, max_size=4).map(tuple)
            | st.frozensets(inner, max_size=4)
            | st.builds(Point, inner, inner)
            | st.builds(Order, inner, inner)
            | st.builds(Box, inner)
        ),
        max_leaves=8,
    ),
    "hashable",
)
values = st.recursive(
    hashable | unhashable_atoms,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts, inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
        | st.builds(Point, inner, inner)
        | st.builds(Order, inner, inner)
        | st.builds(Box, inner)
    ),
    max_leaves=20,
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text().map("k{}".format), inner, max_size=4),
)


class Text(str):
    __slots__ = ()


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError

    __str__ = __repr__
    __eq__ = __repr__  # type: ignore[assignment]

    def __hash__(self) -> int:
        return id(self)


strangers = named(
    st.sampled_from([object(), Hostile(), Text("a"), 1j, len, ValueError("x"), range(3), memoryview(b"a")]),
    "strangers",
)
anything = st.recursive(
    hashable | strangers,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(hashable | strangers, inner, max_size=3)
        | st.sets(hashable | strangers, max_size=3)
        | st.builds(Box, inner)
    ),
)


def payload(data: bytes) -> Payload:
    return Payload("json", data, sha256(data).digest())


def same(one: Any, two: Any) -> bool:  # noqa: PLR0911 - one a type
    """Tell whether two values are equal with all their types, bits of NaN, signs of zero and folds."""
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return struct.pack(">d", one) == struct.pack(">d", two)
    if isinstance(one, Decimal):
        return str(one) == str(two)
    if isinstance(one, datetime | time):
        return repr(one) == repr(two)
    if isinstance(one, Order | Box):
        return same(tuple(vars_of(one)), tuple(vars_of(two)))
    if isinstance(one, dict):
        return same([*one.items()], [*two.items()])
    if isinstance(one, set | frozenset):
        rest = list(two)
        return len(one) == len(two) and all(_take(member, rest) for member in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def vars_of(value: Order | Box) -> list[Any]:
    return [value.item] if isinstance(value, Box) else [value.number, value.lines]


def _take(member: object, rest: list[Any]) -> bool:
    for index, other in enumerate(rest):
        if same(member, other):
            del rest[index]
            return True
    return False


# -- laws -----------------------------------------------------------------------------------------


@given(values)
@example([10**700, {"\ud83d\ude00": ({"$tuple": 1},)}, {1: 1, "1": 2, (True,): 3, (1.5, "true"): 4}])
def test_what_is_read_is_what_was_written(value: Any) -> None:
    kept = CODEC.encode(value)

    assert same(CODEC.decode(kept), value)
    assert same(CODEC.decode(Payload("json", kept.data, kept.checksum)), value)
    assert CODEC.encode(CODEC.decode(kept)) == kept


@given(anything)
def test_a_value_is_kept_exactly_or_refused(value: Any) -> None:
    try:
        kept = CODEC.encode(value)
    except SerializationError as error:
        assert error.path.startswith("$") and error.type and str(error)  # noqa: PT017, PT018 - it may also be kept
    else:
        assert same(CODEC.decode(kept), value)
        assert same(CODEC.decode(Payload("json", kept.data, kept.checksum)), value)


@given(plain)
def test_plain_json_is_written_as_plain_json(value: Any) -> None:
    assert CODEC.encode(value).data.decode() == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@given(values)
def test_every_payload_is_json_for_everyone(value: Any) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(CODEC.encode(value).data, parse_constant=refuse)


@given(st.lists(hashable, unique_by=lambda value: CODEC.encode(value).data), st.randoms(use_true_random=False))
def test_equal_sets_are_written_alike(members: list[Any], random: Any) -> None:
    first = set(members)
    shuffled = list(first)
    random.shuffle(shuffled)
    second = set(shuffled)

    assert CODEC.encode([first]) == CODEC.encode([second])


@given(values)
def test_a_copy_is_written_like_its_original(value: Any) -> None:
    assert CODEC.encode(copy.deepcopy(value)) == CODEC.encode(value)


@given(values)
def test_what_is_read_shares_nothing_that_can_be_changed(value: Any) -> None:
    kept = CODEC.encode(value)

    first, second = CODEC.decode(kept), CODEC.decode(kept)

    assert changeable(first).isdisjoint(changeable(value))
    assert changeable(first).isdisjoint(changeable(second))


def changeable(value: Any) -> set[int]:
    """Return the ids of all that can be changed in a value."""
    if isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = [*value]
    elif isinstance(value, Order | Box):
        inner = vars_of(value)
    else:
        inner = []
    own = isinstance(value, dict | list | set | bytearray | Order | Box)
    return ({id(value)} if own else set()).union(*map(changeable, inner))


@given(values, st.data())
def test_a_flipped_bit_is_never_read(value: Any, data: st.DataObject) -> None:
    kept = CODEC.encode(value)
    flipped = bytearray(kept.data + kept.checksum)
    bit = data.draw(st.integers(0, 8 * len(flipped) - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    split = len(kept.data)

    with pytest.raises(SerializationError):
        CODEC.decode(Payload("json", bytes(flipped[:split]), bytes(flipped[split:])))


TAGS = [
    "str", "int", "float", "bytes", "bytearray", "tuple", "set", "frozenset", "dict", "datetime", "date", "time",
    "timedelta", "timezone", "zone", "decimal", "uuid", "posixpath", "windowspath", "purewindowspath", "item_error",
    "Colour", "Point", "Order", "Box", "builtins.eval", "",
]  # fmt: skip
forged = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(["RED", "nan", "0x1", "UTC"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(texts, inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "y", "item", "local", "tzinfo", "fold"]), inner, max_size=3)
        | st.builds(lambda tag, body: {f"${tag}": body}, st.sampled_from(TAGS), inner)
        | st.builds(lambda body: {"$dict": [body]}, st.lists(inner, min_size=2, max_size=2))
    ),
)


@given(st.binary() | forged.map(lambda value: json.dumps(value).encode()))
def test_bytes_of_anyone_are_read_or_refused(data: bytes) -> None:
    try:
        value = CODEC.decode(payload(data))
    except SerializationError:
        pass
    else:
        assert same(CODEC.decode(payload(data)), value)


@given(values, st.data())
def test_written_bytes_that_were_changed_are_read_or_refused(value: Any, data: st.DataObject) -> None:
    changed = bytearray(CODEC.encode(value).data)
    position = data.draw(st.integers(0, len(changed) - 1))
    changed[position] = data.draw(st.sampled_from(b'0"{}[],:$\\a') | st.integers(0, 255))

    with contextlib.suppress(SerializationError):
        CODEC.decode(payload(bytes(changed)))


# -- nothing runs ---------------------------------------------------------------------------------

WATCHED = """
import json, math, sys, zoneinfo
from hashlib import sha256
from dagflow._events import Payload
from dagflow.errors import SerializationError
from dagflow.serialization import JsonCodec

FORBIDDEN = {
    "code", "compile", "ctypes", "exec", "function", "glob", "import", "importlib", "marshal", "open", "os", "pickle",
    "shutil", "socket", "subprocess",
}
codec = JsonCodec()
corpus = [bytes.fromhex(line) for line in sys.stdin.read().split()]
payloads = [Payload("json", data, sha256(data).digest()) for data in corpus]
zone = codec.encode([zoneinfo.ZoneInfo("Europe/Berlin")])
try:
    codec.decode(Payload("json", b'{"$zone":"No/Such"}', sha256(b'{"$zone":"No/Such"}').digest()))
except SerializationError:
    pass
read = refused = 0
events = []

def watch(event, arguments):
    if event.split(".")[0] in FORBIDDEN:
        events.append((event, repr(arguments)[:200]))

sys.addaudithook(watch)
for payload in [zone, *payloads]:
    try:
        codec.decode(payload)
        read += 1
    except SerializationError:
        refused += 1
seen = events[:]
compile("1", "the watch is awake", "eval")
assert len(events) > len(seen)
print(json.dumps({"read": read, "refused": refused, "events": seen}))
"""

POISON = [
    b"cos\nsystem\n(S'true'\ntR.",
    b"\x80\x04\x95\x1c\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.",
    b'{"lc":2,"type":"constructor","id":["os","system"],"kwargs":{"command":"true"}}',
    b"!!python/object/apply:os.system ['true']",
    b"\"!!python/object/apply:os.system ['true']\"",
    b'{"py/object":"os.system","py/reduce":[{"py/type":"os.system"},{"py/tuple":["true"]}]}',
    b'{"__class__":"subprocess.Popen","__module__":"subprocess","args":["true"]}',
    b'{"$os.system":"true"}',
    b'{"$type":"subprocess.Popen"}',
    b'{"$import":"antigravity"}',
    b'{"$zone":"tzdata.zoneinfo.Europe/Berlin"}',
    b'{"$zone":"../../../etc/passwd"}',
    b'{"$zone":"/etc/passwd"}',
    b'{"$zone":"Never/Seen"}',
    b'{"$posixpath":"/etc/passwd"}',
    b'{"$item_error":{"key":"__import__(\'os\')","type":"os.system","message":"","traceback":""}}',
    b'{"$dict":[[{"$tuple":["__reduce__"]},{"$bytes":"Y29zCnN5c3RlbQ=="}]]}',
]


def test_reading_imports_opens_and_runs_nothing() -> None:
    kept = ["x", (1, {2}), {3: Decimal(1)}, datetime(2024, 1, 1), math.inf]  # noqa: DTZ001
    bodies = ["os.system", ["os", "system"], {}, 1]
    corpus = [*POISON, *(CODEC.encode(value).data for value in kept)]
    corpus += [json.dumps({f"${tag}": body}).encode() for tag in TAGS for body in bodies]

    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input="\n".join(data.hex() for data in corpus),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    seen = json.loads(done.stdout)

    assert seen["events"] == []
    assert seen["read"] >= 10
    assert seen["refused"] >= 50
