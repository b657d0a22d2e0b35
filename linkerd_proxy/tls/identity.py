"""What a proxy proves itself with: credentials, and the sources that keep them fresh."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

import trio

from linkerd_proxy.core.shared import Resource
from linkerd_proxy.errors import NoCredentials

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

__all__ = ["Credentials", "Given", "Identity", "LiveIdentity"]

_NONE: Mapping[str, tuple[x509.Certificate, ...]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """A certificate with its key, and whom to trust.

    Args:
        name: The one identity that the leaf certificate proves, DNS-like or ``spiffe://``.
        chain: The leaf, then its intermediates.
        key: The leaf's private key. It never leaves the process, and never shows in a ``repr``.
        anchors: The trust anchors: peers must chain up to one of them.
        federated: The trust anchors of other trust domains, by the domain. Each may vouch for the names of its own
            domain only, so none of them belongs among ``anchors``.
    """

    name: str
    chain: tuple[x509.Certificate, ...]
    key: CertificateIssuerPrivateKeyTypes
    anchors: tuple[x509.Certificate, ...]
    federated: Mapping[str, tuple[x509.Certificate, ...]] = field(default_factory=lambda: _NONE, hash=False)

    @property
    def not_before(self) -> datetime:
        """When the leaf becomes valid (UTC)."""
        return self.chain[0].not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """When the leaf expires (UTC)."""
        return self.chain[0].not_valid_after_utc

    def __repr__(self) -> str:
        return f"<Credentials of {self.name} until {self.not_after:%Y-%m-%dT%H:%M:%SZ}>"


class LiveIdentity:
    """The present credentials of an open identity: what its source publishes and what handshakes read.

    Args:
        name: Whose identity it is; known before the first certificate is there.
    """

    __slots__ = ("_changed", "credentials", "name")

    def __init__(self, name: str, credentials: Credentials | None = None) -> None:
        self.name: str = name
        self.credentials: Credentials | None = credentials
        """The newest ones, or None as long as there were none. They may have expired."""
        self._changed = trio.Event()

    def publish(self, credentials: Credentials) -> None:
        """Replace the credentials; handshakes from now on use them, established connections go on."""
        self.credentials = credentials
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def require(self) -> Credentials:
        """Return the credentials. Raises :exc:`~linkerd_proxy.errors.NoCredentials` if there are none yet."""
        if self.credentials is None:
            raise NoCredentials(f"{self.name} has no certificate yet")
        return self.credentials

    def is_valid(self, now: datetime) -> bool:
        """Whether there is a certificate that is valid at that time (UTC): what readiness asks."""
        credentials = self.credentials
        return credentials is not None and credentials.not_before <= now < credentials.not_after

    def is_ready(self) -> bool:
        """Whether it is valid now, by the system's clock: what layers with this identity announce."""
        return self.is_valid(datetime.now(UTC))

    async def wait_changed(self) -> Credentials:
        """Wait until other credentials are published, and return them."""
        await self._changed.wait()
        return self.require()

    def __repr__(self) -> str:
        return f"<LiveIdentity {self.name}: {self.credentials or 'no certificate yet'}>"


class Identity(Resource[LiveIdentity]):
    """Where a proxy's identity comes from: a value, opened once and shared by all layers that name it.

    A source opens at once, even if the first certificate takes longer, and keeps publishing new ones until closed.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True, repr=False)
class Given(Identity):
    """An identity that is in memory already and never renewed: for tests and applications with their CA."""

    credentials: Credentials

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LiveIdentity]:
        """Yield it."""
        yield LiveIdentity(self.credentials.name, self.credentials)
