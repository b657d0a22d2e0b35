"""What an answer says about when to come back: ``retry-after``, and gRPC's ``grpc-retry-pushback-ms``."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from linkerd_proxy.core.message import Response
from linkerd_proxy.headers import Headers

__all__ = ["NEVER", "grpc_pushback_of", "retry_after_of"]

NEVER: float = math.inf
"""Seconds of a pushback that wants the call not to be tried again at all."""

_MOST = 1e9  # seconds, thirty years: more digits than a number holds are that


def retry_after_of(headers: Headers) -> float | None:
    """Return the seconds that ``retry-after`` asks for: finite, 0 for a date that has passed, None if it says nothing.

    It is a number or a date, which is compared with the answer's own ``date`` where that tells it: the upstream's clock
    may differ from ours. What can't be read says nothing. (RFC 9110 section 10.2.3)
    """
    text = headers.get("retry-after")
    if text is None:
        return None
    seconds = _number(text.strip(" \t"))
    if seconds is not None:
        return seconds
    then = _date(text)
    if then is None:
        return None
    told = headers.get("date")
    now = _date(told) if told is not None else None
    return min(_MOST, max(0.0, (then - (now or datetime.now(UTC))).total_seconds()))


def grpc_pushback_of(response: Response) -> float | None:
    """Return the seconds that a gRPC server's pushback asks for, :data:`NEVER`, or None if it says nothing.

    It stands in the trailers, or in the head of an answer without a body. Whatever is no number of milliseconds means
    never, as a negative one does. (gRPC A6, "Pushback")
    """
    trailers = response.body.trailers
    text = None if trailers is None else trailers.get("grpc-retry-pushback-ms")
    if text is None:
        text = response.headers.get("grpc-retry-pushback-ms")
    if text is None:
        return None
    milliseconds = _number(text)
    return NEVER if milliseconds is None else milliseconds / 1000


def _number(text: str) -> float | None:
    if not text.isascii() or not text.isdigit():
        return None
    return min(_MOST, float(text))


def _date(text: str) -> datetime | None:
    from email.utils import parsedate_to_datetime  # ten modules that only rare answers need

    try:
        date = parsedate_to_datetime(text.strip())
    except (ValueError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date  # asctime's form names no zone: it is UTC's
