"""Which answers are worth another try: HTTP statuses and gRPC statuses, as text in Linkerd's own words."""

from __future__ import annotations

import re

from linkerd_proxy.errors import GrpcStatus, InvalidConfiguration

__all__ = ["IDEMPOTENT", "parse_grpc", "parse_http", "parse_limit"]

IDEMPOTENT: tuple[str, ...] = ("DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE")
"""The methods that may be repeated: twice is as good as once (RFC 9110 section 9.2.2)."""

_NAMED = {"5xx": range(500, 600), "gateway-error": range(502, 505)}
_RANGE = re.compile(r"([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?")
_GRPC_NAMES = {status.name.lower().replace("_", "-"): str(status.value) for status in GrpcStatus}
_MOST_RETRIES = 100  # own figure: a typing error must not become a storm


def parse_http(text: str) -> frozenset[int]:
    """Return the statuses that text means: ``5xx``, ``gateway-error`` (502-504), ``429``, ``500-503``, by commas.

    Raises:
        InvalidConfiguration: if it means none of these. No text means no status.
    """
    found: set[int] = set()
    for word in _words(text):
        if word in _NAMED:
            found.update(_NAMED[word])
            continue
        match = _RANGE.fullmatch(word)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 400 <= first <= last <= 599:
            raise InvalidConfiguration(
                f"{word!r} names no failures of HTTP: give 5xx, gateway-error, or statuses and ranges from 400 to 599"
            )
        found.update(range(first, last + 1))
    return frozenset(found)


def parse_grpc(text: str) -> frozenset[str]:
    """Return the gRPC statuses that text means, as they stand in trailers: ``unavailable``, ``internal``, by commas.

    Raises:
        InvalidConfiguration: for what is no status, and for ``ok``.
    """
    found: set[str] = set()
    for word in _words(text):
        value = _GRPC_NAMES.get(word.replace("_", "-"))
        if value is None or value == "0":
            known = ", ".join(name for name in _GRPC_NAMES if name != "ok")
            raise InvalidConfiguration(f"{word!r} names no failure of gRPC: give some of {known}")
        found.add(value)
    return frozenset(found)


def parse_limit(text: str) -> int:
    """Return how many retries there may be.

    Raises:
        InvalidConfiguration: if it is no number from 0 to 100.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= _MOST_RETRIES):
        raise InvalidConfiguration(f"{text!r} is no number of retries: give 0 to {_MOST_RETRIES}")
    return int(text)


def _words(text: str) -> list[str]:
    return [word for word in (part.strip().lower() for part in text.split(",")) if word]
