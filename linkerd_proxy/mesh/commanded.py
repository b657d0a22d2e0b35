"""What the command serves, from plain data: each worker process makes its stack anew from the same words."""

from __future__ import annotations

from collections.abc import Sequence

from linkerd_proxy.address import is_name
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Connection
from linkerd_proxy.detect.detect import OPAQUE_PORTS
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.h1.codec import CodecName
from linkerd_proxy.mesh.gateway import gateway
from linkerd_proxy.mesh.identities import find_identity, own_name
from linkerd_proxy.mesh.inbound import inbound
from linkerd_proxy.mesh.outbound import outbound
from linkerd_proxy.mesh.peer import MeshPeer
from linkerd_proxy.mesh.reverse import reverse_proxy
from linkerd_proxy.mesh.sidecar import Sidecar
from linkerd_proxy.names import check_identity
from linkerd_proxy.tcp.destinations import parse_destination

__all__ = ["app_address", "parse_peer", "parse_ports", "reverse", "sidecar"]


def reverse(
    targets: Sequence[str],
    *,
    codec: CodecName,
    opaque: bool,
    identity: str | None,
    require_identity: bool,
    peer_identity: str | None,
    detect_timeout: float,
    connect_timeout: float,
    access_log: str | None,
    trace: bool,
) -> Stack[Connection]:
    """Return what ``--to`` serves.

    Args:
        targets: Where to.
        codec: The library that parses HTTP/1.
        opaque: Whether to forward bytes as they are.
        identity: The directory of the proxy's own; None finds one in the environment, if one is needed.
        require_identity: Whether clients must prove who they are.
        peer_identity: The name of the proxy that the targets are.
        detect_timeout: Seconds that a client has to show what it speaks.
        connect_timeout: Seconds for each connection.
        access_log: The format of a line for each request, or None for none.
        trace: Whether to take part in traces.

    Raises:
        InvalidConfiguration: if an identity is needed and there is none, or something is not what it should be.
    """
    needed = identity is not None or require_identity or peer_identity is not None
    own = find_identity(identity) if needed else None
    if needed and own is None:
        option = "--peer-identity" if peer_identity is not None else "--require-identity"
        raise InvalidConfiguration(f"{option} needs an identity of the proxy's own: give --identity DIR")
    if peer_identity is not None:
        check_identity(peer_identity, f"--peer-identity {peer_identity!r}")
    return reverse_proxy(
        targets,
        codec=codec,
        opaque=opaque,
        identity=own,
        require_identity=require_identity,
        peer_identity=peer_identity,
        detect_timeout=detect_timeout,
        connect_timeout=connect_timeout,
        access_log=access_log,
        trace=trace,
    )


def sidecar(
    *,
    app: str | None,
    peers: Sequence[str],
    codec: CodecName,
    identity: str | None,
    require_identity: bool,
    opaque_ports: str,
    detect_timeout: float,
    connect_timeout: float,
    outbound_detect_timeout: float,
    outbound_connect_timeout: float,
    outbound_ports: Sequence[str],
    gateway_suffixes: str,
    gateway_local: bool,
    access_log: str | None,
    trace: bool,
) -> Stack[Connection]:
    """Return what ``run`` without a target serves.

    Args:
        app: Where the application is, or None for where each connection was going.
        peers: Destinations in the mesh, as :func:`parse_peer` reads them.
        codec: The library that parses HTTP/1.
        identity: The directory of the proxy's own; None finds one in the environment.
        require_identity: Whether clients must prove who they are.
        opaque_ports: Ports to which nobody speaks HTTP, as :func:`parse_ports` reads them.
        detect_timeout: Seconds that clients have to show what they speak.
        connect_timeout: Seconds in which the application must accept.
        outbound_detect_timeout: Seconds that the application has to show what it speaks.
        outbound_connect_timeout: Seconds for each connection to elsewhere.
        outbound_ports: The ports of the outbound listeners.
        gateway_suffixes: The domains, with commas between them, that peers may reach through here.
        gateway_local: Whether that may lead to this host itself.
        access_log: The format of a line for each request from outside, or None for none.
        trace: Whether to take part in traces.

    Raises:
        InvalidConfiguration: if an identity is needed and there is none, or something is not what it should be.
    """
    own = find_identity(identity)
    if own is None and (require_identity or peers or gateway_suffixes):
        option = "--peer" if peers else "--require-identity" if require_identity else "--gateway-suffixes"
        raise InvalidConfiguration(f"{option} needs an identity of the proxy's own: give --identity DIR")
    opaque = parse_ports(opaque_ports)
    known = _peers(peers)
    suffixes = tuple(part.strip() for part in gateway_suffixes.split(",") if part.strip())
    for suffix in suffixes:
        if not is_name(suffix.lstrip(".")):
            raise InvalidConfiguration(f"--gateway-suffixes: {suffix!r} is no domain: write it as in svc.west.example")
    leads = None
    if suffixes and own:
        leads = gateway(own, own_name(identity), suffixes, known, codec=codec, local=gateway_local)
    return Sidecar(
        inbound=inbound(
            own,
            app=() if app is None else (app_address(app),),
            require_identity=require_identity,
            gateway=leads,
            codec=codec,
            opaque_ports=opaque,
            detect_timeout=detect_timeout,
            connect_timeout=connect_timeout,
            access_log=access_log,
            trace=trace,
        ),
        outbound=outbound(
            own,
            known,
            codec=codec,
            opaque_ports=opaque,
            detect_timeout=outbound_detect_timeout,
            connect_timeout=outbound_connect_timeout,
            trace=trace,
        ),
        outbound_ports=frozenset(map(int, outbound_ports)),
    )


def app_address(text: str) -> str:
    """Return the address of the application, of which a port alone is on this host's loopback."""
    return f"127.0.0.1:{text.removeprefix(':')}" if text.removeprefix(":").isdigit() else text


def parse_peer(text: str) -> tuple[str, MeshPeer]:
    """Read ``10.0.0.5:8080=web.mesh.local``, with ``@PORT`` after it where the peer's proxy doesn't listen on 4143.

    Raises:
        InvalidConfiguration: if it is none.
    """
    where, equals, rest = text.partition("=")
    name, at, port = rest.partition("@")
    if not equals or not where or not name or (at and not _is_port(port)):
        raise InvalidConfiguration(
            f"{text!r} is no peer: give DESTINATION=IDENTITY, as in 10.0.0.5:8080=web.mesh.local, and perhaps @PORT"
        )
    parse_destination(where)
    check_identity(name, f"{name!r} of --peer {where}")
    return where, MeshPeer(name, int(port) if at else 4143)


def _peers(texts: Sequence[str]) -> dict[str, MeshPeer]:
    peers: dict[str, MeshPeer] = {}
    for where, peer in map(parse_peer, texts):
        if where in peers:
            raise InvalidConfiguration(f"--peer {where} is given twice: give it once, with the identity that it proves")
        peers[where] = peer
    return peers


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 65536


def parse_ports(text: str) -> frozenset[int]:
    """Read ports and ranges of them, as in ``25,8000-8010``.

    Raises:
        InvalidConfiguration: if one is none.
    """
    if text == "default":
        return OPAQUE_PORTS
    ports: set[int] = set()
    for part in filter(None, map(str.strip, text.split(","))):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or not 0 < int(first) <= int(last or first) < 65536:
            raise InvalidConfiguration(f"{part!r} is no port: give one from 1 to 65535, or a range as in 8000-8010")
        ports.update(range(int(first), int(last or first) + 1))
    return frozenset(ports)
