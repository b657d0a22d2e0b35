"""An identity that an authority in this very process issues, and renews in time."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Protocol

from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.errors import InvalidConfiguration, NoCredentials
from linkerd_proxy.tls.authority import LEAF_LIFETIME, Authority
from linkerd_proxy.tls.identity import Credentials, Identity, LiveIdentity
from linkerd_proxy.tls.renewal import RETRY, Renewal, Reported

__all__ = ["Issued", "Issuer"]

_RENEWAL = Renewal()


class Issuer(Protocol):
    """An :class:`~linkerd_proxy.tls.authority.Authority`, or one that is read anew when its files change."""

    @property
    def now(self) -> Callable[[], datetime]:
        """The wall clock that certificates are about."""
        ...

    def current(self) -> Authority:
        """Return the authority as it is now."""
        ...

    def issue(self, name: str, *, lifetime: float = LEAF_LIFETIME) -> Credentials:
        """Make a key and a certificate."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Issued(Identity):
    """An identity from an authority in the same process: for demonstrations, tests, and the authority's own server.

    Each renewal has a new key. Where it fails, the credentials stay as they are, and it is tried again.

    Args:
        authority: Who issues it. Another key or other anchors of its renew the identity within a minute.
        name: Its name.
        lifetime: Seconds that each certificate is valid.
        renewal: When to renew.
        retry: How long to wait after attempts that failed.
        dice: For the jitter, for tests.

    Raises:
        InvalidConfiguration: when opened, if the authority may not issue this.
        NoCredentials: when opened, if the authority has expired.
    """

    authority: Issuer
    name: str
    lifetime: float = LEAF_LIFETIME
    renewal: Renewal = _RENEWAL
    retry: Backoff = RETRY
    dice: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LiveIdentity]:
        """Issue the first certificate, and yield the identity."""
        issuer = self.authority.current()
        live = LiveIdentity(self.name)
        credentials = self.authority.issue(self.name, lifetime=self.lifetime)
        reported = Reported(live, self.retry, self.dice)
        reported.publish(credentials, self.authority.now())
        async with open_background() as nursery:
            nursery.start_soon(self._renew, live, reported, issuer)
            yield live

    async def _renew(self, live: LiveIdentity, reported: Reported, issuer: Authority) -> None:
        now = self.authority.now
        while True:
            await self.renewal.wait(live.require().not_after, now, partial(self._is_other, issuer))
            issuer = self.authority.current()
            while True:
                try:
                    credentials = self.authority.issue(self.name, lifetime=self.lifetime)
                except (InvalidConfiguration, NoCredentials) as error:
                    await reported.wait_after(error, now())
                else:
                    reported.publish(credentials, now())
                    break

    def _is_other(self, issuer: Authority) -> bool:
        return self.authority.current() is not issuer
