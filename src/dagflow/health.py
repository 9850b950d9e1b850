"""Health: checks with a time limit each, and what an executor can be asked.

A registry runs its checks side by side. One that raises, says ``False`` or does not answer in time is unhealthy; no
check holds another one up, and none blocks the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import shutil
import threading
from typing import TYPE_CHECKING, Any, Protocol, Self

import attrs

from dagflow._binding import is_async
from dagflow._log import LOGGER
from dagflow._redacting import redacted

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Iterable

__all__ = [
    "CheckResult",
    "HealthRegistry",
    "HealthReport",
    "disk_check",
    "lease_check",
    "loop_check",
    "store_check",
]

_MOST_NAME = 128


@attrs.frozen
class CheckResult:
    """What one check has found.

    Attributes:
        name: The check.
        healthy: Whether all is well.
        critical: Whether the whole report is unhealthy when this check is not well.
        detail: What the check said, or why it is unhealthy; never a password.
        duration: Seconds that it took.
    """

    name: str
    healthy: bool
    critical: bool = True
    detail: Any = None
    duration: float = 0.0


@attrs.frozen
class HealthReport:
    """What all checks have found.

    Attributes:
        checks: In the order in which they were added.
    """

    checks: tuple[CheckResult, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether every critical check is well."""
        return all(check.healthy for check in self.checks if check.critical)

    @property
    def status(self) -> str:
        """``healthy``; ``degraded`` when a check is not well that is not critical; ``unhealthy``."""
        if not self.healthy:
            return "unhealthy"
        return "healthy" if all(check.healthy for check in self.checks) else "degraded"

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        checks = {check.name: _shown(check) for check in self.checks}
        return {"status": self.status, "healthy": self.healthy, "checks": checks}


class HealthSink(Protocol):
    """Is shown what checks have found, as a `MetricsCollector` is."""

    def update_health_status(self, check_type: str, healthy: bool) -> None:  # noqa: FBT001 - it is the figure
        """Show whether a check is well."""


@attrs.define(eq=False)
class _Check:
    """A check, and its call while that is going on."""

    name: str
    function: Callable[[], Any]
    critical: bool
    timeout: float
    call: asyncio.Future[Any] | None = None


class HealthRegistry:
    """Checks by name.

    Example:
        >>> import asyncio
        >>> registry = HealthRegistry()
        >>> _ = registry.add("licence", lambda: True)
        >>> asyncio.run(registry.report()).status
        'healthy'

    Args:
        metrics: Is shown what the checks have found.
        cache: Seconds for which a report is given again without asking anybody.
    """

    def __init__(self, *, metrics: HealthSink | None = None, cache: float = 1.0) -> None:
        if cache < 0:
            raise ValueError(f"cache must be at least 0 seconds, not {cache!r}")
        self.metrics = metrics
        self._cache = cache
        self._checks: dict[str, _Check] = {}
        self._report: tuple[asyncio.AbstractEventLoop, float, HealthReport] | None = None
        self._asking: asyncio.Task[HealthReport] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The checks, in the order in which they were added."""
        return tuple(self._checks)

    def add(self, name: str, check: Callable[[], Any], *, critical: bool = True, timeout: float = 2.0) -> Self:
        """Add a check, and return the registry.

        Args:
            name: Names it in reports.
            check: Takes nothing, sync or async. It is well unless it raises, returns ``False`` or takes too long; what
                it returns besides ``None`` and ``True`` is shown as its detail; a pair is the verdict and the detail. A
                sync one is called in a thread.
            critical: Whether the whole report is unhealthy when this check is not well.
            timeout: Seconds that it may take, above 0.

        Raises:
            ValueError: There is a check of this name, or the name or the time limit is none.
            TypeError: The check cannot be called.
        """
        if not isinstance(name, str) or not 1 <= len(name) <= _MOST_NAME:
            raise ValueError(f"{name!r} is no name for a check: use 1 to {_MOST_NAME} characters")
        if name in self._checks:
            raise ValueError(f"there is a check {name!r} already: choose another name")
        if not callable(check):
            raise TypeError(f"{check!r} cannot be called: a check is a function that takes nothing")
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, not {timeout!r}")
        self._checks[name] = _Check(name, check, critical, float(timeout))
        self._report = None
        return self

    async def report(self) -> HealthReport:
        """Return what the checks find, or have found a moment ago; takes as long as the longest time limit at most."""
        loop = asyncio.get_running_loop()
        if self._report is not None and self._report[0] is loop and loop.time() - self._report[1] < self._cache:
            return self._report[2]
        if self._asking is None or self._asking.done() or self._asking.get_loop() is not loop:
            self._asking = loop.create_task(self._ask(), name="dagflow-health")
        # One that stops waiting does not take the answer from the others.
        return await asyncio.shield(self._asking)

    async def _ask(self) -> HealthReport:
        results = await asyncio.gather(*(_ask(check) for check in self._checks.values()))
        report = HealthReport(tuple(results))
        loop = asyncio.get_running_loop()
        self._report = (loop, loop.time(), report)
        self._show(report.checks)
        return report

    def _show(self, results: Iterable[CheckResult]) -> None:
        if self.metrics is None:
            return
        for result in results:
            try:
                self.metrics.update_health_status(result.name, result.healthy)
            except Exception:  # of the user's collector
                LOGGER.exception("a collector raised, the checks go on", extra={"check": result.name})


async def _ask(check: _Check) -> CheckResult:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    if check.call is not None and not check.call.done() and check.call.get_loop() is loop:
        # A second call would hang beside the first one, and a thread would be lost with every probe.
        return CheckResult(
            check.name, healthy=False, critical=check.critical, detail="its last call has not returned yet"
        )
    call = check.call = _begin(check.function)
    done, _ = await asyncio.wait([call], timeout=check.timeout)
    if done and not call.cancelled() and call.exception() is None and inspect.isawaitable(call.result()):
        call = check.call = loop.create_task(_awaited(call.result()))
        done, _ = await asyncio.wait([call], timeout=max(0.0, begun + check.timeout - loop.time()))
    healthy, detail = _verdict(call) if done else (False, f"it took longer than {check.timeout:g} seconds")
    if not done:
        _give_up(call)
    return CheckResult(check.name, healthy, check.critical, detail, loop.time() - begun)


def _begin(function: Callable[[], Any]) -> asyncio.Future[Any]:
    return asyncio.ensure_future(_called(function)) if is_async(function) else _threaded(function)


async def _called(function: Callable[[], Any]) -> Any:
    return await function()


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _give_up(call: asyncio.Future[Any]) -> None:
    # A thread cannot be stopped: its future stays open until its function has returned.
    if isinstance(call, asyncio.Task):
        call.cancel()
    call.add_done_callback(_forget)


def _threaded(function: Callable[[], Any]) -> asyncio.Future[Any]:
    """Call a function in a thread that nobody has to wait for, not even at the end of the process."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def call() -> None:
        result, error = None, None
        try:
            result = function()
        except BaseException as exc:  # noqa: BLE001 - of the user's check
            error = exc
        # Where the loop is closed, nobody waits any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, answer, result, error)

    threading.Thread(target=call, name="dagflow-health", daemon=True).start()
    return answer


