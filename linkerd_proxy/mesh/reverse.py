"""The reverse proxy: what ``linkerd-proxy run --listen ... --to ...`` serves."""

from __future__ import annotations

from collections.abc import Sequence

from linkerd_proxy.address import Address, AnyAddress, parse_target
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection, Dial, Exchange
from linkerd_proxy.detect.detect import Detect
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.h1.codec import CodecName
from linkerd_proxy.http.mesh_headers import OutboundHeaders
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.http.upgrade import BETWEEN_PROXIES, Upgrade
from linkerd_proxy.io.transport_header import ALPN
from linkerd_proxy.mesh.accepting import accepting
from linkerd_proxy.mesh.noting import noting
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.tcp.transport_header import SendTransportHeader
from linkerd_proxy.tls.identity import Identity
from linkerd_proxy.tls.originate import Originate

__all__ = ["reverse_proxy"]


def reverse_proxy(
    targets: Sequence[str | AnyAddress],
    *,
    codec: CodecName = "auto",
    opaque: bool = False,
    identity: Identity | None = None,
    require_identity: bool = False,
    peer_identity: str | None = None,
    detect_timeout: float = 10.0,
    connect_timeout: float = 1.0,
    access_log: str | None = None,
    trace: bool = False,
) -> Stack[Connection]:
    """Return a stack that detects and proxies HTTP/1, HTTP/2 and raw TCP to the targets.

    Args:
        targets: Where to, as :func:`~linkerd_proxy.address.parse_target` reads them. Several are taken in turn, and
            one that can't be reached is passed over.
        codec: The library that parses HTTP/1: ``auto``, ``h11`` or ``httptools``.
        opaque: Forward bytes without looking at them.
        identity: What the proxy proves: to clients that ask for it by TLS, and to the targets.
        require_identity: Refuse clients that don't prove who they are.
        peer_identity: The targets are proxies of the mesh with this name: they are spoken to with mutual TLS and a
            transport header, and HTTP/1 is carried as HTTP/2.
        detect_timeout: Seconds that a client has to show what it speaks.
        connect_timeout: Seconds for each connection to a target.
        access_log: The format of a line for each request on standard output, as ``AccessLog`` takes it; None for none.
        trace: Take part in traces, and send spans where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says.

    Raises:
        InvalidConfiguration: if there is no target, if one is no address, if an identity is missing, and if the format
            or the environment can't be read.
    """
    if not targets:
        raise InvalidConfiguration("a reverse proxy needs at least one target, for example 127.0.0.1:9000")
    connect = Connect(*targets, timeout=connect_timeout)
    if identity is None:
        if require_identity or peer_identity is not None:
            raise InvalidConfiguration("mutual TLS takes two identities: give the proxy one of its own")
        raw = Metrics[Connection]() | Tap[Connection]() | Forward() | connect
        if opaque:
            return raw
        # Metrics stands outside Rescue: it counts the answers that clients get, those of our own making too.
        asked = noting(Metrics() | Tap() | Rescue() | Client(codec=codec) | connect, access_log, trace)
        http = Metrics[Connection]() | Http(codec=codec) | asked
        return Detect(http=http, otherwise=raw, timeout=detect_timeout)
    ask: Stack[Exchange] = Client(codec=codec) | connect
    dial: Stack[Dial] = connect
    if peer_identity is not None:
        port = next((one.port for one in map(_address, targets) if isinstance(one, Address)), None)
        # To a Unix socket no header can say which port is meant: there is none.
        dial = SendTransportHeader(port) | Originate(identity, peer_identity, alpn=(ALPN,) if port else ()) | connect
        upgraded = Upgrade() | Client(protocol="h2", codec=codec, limits=BETWEEN_PROXIES, absolute_form=True)
        ask = OutboundHeaders(peer_identity) | upgraded | dial
    return accepting(
        ask,
        dial,
        identity=identity,
        require_identity=require_identity,
        codec=codec,
        opaque=opaque,
        opaque_ports=frozenset(),  # TLS for this proxy is looked for on whatever port it listens
        detect_timeout=detect_timeout,
        access_log=access_log,
        trace=trace,
    )


def _address(target: str | AnyAddress) -> AnyAddress:
    return parse_target(target)
