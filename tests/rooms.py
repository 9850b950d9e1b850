"""All modules of dagflow, by name."""

from __future__ import annotations

import pkgutil

import dagflow
import dagflow.testing

__all__ = ["rooms"]


def rooms() -> list[str]:
    """Return the names of all modules but ``__main__``, ready to be imported in any order."""
    # pytest has to hear of the suite before its modules are imported, or it cannot show what assertions compared.
    assert dagflow.testing.ContextStoreSuite is not None
    names = [module.name for module in pkgutil.walk_packages(dagflow.__path__, "dagflow.")]
    return ["dagflow", *(name for name in names if not name.endswith("__main__"))]
