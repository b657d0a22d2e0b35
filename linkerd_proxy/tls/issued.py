"""An identity that an authority in this very process issues, and renews in time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

import trio

from linkerd_proxy.core.background import open_background
from linkerd_proxy.errors import InvalidConfiguration, NoCredentials
from linkerd_proxy.tls.authority import LEAF_LIFETIME, Authority
from linkerd_proxy.tls.identity import Credentials, Identity, LiveIdentity

__all__ = ["Issued", "Issuer"]

logger: logging.Logger = logging.getLogger("linkerd_proxy")

_SHARE = 0.7  # of the lifetime, as Linkerd's proxies renew
_LOOK = 60.0  # seconds: a host that was asleep has a wall clock that went on without Trio's
_RETRY = 10.0  # seconds after a failure (Linkerd's shortest refresh)


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


@dataclass(frozen=True, slots=True)
class Issued(Identity):
    """An identity from an authority in the same process: for demonstrations, tests, and the authority's own server.

    Each renewal has a new key. Where it fails, the credentials stay as they are, and it is tried again every 10 s.

    Args:
        authority: Who issues it. Another key or other anchors of its renew the identity within a minute.
        name: Its name.
        lifetime: Seconds that each certificate is valid; it is renewed after 70 % of them.

    Raises:
        InvalidConfiguration: when opened, if the authority may not issue this.
        NoCredentials: when opened, if the authority has expired.
    """

    authority: Issuer
    name: str
    lifetime: float = LEAF_LIFETIME

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LiveIdentity]:
        """Issue the first certificate, and yield the identity."""
        issuer = self.authority.current()
        live = LiveIdentity(self.name, self.authority.issue(self.name, lifetime=self.lifetime))
        async with open_background() as nursery:
            nursery.start_soon(self._renew, live, issuer)
            yield live

    async def _renew(self, live: LiveIdentity, issuer: Authority) -> None:
        while True:
            await self._wait(live.require(), issuer)
            issuer = self.authority.current()
            while True:
                try:
                    live.publish(self.authority.issue(self.name, lifetime=self.lifetime))
                    break
                except (InvalidConfiguration, NoCredentials) as error:
                    logger.error("%s can't be renewed, trying again in %g s: %s", self.name, _RETRY, error)
                    await trio.sleep(_RETRY)

    async def _wait(self, credentials: Credentials, issuer: Authority) -> None:
        now = self.authority.now
        # Of what is left, not from its beginning: that lies a minute back. And a certificate that its own issuer's end
        # cuts short must not be made anew again and again.
        due = now() + max((credentials.not_after - now()) * _SHARE, timedelta(seconds=min(_RETRY, self.lifetime / 2)))
        while self.authority.current() is issuer:
            left = (due - now()) / timedelta(seconds=1)
            if left <= 0:
                return
            await trio.sleep(min(left, _LOOK))