def _settle(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        # What a future cannot carry, or what would end the loop, is told as text.
        fits = isinstance(error, Exception) and not isinstance(error, StopIteration)
        answer.set_exception(error if fits else RuntimeError(f"{type(error).__name__}: {error}"))


def _verdict(call: asyncio.Future[Any]) -> tuple[bool, Any]:
    if call.cancelled():
        return False, "it was cancelled"
    error = call.exception()
    if error is not None:
        text = _text(error)
        return False, f"{type(error).__name__}: {text}" if text else type(error).__name__
    match call.result():
        case (bool() as healthy, detail):
            return healthy, _plain(detail)
        case None | bool() as said:
            return said is not False, None
        case said:
            return True, _plain(said)


def _plain(detail: Any) -> Any:
    """Return a detail as JSON has it, without passwords."""
    if isinstance(detail, int | None) or (isinstance(detail, float) and math.isfinite(detail)):
        return detail
    if isinstance(detail, dict):
        return {_text(key): _plain(value) for key, value in detail.items()}
    return _text(detail)


def _text(detail: object) -> str:
    try:
        return redacted(detail)
    except Exception:  # noqa: BLE001 - of an object of the user's that cannot be shown
        return type(detail).__name__


def _forget(call: asyncio.Future[Any]) -> None:
    """Take the late answer of a check that nobody waits for."""
    if not call.cancelled():
        call.exception()


def _shown(check: CheckResult) -> dict[str, Any]:
    return {
        "healthy": check.healthy,
        "critical": check.critical,
        "detail": check.detail,
        "duration": round(check.duration, 6),
    }


# -- what an executor can be asked ----------------------------------------------------------------


class Asked(Protocol):
    """What checks ask of an executor."""

    @property
    def is_open(self) -> bool:
        """Whether it has been opened and not closed."""
        ...

    @property
    def lease(self) -> float:
        """Seconds after which its leases lapse unless they are renewed."""
        ...

    @property
    def lease_age(self) -> float:
        """Seconds since its leases were last renewed, 0 while it drives nothing."""
        ...

    async def runs(self, *, limit: int) -> Any:
        """Read this many runs from the store; raise what the store raises."""
        ...


def store_check(executor: Asked) -> Callable[[], Any]:
    """Return a check that reads from the store of an executor."""

    async def check() -> None:
        await executor.runs(limit=1)

    return check


def lease_check(executor: Asked, *, max_age: float | None = None) -> Callable[[], Any]:
    """Return a check that the leases of an executor were renewed lately.

    Args:
        executor: Renews every third of its ``lease``.
        max_age: Seconds; ``None`` for two thirds of the lease, which is when its runs stop to start nodes.
    """

    async def check() -> dict[str, float]:
        age, most = executor.lease_age, executor.lease * 2 / 3 if max_age is None else max_age
        if age > most:
            raise TimeoutError(f"the leases were renewed {age:.1f} seconds ago, which is more than {most:g}")
        return {"age": round(age, 3)}

    return check


def loop_check(*, max_lag: float = 1.0) -> Callable[[], Any]:
    """Return a check that the event loop comes round in time.

    Args:
        max_lag: Seconds by which a short sleep may be late.
    """

    async def check() -> dict[str, float]:
        loop = asyncio.get_running_loop()
        due = loop.time() + 0.01
        await asyncio.sleep(0.01)
        lag = max(0.0, loop.time() - due)
        if lag > max_lag:
            raise TimeoutError(f"the event loop is {lag:.2f} seconds late, which is more than {max_lag:g}")
        return {"lag": round(lag, 4)}

    return check


def disk_check(path: str | os.PathLike[str], *, min_free_bytes: int = 256 * 1024 * 1024) -> Callable[[], Any]:
    """Return a check that there is room on the disk of a path.

    Args:
        path: A file or folder on it.
        min_free_bytes: What has to be free.
    """

    def check() -> dict[str, int]:
        free = shutil.disk_usage(path).free
        if free < min_free_bytes:
            raise OSError(f"{free} bytes are free, which is less than {min_free_bytes}")
        return {"free_bytes": free}

    return check
