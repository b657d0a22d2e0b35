"""The outbound side of a sidecar (Linkerd: port 4140): from the application here to the mesh, and to anybody."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.core.endpoint import Resolve
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.detect.detect import OPAQUE_PORTS, Detect
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.h1.codec import CodecName
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.mesh.noting import noting
from linkerd_proxy.mesh.peer import MeshPeer, asking, dialling, leading
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.tcp.destinations import Destinations, parse_destination
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.tls.identity import Identity

__all__ = ["outbound"]

_LABELS = {"direction": "outbound"}


def outbound(
    identity: Identity | None = None,
    peers: Mapping[str, MeshPeer] | None = None,
    *,
    codec: CodecName = "auto",
    opaque_ports: frozenset[int] = OPAQUE_PORTS,
    detect_timeout: float = 10.0,
    connect_timeout: float = 1.0,
    trace: bool = False,
    services: Mapping[str, Resolve] | None = None,
) -> Stack[Connection]:
    """Return the outbound side of a sidecar.

    Serve it on listeners that ask for the original destination, which is where everything goes: to ``peers`` with
    mutual TLS, a transport header, and HTTP/1 upgraded to HTTP/2; to all others as it is. That is one address, which
    the application chose: what it wrote into ``Host`` leads nowhere else, and nothing is balanced or asked again.

    A destination among ``services`` stands for several endpoints, as a cluster's virtual address does: each request,
    and each connection that is not HTTP, goes to the one that power-of-two-choices picks, and breakers are around
    them. Retries are for who puts ``Retry`` there (see the source).

    Args:
        identity: What the proxy proves to its peers.
        peers: By destination, as :class:`~linkerd_proxy.tcp.destinations.Destinations` reads it.
        codec: The library that parses HTTP/1.
        opaque_ports: Ports to which nobody speaks HTTP.
        detect_timeout: Seconds that the application has to show what it speaks.
        connect_timeout: Seconds for each connection.
        trace: Take part in traces, and send spans where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says.
        services: Where the endpoints become known, by destination as in ``peers``: ``{"10.96.0.10:80":
            Dns("api.example:8080")}``. Those that have an identity are spoken to by the mesh's ways.

    Raises:
        InvalidConfiguration: if there are peers, but nothing to prove to them; if one is among ``services`` too.

    Source: linkerd2-proxy, linkerd/app/outbound.
    """
    requests, bytes_ = leading(identity, peers or {}, codec=codec, connect_timeout=connect_timeout)
    if services:
        _check(peers or {}, services)
        asked = {
            where: Balance(
                resolve, partial(asking, identity=identity, codec=codec, connect_timeout=connect_timeout), name=where
            )
            for where, resolve in services.items()
        }
        dialled = {
            where: Forward()
            | Balance(resolve, partial(dialling, identity=identity, connect_timeout=connect_timeout), name=where)
            for where, resolve in services.items()
        }
        requests = Destinations[Exchange](asked, requests)
        bytes_ = Destinations[Connection](dialled, bytes_)
    counted = Metrics[Connection](_LABELS)
    # Timeout, Retry and Balance have their place behind Rescue.
    return Detect(
        http=counted | Http(codec=codec) | noting(Metrics(_LABELS) | Tap(_LABELS) | Rescue() | requests, None, trace),
        otherwise=counted | Tap[Connection](_LABELS) | bytes_,
        timeout=detect_timeout,
        opaque_ports=opaque_ports,
    )


def _check(peers: Mapping[str, MeshPeer], services: Mapping[str, Resolve]) -> None:
    known = set(map(parse_destination, services))
    for where in peers:
        if parse_destination(where) in known:
            raise InvalidConfiguration(f"outbound: {where} is a peer and a service: keep one of them")
