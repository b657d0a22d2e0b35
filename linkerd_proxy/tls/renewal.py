"""When certificates are renewed, and what is seen of it from outside."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.registry import Counter, Gauge, current_registry
from linkerd_proxy.tls.identity import Credentials, LiveIdentity

__all__ = ["Renewal", "Reported"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.identity")

_LINE = 300  # characters of an error's text: an authority must not fill the log


@dataclass(frozen=True, slots=True)
class Renewal:
    """When to renew: at a share of the lifetime that is left, within bounds.

    Args:
        share: Of the time that is left when a certificate arrives.
        minimum: Seconds; so often at most, however short the lifetime is. (Linkerd: 10)
        maximum: Seconds; so often at least. (Linkerd: 24 hours)
    """

    share: float = 0.7
    minimum: float = 10.0
    maximum: float = 86400.0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InvalidConfiguration(f"Renewal(share={self.share!r}): give more than 0 and less than 1")
        if not 0 < self.minimum <= self.maximum:
            raise InvalidConfiguration(f"{self!r}: minimum is more than 0, and not more than maximum")

    def seconds(self, until: datetime, now: datetime) -> float:
        """Return how long to wait before what is good until then is renewed."""
        left = (until - now).total_seconds()
        return min(self.maximum, max(self.minimum, self.share * left))


class Reported:
    """One identity's renewals, as its metrics and its log lines tell them.

    Args:
        live: The identity.
    """

    __slots__ = ("_done", "_expiration", "_failed", "_live", "_refreshed")

    def __init__(self, live: LiveIdentity) -> None:
        registry = current_registry()
        self._live = live
        self._expiration: Gauge = registry.gauge(
            "identity_cert_expiration_timestamp_seconds", "When the certificate in use expires"
        )
        self._refreshed: Gauge = registry.gauge(
            "identity_cert_refresh_timestamp_seconds", "When the certificate in use was obtained"
        )

        self._done: Counter = registry.counter(
            "identity_cert_refreshes_total", "Attempts to obtain a certificate", result="ok"
        )
        self._failed: Counter = registry.counter(
            "identity_cert_refreshes_total", "Attempts to obtain a certificate", result="error"
        )

    def publish(self, credentials: Credentials, now: datetime) -> None:
        """Publish credentials, and tell of it."""
        self._expiration.value = credentials.not_after.timestamp()
        self._refreshed.value = now.timestamp()
        self._done.value += 1
        logger.info("%s has a certificate until %s", credentials.name, f"{credentials.not_after:%Y-%m-%dT%H:%M:%SZ}")
        self._live.publish(credentials)

    def gave_up(self, error: Exception) -> None:
        """Tell of an attempt that will not be repeated."""
        self._failed.value += 1
        logger.error("no certificate for %s, and no further try: %s", self._live.name or "the workload", _line(error))

    def failed(self, error: Exception, retry: float | None, now: datetime) -> None:
        """Tell of an attempt that brought nothing, and in how many seconds the next one is; None if others decide."""
        self._failed.value += 1
        credentials = self._live.credentials
        if credentials is None:
            state = "there is none yet"
        elif credentials.not_after <= now:
            state = f"the last one expired at {credentials.not_after:%Y-%m-%dT%H:%M:%SZ}"
        else:
            state = f"the present one is good until {credentials.not_after:%Y-%m-%dT%H:%M:%SZ}"
        name = self._live.name or "the workload"
        again = f"; trying again in {retry:.3g} s" if retry is not None else ""
        logger.warning("no new certificate for %s: %s; %s%s", name, _line(error), state, again)


def _line(error: Exception) -> str:
    return str(error)[:_LINE].encode("unicode_escape").decode("ascii")
