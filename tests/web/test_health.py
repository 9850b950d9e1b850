"""Checks: what is well, what is not, and that none of them can hurt another one or the process."""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import TYPE_CHECKING, Any

import pytest

from dagflow import DAGExecutor
from dagflow.health import HealthRegistry, disk_check, lease_check, loop_check, store_check

if TYPE_CHECKING:
    from pathlib import Path


async def result_of(check: Any, **options: Any) -> Any:
    registry = HealthRegistry(cache=0)
    registry.add("it", check, **options)
    return (await registry.report()).checks[0]


@pytest.mark.parametrize(("said", "healthy"), [(None, True), (True, True), (False, False), ("fine", True), (0, True)])
async def test_a_check_is_well_unless_it_says_false(said: object, healthy: bool) -> None:
    async def later() -> object:
        return said

    for check in (lambda: said, later, functools.partial(lambda call: call(), later)):
        result = await result_of(check)
        assert result.healthy is healthy
        assert result.detail == (None if said is None or isinstance(said, bool) else said)


async def test_a_check_that_raises_is_not_well_and_its_password_is_not_told() -> None:
    def broken() -> None:
        raise OSError("cannot reach postgresql://ada:p@ss@host/db with password='hunter2 x'")

    result = await result_of(broken)

    assert not result.healthy
    assert "OSError" in result.detail
    assert "host/db" in result.detail
    assert "p@ss" not in result.detail
    assert "hunter2" not in result.detail


async def test_what_a_check_says_is_shown_as_json_has_it() -> None:
    class Odd:
        def __str__(self) -> str:
            raise LookupError

    said = {"none": None, "nan": float("nan"), "list": [1], "odd": Odd(), 1: {"url": "http://ada:hunter2@host"}}

    result = await result_of(lambda: said)

    assert result.detail == {"none": None, "nan": "nan", "list": "[1]", "odd": "Odd", "1": {"url": "http://...@host"}}


async def test_a_check_may_say_its_verdict_and_its_reason() -> None:
    registry = HealthRegistry().add("no", lambda: (False, "too old")).add("yes", lambda: (True, {"age": 1}))

    checks = (await registry.report()).checks

    assert [(check.healthy, check.detail) for check in checks] == [(False, "too old"), (True, {"age": 1})]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration()])
async def test_no_error_of_a_check_ends_the_process(error: BaseException) -> None:
    def broken() -> None:
        raise error

    assert not (await result_of(broken)).healthy


async def test_checks_that_hang_are_not_well_and_are_not_called_again_meanwhile() -> None:
    gate, calls = threading.Event(), []

    def sync() -> None:
        calls.append("sync")
        gate.wait(30)

    async def never() -> None:
        await asyncio.Event().wait()

    registry = HealthRegistry(cache=0)
    registry.add("sync", sync, timeout=0.02)
    registry.add("async", never, timeout=0.02)
    registry.add("fine", lambda: None)
    first, second = await registry.report(), await registry.report()
    gate.set()

    assert [check.healthy for check in first.checks] == [False, False, True]
    assert [check.healthy for check in second.checks] == [False, False, True]
    assert calls == ["sync"]


async def test_a_sync_check_does_not_hold_the_loop_up() -> None:
    gate = threading.Event()
    registry = HealthRegistry()
    registry.add("slow", lambda: gate.wait(30), timeout=30)
    report = asyncio.create_task(registry.report())
    await asyncio.sleep(0)

    # Only a loop that goes round can open the gate.
    asyncio.get_running_loop().call_later(0.01, gate.set)

    assert (await report).healthy


async def test_a_check_that_is_not_critical_degrades() -> None:
    registry = HealthRegistry()
    registry.add("nice", lambda: False, critical=False)

    report = await registry.report()

    assert (report.healthy, report.status) == (True, "degraded")


async def test_a_report_is_shared_and_kept_for_a_while() -> None:
    calls: list[int] = []
    registry = HealthRegistry(cache=60)
    registry.add("counted", lambda: calls.append(1))

    await asyncio.gather(*(registry.report() for _ in range(10)))
    await registry.report()

    assert calls == [1]


async def test_a_collector_is_shown_what_was_found_and_may_fail() -> None:
    shown: dict[str, bool] = {}

    class Collector:
        def update_health_status(self, check_type: str, healthy: bool) -> None:
            shown[check_type] = healthy
            raise LookupError

    registry = HealthRegistry(metrics=Collector())
    registry.add("good", lambda: None)
    registry.add("bad", lambda: False)
    await registry.report()

    assert shown == {"good": True, "bad": False}


def test_what_is_no_check_is_refused() -> None:
    registry = HealthRegistry()
    registry.add("one", lambda: None)

    with pytest.raises(ValueError, match="already"):
        registry.add("one", lambda: None)
    with pytest.raises(ValueError, match="timeout"):
        registry.add("two", lambda: None, timeout=0)
    with pytest.raises(TypeError, match="cannot be called"):
        registry.add("two", "text")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is no name for a check: use 1 to"):
        registry.add("", lambda: None)
    with pytest.raises(ValueError, match="cache must be at least 0 seconds, not -1"):
        HealthRegistry(cache=-1)


async def test_store_leases_loop_and_disk_can_be_asked(tmp_path: Path) -> None:
    async with DAGExecutor("memory://") as executor:
        for check in (store_check(executor), lease_check(executor), loop_check(), disk_check(tmp_path)):
            assert (await result_of(check)).healthy
    assert not (await result_of(store_check(executor))).healthy
    assert not (await result_of(disk_check(tmp_path, min_free_bytes=2**80))).healthy
    assert not (await result_of(disk_check(tmp_path / "none"))).healthy


async def test_leases_that_were_not_renewed_and_a_late_loop_are_not_well() -> None:
    class Late:
        is_open = True
        lease = 30.0
        lease_age = 21.0

        async def runs(self, *, limit: int) -> Any:
            return []

    class Patient(Late):
        lease = 120.0

    assert not (await result_of(lease_check(Late()))).healthy
    assert (await result_of(lease_check(Late(), max_age=22))).healthy
    assert (await result_of(lease_check(Patient()))).healthy
    assert not (await result_of(lease_check(Patient(), max_age=20))).healthy
    assert not (await result_of(loop_check(max_lag=-1.0))).healthy
