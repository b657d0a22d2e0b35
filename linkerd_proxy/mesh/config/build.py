"""From a document to the stack that it describes: the same layers that a Python script puts together."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.detect.detect import Detect
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.mesh_headers import InboundHeaders
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.http.upgrade import BETWEEN_PROXIES, Downgrade
from linkerd_proxy.mesh.config.claims import NoClientId
from linkerd_proxy.mesh.config.dispatch import ByListener, OnlyTls
from linkerd_proxy.mesh.config.document import ProxyDocument
from linkerd_proxy.mesh.config.kept import Kept
from linkerd_proxy.mesh.config.listeners import ListenerEntry, TlsEntry
from linkerd_proxy.mesh.config.policies import server_policy
from linkerd_proxy.mesh.config.reaching import Backends
from linkerd_proxy.mesh.config.routing import routed
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.policy.admit import Limit
from linkerd_proxy.policy.authorize import Authorize
from linkerd_proxy.policy.ratelimit import RateLimit
from linkerd_proxy.route.opaque import OpaqueRoute
from linkerd_proxy.route.tls import TlsRoute
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.tcp.transport_header import TransportHeader
from linkerd_proxy.tls.identity import Identity
from linkerd_proxy.tls.meshed import Meshed
from linkerd_proxy.tls.terminate import Terminate

__all__ = ["build", "web_context"]

_RACE = 0.01  # seconds (own): a client had time to speak while it shook hands, so the server's turn comes soon


def build(
    document: ProxyDocument,
    *,
    base: Path = Path(),  # immutable
    bound: Mapping[str, Sequence[AnyAddress]] | None = None,
    kept: Kept | None = None,
) -> Stack[Connection]:
    """Return the stack that a document describes.

    Args:
        document: What to build.
        base: The directory that the document's files are relative to.
        bound: Where the listeners really listen, by name, if several have ports that the system chose.
        kept: Where resources are kept that stay open when the document changes.

    Raises:
        InvalidConfiguration: for a reference that leads nowhere, and for a certificate that can't be used.
    """
    kept = Kept() if kept is None else kept
    identity = None if document.identity is None else kept.keep(document.identity.identity(base))
    backends = Backends(document.backends, identity, base, kept)
    notes: list[Layer[Exchange, Exchange]] = []
    if document.access_log is not None:
        notes.append(document.access_log.layer(base))
    if document.trace is not None:
        notes.append(document.trace.layer(kept))
    stacks = {
        name: _Listening(name, entry, identity, backends, base, notes).stack()
        for name, entry in document.listeners.items()
    }
    if len(stacks) == 1:
        return next(iter(stacks.values()))
    addresses = {name: (bound or {}).get(name) or (entry.address,) for name, entry in document.listeners.items()}
    return ByListener(stacks, addresses)


def web_context(entry: TlsEntry, base: Path) -> ssl.SSLContext:
    """Return the context of a certificate of the ordinary web.

    Raises:
        InvalidConfiguration: if its files can't be used.
    """
    assert entry.certificate is not None
    assert entry.key is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    certificate, key = base / entry.certificate, base / entry.key
    try:
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise InvalidConfiguration(
            f"{certificate} and {key} can't be used together ({error.reason or error}): give a certificate and its "
            "own key, in PEM and not encrypted"
        ) from None
    except OSError as error:
        raise InvalidConfiguration(
            f"{certificate} or {key} can't be read: {error.strerror}; name other files"
        ) from None
    return context


class _Listening:
    """Makes the stack of one listener."""

    def __init__(
        self,
        name: str,
        entry: ListenerEntry,
        identity: Identity | None,
        backends: Backends,
        base: Path,
        notes: Sequence[Layer[Exchange, Exchange]],
    ) -> None:
        self._entry = entry
        self._identity = identity
        self._backends = backends
        self._base = base
        self._notes = notes
        self._labels = {"listener": name}
        self._policy = None if entry.policy is None else server_policy(entry.policy, name)
        self._name = name
        self._shared: tuple[Stack[Exchange] | None, Stack[Connection] | None] = None, None

    def stack(self) -> Stack[Connection]:
        entry = self._entry
        stack = self._plain() if entry.tls is None else self._encrypted(entry.tls)
        return stack if entry.proxy_protocol is None else entry.proxy_protocol.layer() | stack

    # --- what is inside of TLS, or without it --------------------------------------------------

    def _plain(self) -> Stack[Connection]:
        spoken = self._entry.spoken
        if spoken == "tcp":
            return self._raw()
        http = self._http(Http())
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
        for layer in reversed(self._notes):
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
                destination: Forward() | self._backends.dials(route.backend_refs)
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

    def _unrouted(self) -> Stack[Connection] | None:
        refs = self._entry.backend_refs
        return Forward() | self._backends.dials(refs) if refs else None

    def _admitted(self, stack: Stack[Connection]) -> Stack[Connection]:
        entry = self._entry
        if entry.limit is not None:
            limit = entry.limit
            stack = Limit[Connection](limit.in_flight, limit.queue, limit.wait) | stack
        if entry.rate_limit is not None:
            rates = entry.rate_limit.layer()
            stack = RateLimit[Connection](rates.total, rates.identity, rates.overrides, rates.burst) | stack
        if self._policy is not None:
            stack = Authorize[Connection](self._policy) | stack
        return Metrics[Connection](self._labels) | Tap[Connection](self._labels) | stack

    def _by_sni(self) -> dict[str, Stack[Connection]]:
        return {
            host: Forward() | self._backends.dials(route.backend_refs)
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
        http = self._http(Http()) if entry.spoken != "tcp" else None
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
        end = Terminate(context=web_context(tls, self._base), timeout=self._entry.detect_timeout)
        return (end | OnlyTls() if tls.required else end) | self._plain()

    def _of_mesh(self, tls: TlsEntry) -> Stack[Connection]:
        entry = self._entry
        if self._identity is None:
            raise InvalidConfiguration(
                f"listener {self._name!r} ends TLS by the proxy's identity, and there is none: give identity, or a "
                "certificate and key"
            )
        end: Layer[Connection, Connection] = Terminate(
            self._identity, require_identity=tls.require_identity, timeout=entry.detect_timeout
        )
        if tls.required and not tls.require_identity:
            end = end | OnlyTls()
        spoken = entry.spoken
        # A peer that calls HTTP opaque is believed only where nobody is to speak HTTP: its l5d-* headers are looked at.
        header = TransportHeader(timeout=entry.detect_timeout, opaque_ports=None if spoken == "tcp" else frozenset())
        if spoken == "tcp":
            return end | header | self._raw()
        # Other proxies send the requests of many clients on one connection, so they may do more.
        http = self._http(Http(limits=BETWEEN_PROXIES) | Downgrade())
        if not tls.require_identity:
            http = Meshed(meshed=http, otherwise=self._http(Http()))
        return end | header | (http if spoken == "http" else self._detecting(http, self._raw(), _RACE))
