"""The inbound side of a sidecar (Linkerd: port 4143): from the mesh, and from anybody, to the application here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.detect.detect import OPAQUE_PORTS
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.h1.codec import CodecName
from linkerd_proxy.mesh.accepting import accepting
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tls.identity import Identity

__all__ = ["inbound"]

_LABELS: Mapping[str, str] = MappingProxyType({"direction": "inbound"})
_REMEDY = (
    "let the application listen on every address: what listens on the loopback alone is reached "
    "only with --app 127.0.0.1:PORT, or inbound(app=...)"
)


def inbound(
    identity: Identity | None = None,
    *,
    app: Sequence[str | AnyAddress] = (),
    require_identity: bool = False,
    gateway: Stack[Connection] | None = None,
    codec: CodecName = "auto",
    opaque_ports: frozenset[int] = OPAQUE_PORTS,
    detect_timeout: float = 10.0,
    connect_timeout: float = 1.0,
    labels: Mapping[str, str] = _LABELS,
    access_log: str | None = None,
    trace: bool = False,
) -> Stack[Connection]:
    """Return the inbound side of a sidecar.

    Serve it on listeners that ask for the original destination. Connections from other proxies say in their transport
    header which port they mean; redirected ones go where they were going, which is this host.

    Args:
        identity: What the proxy proves; without one it serves plaintext, and TLS passes through to the application.
        app: Where the application is; by default wherever the connection was going.
        require_identity: Whether clients must prove who they are.
        gateway: What serves clients that ask for a name elsewhere.
        codec: The library that parses HTTP/1.
        opaque_ports: Ports to which nobody speaks HTTP. What goes there is passed on unread, whoever sends it: a
            request in it would reach the application with whatever ``l5d-client-id`` its sender wrote. That a peer
            calls another port's traffic opaque is not believed; its bytes decide.
        detect_timeout: Seconds that a client has to show what it speaks.
        connect_timeout: Seconds in which the application must accept.
        labels: For the metrics.
        access_log: The format of a line for each request on standard output, as ``AccessLog`` takes it; None for none.
        trace: Take part in traces, and send spans where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says.

    An application that listens on loopback alone is reached only if ``app`` says so: what was private stays so. Others
    get 502, and are told that.
    Source: linkerd2-proxy, linkerd/app/inbound.
    """
    connect = Connect(*app, timeout=connect_timeout, remedy="" if app else _REMEDY)
    return accepting(
        Client(codec=codec, absolute_form=True) | connect,
        connect,
        identity=identity,
        require_identity=require_identity,
        gateway=gateway,
        codec=codec,
        opaque_ports=opaque_ports,
        detect_timeout=detect_timeout,
        labels=labels,
        access_log=access_log,
        trace=trace,
    )
