"""The gateway between clusters: meshed peers ask it for a name, and it leads them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.detect.detect import Detect
from linkerd_proxy.http.gateway import GatewayRequests
from linkerd_proxy.http.h1.codec import CodecName
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.mesh_headers import InboundHeaders
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.http.upgrade import BETWEEN_PROXIES, Downgrade
from linkerd_proxy.mesh.peer import MeshPeer, leading
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.tcp.gateway import GatewayConnections
from linkerd_proxy.tls.identity import Identity

__all__ = ["gateway"]

_LABELS: Mapping[str, str] = MappingProxyType({"direction": "gateway"})
_RACE = 0.01  # seconds (own): as for what is meant for the application here


def gateway(
    identity: Identity,
    name: str,
    suffixes: Sequence[str],
    peers: Mapping[str, MeshPeer] | None = None,
    *,
    codec: CodecName = "auto",
    detect_timeout: float = 10.0,
    connect_timeout: float = 1.0,
    limits: Limits = BETWEEN_PROXIES,
    labels: Mapping[str, str] = _LABELS,
    local: bool = False,
) -> Stack[Connection]:
    """Return what serves connections whose transport header asks for a name: ``inbound(gateway=...)`` takes it.

    Requests and connections go on to that name, over the mesh if it is among ``peers``. What was here before is
    refused: by the identity of its client, by ``Forwarded``, and by the count of proxies in transport headers. So is
    what leads to the gateway's own host, such as its admin endpoint: whoever holds a name under one of the domains
    says where it resolves to.

    Args:
        identity: What the proxy proves to its peers.
        name: The same identity's name, by which the gateway knows what it has seen before.
        suffixes: The domains under which names may be reached.
        peers: By destination, as :class:`~linkerd_proxy.tcp.destinations.Destinations` reads it.
        codec: The library that parses HTTP/1.
        detect_timeout: Seconds that a client has to show what it speaks.
        connect_timeout: Seconds for each connection.
        limits: What peers may ask of HTTP.
        labels: For the metrics.
        local: Whether names may lead to this host after all: to its loopback, its own addresses and link-local ones.
            What is among ``peers`` may do so anyway, for it has to prove who it is.

    Source: linkerd2-proxy, linkerd/app/gateway.
    """
    requests, connections = leading(
        identity, peers or {}, codec=codec, connect_timeout=connect_timeout, labels=labels, elsewhere=not local
    )
    counted = Metrics[Connection](labels)
    led = GatewayRequests(name, tuple(suffixes)) | requests
    http = Http(codec=codec, limits=limits) | Downgrade() | Metrics(labels) | Tap(labels)
    return Detect(
        http=counted | http | Rescue(headers="meshed") | InboundHeaders() | led,
        otherwise=counted | Tap[Connection](labels) | GatewayConnections(name, tuple(suffixes)) | connections,
        timeout=detect_timeout,
        race=_RACE,
    )
