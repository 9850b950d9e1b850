"""The program's main module in a worker: functions and classes that stand in it are found there as well.

It is imported only for a call that names something of it, and then under the name ``__mp_main__``, as the standard
library does it for its processes: what stands under ``if __name__ == "__main__":`` does not run.
"""

from __future__ import annotations

import os
import sys

__all__ = ["check_not_importing", "import_main", "locate_main"]

_importing: list[dict[str, str]] = []


def locate_main() -> dict[str, str]:
    """Return where the main module of this process is; nothing when it is no file, as in a notebook."""
    module = sys.modules["__main__"]
    name = getattr(getattr(module, "__spec__", None), "name", None)
    if name is not None:
        return {"init_main_from_name": name}
    path = getattr(module, "__file__", None) or ""
    # A program that came through standard input calls its file "<stdin>".
    return {"init_main_from_path": path} if os.path.isfile(path) else {}  # noqa: PTH113 - a worker starts without pathlib


def import_main(location: dict[str, str]) -> None:
    """Import the main module of another process."""
    from multiprocessing import spawn  # noqa: PLC0415 - few calls need it

    _importing.append(location)
    try:
        spawn.prepare(dict(location))
    finally:
        _importing.pop()


def check_not_importing() -> None:
    """Refuse to run anything while the main module of another process is being imported.

    Raises:
        ExecutorError: It is, so the program would run itself once more in each of its workers.
    """
    if not _importing:
        return
    from dagflow.errors import ExecutorError  # noqa: PLC0415 - a worker starts without it

    message = (
        "a worker process imports the program's main module to call a function of it, and that runs the program "
        "again: put what runs under 'if __name__ == \"__main__\":', or move the functions to a module of their own"
    )
    raise ExecutorError(message)
