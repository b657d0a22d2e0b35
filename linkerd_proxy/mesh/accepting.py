"""How a proxy of the mesh takes connections: TLS or none, HTTP or none, from other proxies or from anybody."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection, Dial, Exchange
from linkerd_proxy.detect.detect import OPAQUE_PORTS, Detect
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.h1.codec import CodecName
from linkerd_proxy.http.mesh_headers import InboundHeaders
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.http.upgrade import BETWEEN_PROXIES, Downgrade
from linkerd_proxy.mesh.noting import noting
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.tap import Tap
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.tcp.transport_header import Tagged, TransportHeader
from linkerd_proxy.tls.identity import Identity
from linkerd_proxy.tls.meshed import Meshed
from linkerd_proxy.tls.terminate import Terminate

__all__ = ["accepting"]

_RACE = 0.01  # seconds (own): a client had time to speak while it shook hands, so the server's turn comes soon
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


def accepting(
    ask: Stack[Exchange],
    dial: Stack[Dial],
    *,
    identity: Identity | None = None,
    require_identity: bool = False,
    gateway: Stack[Connection] | None = None,
    codec: CodecName = "auto",
    opaque: bool = False,
    opaque_ports: frozenset[int] = OPAQUE_PORTS,
    detect_timeout: float = 10.0,
    labels: Mapping[str, str] = _NO_LABELS,
    access_log: str | None = None,
    trace: bool = False,
) -> Stack[Connection]:
    """Return a stack that takes connections and hands on what they carry.

    Args:
        ask: Serves requests.
        dial: Serves everything that is not HTTP.
        identity: What the proxy proves to clients that speak TLS with it; without one all TLS passes through.
        require_identity: Whether clients must prove who they are, all of them.
        gateway: Serves connections from proxies that ask for a name elsewhere; without one they are served like others.
        codec: The library that parses HTTP/1.
        opaque: Whether nobody speaks HTTP: then only TLS is looked for.
        opaque_ports: Ports to which nobody speaks HTTP: what goes there is passed on unread, whoever sends it.
        detect_timeout: Seconds that a client has to show what it speaks.
        labels: For the metrics.
        access_log: The format of a line for each request on standard output, as ``AccessLog`` takes it; None for none.
        trace: Take part in traces, and send spans where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says.

    Raises:
        InvalidConfiguration: if clients shall prove who they are, but the proxy can't.
    """
    if require_identity and identity is None:
        raise InvalidConfiguration("mutual TLS takes two identities: give the proxy one of its own")
    counted = Metrics[Connection](labels)
    tcp = counted | Tap[Connection](labels) | Forward() | dial
    # Metrics stands outside Rescue: it counts the answers that clients get, those of our own making too.
    headers: Literal["meshed", True] = "meshed" if identity else True
    answered: Stack[Exchange] = Metrics(labels) | Tap(labels) | Rescue(headers=headers) | InboundHeaders() | ask
    answered = noting(answered, access_log, trace)
    http = counted | Http(codec=codec) | answered
    if identity is None:
        return tcp if opaque else _detect(http, tcp, detect_timeout, opaque_ports)
    # A peer that calls HTTP opaque is believed only where nobody is to speak HTTP: its l5d-* headers are looked at.
    header = TransportHeader(timeout=detect_timeout, opaque_ports=None if opaque else frozenset())
    decrypted: Stack[Connection] = tcp
    if not opaque:
        # Other proxies send the requests of many clients on one connection, so they may do more.
        proxied = Http(codec=codec, limits=BETWEEN_PROXIES) | Downgrade() | answered
        anybody = Http(codec=codec) | answered
        web = counted | (proxied if require_identity else Meshed(meshed=proxied, otherwise=anybody))
        decrypted = _detect(web, tcp, detect_timeout, opaque_ports, race=_RACE)
    if gateway is not None:
        decrypted = Tagged(local=decrypted, gateway=gateway)
    encrypted = Terminate(identity, require_identity=require_identity, timeout=detect_timeout) | header | decrypted
    if require_identity:
        return encrypted
    if opaque:
        return Detect(tls=encrypted, otherwise=tcp, timeout=detect_timeout, opaque_ports=frozenset())
    return _detect(http, tcp, detect_timeout, opaque_ports, tls=encrypted)


def _detect(
    http: Stack[Connection],
    tcp: Stack[Connection],
    timeout: float,
    opaque_ports: frozenset[int],
    *,
    tls: Stack[Connection] | None = None,
    race: float = 0.3,
) -> Stack[Connection]:
    # Nobody gets past HTTP's rules, and names himself to the application, by waiting until nobody looks any more.
    return Detect(
        http=http,
        tls=tls,
        otherwise=tcp,
        timeout=timeout,
        on_timeout="race",
        on_partial="http",
        opaque_ports=opaque_ports,
        race=race,
    )
