"""The parts of a configuration that say where work goes: endpoints, how they are found, and how one is picked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from linkerd_proxy.balance.picks import LeastRequest, P2c, Pick, RoundRobin
from linkerd_proxy.core.work import Protocol
from linkerd_proxy.discover.dns import Dns
from linkerd_proxy.discover.file import EndpointEntry
from linkerd_proxy.discover.static import Static
from linkerd_proxy.document.shape import Range
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.resilience import BreakerEntry, HedgeEntry, LimitEntry, RetryEntry, TimeoutsEntry
from linkerd_proxy.mesh.config.words import Duration, Where

__all__ = ["BackendEntry", "BalanceEntry", "DnsEntry", "UpstreamTlsEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsEntry:
    """Endpoints that the DNS names (extra ``dns``). A bare text is the name."""

    name: str
    """``host:port``, or an SRV name, whose first label begins with ``_``."""
    servers: tuple[str, ...] = ()
    """Whom to ask, as ``ip`` or ``ip:port``; by default those of /etc/resolv.conf."""
    min_ttl: Duration = 5.0
    """Between questions at least."""
    max_ttl: Duration = 300.0
    """Between questions at most."""
    timeout: Duration = 5.0
    """For each question."""
    identity: str | None = None
    """The name that the endpoints must prove by mutual TLS."""
    protocol: Protocol | None = None
    """What they speak."""

    def __post_init__(self) -> None:
        self.resolve()

    def resolve(self) -> Dns:
        """Return the discovery."""
        return Dns(self.name, self.servers, self.min_ttl, self.max_ttl, self.timeout, self.identity, self.protocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTlsEntry:
    """TLS to servers of the ordinary web (extra ``egress``); proxies of the mesh have an ``identity`` instead."""

    host: str = ""
    """The name that certificates must hold; by default the endpoint's host."""
    roots: str | None = None
    """A file of PEM certificates to trust; by default the system's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceEntry:
    """How one of the endpoints is picked."""

    pick: Literal["p2c", "least_request", "round_robin"] = "p2c"
    """The one that answers sooner of two (peak EWMA), the least busy, or each in turn."""
    queue: Annotated[int, Range(0, 1_000_000)] = 2000
    """How much work may wait for an endpoint."""
    failfast: Duration = 3.0
    """How long it waits; when none was ready for so long, work fails at once."""
    zone: str = ""
    """The zone of this proxy, whose endpoints are preferred."""
    slow_start: Duration = 0.0
    """In which an endpoint that is new, or back, comes up to its share."""

    def picked(self) -> Pick:
        """Return the way to pick."""
        if self.pick == "p2c":
            return P2c()
        return LeastRequest() if self.pick == "least_request" else RoundRobin()


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendEntry:
    """Where work goes; it is found in one of the first four ways."""

    endpoints: tuple[EndpointEntry | Where, ...] = ()
    """Addresses, or mappings that say more of an endpoint."""
    dns: DnsEntry | str | None = None
    """A name in the DNS, as ``web.example:80``."""
    file: str | None = None
    """A file of endpoints, which is watched."""
    original_dst: bool = False
    """Where each connection was going before it was redirected to the proxy."""
    protocol: Literal["same", "http/1.1", "h2"] = "same"
    """In which version of HTTP to ask."""
    tls: UpstreamTlsEntry | None = None
    """Speak TLS to servers of the ordinary web."""
    send_proxy_protocol: Literal["v1", "v2"] | None = None
    """Begin connections of raw TCP with a PROXY header."""
    connect_timeout: Duration = 1.0
    """For each connection."""
    balance: BalanceEntry = field(default_factory=BalanceEntry)
    """How an endpoint is picked."""
    breaker: BreakerEntry | Literal["off"] = field(default_factory=BreakerEntry)
    """When an endpoint is left alone for its answers."""
    timeouts: TimeoutsEntry | None = None
    """Deadlines of requests."""
    retry: RetryEntry | None = None
    """When requests are tried again."""
    hedge: HedgeEntry | None = None
    """When slow requests are asked a second time."""
    limit: LimitEntry | None = None
    """How many requests may be in flight."""

    def __post_init__(self) -> None:
        ways = {
            "endpoints": bool(self.endpoints),
            "dns": self.dns is not None,
            "file": self.file is not None,
            "original_dst": self.original_dst,
        }
        given = [way for way, there in ways.items() if there]
        if len(given) != 1:
            found = f"it has {' and '.join(given)}" if given else "it has none of them"
            raise InvalidConfiguration(f"a backend is found in one way, {', '.join(ways)}: {found}")
        if self.endpoints:
            self.static()
        if isinstance(self.dns, str):
            Dns(self.dns)
        if not self.connect_timeout > 0:
            raise InvalidConfiguration("connect_timeout: 0s never connects: give more")

    def static(self) -> Static:
        """Return the endpoints as a discovery."""
        return Static(*(one.endpoint() if isinstance(one, EndpointEntry) else one for one in self.endpoints))
