"""The parts of a configuration that say where work goes: endpoints, how they are found, and how one is picked."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from linkerd_proxy.address import Address
from linkerd_proxy.core.work import Protocol
from linkerd_proxy.discover.dns import Dns
from linkerd_proxy.discover.file import EndpointEntry, EndpointsFile
from linkerd_proxy.discover.static import Static
from linkerd_proxy.document.shape import Duration
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.balancing import BalanceEntry
from linkerd_proxy.mesh.config.peers import Peers, mesh_peers
from linkerd_proxy.mesh.config.profiles import ProfileEntry
from linkerd_proxy.mesh.config.resilience import BreakerEntry, HedgeEntry, LimitEntry, RetryEntry, TimeoutsEntry
from linkerd_proxy.mesh.config.words import Changes, Labels, TcpOptionsEntry, Where, own_labels
from linkerd_proxy.metrics.registry import check_labels

__all__ = ["BackendEntry", "DnsEntry", "EndpointsFileEntry", "UpstreamTlsEntry"]


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
    zone: str = ""
    """Where they run."""
    labels: Labels = field(default_factory=dict)
    """Labels of your own."""

    def __post_init__(self) -> None:
        check_labels(self.labels)
        self.resolve()

    def resolve(self) -> Dns:
        """Return the discovery."""
        return Dns(
            self.name,
            self.servers,
            self.min_ttl,
            self.max_ttl,
            self.timeout,
            self.identity,
            self.protocol,
            self.zone,
            self.labels,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointsFileEntry:
    """A file of endpoints, which is watched. A bare text is its path."""

    path: str
    """The file, YAML or JSON."""
    interval: Duration = 1.0
    """Between looks at it."""

    def __post_init__(self) -> None:
        self.resolve(Path())

    def resolve(self, base: Path) -> EndpointsFile:
        """Return the discovery, its file relative to ``base``."""
        return EndpointsFile(base / self.path, self.interval)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTlsEntry:
    """TLS to servers of the ordinary web (extra ``egress``); proxies of the mesh have an ``identity`` instead."""

    host: str = ""
    """The name that certificates must hold; by default the endpoint's host."""
    roots: str | None = None
    """A file of PEM certificates to trust; by default the system's."""
    timeout: Duration = 10.0
    """For the handshake."""

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise InvalidConfiguration("timeout: 0s gives nobody time to shake hands: give more")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendEntry:
    """Where work goes; it is found in one of the first five ways."""

    endpoints: tuple[EndpointEntry | Where, ...] = ()
    """Addresses, or mappings that say more of an endpoint."""
    dns: DnsEntry | str | None = None
    """A name in the DNS, as ``web.example:80``."""
    file: EndpointsFileEntry | str | None = None
    """A file of endpoints, which is watched."""
    original_dst: bool = False
    """Where each connection was going before it was redirected to the proxy."""
    first_available: tuple[str, ...] = ()
    """Other backends, the one that is preferred first: work goes to the first that is ready."""
    peers: Peers = field(default_factory=dict)
    """With ``original_dst``, destinations behind proxies of the mesh: by ``host:port``, or a host for all its ports."""
    profile: ProfileEntry | None = None
    """What is known of the requests to it, as Linkerd's service profiles say it."""
    protocol: Literal["same", "http/1.1", "h2"] = "same"
    """In which version of HTTP to ask; same is that of the client, or HTTP/1.1 where an upstream knows no HTTP/2."""
    tls: UpstreamTlsEntry | None = None
    """Speak TLS to servers of the ordinary web."""
    send_proxy_protocol: Literal["v1", "v2"] | None = None
    """Begin connections of raw TCP with a PROXY header."""
    connect_timeout: Duration = 1.0
    """For each connection."""
    source: str | None = None
    """The local IP address to connect from."""
    elsewhere: bool = False
    """Whether nothing on this host may be reached, whatever a name, or a client, says."""
    options: TcpOptionsEntry = field(default_factory=TcpOptionsEntry)
    """Options of the sockets."""
    limits: Changes = field(default_factory=dict)
    """Those limits of HTTP that are to be others: pools, sizes, deadlines."""
    labels: Labels = field(default_factory=dict)
    """Labels of your own for the metrics of its connections."""
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
            "first_available": bool(self.first_available),
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
        if self.source is not None and not Address(self.source, 0).is_ip:
            raise InvalidConfiguration(f"source: {self.source!r} is no IP address: give one of this host's")
        if self.peers and not self.original_dst:
            raise InvalidConfiguration("peers are for original_dst: other endpoints have their own identity")
        if self.profile is not None and self.profile.retries and self.retry is not None:
            raise InvalidConfiguration("the profile repeats what failed, and so does retry: keep one of them")
        mesh_peers(self.peers)
        own_labels(self.labels)
        self._check_unread(given[0])

    def _check_unread(self, way: str) -> None:
        """Refuse what a backend that is found in this way has no use for."""
        unread: tuple[str, ...] = ()
        if way == "original_dst":
            unread = ("balance", "breaker")
        elif way == "first_available":
            unread = _OF_CONNECTIONS
        defaults = {one.name: _default(one) for one in fields(self)}
        for name in unread:
            if getattr(self, name) not in (defaults[name], "off"):
                raise InvalidConfiguration(f"{name} says nothing of a backend with {way}: leave it out")

    def static(self) -> Static:
        """Return the endpoints as a discovery."""
        return Static(*(one.endpoint() if isinstance(one, EndpointEntry) else one for one in self.endpoints))


_OF_CONNECTIONS = (
    "balance",
    "breaker",
    "connect_timeout",
    "elsewhere",
    "labels",
    "limits",
    "options",
    "protocol",
    "send_proxy_protocol",
    "source",
    "tls",
)
"""What is said of connections, which a backend that is others does not make by itself."""


def _default(one: Field[Any]) -> object:
    return one.default if one.default_factory is MISSING else one.default_factory()
