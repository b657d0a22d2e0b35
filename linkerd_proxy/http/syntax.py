"""The grammar of names, values, targets and authorities: stricter than the libraries, the same for all versions.

Everything raises :exc:`~linkerd_proxy.errors.BadRequest`; whoever reads an upstream's message turns it into an
:exc:`~linkerd_proxy.errors.UpstreamProtocolError`.
"""

from __future__ import annotations

import re

from linkerd_proxy.errors import BadRequest, RequestRefused
from linkerd_proxy.http.memo import remember

__all__ = [
    "MAX_LENGTH",
    "USUAL_METHODS",
    "USUAL_PATH",
    "check_authority",
    "check_method",
    "check_path",
    "check_value",
    "content_length",
    "field_name",
]

MAX_LENGTH = 2**63 - 1
"""The largest content-length: what every peer can hold in a signed 64-bit integer."""

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAD_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
USUAL_PATH = re.compile(r"/[!\"$-~]*")
"""An origin-form path, as text."""

_PATH = re.compile(rb"/[!\"$-~]*")  # visible ASCII but "#": RFC 9112 section 3.2, and what browsers do not encode
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._~%!$&'()*+;=\-]{1,255})(?::([0-9]{1,5}))?")
_DIGITS = re.compile(rb"[0-9]{1,19}")
_MEMO_SIZE = 2048
_MEMO_LENGTH = 64  # longer names are rare, and must not fill the memo

_names: dict[bytes, bytes] = {}
_authorities: dict[bytes, str] = {}


def field_name(name: bytes) -> bytes:
    """Return a field's name in lower case; memoised, for real traffic has few names."""
    lower = _names.get(name)
    if lower is None:
        if not _TOKEN.fullmatch(name):
            raise BadRequest(f"header name {name[:64]!r} is not a token")
        lower = name.lower()
        if len(name) <= _MEMO_LENGTH:
            remember(_names, name, lower, _MEMO_SIZE)
    return lower


def check_value(name: bytes, value: bytes) -> None:
    """Refuse control characters in a field's value."""
    if _BAD_IN_VALUE.search(value):
        raise BadRequest(f"header {name.decode('latin-1')} has a control character in its value")


_METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT")}
USUAL_METHODS = frozenset(_METHODS.values()) - {"CONNECT"}
"""Methods, as text, of requests whose target is a path."""


def check_method(method: bytes) -> str:
    """Return the method, which is a token of at most 64 characters."""
    known = _METHODS.get(method)
    if known is not None:
        return known
    if len(method) > 64 or not _TOKEN.fullmatch(method):
        raise BadRequest(f"method {method[:64]!r} is not a token")
    return method.decode("ascii")


def check_path(path: bytes, method: str, max_target: int) -> str:
    """Return an origin-form path with its query, or ``*`` for OPTIONS."""
    if len(path) > max_target:
        raise RequestRefused(
            f"the target is longer than the {max_target} bytes that Limits(max_target=...) allows", 414
        )
    if not _PATH.fullmatch(path) and not (path == b"*" and method == "OPTIONS"):
        raise BadRequest(f"target {path[:64]!r} is no path of visible ASCII that starts with /")
    return path.decode("ascii")


def check_authority(authority: bytes, *, port_needed: bool = False) -> str:
    """Return ``host[:port]``: no user, no path, no list, and a port of at most 65535."""
    known = _authorities.get(authority)
    if known is None:
        match = _HOST.fullmatch(authority)
        if match is None or int(match[1] or 0) > 65535:
            raise BadRequest(f"host {authority[:64]!r} is not host[:port]")
        known = authority.decode("ascii")
        remember(_authorities, authority, known, _MEMO_SIZE)
    if port_needed and not known.rpartition("]")[2].rpartition(":")[1]:
        raise BadRequest(f"CONNECT target {known!r} has no port")
    return known


def content_length(values: list[bytes]) -> int | None:
    """Return the one length that is declared, or None where there is none."""
    if not values:
        return None
    if len(values) > 1 or not _DIGITS.fullmatch(values[0]):
        raise BadRequest("content-length is not one decimal number")
    length = int(values[0])
    if length > MAX_LENGTH:
        raise BadRequest("content-length is larger than 2**63-1")
    return length
