"""When certificates are renewed, and what is seen of it from outside."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import trio

from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.registry import Counter, Gauge, current_registry
from linkerd_proxy.tls.identity import Credentials, LiveIdentity

__all__ = ["RETRY", "Renewal", "Reported"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.identity")

RETRY = Backoff(1.0, 30.0, 0.5)
"""How long to wait after attempts that failed; own figures: Linkerd tries again after 10 s."""

_SHORTEST = 0.5  # seconds; own figure: so often at most, whatever is left of a certificate
_LOOK = 60.0  # seconds: a host that was asleep has a wall clock that went on without Trio's
_LINE = 300  # characters of an error's text: an authority must not fill the log


@dataclass(frozen=True, slots=True)
class Renewal:
    """When to renew: at a share of the lifetime that is left, within bounds.

    Args:
        share: Of the time that is left when a certificate arrives.
        minimum: Seconds; so often at most, as long as that is not more than half of the time that is left. (Linkerd: 10
            whatever is left, so that certificates of less than 10 s expire)
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
        least = min(self.minimum, max(left / 2, _SHORTEST))
        return min(self.maximum, max(least, self.share * left))

    async def wait(
        self, until: datetime, now: Callable[[], datetime], changed: Callable[[], bool] = lambda: False
    ) -> None:
        """Wait until what is good until then is to be renewed, by the wall clock.

        Args:
            until: When it expires.
            now: The wall clock. It is looked at every minute, for it may jump.
            changed: Asked as often: whether there is another reason to renew now.
        """
        due = now() + timedelta(seconds=self.seconds(until, now()))
        while not changed():
            left = (due - now()).total_seconds()
            if left <= 0:
                return
            await trio.sleep(min(left, _LOOK))


class Reported:
    """One identity's renewals, as its metrics and its log lines tell them.

    Args:
        live: The identity.
        retry: How long its source waits after attempts that failed.
        dice: For the jitter.
    """

    __slots__ = ("_dice", "_done", "_expiration", "_failed", "_failures", "_live", "_refreshed", "_retry")

    def __init__(self, live: LiveIdentity, retry: Backoff = RETRY, dice: random.Random | None = None) -> None:
        registry = current_registry()
        self._live = live
        self._retry = retry
        self._dice = random.Random() if dice is None else dice
        self._failures = 0
        self._expiration: Gauge = registry.gauge(
            "control_identity_cert_expiration_timestamp_seconds", "When the certificate in use expires"
        )
        self._refreshed: Gauge = registry.gauge(
            "control_identity_cert_refresh_timestamp_seconds", "When the certificate in use was obtained"
        )

        self._done: Counter = registry.counter(
            "control_identity_cert_refreshes_total", "Attempts to obtain a certificate", result="ok"
        )
        self._failed: Counter = registry.counter(
            "control_identity_cert_refreshes_total", "Attempts to obtain a certificate", result="error"
        )

    def publish(self, credentials: Credentials, now: datetime) -> None:
        """Publish credentials, and tell of it."""
        self._expiration.value = credentials.not_after.timestamp()
        self._refreshed.value = now.timestamp()
        self._done.value += 1
        self._failures = 0
        logger.info("%s has a certificate until %s", credentials.name, f"{credentials.not_after:%Y-%m-%dT%H:%M:%SZ}")
        self._live.publish(credentials)

    def gave_up(self, error: Exception) -> None:
        """Tell of an attempt that will not be repeated."""
        self._failed.value += 1
        logger.error("no certificate for %s, and no further try: %s", self._live.name or "the workload", _line(error))

    async def wait_after(self, error: Exception, now: datetime) -> None:
        """Tell of an attempt that brought nothing, and wait for the time of the next one.

        Each failure in a row makes it longer, but never longer than half of what the certificate in use has left.
        """
        self._failures += 1
        wait = self._retry.seconds(self._failures, self._dice)
        credentials = self._live.credentials
        if credentials is not None and credentials.not_after > now:
            wait = min(wait, max((credentials.not_after - now).total_seconds() / 2, _SHORTEST))
        self.failed(error, wait, now)
        await trio.sleep(wait)

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
