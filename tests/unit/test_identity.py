"""Names of owners and runs, and whether an owner is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from dagflow._identity import is_gone, new_owner, new_run_id
from dagflow._names import check_run_id

if TYPE_CHECKING:
    from pathlib import Path


def owner_of(**parts: str) -> str:
    """The name of an owner like the present process, with some parts replaced."""
    names = ("host", "boot", "pid", "started", "unique")
    return "|".join({**dict(zip(names, new_owner().split("|"), strict=True)), **parts}.values())


def test_an_owner_is_unique_and_says_where_it_lives() -> None:
    owner = new_owner()

    assert owner != new_owner()
    assert owner.split("|")[2] == str(os.getpid())


def test_an_owner_in_this_process_is_not_gone() -> None:
    assert not is_gone(new_owner())


def test_an_owner_in_another_living_process_is_not_gone() -> None:
    code = "import sys; from dagflow._identity import new_owner; print(new_owner(), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        owner = process.stdout.readline().strip()

        assert not is_gone(owner)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        # A process that nobody has buried yet runs nothing any more either.
        assert is_gone(owner)
    assert is_gone(owner)


def test_a_process_that_took_the_number_of_an_owner_is_not_the_owner() -> None:
    assert is_gone(owner_of(started="1"))


@pytest.mark.parametrize("pid", ["2147483646", "4194304999"])
def test_a_process_that_does_not_exist_is_gone(pid: str) -> None:
    assert is_gone(owner_of(pid=pid))


@pytest.mark.parametrize("is_allowed", [True, False])
def test_a_process_that_the_system_hides_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_allowed: bool
) -> None:
    def forbid(_pid: int, _signal: int) -> None:
        raise PermissionError

    owner = new_owner()
    # As /proc looks to other users when it is mounted with hidepid=2.
    monkeypatch.setattr("dagflow._identity._PROCESSES", tmp_path)
    if not is_allowed:
        monkeypatch.setattr(os, "kill", forbid)

    assert not is_gone(owner)


def test_an_owner_of_an_earlier_boot_of_this_host_is_gone() -> None:
    assert is_gone(earlier_boot())


def earlier_boot() -> str:
    """The name of an owner like the present process, before its machine was started anew."""
    place, _, namespace = owner_of().split("|")[1].partition(":")
    return owner_of(boot=f"{place.partition('.')[0]}.00000000-0000-0000-0000-000000000000:{namespace}")


def test_an_owner_on_another_machine_of_the_same_name_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "machine-id").write_text("another\n")
    elsewhere = earlier_boot()

    monkeypatch.setattr("dagflow._identity._MACHINE_ID", tmp_path / "machine-id")
    assert not is_gone(elsewhere)


def test_machines_that_have_no_id_are_not_taken_for_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagflow._identity._MACHINE_ID", tmp_path / "no id")

    assert not is_gone(earlier_boot())


@pytest.mark.parametrize(
    "owner",
    [
        "somebody",
        "",
        "a|b|c|d",
        "a|b|c|d|e|f",
        owner_of(host="elsewhere", pid="4194304999"),
        owner_of(boot="", pid="4194304999"),
        owner_of(boot=f"{owner_of().split('|')[1]}0", pid="4194304999"),
        owner_of(started=""),
        owner_of(pid="one"),
    ],
)
def test_an_owner_is_not_gone_when_that_is_not_certain(owner: str) -> None:
    assert not is_gone(owner)


def test_where_the_system_says_nothing_nobody_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = owner_of(pid="4194304999")
    monkeypatch.setattr("dagflow._identity._BOOT_ID", _Nowhere())

    assert new_owner().split("|")[1] == ""
    assert not is_gone(gone)


class _Nowhere:
    def read_text(self) -> str:
        raise FileNotFoundError


def test_run_ids_are_unique_valid_and_sort_by_time() -> None:
    ids = [new_run_id() for _ in range(200)]

    assert len(set(ids)) == 200
    assert [i[:8] for i in ids] == sorted(i[:8] for i in ids)
    for run_id in ids:
        check_run_id(run_id, workflow="w")
        assert (uuid.UUID(run_id).version, uuid.UUID(run_id).variant) == (7, uuid.RFC_4122)
