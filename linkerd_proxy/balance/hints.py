"""What an answer says about when to come back: ``retry-after`` and ``grpc-retry-pushback-ms``."""

from __future__ import annotations

import math

from linkerd_proxy.headers import Headers

__all__ = ["MAX_HINT", "retry_after_of"]

MAX_HINT = 300.0
"""Seconds that are believed at most (Linkerd: 300)."""


def retry_after_of(headers: Headers, trailers: Headers | None = None) -> float | None:
    """Return how many seconds an answer asks to be left alone, at most :data:`MAX_HINT`, or None if it doesn't say.

    gRPC's pushback (milliseconds) comes before ``retry-after`` (seconds, or an HTTP date: RFC 9110 section 10.2.3).
    What can't be read counts as not said; so does a negative pushback, which means "never".
    """
    pushback = None if trailers is None else trailers.get("grpc-retry-pushback-ms")
    if pushback is None:
        pushback = headers.get("grpc-retry-pushback-ms")
    if pushback is not None and (milliseconds := _number(pushback)) is not None:
        return min(MAX_HINT, milliseconds / 1000)
    value = headers.get("retry-after")
    if value is None:
        return None
    seconds = _number(value)
    if seconds is None:
        seconds = _until(value, headers.get("date"))
    return None if seconds is None else min(MAX_HINT, seconds)


def _number(text: str) -> float | None:
    text = text.strip(" \t")
    if not text.isascii() or not text.isdigit():
        return None
    return float(text) if len(text) <= 15 else math.inf


def _until(text: str, date: str | None) -> float | None:
    """Return the seconds from the answer's own date, or else from now, until a date: none if it has passed."""
    from datetime import UTC, datetime
    from email.utils import parsedate_to_datetime  # twenty modules, for what is rare

    try:
        then = parsedate_to_datetime(text.strip())
        start = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return max(0.0, (then - start).total_seconds())
    except (ValueError, TypeError, OverflowError):  # TypeError: one of the two names no zone
        return None
