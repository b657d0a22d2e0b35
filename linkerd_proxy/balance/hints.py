"""How long an endpoint is believed to want no work, from what its answer says about coming back."""

from __future__ import annotations

from linkerd_proxy.core.message import Response
from linkerd_proxy.core.pushback import NEVER, grpc_pushback_of, retry_after_of

__all__ = ["MAX_HINT", "hint_of"]

MAX_HINT = 300.0
"""Seconds that are believed at most (Linkerd: 300)."""


def hint_of(response: Response) -> float | None:
    """Return how many seconds an endpoint wants to be left alone, at most :data:`MAX_HINT`, or None if it doesn't say.

    A pushback of "never" is about its call, and says nothing about others.
    """
    seconds = grpc_pushback_of(response)
    if seconds is None or seconds == NEVER:
        seconds = retry_after_of(response.headers)
    return None if seconds is None else min(MAX_HINT, seconds)
