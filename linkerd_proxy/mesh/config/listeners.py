"""The parts of a configuration that say where connections come in, and how they are taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from linkerd_proxy.detect.detect import OPAQUE_PORTS
from linkerd_proxy.document.shape import Duration, Range
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.io.proxy_protocol import MAX_V2_LENGTH
from linkerd_proxy.io.relay import HALF_OPEN
from linkerd_proxy.mesh.config.peers import GatewayEntry
from linkerd_proxy.mesh.config.policies import PolicyOrName
from linkerd_proxy.mesh.config.resilience import LimitEntry, RateLimitEntry, TimeoutsEntry
from linkerd_proxy.mesh.config.routes import GrpcRouteEntry, HttpRouteEntry, TcpRouteEntry, TlsRouteEntry
from linkerd_proxy.mesh.config.words import BackendRefs, Changes, Labels, TcpOptionsEntry, Where, own_labels
from linkerd_proxy.tcp.proxy_protocol import ProxyProtocol

__all__ = ["ListenerEntry", "ProxyProtocolEntry", "TlsEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyProtocolEntry:
    """PROXY headers of a proxy in front, which tell the client's address."""

    trusted: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """The networks of the proxies in front."""
    required: bool = True
    """Whether a connection without a header, or from anybody else, is refused."""
    timeout: Duration = 5.0
    """For the header to arrive. Without ``required``, silence for so long means that none comes."""
    max_length: Annotated[int, Range(0, 65535)] = MAX_V2_LENGTH
    """Bytes that a header of version 2 may announce."""

    def __post_init__(self) -> None:
        self.layer()

    def layer(self) -> ProxyProtocol:
        """Return the layer."""
        return ProxyProtocol(self.trusted, self.required, self.timeout, self.max_length)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsEntry:
    """TLS that ends at this proxy: by a certificate of the ordinary web, or else by the proxy's identity."""

    certificate: str | None = None
    """A file of PEM certificates, the proxy's own first, for clients of the ordinary web."""
    key: str | None = None
    """The file of its private key."""
    required: bool = True
    """Whether connections that are not TLS for this proxy are refused."""
    require_identity: bool = False
    """Whether clients must prove an identity of the mesh."""
    server_names: tuple[str, ...] | None = None
    """The names that clients ask this proxy for (SNI), ``*`` for whatever they ask for, an empty text for none. By
    default the identity's own name; with a certificate, or a SPIFFE ID, whatever they ask for."""
    timeout: Duration | None = None
    """For a client's first bytes and its handshake together; by default ``detect_timeout``."""
    max_handshakes: Annotated[int, Range(1, 1_000_000)] = 100
    """Handshakes that may be under way; of more, the oldest give way to newcomers."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidConfiguration("a certificate goes with its key: give both files, or neither for the identity")
        if self.certificate is not None and self.require_identity:
            raise InvalidConfiguration("clients of the ordinary web have no identity: leave out require_identity")
        if self.timeout is not None and not self.timeout > 0:
            raise InvalidConfiguration("timeout: 0s gives nobody time to shake hands: give more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerEntry:
    """Where connections come in.

    HTTP goes by ``routes``, all else by ``tls_routes`` and ``tcp_routes``, and what no route takes to ``backend_refs``.
    """

    address: Where
    """Where to listen: ``host:port``, ``:port`` for every interface, or ``unix:/path``."""
    protocol: Literal["detect", "http", "tcp"] | None = None
    """What clients speak; by default what the routes and backends ask for."""
    tls: TlsEntry | None = None
    """TLS that ends here; without it TLS passes through."""
    proxy_protocol: ProxyProtocolEntry | None = None
    """PROXY headers of a proxy in front."""
    original_dst: bool = False
    """Whether to ask where redirected connections were going."""
    detect_timeout: Duration = 10.0
    """For clients to show what they speak."""
    opaque_ports: tuple[Annotated[int, Range(1, 65535)], ...] = tuple(sorted(OPAQUE_PORTS))
    """Ports that are not looked at, since servers there speak first."""
    gateway: GatewayEntry | None = None
    """Where to lead other proxies of the mesh that ask for a name elsewhere."""
    options: TcpOptionsEntry = field(default_factory=TcpOptionsEntry)
    """Options of the clients' sockets."""
    half_open: Duration = HALF_OPEN
    """For which raw TCP may go on without a byte once one direction has ended."""
    limits: Changes = field(default_factory=dict)
    """Those limits of HTTP that are to be others: sizes, deadlines, what HTTP/2 clients may do."""
    labels: Labels = field(default_factory=dict)
    """Labels of your own for its metrics and taps, as ``direction: inbound``."""
    policy: PolicyOrName | None = None
    """Who is let in: a policy, or ``deny``, ``all-authenticated``, ``all-unauthenticated``, ``audit``."""
    rate_limit: RateLimitEntry | None = None
    """How many requests a second may come; of raw TCP, connections."""
    limit: LimitEntry | None = None
    """How many requests may be in flight; of raw TCP, connections."""
    timeouts: TimeoutsEntry | None = None
    """Deadlines of all requests."""
    routes: tuple[HttpRouteEntry, ...] = ()
    """Where HTTP goes."""
    grpc_routes: tuple[GrpcRouteEntry, ...] = ()
    """Where gRPC goes."""
    tls_routes: tuple[TlsRouteEntry, ...] = ()
    """Where TLS goes that passes through."""
    tcp_routes: tuple[TcpRouteEntry, ...] = ()
    """Where connections go of which nothing is known but their destination."""
    backend_refs: BackendRefs = ()
    """Where everything goes that no route takes."""

    def __post_init__(self) -> None:
        web = bool(self.routes or self.grpc_routes)
        raw = bool(self.tls_routes or self.tcp_routes)
        if not self.leads and self.gateway is None:
            raise InvalidConfiguration("the listener leads nowhere: give it backend_refs, or routes")
        if self.protocol == "tcp" and web:
            raise InvalidConfiguration("routes are for HTTP, and protocol is tcp: leave out one of them")
        if self.protocol == "http" and raw:
            raise InvalidConfiguration("tls_routes and tcp_routes are not for HTTP: leave out them, or protocol")
        if self.protocol == "detect" and not self.backend_refs and not (web and raw):
            raise InvalidConfiguration("protocol is detect, and there is one kind of routes: give backend_refs too")
        if not self.detect_timeout > 0:
            raise InvalidConfiguration("detect_timeout: 0s gives nobody time: give more")
        if self.gateway is not None and (self.tls is None or self.tls.certificate is not None):
            raise InvalidConfiguration("a gateway is for proxies of the mesh: give tls: {}, without a certificate")
        if self.tls is not None and not self.leads and not (self.tls.required or self.tls.require_identity):
            raise InvalidConfiguration("a gateway alone has nowhere to send what is no TLS: leave out required: false")
        own_labels(self.labels)
        if self.tls is not None and self.tls_routes and self.tls.required:
            raise InvalidConfiguration("tls is required to end here, and tls_routes pass it on: say required: false")

    @property
    def leads(self) -> bool:
        """Whether it leads to backends, as a gateway need not."""
        return bool(self.routes or self.grpc_routes or self.tls_routes or self.tcp_routes or self.backend_refs)

    @property
    def spoken(self) -> Literal["detect", "http", "tcp"]:
        """What clients speak, said or not."""
        if self.protocol is not None:
            return self.protocol
        if self.backend_refs:
            return "detect"
        web = bool(self.routes or self.grpc_routes)
        raw = bool(self.tls_routes or self.tcp_routes)
        return "detect" if web and raw else "http" if web else "tcp"
