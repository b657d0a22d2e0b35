"""The environment variables that a proxy reads, as ``/env.json`` shows them."""

from __future__ import annotations

import os
import re

__all__ = ["shown_environment"]

_OURS = ("LINKERD2_PROXY_", "OTEL_", "SPIFFE_")
_USER = re.compile(r"//[^/?#\s]*@")  # and password, of an URL
_SECRET = re.compile("TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|HEADERS|PRIVATE|_KEY")


def shown_environment(query: str = "") -> dict[str, str | None]:
    """Return the variables that are the proxy's business, by name; what names a secret is shown as ``(redacted)``.

    Args:
        query: Names joined by ``&``: only these, with None for one that is not set.

    Other variables belong to whoever started the process, and often hold secrets.
    """
    ours = {name: _shown(name, value) for name, value in sorted(os.environ.items()) if name.startswith(_OURS)}
    if not query:
        return dict(ours)
    return {name: ours.get(name) for name in query.split("&") if name}


def _shown(name: str, value: str) -> str:
    if _SECRET.search(name) and not name.endswith(("_FILE", "_DIR")):
        return "(redacted)"
    return _USER.sub("//(redacted)@", value)
