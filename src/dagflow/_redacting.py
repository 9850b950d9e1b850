"""Takes passwords out of texts that leave the process."""

from __future__ import annotations

import re

__all__ = ["redacted", "unsecret"]

# Of a URL, all between the scheme and the last @ before the path: passwords may hold any character, an @ included.
# All parts are bounded: a long text must not take long.
_IN_URL = re.compile(r"(?P<scheme>(?<![a-zA-Z0-9+.-])[a-zA-Z][a-zA-Z0-9+.-]{0,30}://)[^\s'\"]{0,300}@")
_NAMED = re.compile(
    r"(?P<name>\b[a-z0-9_]{0,60}(?:password|passwd|pwd|secret|token|api_?key)['\"]?\s{0,9}[=:]\s{0,9})"
    r"(?:'(?:[^'\\]|\\.)*'|\"[^\"]*\"|[^\s,;&'\"]+)",
    re.IGNORECASE,
)
_MOST = 500


def unsecret(text: str) -> str:
    """Return a text without what may be a password."""
    return _NAMED.sub(r"\g<name>...", _IN_URL.sub(r"\g<scheme>...@", text))


def redacted(text: object) -> str:
    """Return a text without what may be a password, and not longer than a message should be."""
    # Long texts are cut first, with room for what is taken out.
    short = unsecret(str(text)[: 8 * _MOST])
    return short if len(short) <= _MOST else f"{short[: _MOST - 3]}..."
