"""What an upstream says about when to come back: ``retry-after`` and gRPC's ``grpc-retry-pushback-ms``."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from linkerd_proxy.core.message import Response

__all__ = ["pushback", "retry_after"]

_SECONDS = re.compile(r"[0-9]{1,9}")
_NEVER = math.inf


def pushback(response: Response, *, grpc: bool) -> float:
    """Return the seconds that the upstream wants to be left alone for: 0 if it says nothing, infinity for never."""
    if grpc:
        trailers = response.body.trailers
        text = trailers.get("grpc-retry-pushback-ms") if trailers is not None else None
        if text is None:
            text = response.headers.get("grpc-retry-pushback-ms")
        if text is not None:
            # gRPC's retry design: a negative value means never, and so does one that is no number.
            return int(text) / 1000 if _SECONDS.fullmatch(text) else _NEVER
    text = response.headers.get("retry-after")
    return 0.0 if text is None else retry_after(text, response.headers.get("date"))


def retry_after(text: str, date: str | None = None) -> float:
    """Return the seconds of a ``retry-after``: a number, or a date that is compared with the answer's own ``date``.

    What is neither says nothing, so it is 0, as is a date that has passed. (RFC 9110 section 10.2.3)
    """
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    until = _parsed(text)
    if until is None:
        return 0.0
    # The upstream's own clock, where it tells it: it may differ from ours.
    now = _parsed(date) if date is not None else None
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def _parsed(text: str) -> datetime | None:
    from email.utils import parsedate_to_datetime  # ten modules that only rare answers need

    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return date.replace(tzinfo=UTC) if date.tzinfo is None else date
