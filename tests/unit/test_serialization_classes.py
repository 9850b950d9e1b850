"""The codec on classes of the user's."""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import pickle
from collections import namedtuple
from datetime import datetime, timedelta, tzinfo
from fractions import Fraction
from hashlib import sha256
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import attrs
import pytest

from dagflow._events import Payload
from dagflow.errors import SerializationError
from dagflow.serialization import JsonCodec, TypeAdapter

CODEC = JsonCodec()


def written(value: object, codec: JsonCodec = CODEC) -> str:
    return codec.encode(value).data.decode()


def again(value: object, codec: JsonCodec = CODEC) -> Any:
    return codec.decode(codec.encode(value))


def refusal(value: object, codec: JsonCodec = CODEC) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        codec.encode(value)
    return caught.value


def test_a_codec_travels_to_another_process_with_its_classes() -> None:
    codec = JsonCodec([TypeAdapter("fraction", Fraction, str, Fraction)], max_bytes=100)

    there = pickle.loads(pickle.dumps(codec))

    assert there.decode(codec.encode([Fraction(1, 3)])) == [Fraction(1, 3)]
    with pytest.raises(SerializationError):
        there.encode("x" * 200)


def _renamed(kept: Payload, old: bytes, new: bytes) -> Payload:
    data = kept.data.replace(old, new)
    return Payload("json", data, sha256(data).digest())


class Zone(tzinfo):
    def utcoffset(self, _moment: datetime | None) -> timedelta:
        return timedelta(hours=2)

    def dst(self, _moment: datetime | None) -> None:
        return None

    def tzname(self, _moment: datetime | None) -> None:
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Zone)

    def __hash__(self) -> int:
        return 1


class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1  # noqa: PIE796 - an alias
    GREEN = object()


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    ONE = 1


class Point(NamedTuple):
    x: int
    y: object = None


Old = namedtuple("Old", ["class", "b"], rename=True)


class Named(namedtuple("Named", ["a"])):
    pass


@attrs.frozen
class Order:
    number: int
    lines: tuple[Any, ...] = ()


def _one_more(number: int) -> int:
    return number + 1


@attrs.define
class Counter:
    _count: int = attrs.field(converter=_one_more, alias="start")
    later: int = attrs.field(init=False, default=5)


@attrs.frozen(cache_hash=True)
class Hashed:
    x: int


@attrs.define(slots=False, cache_hash=True, frozen=True)
class HashedDict:
    x: int


@attrs.define
class Lazy:
    x: int

    @functools.cached_property
    def double(self) -> int:
        return 2 * self.x


@dataclasses.dataclass
class Row:
    a: int
    b: list[Any] = dataclasses.field(default_factory=list)
    extra: dataclasses.InitVar[int] = 0
    doubled: int = dataclasses.field(init=False)

    def __post_init__(self, extra: int) -> None:
        self.doubled = 2 * self.a + extra

    @functools.cached_property
    def total(self) -> int:
        return self.a


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    name: str


@attrs.define
class Counted:
    x: int
    made: ClassVar[int] = 0

    def __new__(cls, *_: object) -> Self:
        cls.made += 1
        return super().__new__(cls)


T = TypeVar("T")


@dataclasses.dataclass
class Box(Generic[T]):
    item: T


CLASSES: list[type] = [
    Colour, Level, Access, Bits, Point, Old, Named, Order, Counter, Hashed, HashedDict, Lazy, Row, Key, Box,
]  # fmt: skip
ALLOWING = JsonCodec(CLASSES)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Colour.RED, '{"$Colour":"RED"}'),
        (Colour.CRIMSON, '{"$Colour":"RED"}'),
        (Colour.GREEN, '{"$Colour":"GREEN"}'),
        (Level.LOW, '{"$Level":"LOW"}'),
        (Access.READ | Access.WRITE, '{"$Access":3}'),
        (Access(0), '{"$Access":0}'),
        (Bits(9), '{"$Bits":9}'),
        (Point(1), '{"$Point":{"x":1,"y":null}}'),
        (Old(1, 2), '{"$Old":{"_0":1,"b":2}}'),
        (Named(1), '{"$Named":{"a":1}}'),
        (Order(7, (Key("a"),)), '{"$Order":{"number":7,"lines":{"$tuple":[{"$Key":{"name":"a"}}]}}}'),
        (Hashed(1), '{"$Hashed":{"x":1}}'),
        (HashedDict(1), '{"$HashedDict":{"x":1}}'),
        (Row(1, [Box(None)], 3), '{"$Row":{"a":1,"b":[{"$Box":{"item":null}}],"doubled":5}}'),
        ({Key("a"): {Hashed(1)}}, '{"$dict":[[{"$Key":{"name":"a"}},{"$set":[{"$Hashed":{"x":1}}]}]]}'),
    ],
)
def test_instances_of_allowed_classes_come_back_with_the_same_fields(value: Any, text: str) -> None:
    copy = again(value, ALLOWING)

    assert written(value, ALLOWING) == text
    assert type(copy) is type(value)
    assert copy == value


