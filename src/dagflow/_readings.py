"""What a collector reads and is given: figures of this process, and words and numbers that are checked."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

__all__ = ["amount", "cpu_seconds", "fraction", "memory_bytes_now", "uptime_s", "verdict", "word"]


def word(name: str, value: object, *, empty: bool = False) -> str:
    """Return the value of a label.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty and may not be.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, not {value!r}")
    if not value and not empty:
        raise ValueError(f"{name} must not be empty")
    # A member of an enumeration counts by its value.
    return str.__str__(value)


def verdict(name: str, value: object, pair: tuple[str, str], *others: str) -> str:
    """Return one of the words of a status; the first of the pair stands for true, the second for false.

    Raises:
        ValueError: It is none of them.
    """
    if isinstance(value, bool):
        return pair[0] if value else pair[1]
    if value not in (*pair, *others):
        raise ValueError(f"{name} must be one of {', '.join((*pair, *others))}, not {value!r}")
    return str.__str__(str(value))


def amount(name: str, value: float) -> float:
    """Return a number of at least 0.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be at least 0, not {value!r}")
    return float(value)


def fraction(name: str, value: float) -> float:
    """Return a number from 0 to 1.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of its range.
    """
    if amount(name, value) > 1:
        raise ValueError(f"{name} must be from 0 to 1, not {value!r}")
    return float(value)


def cpu_seconds() -> float:
    """Return the seconds that all threads of this process have had of the processors."""
    return time.process_time()


def memory_bytes_now() -> float:
    """Return the bytes of memory that this process holds; where nobody tells, the most that it has held."""
    try:
        return float(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, IndexError):
        return _peak_bytes()


def _peak_bytes() -> float:
    try:
        import resource  # noqa: PLC0415 - there is none on Windows
    except ImportError:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def uptime_s() -> float:
    """Return the seconds since this process was started, or a moment where nobody tells."""
    try:
        begun = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - begun, 0.001)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.001
