"""Names of executors and runs: unique among all that ever were."""

from __future__ import annotations

import hashlib
import os
import socket
import time
import uuid
from pathlib import Path

__all__ = ["is_gone", "new_owner", "new_run_id"]

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID = Path("/etc/machine-id")
_NAMESPACE = Path("/proc/self/ns/pid")
_PROCESSES = Path("/proc")
_FIELDS = 5


def new_owner() -> str:
    """Return a name for an executor of this process: ``host|boot|process id|process start|unique``."""
    return "|".join([*_place(), str(os.getpid()), _process_start(os.getpid()) or "", uuid.uuid4().hex[:12]])


def is_gone(owner: str) -> bool:
    """Return whether an owner was a process of this host that is gone; False whenever that is not certain."""
    parts = owner.split("|")
    if len(parts) != _FIELDS:
        return False
    host, boot, pid, started, _ = parts
    here, now = _place()
    if host != here or not boot or not now:
        return False
    (machine, started_at), (this, started_now) = _boot(boot), _boot(now)
    if started_at != started_now:
        # The machine has been started anew since, unless it is another one that has the same name.
        return bool(this) and machine == this
    # Process ids mean the same only within one namespace: containers may share host name and boot.
    return boot == now and bool(started) and pid.isdecimal() and _has_ended(int(pid), started)


def _place() -> tuple[str, str]:
    """Return the host, and ``machine.boot:namespace of process ids``, which is empty where it cannot be known."""
    host = socket.gethostname().replace("|", "_")
    try:
        return host, f"{_machine()}.{_BOOT_ID.read_text().strip()}:{_NAMESPACE.readlink()}"
    except OSError:
        return host, ""


def _machine() -> str:
    """Return what tells machines of one name apart, ``""`` where there is no such thing.

    Hashed with a key, as machine-id(5) wants it: the id itself is confidential.
    """
    try:
        return hashlib.blake2s(_MACHINE_ID.read_bytes().strip(), key=b"dagflow", digest_size=6).hexdigest()
    except OSError:
        return ""


def _boot(place: str) -> tuple[str, str]:
    machine, _, boot = place.partition(":")[0].rpartition(".")
    return machine, boot


def _has_ended(pid: int, started: str) -> bool:
    """Return whether the process with this number that was started then has ended."""
    found = _process_start(pid)
    # Where /proc shows nobody but one's own processes, those of others are there all the same.
    return not _exists(pid) if found is None else found != started


def _process_start(pid: int) -> str | None:
    """Return when a process was started, in clock ticks since the boot; ``None`` when nothing is to be seen of it."""
    try:
        stat = (_PROCESSES / str(pid) / "stat").read_text()
    except OSError:
        return None
    # Field 22 of proc(5); the second one is the command in brackets and may hold blanks. A zombie runs nothing any
    # more.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def new_run_id() -> str:
    """Return a new run id that sorts by time: UUID version 7 of RFC 9562, Unix milliseconds and random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