def test_neither_init_nor_converters_run_again() -> None:
    counter = Counter(start=1)
    counter.later = 6

    copy = again(counter, ALLOWING)

    assert (copy._count, copy.later) == (2, 6)


def test_new_of_the_class_does_not_run_either() -> None:
    codec = JsonCodec([Counted])
    value = Counted(1)
    made = Counted.made

    assert again(value, codec) == value
    assert Counted.made == made


def test_an_instance_counts_twice_for_the_depth() -> None:
    codec = JsonCodec([Box], max_depth=4)

    assert again(Box(Box(1)), codec) == Box(Box(1))
    assert "more than 4 levels" in refusal(Box(Box([])), codec).reason


def test_cached_hashes_and_properties_are_computed_anew() -> None:
    values = [Hashed(1), HashedDict(1), Lazy(2), Row(1)]
    first = [hash(values[0]), hash(values[1]), values[2].double, values[3].total]  # type: ignore[attr-defined]

    hashed, hashed_dict, lazy, row = again(values, ALLOWING)

    assert [hash(hashed), hash(hashed_dict), lazy.double, row.total] == first
    assert '"double":' not in written(values, ALLOWING)


def test_a_path_goes_through_the_fields_of_a_class() -> None:
    value = {"order": Order(1, (Row(1, [0, object()]),))}

    assert refusal(value, ALLOWING).path == "$.order.lines[0].b[1]"


def test_a_cycle_through_a_class_is_refused_by_name() -> None:
    box: Box[Any] = Box(None)
    box.item = [box]

    error = refusal({"box": box}, ALLOWING)

    assert (error.path, error.type) == ("$.box.item[0]", f"{__name__}.Box")
    assert error.reason == "it contains itself: this is the value at $.box again"


def test_attributes_beyond_the_fields_are_refused_and_not_lost() -> None:
    row, named = Row(1), Named(1)
    row.note = "x"  # type: ignore[attr-defined]
    named.note = "x"  # type: ignore[attr-defined]

    assert "beyond its fields, which would be lost: note" in refusal([row], ALLOWING).reason
    assert "beyond its fields" in refusal([named], ALLOWING).reason


def test_a_field_that_is_not_set_is_refused() -> None:
    counter = Counter(start=1)
    del counter.later

    error = refusal([counter], ALLOWING)

    assert (error.path, error.reason) == ("$[0]", "taking it apart raised AttributeError")


def test_a_named_tuple_of_another_length_is_refused() -> None:
    assert refusal(tuple.__new__(Point, (1, 2, 3)), ALLOWING).reason == "taking it apart raised ValueError"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"$Order":{"number":1}}', r"\$Order: the fields of its class have changed .*\(missing: lines\)"),
        ('{"$Order":{"number":1,"lines":[],"a":1}}', r"\(unexpected: a\)"),
        ('{"$Point":{"x":1,"z":1}}', r"\$Point: .*\(missing: y; unexpected: z\)"),
        ('{"$Point":[1,2]}', "its fields are not a dictionary"),
        ('{"$Row":{"$dict":[[1,1]]}}', r"missing: a, b, doubled; unexpected: 1"),
        ('{"$Colour":"BLUE"}', r"\$Colour: its class has no member 'BLUE'"),
        ('{"$Colour":["RED"]}', r"\$Colour cannot be read: TypeError"),
        ('{"$Access":4}', r"\$Access cannot be read: ValueError"),
        ('{"$Access":"READ"}', r"\$Access cannot be read"),
    ],
)
def test_a_class_that_has_changed_is_named_with_its_fields(text: str, reason: str) -> None:
    with pytest.raises(SerializationError, match=reason):
        ALLOWING.decode(_renamed(CODEC.encode("x"), b'"x"', text.encode()))


