"""Who may come in: hosts, origins and credentials, for HTTP and WebSockets alike.

Everything is denied unless it is allowed. Paths are taken as they were sent: what is encoded or doubled in them is
another path, so nothing can pass for one of those that are open.
"""

from __future__ import annotations

import hmac
import inspect
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from dagflow.web._problems import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from starlette.requests import HTTPConnection

    Auth: TypeAlias = Callable[[HTTPConnection], Any | Awaitable[Any]]

__all__ = ["OPEN_PATHS", "Guard", "bearer_token", "sent_path"]

OPEN_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/health/startup"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def bearer_token(*tokens: str) -> Auth:
    """Return an ``auth`` that takes ``Authorization: Bearer`` with one of these tokens.

    Raises:
        ValueError: There is no token, or an empty one.
    """
    if not tokens or not all(isinstance(token, str) and token.strip() for token in tokens):
        raise ValueError("a token is a text that is not empty: pass bearer_token('...')")
    known = [token.encode() for token in tokens]

    def auth(connection: HTTPConnection) -> str | None:
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        sent = given.strip().encode("latin-1", "replace")
        # Each of them is compared, so that the time tells nothing.
        matches = [hmac.compare_digest(sent, token) for token in known]
        return "bearer" if any(matches) else None

    return auth


def sent_path(scope: MutableMapping[str, Any]) -> str:
    """Return the path within this app as it was sent, percent signs and all."""
    path, root = scope["path"], scope.get("root_path", "").rstrip("/")
    inside = path[len(root) :] if root and (path == root or path.startswith(f"{root}/")) else path
    raw = scope.get("raw_path")
    if raw is None:
        return quote(inside or "/", safe="/:@!$&'()*+,;=-._~")
    sent = raw.decode("latin-1").partition("?")[0]
    if inside is path:
        return sent or "/"
    for prefix in (root, quote(root)):
        if sent == prefix or sent.startswith(f"{prefix}/"):
            return sent[len(prefix) :] or "/"
    # The prefix was written in a way of its own: no path of this app is meant.
    return f"//{sent}"


class Guard:
    """Lets connections in, or says why not.

    Args:
        auth: Takes the connection and returns a principal; ``None``, ``False`` and what is empty refuse it. Without
            one everybody is let in.
        hosts: Names in ``Host`` that are answered, ``*.example.com`` for all below; any when there is none.
        origins: Values of ``Origin`` that are answered besides the app's own.
    """

    def __init__(self, auth: Auth | None, hosts: Iterable[str], origins: Iterable[str]) -> None:
        self._auth = auth
        self._hosts = tuple(host.lower() for host in ([hosts] if isinstance(hosts, str) else hosts))
        given = [origins] if isinstance(origins, str) else origins
        self._origins = frozenset(origin.lower().rstrip("/") for origin in given)

    async def check(self, connection: HTTPConnection, path: str, method: str) -> None:
        """Return when a connection may come in.

        Probes come in always: they name the address of a container as their host, and bear no credentials.

        Raises:
            Problem: It may not.
        """
        if path in OPEN_PATHS and method in _SAFE:
            return
        self._check_host(connection)
        self._check_origin(connection, method)
        if self._auth is None:
            return
        principal = self._auth(connection)
        if inspect.isawaitable(principal):
            principal = await principal
        # A callable that answers yes or no means it so, and a proxy that knows nobody may send an empty name.
        if not principal:
            raise Problem(401, "this needs credentials: none came, or wrong ones", {"WWW-Authenticate": "Bearer"})
        connection.scope["dagflow.principal"] = principal

    def _check_host(self, connection: HTTPConnection) -> None:
        if not self._hosts:
            return
        given = connection.headers.get("host", "").lower()
        if not any(_matches(_host_name(given), allowed) or given == allowed for allowed in self._hosts):
            raise Problem(400, "this host name is none of allowed_hosts")

    def _check_origin(self, connection: HTTPConnection, method: str) -> None:
        origin = connection.headers.get("origin")
        if origin is None or (method in _SAFE and not self._origins):
            return
        origin = origin.lower().rstrip("/")
        host = connection.headers.get("host", "").lower()
        if host and origin in (f"http://{host}", f"https://{host}"):
            return
        if origin not in self._origins:
            raise Problem(403, "this origin is none of allowed_origins")


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def _matches(host: str, allowed: str) -> bool:
    if allowed.startswith("*."):
        return host.endswith(allowed[1:]) and len(host) > len(allowed) - 1
    return allowed in ("*", host)
