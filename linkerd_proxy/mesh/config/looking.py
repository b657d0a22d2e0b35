"""The parts of a configuration that say who may look into the running proxy, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from linkerd_proxy.address import Address
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.words import Where
from linkerd_proxy.metrics.bounds import Bounds
from linkerd_proxy.names import check_identity

__all__ = ["AdminEntry", "TapServerEntry"]

_EVERYWHERE = Address("", 4190)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminEntry:
    """Probes, metrics and looks into the running proxy. A bare text is the address."""

    address: Where
    """Where to listen: only where friends are."""
    name: str | None = None
    """How the live view calls this proxy; by default its identity, if that is known from the start."""
    shutdown: bool = False
    """Whether ``POST /shutdown`` from this host starts the drain."""
    bounds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """The classic buckets that histograms are shown in, by family: ascending upper bounds."""

    def __post_init__(self) -> None:
        self.buckets()

    def buckets(self) -> Bounds:
        """Return the value."""
        return Bounds(self.bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class TapServerEntry:
    """Linkerd's tap (``linkerd viz tap``): live requests, by gRPC over mutual TLS."""

    allowed: tuple[str, ...]
    """The identities that may look, exactly these."""
    address: Where = _EVERYWHERE
    """Where to listen."""

    def __post_init__(self) -> None:
        if not self.allowed:
            raise InvalidConfiguration("tap_server lets nobody look: name the identities that may, or leave it out")
        for name in self.allowed:
            check_identity(name, repr(name))
