"""The parts of a configuration that say where connections come in, and how they are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from linkerd_proxy.detect.detect import OPAQUE_PORTS
from linkerd_proxy.document.shape import Range
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.config.policies import PolicyOrName
from linkerd_proxy.mesh.config.resilience import LimitEntry, RateLimitEntry, TimeoutsEntry
from linkerd_proxy.mesh.config.routes import GrpcRouteEntry, HttpRouteEntry, TcpRouteEntry, TlsRouteEntry
from linkerd_proxy.mesh.config.words import BackendRefs, Duration, Where
from linkerd_proxy.tcp.proxy_protocol import ProxyProtocol

__all__ = ["ListenerEntry", "ProxyProtocolEntry", "TlsEntry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyProtocolEntry:
    """PROXY headers of a proxy in front, which tell the client's address."""

    trusted: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """The networks of the proxies in front."""
    required: bool = True
    """Whether a connection without a header, or from anybody else, is refused."""

    def __post_init__(self) -> None:
        self.layer()

    def layer(self) -> ProxyProtocol:
        """Return the layer."""
        return ProxyProtocol(trusted=self.trusted, required=self.required)


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

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidConfiguration("a certificate goes with its key: give both files, or neither for the identity")
        if self.certificate is not None and self.require_identity:
            raise InvalidConfiguration("clients of the ordinary web have no identity: leave out require_identity")


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
        if not web and not raw and not self.backend_refs:
            raise InvalidConfiguration("the listener leads nowhere: give it backend_refs, or routes")
        if self.protocol == "tcp" and web:
            raise InvalidConfiguration("routes are for HTTP, and protocol is tcp: leave out one of them")
        if self.protocol == "http" and raw:
            raise InvalidConfiguration("tls_routes and tcp_routes are not for HTTP: leave out them, or protocol")
        if self.protocol == "detect" and not self.backend_refs and not (web and raw):
            raise InvalidConfiguration("protocol is detect, and there is one kind of routes: give backend_refs too")
        if not self.detect_timeout > 0:
            raise InvalidConfiguration("detect_timeout: 0s gives nobody time: give more")
        if self.tls is not None and self.tls_routes and self.tls.required:
            raise InvalidConfiguration("tls is required to end here, and tls_routes pass it on: say required: false")

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
