"""The web app: runs, their events and their health over HTTP, to be mounted into an application or served alone."""

from __future__ import annotations

from dagflow.errors import MissingExtraError

try:
    import starlette as _starlette
except ImportError as exc:
    raise MissingExtraError("the web app", "web") from exc

from dagflow.web._app import WebApp, create_app, lifespan
from dagflow.web._guard import bearer_token

__all__ = ["WebApp", "bearer_token", "create_app", "lifespan"]

del _starlette
