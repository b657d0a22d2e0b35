"""The stack of one listener, made from a configuration: TLS or none, HTTP or none, and who is let in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.detect.detect import Detect
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.h1.codec import CodecName
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.mesh_headers import InboundHeaders
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.http.upgrade import BETWEEN_PROXIES, Downgrade
from linkerd_proxy.io.options import TcpOptions
from linkerd_proxy.mesh.config.claims import NoClientId
from linkerd_proxy.mesh.config.dispatch import Nowhere, OnlyTls, SocketOptions
from linkerd_proxy.mesh.config.listeners import ListenerEntry, TlsEntry
from linkerd_proxy.mesh.config.peers import mesh_peers
from linkerd_proxy.mesh.config.policies import server_policy
from linkerd_proxy.mesh.config.reaching import Backends
from linkerd_proxy.mesh.config.routing import routed
from linkerd_proxy.mesh.config.web import web_context
from linkerd_proxy.mesh.gateway import gateway
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.policy.admit import Limit
from linkerd_proxy.policy.authorize import Authorize
from linkerd_proxy.policy.ratelimit import RateLimit
from linkerd_proxy.route.opaque import OpaqueRoute
from linkerd_proxy.route.tls import TlsRoute
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.tcp.transport_header import Tagged, TransportHeader
from linkerd_proxy.tls.identity import Identity
from linkerd_proxy.tls.meshed import Meshed
from linkerd_proxy.tls.terminate import Terminate

__all__ = ["Around", "ListenerStacks"]

_RACE = 0.01  # seconds (own): a client had time to speak while it shook hands, so the server's turn comes soon


@dataclass(frozen=True, slots=True)
class Around:
    """What all listeners of a document share.

    Args:
        backends: Where work can go.
        base: The directory that files are relative to.
        notes: What writes requests down, the outermost first.
        codec: The library that parses HTTP/1.
        identity: What the proxy proves to its mesh, if it can.
        own_name: The name of that identity, if somebody has to know it.
    """

    backends: Backends
    base: Path
    notes: Sequence[Layer[Exchange, Exchange]]
    codec: CodecName
    identity: Identity | None
    own_name: str | None


class ListenerStacks:
    """Makes the stack of one listener.

    Args:
        name: Its name.
        entry: What the document says of it.
        around: What it shares with others.
    """

    def __init__(self, name: str, entry: ListenerEntry, around: Around) -> None:
        self._entry = entry
        self._around = around
        self._identity = around.identity
        self._backends = around.backends
        self._labels = {**entry.labels, "listener": name}
        self._policy = None if entry.policy is None else server_policy(entry.policy, name)
        self._name = name
        self._shared: tuple[Stack[Exchange] | None, Stack[Connection] | None] = None, None

    def stack(self) -> Stack[Connection]:
        """Return the stack."""
        entry = self._entry
        stack = self._plain() if entry.tls is None else self._encrypted(entry.tls)
        if entry.proxy_protocol is not None:
            stack = entry.proxy_protocol.layer() | stack
        options = entry.options.value()
        return stack if options == TcpOptions() else SocketOptions(options) | stack

    # --- what is inside of TLS, or without it --------------------------------------------------

    def _plain(self) -> Stack[Connection]:
        spoken = self._entry.spoken
        if spoken == "tcp":
            return self._raw()
        http = self._http(self._server())
        return http if spoken == "http" else self._detecting(http, self._raw())

    def _detecting(self, http: Stack[Connection], raw: Stack[Connection], race: float = 0.3) -> Stack[Connection]:
        entry = self._entry
        opaque = frozenset(entry.opaque_ports)
        return Detect(
            http=http,
            otherwise=raw,
            timeout=entry.detect_timeout,
            on_timeout="race",  # nobody gets past HTTP's rules by waiting until nobody looks any more
            on_partial="http",
            opaque_ports=opaque,
            race=race,
        )

    def _server(self) -> Http:
        return Http(codec=self._around.codec, limits=Limits(**self._entry.limits))

    def _http(self, server: Layer[Connection, Exchange]) -> Stack[Connection]:
        answered, raw = self._shared
        if answered is None:  # clients by TLS and without share routes, limits and policies
            answered = self._answered()
            self._shared = answered, raw
        return Metrics[Connection](self._labels) | server | answered

    def _answered(self) -> Stack[Exchange]:
        """Return what serves requests, from the log on."""
        entry = self._entry
        meshed = self._identity is not None and entry.tls is not None and entry.tls.certificate is None
        stack = routed(entry, self._backends, self._name)
        if entry.timeouts is not None:
            stack = entry.timeouts.layer() | stack
        if entry.limit is not None:
            stack = entry.limit.layer() | stack
        if entry.rate_limit is not None:
            stack = entry.rate_limit.layer() | stack
        if self._policy is not None:
            stack = Authorize(self._policy) | stack
        if meshed:
            stack = InboundHeaders() | stack
        elif self._identity is not None:
            stack = NoClientId() | stack
        # Metrics stands outside Rescue: it counts the answers that clients get, those of our own making too.
        # A trace stands outside of them, whose exemplars name it, and inside the log, whose lines do.
        stack = Metrics(self._labels) | Tap(self._labels) | Rescue(headers="meshed" if meshed else True) | stack
        for layer in reversed(self._around.notes):
            stack = layer | stack
        return stack

    def _raw(self) -> Stack[Connection]:
        """Return what serves connections of which nothing is known."""
        answered, raw = self._shared
        if raw is None:
            raw = self._forwarded()
            self._shared = answered, raw
        return raw

    def _forwarded(self) -> Stack[Connection]:
        entry = self._entry
        stack = self._unrouted()
        if entry.tcp_routes:
            routes = {
                destination: self._forward() | self._backends.dials(route.backend_refs)
                for route in entry.tcp_routes
                for destination in route.destinations
            }
            if stack is not None:
                routes.setdefault("*", stack)
            stack = OpaqueRoute(routes)
        if entry.tls_routes and entry.tls is None:
            stack = TlsRoute(self._by_sni(), otherwise=stack, timeout=entry.detect_timeout)
        assert stack is not None, "a listener without any way was refused when it was read"
        return self._admitted(stack)

    def _forward(self) -> Forward:
        return Forward(half_open=self._entry.half_open)

    def _unrouted(self) -> Stack[Connection] | None:
        refs = self._entry.backend_refs
        return self._forward() | self._backends.dials(refs) if refs else None

    def _admitted(self, stack: Stack[Connection]) -> Stack[Connection]:
        entry = self._entry
        # Both hold connections as well as requests.
        if entry.limit is not None:
            stack = cast("Limit[Connection]", entry.limit.layer()) | stack
        if entry.rate_limit is not None:
            stack = cast("RateLimit[Connection]", entry.rate_limit.layer()) | stack
        if self._policy is not None:
            stack = Authorize[Connection](self._policy) | stack
        return Metrics[Connection](self._labels) | Tap[Connection](self._labels) | stack

    def _by_sni(self) -> dict[str, Stack[Connection]]:
        return {
            host: self._forward() | self._backends.dials(route.backend_refs)
            for route in self._entry.tls_routes
            for host in route.hostnames
        }

    # --- TLS that ends here --------------------------------------------------------------------

    def _encrypted(self, tls: TlsEntry) -> Stack[Connection]:
        decrypted = self._of_web(tls) if tls.certificate is not None else self._of_mesh(tls)
        if tls.required or tls.require_identity:
            return decrypted
        entry = self._entry
        if entry.tls_routes:
            passed = {name: self._admitted(stack) for name, stack in self._by_sni().items()}
            decrypted = TlsRoute(passed, otherwise=decrypted, timeout=entry.detect_timeout)
        raw = self._raw() if entry.spoken != "http" else None
        http = self._http(self._server()) if entry.spoken != "tcp" else None
        return Detect(
            tls=decrypted,
            http=http,
            otherwise=raw or http or decrypted,
            timeout=entry.detect_timeout,
            on_timeout="race",
            on_partial="otherwise" if http is None else "http",
            opaque_ports=frozenset(entry.opaque_ports),
        )

    def _of_web(self, tls: TlsEntry) -> Stack[Connection]:
        end = Terminate(
            server_names=tls.server_names,
            timeout=tls.timeout or self._entry.detect_timeout,
            max_handshakes=tls.max_handshakes,
            context=web_context(tls, self._around.base),
        )
        return (end | OnlyTls() if tls.required else end) | self._plain()

    def _of_mesh(self, tls: TlsEntry) -> Stack[Connection]:
        entry = self._entry
        if self._identity is None:
            raise InvalidConfiguration(
                f"listener {self._name!r} ends TLS by the proxy's identity, and there is none: give identity, or a "
                "certificate and key"
            )
        end: Layer[Connection, Connection] = Terminate(
            self._identity,
            tls.server_names,
            tls.require_identity,
            timeout=tls.timeout or entry.detect_timeout,
            max_handshakes=tls.max_handshakes,
        )
        if tls.required and not tls.require_identity:
            end = end | OnlyTls()
        # A peer that calls HTTP opaque is believed only where nobody is to speak HTTP: its l5d-* headers are looked at.
        opaque = entry.leads and entry.spoken == "tcp"
        header = TransportHeader(timeout=entry.detect_timeout, opaque_ports=None if opaque else frozenset())
        return end | header | self._or_gateway(self._from_mesh(tls), self._identity)

    def _from_mesh(self, tls: TlsEntry) -> Stack[Connection]:
        """Return what serves decrypted connections that are meant for here."""
        entry = self._entry
        if not entry.leads:
            return Nowhere()
        if entry.spoken == "tcp":
            return self._raw()
        # Other proxies send the requests of many clients on one connection, so they may do more.
        limits = replace(BETWEEN_PROXIES, **entry.limits)
        http = self._http(Http(codec=self._around.codec, limits=limits) | Downgrade())
        if not tls.require_identity:
            http = Meshed(meshed=http, otherwise=self._http(self._server()))
        return http if entry.spoken == "http" else self._detecting(http, self._raw(), _RACE)

    def _or_gateway(self, local: Stack[Connection], identity: Identity) -> Stack[Connection]:
        """Return what serves decrypted connections, those too that ask for a name elsewhere."""
        entry = self._entry.gateway
        if entry is None:
            return local
        name = entry.name or self._around.own_name
        assert name is not None, "the proxy's own name was looked for"
        leading = gateway(
            identity,
            name,
            entry.suffixes,
            mesh_peers(entry.peers),
            codec=self._around.codec,
            detect_timeout=self._entry.detect_timeout,
            connect_timeout=entry.connect_timeout,
            limits=replace(BETWEEN_PROXIES, **self._entry.limits),
            labels={**self._labels, "direction": "gateway"},
            local=entry.local,
        )
        # Who may use the listener is who may be led on.
        admitted = leading if self._policy is None else Authorize[Connection](self._policy) | leading
        return Tagged(local=local, gateway=admitted)
