"""The stacks that lead to backends, made from a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.balance.breaker import Breaker
from linkerd_proxy.balance.picks import Pick
from linkerd_proxy.balance.towards import Towards
from linkerd_proxy.core.endpoint import Endpoint, Resolve
from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Dial, Exchange
from linkerd_proxy.discover.dns import Dns
from linkerd_proxy.discover.file import EndpointsFile
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.mesh_headers import OutboundHeaders
from linkerd_proxy.http.upgrade import BETWEEN_PROXIES, Upgrade
from linkerd_proxy.mesh.config.backends import BackendEntry
from linkerd_proxy.mesh.config.claims import Unmeshed
from linkerd_proxy.mesh.config.kept import Kept
from linkerd_proxy.mesh.config.words import BackendRefs, named_backends
from linkerd_proxy.mesh.peer import reaching
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.route.split import Backend, Split
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.proxy_protocol import SendProxyProtocol
from linkerd_proxy.tls.identity import Identity
from linkerd_proxy.tls.originate import Originate

__all__ = ["Backends"]


class Backends:
    """The backends of a document: each is one stack, however often it is named.

    Args:
        entries: What the document says of them.
        identity: What the proxy proves to endpoints that have an identity.
        base: The directory that files are relative to.
        kept: Where discoveries are kept.
    """

    def __init__(self, entries: Mapping[str, BackendEntry], identity: Identity | None, base: Path, kept: Kept) -> None:
        self._entries = entries
        self._identity = identity
        self._base = base
        self._kept = kept
        self._exchanges: dict[str, Stack[Exchange]] = {}
        self._dials: dict[str, Stack[Dial]] = {}

    def exchanges(self, refs: BackendRefs) -> Stack[Exchange]:
        """Return the stack that serves requests at some backends."""
        named = named_backends(refs)
        if len(named) == 1:
            return self.exchange(named[0][0])
        return Split([Backend(self.exchange(name), weight, name) for name, weight in named])

    def dials(self, refs: BackendRefs) -> Stack[Dial]:
        """Return the stack that connects to some backends."""
        named = named_backends(refs)
        if len(named) == 1:
            return self.dial(named[0][0])
        return Split([Backend(self.dial(name), weight, name) for name, weight in named])

    def exchange(self, name: str) -> Stack[Exchange]:
        """Return the stack that serves requests at a backend."""
        if name not in self._exchanges:
            entry = self._entry(name)
            stack = self._balanced(name, entry)
            labels = {"backend": name}
            layers: list[Layer[Exchange, Exchange]] = []
            if entry.timeouts is not None:
                layers.append(entry.timeouts.layer())
            if entry.limit is not None:
                layers.append(entry.limit.layer())
            if entry.retry is not None:
                layers.append(entry.retry.layer(labels))
            if entry.hedge is not None:
                layers.append(entry.hedge.layer(labels))
            for layer in reversed(layers):
                stack = layer | stack
            self._exchanges[name] = stack
        return self._exchanges[name]

    def dial(self, name: str) -> Stack[Dial]:
        """Return the stack that connects to a backend."""
        if name not in self._dials:
            entry = self._entry(name)
            way = self._way(name, entry)
            resolve = self._resolve(entry)
            if resolve is None:
                self._dials[name] = way.to_original_dst()
            else:
                self._dials[name] = Balance(resolve, _Dialling(way), **_tuning(name, entry))
        return self._dials[name]

    def _balanced(self, name: str, entry: BackendEntry) -> Stack[Exchange]:
        way = self._way(name, entry)
        resolve = self._resolve(entry)
        if resolve is None:
            return way.ask(None) | way.to_original_dst()
        return Balance(resolve, _Asking(way), **_tuning(name, entry))

    def _entry(self, name: str) -> BackendEntry:
        if name not in self._entries:
            raise InvalidConfiguration(f"there is no backend {name!r}: the backends are {', '.join(self._entries)}")
        return self._entries[name]

    def _way(self, name: str, entry: BackendEntry) -> _Way:
        web = None
        if entry.tls is not None:
            roots = None if entry.tls.roots is None else str(self._base / entry.tls.roots)
            web = Originate(host=entry.tls.host, roots=roots)
        proxied = {None: None, "v1": SendProxyProtocol(1), "v2": SendProxyProtocol(2)}[entry.send_proxy_protocol]
        return _Way(name, entry.protocol, self._identity, web, proxied, entry.connect_timeout)

    def _resolve(self, entry: BackendEntry) -> Resolve | None:
        """Return where the endpoints become known, or None for the original destination."""
        if entry.endpoints:
            return self._kept.keep(entry.static())
        if entry.dns is not None:
            return self._kept.keep(Dns(entry.dns) if isinstance(entry.dns, str) else entry.dns.resolve())
        if entry.file is not None:
            return self._kept.keep(EndpointsFile(self._base / entry.file))
        return None


class _Tuning(TypedDict):
    pick: Pick
    breaker: Breaker | None
    queue: int
    failfast: float
    zone: str
    slow_start: float
    name: str


def _tuning(name: str, entry: BackendEntry) -> _Tuning:
    balance = entry.balance
    return {
        "pick": balance.picked(),
        "breaker": None if entry.breaker == "off" else entry.breaker.value(),
        "queue": balance.queue,
        "failfast": balance.failfast,
        "zone": balance.zone,
        "slow_start": balance.slow_start,
        "name": name,
    }


@dataclass(frozen=True, slots=True)
class _Way:
    """How the endpoints of one backend are reached."""

    name: str
    protocol: Literal["same", "http/1.1", "h2"]
    identity: Identity | None
    web: Originate | None
    proxied: SendProxyProtocol | None
    timeout: float

    def to_original_dst(self) -> Stack[Dial]:
        """Return the stack that connects to where each connection was going."""
        return Metrics[Dial]({"backend": self.name}) | self._connect(self.web)

    def to(self, endpoint: Endpoint) -> Stack[Dial]:
        """Return the stack that connects to an endpoint, by mutual TLS if it has an identity.

        Raises:
            InvalidConfiguration: if the endpoint wants to know who connects, and there is nothing to prove.
        """
        peer = endpoint.identity
        connect = self._connect(self.web if peer is None else None)
        return reaching(Towards(endpoint), peer, self.identity, connect, {"backend": self.name})

    def ask(self, endpoint: Endpoint | None) -> Layer[Exchange, Dial]:
        """Return the layers that ask an endpoint; one that has an identity is a proxy of the mesh, asked in HTTP/2."""
        if endpoint is not None and endpoint.identity is not None:
            # Which endpoint the next request goes to is not known: that this one wants to be left alone is its matter.
            upgraded = Upgrade(close=False) | Client(protocol="h2", limits=BETWEEN_PROXIES)
            return OutboundHeaders(endpoint.identity) | upgraded
        client = Client(protocol=self.protocol)
        return client if self.identity is None else Unmeshed() | client

    def _connect(self, tls: Originate | None) -> Stack[Dial]:
        stack: Stack[Dial] = Connect(timeout=self.timeout)
        if self.proxied is not None:
            stack = self.proxied | stack
        return stack if tls is None else tls | stack


@dataclass(frozen=True, slots=True)
class _Asking:
    """Makes the stack that sends requests to an endpoint."""

    way: _Way

    def __call__(self, endpoint: Endpoint) -> Stack[Exchange]:
        return self.way.ask(endpoint) | self.way.to(endpoint)


@dataclass(frozen=True, slots=True)
class _Dialling:
    """Makes the stack that connects to an endpoint."""

    way: _Way

    def __call__(self, endpoint: Endpoint) -> Stack[Dial]:
        return self.way.to(endpoint)
