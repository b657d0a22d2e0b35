"""How a proxy reaches an endpoint: a proxy of the mesh, or anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from linkerd_proxy.balance.towards import Towards
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.stack import Layer, Stack
from linkerd_proxy.core.work import Connection, Dial, Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.h1.codec import CodecName
from linkerd_proxy.http.mesh_headers import OutboundHeaders
from linkerd_proxy.http.upgrade import BETWEEN_PROXIES, Upgrade
from linkerd_proxy.io.transport_header import ALPN
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.names import check_identity
from linkerd_proxy.tcp.aim import Aim
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.destinations import Destinations
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.tcp.transport_header import SendTransportHeader
from linkerd_proxy.tls.identity import Identity
from linkerd_proxy.tls.originate import Originate

__all__ = ["MeshPeer", "asking", "dialling", "leading", "reaching"]

_LABELS: Mapping[str, str] = MappingProxyType({"direction": "outbound"})


@dataclass(frozen=True, slots=True)
class MeshPeer:
    """A destination that is behind a proxy of the mesh.

    Args:
        identity: The name that its proxy must prove.
        tagged_port: Where its proxy reads transport headers (Linkerd: 4143), or None for the destination's own port.
    """

    identity: str
    tagged_port: int | None = 4143

    def __post_init__(self) -> None:
        check_identity(self.identity, f"MeshPeer({self.identity!r})")
        if self.tagged_port is not None and not 0 < self.tagged_port < 65536:
            raise InvalidConfiguration(f"MeshPeer(tagged_port={self.tagged_port}) is no port: give one from 1 to 65535")


def asking(
    endpoint: Endpoint,
    identity: Identity | None,
    *,
    codec: CodecName = "auto",
    connect_timeout: float = 1.0,
    labels: Mapping[str, str] = _LABELS,
) -> Stack[Exchange]:
    """Return the stack that sends requests to an endpoint, for ``Balance`` among others.

    One that has an identity is a proxy of the mesh: it is asked over mutual TLS, with a transport header, in HTTP/2.

    Args:
        endpoint: Whom to ask.
        identity: What the proxy proves to it.
        codec: The library that parses HTTP/1.
        connect_timeout: Seconds for each connection.
        labels: For the metrics.
    """
    dial = dialling(endpoint, identity, connect_timeout=connect_timeout, labels=labels)
    if endpoint.identity is None:
        return OutboundHeaders() | Client(codec=codec) | dial
    # Which replica the next request goes to is not known: this one's wish to be left alone is not the client's matter.
    upgraded = Upgrade(close=False) | Client(protocol="h2", codec=codec, limits=BETWEEN_PROXIES, absolute_form=True)
    return OutboundHeaders(endpoint.identity) | upgraded | dial


def dialling(
    endpoint: Endpoint,
    identity: Identity | None,
    *,
    connect_timeout: float = 1.0,
    labels: Mapping[str, str] = _LABELS,
) -> Stack[Dial]:
    """Return the stack that connects to an endpoint: with mutual TLS and a transport header if it has an identity.

    Args:
        endpoint: Whom to reach.
        identity: What the proxy proves to it.
        connect_timeout: Seconds for each connection.
        labels: For the metrics.

    Raises:
        InvalidConfiguration: if the endpoint wants to know who connects, and there is nothing to prove.
    """
    return reaching(Towards(endpoint), endpoint.identity, identity, Connect(timeout=connect_timeout), labels)


def reaching(
    aim: Aim | Towards,
    peer: str | None,
    identity: Identity | None,
    connect: Stack[Dial],
    labels: Mapping[str, str] = _LABELS,
) -> Stack[Dial]:
    """Return ``connect`` behind what the mesh needs for a peer with that identity, or None for one that has none.

    Raises:
        InvalidConfiguration: if the peer has an identity, and there is none to prove to it.
    """
    counted: Layer[Dial, Dial] = aim | Metrics[Dial](labels)
    if peer is None:
        return counted | connect
    if identity is None:
        raise InvalidConfiguration(f"{peer} wants to know who connects: give the proxy an identity of its own")
    return counted | SendTransportHeader() | Originate(identity, alpn=(ALPN,)) | connect


def leading(
    identity: Identity | None,
    peers: Mapping[str, MeshPeer],
    *,
    codec: CodecName = "auto",
    connect_timeout: float = 1.0,
    labels: Mapping[str, str] = _LABELS,
    elsewhere: bool = False,
) -> tuple[Stack[Exchange], Stack[Connection]]:
    """Return the stacks that lead requests, and connections, to where they were going: ``peers`` by the mesh's ways.

    Args:
        identity: What the proxy proves to its peers.
        peers: By destination, as :class:`~linkerd_proxy.tcp.destinations.Destinations` reads it.
        codec: The library that parses HTTP/1.
        connect_timeout: Seconds for each connection.
        labels: For the metrics.
        elsewhere: Whether what is no peer is to be on another host, as ``Connect`` has it.

    Raises:
        InvalidConfiguration: if there are peers, but nothing to prove to them.
    """
    connect = Connect(timeout=connect_timeout)
    plain = Metrics[Dial](labels) | Connect(timeout=connect_timeout, elsewhere=elsewhere)
    requests: Stack[Exchange] = OutboundHeaders() | Client(codec=codec, absolute_form=True) | plain
    bytes_: Stack[Connection] = Forward() | plain
    if not peers:
        return requests, bytes_
    aimed = {
        where: reaching(Aim(peer.identity, peer.tagged_port), peer.identity, identity, connect, labels)
        for where, peer in peers.items()
    }
    upgraded = Upgrade() | Client(protocol="h2", codec=codec, limits=BETWEEN_PROXIES, absolute_form=True)
    asked = {where: OutboundHeaders(peers[where].identity) | upgraded | dial for where, dial in aimed.items()}
    forwarded = {where: Forward() | dial for where, dial in aimed.items()}
    return Destinations[Exchange](asked, requests), Destinations[Connection](forwarded, bytes_)
