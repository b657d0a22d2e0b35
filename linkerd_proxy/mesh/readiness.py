"""Whether a proxy can prove who it is: what its readiness follows."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime

import trio

from linkerd_proxy.core.shared import shared
from linkerd_proxy.tls.identity import Credentials, Identity

__all__ = ["follow_identity"]

logger: logging.Logger = logging.getLogger("linkerd_proxy")

_REMIND = 15.0  # seconds between two reminders that there is no certificate (Linkerd)
_LOOK = 60.0  # seconds: a host that was asleep has a wall clock that went on without Trio's


def _utc_now() -> datetime:
    return datetime.now(UTC)


async def follow_identity(
    identity: Identity, tell: Callable[[bool], None], *, now: Callable[[], datetime] = _utc_now
) -> None:
    """Tell whether there is a certificate that is valid, at once and at every change, until cancelled.

    It is off until the first certificate is there, and from the moment on when the last one has expired; that a renewal
    failed turns nothing off. Both are logged.

    Args:
        identity: Shared with the layers that name it.
        tell: Hears it; may hear the same again.
        now: The wall clock that certificates are about.
    """
    async with shared(identity) as live:
        while True:
            credentials = live.credentials
            left = _left(credentials, now())
            tell(left > 0)
            if credentials is None:
                logger.warning("%s has no certificate yet: waiting for one", live.name)
            elif left <= 0:
                logger.error("the certificate of %s expired at %s: waiting for another", live.name, _time(credentials))
            with trio.move_on_after(min(left, _LOOK) if left > 0 else _REMIND):
                await live.wait_changed()


def _left(credentials: Credentials | None, now: datetime) -> float:
    """Return for how many seconds the credentials are valid yet."""
    if credentials is None:
        return -math.inf
    return (credentials.not_after - now).total_seconds()


def _time(credentials: Credentials) -> str:
    return f"{credentials.not_after:%Y-%m-%dT%H:%M:%SZ}"