def test_tags_can_be_chosen() -> None:
    types: dict[str, type | TypeAdapter[Any]] = {"order": Order}
    types["f"] = TypeAdapter("fraction", Fraction, str, Fraction)

    codec = JsonCodec(types)

    assert written(Order(1), codec) == '{"$order":{"number":1,"lines":{"$tuple":[]}}}'
    assert written(Fraction(1, 2), codec) == '{"$f":"1/2"}'
    assert again([Order(1), Fraction(1, 2)], codec) == [Order(1), Fraction(1, 2)]


def test_an_adapter_may_return_anything_that_is_kept() -> None:
    codec = JsonCodec(
        [TypeAdapter("c", complex, lambda c: {"$a": (c.real, c.imag)}, lambda plain: complex(*plain["$a"]))]
    )

    assert again(1 + 2j, codec) == 1 + 2j


def test_an_adapter_that_never_ends_is_refused() -> None:
    codec = JsonCodec([TypeAdapter("loop", Zone, lambda zone: zone, lambda plain: Zone())])

    assert "contains itself" in refusal(Zone(), codec).reason


def test_an_adapter_that_raises_is_named() -> None:
    codec = JsonCodec([TypeAdapter("fraction", Fraction, lambda value: 1 / 0, Fraction)])

    error = refusal([Fraction(1)], codec)

    assert (error.path, error.type) == ("$[0]", "fractions.Fraction")
    assert isinstance(error.__cause__, ZeroDivisionError)


# -- classes that cannot be allowed ---------------------------------------------------------------


class Abstract(abc.ABC):
    @abc.abstractmethod
    def run(self) -> None: ...


@attrs.define
class AbstractOrder(Abstract):
    x: int


@dataclasses.dataclass
class FailureError(Exception):
    code: int


class Slotted:
    __slots__ = ("hidden",)


@attrs.define
class Hiding(Slotted):
    x: int

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@pytest.mark.parametrize(
    ("types", "error", "reason"),
    [
        ([Fraction], TypeError, "fractions.Fraction is no attrs class"),
        ([dict], TypeError, "dict is no attrs class"),
        (["Order"], TypeError, "'Order' is not a class"),
        ([list[int]], TypeError, "is not a class"),
        ([Order(1)], TypeError, "is not a class"),
        ([AbstractOrder], TypeError, "abstract"),
        ([FailureError], TypeError, "use a TypeAdapter"),
        ([Hiding], TypeError, r"slots beyond its fields \(hidden\)"),
        ([Order, Order], ValueError, "allowed already"),
        ({"a": Order, "b": Order}, ValueError, "allowed already"),
        (
            [TypeAdapter("when", datetime, str, datetime.fromisoformat)],
            ValueError,
            "datetime.datetime is allowed already",
        ),
        ([TypeAdapter("strings", str, str, str)], ValueError, "str is allowed already"),
        ([Order, type("Order", (Order,), {})], ValueError, "the tag 'Order' of .*Order is that of .*Order: choose"),
        ({"str": Order}, ValueError, "the tag 'str' of .*Order is the codec's own"),
        ({"set": Order}, ValueError, "the tag 'set' of .*Order is the codec's own"),
        ({"datetime": Order}, ValueError, "the tag 'datetime' of .*Order is that of datetime.datetime"),
        ({"a b": Order}, ValueError, "'a b' is no tag"),
        ({"": Order}, ValueError, "'' is no tag"),
        ({"x" * 65: Order}, ValueError, "is no tag"),
        ({1: Order}, ValueError, "1 is no tag"),
    ],
)
def test_what_cannot_be_allowed_is_refused_when_the_codec_is_made(
    types: Any, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        JsonCodec(types)


@pytest.mark.parametrize(
    "arguments", [("t", "Order", str, str), ("t", Order, None, str), ("t", Order, str, 5)], ids=["class", "to", "from"]
)
def test_an_adapter_is_checked_when_it_is_made(arguments: Any) -> None:
    with pytest.raises(TypeError):
        TypeAdapter(*arguments)
