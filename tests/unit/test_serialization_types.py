"""The codec on the leaf types of the standard library."""

from __future__ import annotations

import math
import struct
import zoneinfo
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Context, Decimal, localcontext
from hashlib import sha256
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID

import pytest

from dagflow import _tagging
from dagflow._events import Payload
from dagflow.errors import SerializationError
from dagflow.serialization import JsonCodec, TypeAdapter, immutable

CODEC = JsonCodec()
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def written(value: object, codec: JsonCodec = CODEC) -> str:
    return codec.encode(value).data.decode()


def again(value: object, codec: JsonCodec = CODEC) -> Any:
    return codec.decode(codec.encode(value))


def refusal(value: object, codec: JsonCodec = CODEC) -> SerializationError:
    with pytest.raises(SerializationError) as caught:
        codec.encode(value)
    return caught.value


# -- leaf types -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\0\xff", '{"$bytes":"AP8="}'),
        (bytearray(b"ab"), '{"$bytearray":"YWI="}'),
        (datetime(2024, 2, 29, 1, 2, 3, 4), '{"$datetime":"2024-02-29T01:02:03.000004"}'),  # noqa: DTZ001
        (datetime(2024, 2, 29, tzinfo=UTC), '{"$datetime":"2024-02-29T00:00:00+00:00"}'),
        (
            datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=-1, seconds=1))),
            '{"$datetime":"0001-01-01T00:00:00-00:59:59"}',
        ),
        (
            time(1, tzinfo=timezone(timedelta(microseconds=1))),
            '{"$time":{"local":"01:00:00","tzinfo":{"$timezone":[{"$timedelta":[0,0,1]}]},"fold":0}}',
        ),
        (
            datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
            '{"$datetime":{"local":"2024-10-27T02:30:00","tzinfo":{"$zone":"Europe/Berlin"},"fold":1}}',
        ),
        (
            datetime(2024, 1, 1, fold=1),  # noqa: DTZ001
            '{"$datetime":{"local":"2024-01-01T00:00:00","tzinfo":null,"fold":1}}',
        ),
        (
            datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "CET")),
            (
                '{"$datetime":{"local":"2024-01-01T00:00:00",'
                '"tzinfo":{"$timezone":[{"$timedelta":[0,3600,0]},"CET"]},"fold":0}}'
            ),
        ),
        (date(2024, 2, 29), '{"$date":"2024-02-29"}'),
        (time(1, 2, 3, 4), '{"$time":"01:02:03.000004"}'),
        (time(1, 2, tzinfo=UTC), '{"$time":"01:02:00+00:00"}'),
        (time(1, fold=1, tzinfo=BERLIN), '{"$time":{"local":"01:00:00","tzinfo":{"$zone":"Europe/Berlin"},"fold":1}}'),
        (timedelta(-1, 2, 3), '{"$timedelta":[-1,2,3]}'),
        (UTC, '{"$timezone":[{"$timedelta":[0,0,0]}]}'),
        (timezone(timedelta(hours=1), "CET"), '{"$timezone":[{"$timedelta":[0,3600,0]},"CET"]}'),
        (BERLIN, '{"$zone":"Europe/Berlin"}'),
        (Decimal("-0.00"), '{"$decimal":"-0.00"}'),
        (Decimal("1E+30"), '{"$decimal":"1E+30"}'),
        (Decimal("-sNaN123"), '{"$decimal":"-sNaN123"}'),
        (Decimal("-Infinity"), '{"$decimal":"-Infinity"}'),
        (UUID(int=1), '{"$uuid":"00000000-0000-0000-0000-000000000001"}'),
        (PurePosixPath("a/\udc80"), r'{"$pureposixpath":"a/\udc80"}'),
        (PureWindowsPath("c:/a"), r'{"$purewindowspath":"c:\\a"}'),
        (Path("/tmp"), f'{{"${type(Path()).__name__.lower()}":{written(str(Path("/tmp")))}}}'),
    ],
)
def test_leaf_types_come_back_exactly(value: Any, text: str) -> None:
    copy = again(value)

    assert written(value) == text
    assert type(copy) is type(value)
    assert repr(copy) == repr(value)
    assert getattr(copy, "fold", 0) == getattr(value, "fold", 0)
    assert immutable(value) is (type(value) is not bytearray)


def test_a_nan_keeps_its_bits() -> None:
    for bits in ("7ff8000000000000", "fff8000000000000", "7ff8000000000001"):
        value = struct.unpack(">d", bytes.fromhex(bits))[0]

        assert struct.pack(">d", again(value)).hex() == bits
    assert written(math.nan) == '{"$float":"nan"}'


def test_two_nan_of_a_set_stay_two() -> None:
    assert len(again({float("nan"), float("nan")})) == 2


def test_the_decimal_context_of_a_thread_changes_nothing() -> None:
    usual = CODEC.encode(Decimal("1E+30"))

    with localcontext(Context(prec=1, capitals=0, traps=[])):
        assert CODEC.encode(Decimal("1E+30")) == usual
        assert CODEC.decode(CODEC.encode(Decimal("1.234567"))) == Decimal("1.234567")
        with pytest.raises(SerializationError):
            CODEC.decode(_renamed(usual, b"1E+30", b"one"))


def _renamed(kept: Payload, old: bytes, new: bytes) -> Payload:
    data = kept.data.replace(old, new)
    return Payload("json", data, sha256(data).digest())


def test_a_zone_outside_of_the_database_is_refused(tmp_path: Path) -> None:
    source = next(path for root in zoneinfo.TZPATH if (path := Path(root, "Europe", "Berlin")).is_file())
    with source.open("rb") as file:
        anonymous = zoneinfo.ZoneInfo.from_file(file)
    with source.open("rb") as file:
        impostor = zoneinfo.ZoneInfo.from_file(file, key="Europe/Berlin")

    assert refusal([anonymous]).path == "$[0]"
    assert refusal(impostor).type == "zoneinfo.ZoneInfo"


def test_a_zone_that_only_another_machine_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = CODEC.encode(BERLIN)
    monkeypatch.setattr(_tagging, "_is_zone", lambda key: False)

    assert "not in the time-zone database" in refusal(BERLIN).reason
    with pytest.raises(SerializationError, match=r"no zone 'Europe/Berlin': install or update tzdata"):
        CODEC.decode(kept)


def test_a_zone_may_come_from_the_package_instead_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoneinfo, "TZPATH", ())
    monkeypatch.setattr(_tagging, "_known_zones", lambda: {"Made/Up"})
    _tagging._is_zone.cache_clear()

    assert _tagging._is_zone("Made/Up")
    assert not _tagging._is_zone("Europe/Berlin")

    _tagging._is_zone.cache_clear()


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


def test_a_time_zone_class_of_the_user_can_be_allowed() -> None:
    codec = JsonCodec([TypeAdapter("my_zone", Zone, lambda zone: None, lambda plain: Zone())])
    value = datetime(2024, 1, 1, tzinfo=Zone())

    assert again(value, codec) == value
    assert isinstance(again(value, codec).tzinfo, Zone)


def test_a_path_that_its_text_does_not_give_is_refused() -> None:
    codec = JsonCodec([TypeAdapter("odd", OddPath, _tagging._path_to_plain, OddPath)])

    assert "return its parts" in refusal(OddPath("a"), codec).reason


class OddPath(PurePosixPath):
    def __str__(self) -> str:
        return "b"

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = PurePosixPath.__hash__
