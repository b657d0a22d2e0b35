"""How the endpoints of one backend are reached, made from a configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from linkerd_proxy.balance.towards import Towards
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Dial, Exchange
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.h1.codec import CodecName
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.mesh_headers import OutboundHeaders
from linkerd_proxy.http.upgrade import BETWEEN_PROXIES, Upgrade
from linkerd_proxy.mesh.config.backends import BackendEntry
from linkerd_proxy.mesh.config.claims import Unmeshed
from linkerd_proxy.mesh.config.peers import mesh_peers
from linkerd_proxy.mesh.peer import reaching
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.tcp.aim import Aim
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.destinations import Destinations
from linkerd_proxy.tcp.proxy_protocol import SendProxyProtocol
from linkerd_proxy.tls.identity import Identity
from linkerd_proxy.tls.originate import Originate

__all__ = ["Asking", "Dialling", "Way"]


@dataclass(frozen=True, slots=True)
class Way:
    """How the endpoints of one backend are reached.

    Args:
        name: The backend's.
        entry: What the document says of it.
        identity: What the proxy proves to endpoints that have an identity.
        base: The directory that files are relative to.
        codec: The library that parses HTTP/1.
    """

    name: str
    entry: BackendEntry
    identity: Identity | None
    base: Path
    codec: CodecName

    # --- endpoints -----------------------------------------------------------------------------

    def to(self, endpoint: Endpoint) -> Stack[Dial]:
        """Return the stack that connects to an endpoint, by mutual TLS if it has an identity.

        Raises:
            InvalidConfiguration: if the endpoint wants to know who connects, and there is nothing to prove.
        """
        peer = endpoint.identity
        return reaching(Towards(endpoint), peer, self.identity, self._connect(meshed=peer is not None), self._labels)

    def ask(self, endpoint: Endpoint) -> Layer[Exchange, Dial]:
        """Return the layers that ask an endpoint; one that has an identity is a proxy of the mesh, asked in HTTP/2."""
        if endpoint.identity is not None:
            # Which endpoint the next request goes to is not known: that this one wants to be left alone is its matter.
            return OutboundHeaders(endpoint.identity) | Upgrade(close=False) | self._meshed_client()
        return self._plain_client()

    # --- original destinations -----------------------------------------------------------------

    def exchanges_on(self) -> Stack[Exchange]:
        """Return the stack that asks where each connection was going."""
        otherwise = self._plain_client() | self._to_original_dst()
        dials = self._to_peers()
        if not dials:
            return otherwise
        peers = mesh_peers(self.entry.peers)
        client = Upgrade() | self._meshed_client()
        asked = {where: OutboundHeaders(peers[where].identity) | client | dial for where, dial in dials.items()}
        return Destinations[Exchange](asked, otherwise)

    def dials_on(self) -> Stack[Dial]:
        """Return the stack that connects to where each connection was going."""
        dials = self._to_peers()
        return Destinations[Dial](dials, self._to_original_dst()) if dials else self._to_original_dst()

    def _to_original_dst(self) -> Stack[Dial]:
        return Metrics[Dial](self._labels) | self._connect(meshed=False)

    def _to_peers(self) -> dict[str, Stack[Dial]]:
        connect = self._connect(meshed=True)
        return {
            where: reaching(Aim(peer.identity, peer.tagged_port), peer.identity, self.identity, connect, self._labels)
            for where, peer in mesh_peers(self.entry.peers).items()
        }

    # --- what they are made of -----------------------------------------------------------------

    @property
    def _labels(self) -> dict[str, str]:
        return {**self.entry.labels, "backend": self.name}

    def _meshed_client(self) -> Client:
        return Client(protocol="h2", codec=self.codec, limits=replace(BETWEEN_PROXIES, **self.entry.limits))

    def _plain_client(self) -> Layer[Exchange, Dial]:
        client = Client(protocol=self.entry.protocol, codec=self.codec, limits=Limits(**self.entry.limits))
        return client if self.identity is None else Unmeshed() | client

    def _connect(self, *, meshed: bool) -> Stack[Dial]:
        entry = self.entry
        stack: Stack[Dial] = Connect(
            timeout=entry.connect_timeout,
            source=entry.source,
            options=entry.options.value(),
            elsewhere=entry.elsewhere,
        )
        if entry.send_proxy_protocol is not None:
            stack = SendProxyProtocol(1 if entry.send_proxy_protocol == "v1" else 2) | stack
        if entry.tls is None or meshed:
            return stack
        roots = None if entry.tls.roots is None else str(self.base / entry.tls.roots)
        return Originate(host=entry.tls.host, roots=roots, timeout=entry.tls.timeout) | stack


@dataclass(frozen=True, slots=True)
class Asking:
    """Makes the stack that sends requests to an endpoint."""

    way: Way

    def __call__(self, endpoint: Endpoint) -> Stack[Exchange]:
        """Return the stack."""
        return self.way.ask(endpoint) | self.way.to(endpoint)


@dataclass(frozen=True, slots=True)
class Dialling:
    """Makes the stack that connects to an endpoint."""

    way: Way

    def __call__(self, endpoint: Endpoint) -> Stack[Dial]:
        """Return the stack."""
        return self.way.to(endpoint)
