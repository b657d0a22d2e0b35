"""Layers that take and send transport headers, by which proxies tell each other what a connection is for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import trio

from linkerd_proxy.address import Address, is_name
from linkerd_proxy.core.stack import Layer, Service, Stack, opened
from linkerd_proxy.core.work import Connection, Dial, Target, Tls
from linkerd_proxy.errors import (
    BadRequest,
    Denied,
    DetectTimeout,
    InvalidConfiguration,
    LoopDetected,
    NoTarget,
    ProxyError,
    UpstreamHandshakeFailed,
)
from linkerd_proxy.io.loops import MAX_HOPS, hops, passed_on
from linkerd_proxy.io.rewind import Rewound
from linkerd_proxy.io.transport_header import ALPN, MAX_LENGTH, Header, SessionProtocol, encode_header, parse_header
from linkerd_proxy.metrics.registry import current_registry

__all__ = ["SendTransportHeader", "Tagged", "TransportHeader"]

_READ = 4096
Refusal: TypeAlias = Literal["plaintext", "no_identity", "no_alpn", "timeout", "malformed", "loop"]


@dataclass(frozen=True, slots=True, repr=False)
class TransportHeader(Layer[Connection, Connection]):
    """Takes the transport header off a connection whose TLS agreed on one: what it says becomes the connection's.

    ``original_dst`` becomes the port at the address where the client meant to go anyway, or, for a gateway, at the name
    that the header gives, which also stands in ``target_name``. ``protocol`` becomes the header's, or ``opaque`` where
    it names none. A port that leads back to this proxy is refused where it is dialled, by ``Connect``.

    Args:
        required: Whether connections without a header are refused, as on a port for proxies only. Otherwise they pass
            untouched.
        timeout: Seconds for the header to arrive (Linkerd: 10).
        opaque_ports: The ports for which a peer is believed that what it sends is opaque; on others its bytes decide,
            since no header of HTTP is looked at in an opaque connection. None believes it for every port, as Linkerd.

    Raises:
        Denied: without TLS, a client identity or the agreement, if ``required``; without an identity, for a gateway.
        BadRequest: if the header is malformed.
        DetectTimeout: if it did not arrive in time.
        LoopDetected: if too many proxies have passed the connection on.
    """

    required: bool = False
    timeout: float = 10.0
    opaque_ports: frozenset[int] | None = None

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise InvalidConfiguration(f"TransportHeader(timeout={self.timeout!r}): give more than 0 seconds")

    async def serve(self, work: Connection, inner: Service[Connection]) -> None:
        """Take the header off and pass the connection on."""
        if work.tls is None or work.tls.alpn != ALPN:
            if self.required:
                raise _without_header(work.tls)
            return await inner(work)
        if self.required and work.tls.peer_identity is None:
            raise _refused("no_identity", Denied("the client proved no identity", layer="TransportHeader"))
        header, rest = await self._take(work.stream)
        return await inner(self._meant(work, work.tls, header, rest))

    async def _take(self, stream: trio.abc.ReceiveStream) -> tuple[Header, bytes]:
        data = bytearray()
        with trio.move_on_after(self.timeout):
            while True:
                received = await stream.receive_some(_READ)
                try:
                    if not received:
                        raise BadRequest("the connection ended before its transport header was complete")
                    data += received
                    read = parse_header(data, max_length=MAX_LENGTH)
                except BadRequest as error:
                    error.layer = "TransportHeader"
                    raise _refused("malformed", error) from None
                if read is not None:
                    header, end = read
                    return header, bytes(data[end:])
        late = DetectTimeout(
            "the transport header did not arrive",
            layer="TransportHeader",
            waited=self.timeout,
            remedy="look at the client's proxy, or raise TransportHeader(timeout=...)",
        )
        raise _refused("timeout", late)

    def _meant(self, work: Connection, tls: Tls, header: Header, rest: bytes) -> Connection:
        if passed_on(header.hops + 1):
            problem = f"more than {MAX_HOPS} proxies have passed this connection on"
            raise _refused("loop", LoopDetected(problem, layer="TransportHeader"))
        if header.name is not None and tls.peer_identity is None:
            problem = "a client without an identity asks for a gateway"
            raise _refused("no_identity", Denied(problem, layer="TransportHeader"))
        current_registry().counter(
            "inbound_tcp_transport_header_connections_total",
            "Connections that began with a transport header",
            session_protocol=header.protocol or "opaque",
            target="local" if header.name is None else "gateway",
            client_id=tls.peer_identity or "",
        ).value += 1
        believed = self.opaque_ports is None or header.name is not None or header.port in self.opaque_ports
        return replace(
            work,
            stream=Rewound(work.stream, rest) if rest else work.stream,
            original_dst=Address(header.name or _host(work), header.port),
            protocol=header.protocol or ("opaque" if believed else None),
            target_name=header.name,
        )


def _host(work: Connection) -> str:
    """Return the address where the client meant to go, as far as that is one of TCP."""
    for address in (work.original_dst, work.local):
        if isinstance(address, Address) and address.is_ip:
            return address.host
    return "127.0.0.1"


def _without_header(tls: Tls | None) -> ProxyError:
    remedy = "send such traffic to the application's own port, where it is redirected to the proxy"
    if tls is None:
        problem = "this port is for meshed proxies, and the client came without TLS"
        return _refused("plaintext", Denied(problem, layer="TransportHeader", remedy=remedy))
    if tls.peer_identity is None:
        return _refused("no_identity", Denied("the client proved no identity", layer="TransportHeader", remedy=remedy))
    problem = f"the client's TLS agreed on no {ALPN}"
    return _refused("no_alpn", Denied(problem, layer="TransportHeader", remedy=remedy))


def _refused(reason: Refusal, error: ProxyError) -> ProxyError:
    current_registry().counter(
        "inbound_tcp_transport_header_refused_total", "Connections refused for want of a good header", reason=reason
    ).value += 1
    return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged(Stack[Connection]):
    """Sends a connection down the branch for what it is meant for, as :class:`TransportHeader` found out.

    Args:
        local: Serves what is meant for the application here.
        gateway: Serves what is meant for a name elsewhere.
    """

    local: Stack[Connection]
    gateway: Stack[Connection]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Connection]]:
        """Open both branches and yield the live service."""
        async with opened(self.local) as local, opened(self.gateway) as gateway:

            def service(connection: Connection) -> Awaitable[None]:
                return local(connection) if connection.target_name is None else gateway(connection)

            yield service

    def branches(self) -> Sequence[tuple[str, Stack[Any]]]:
        """Return both."""
        return [("local", self.local), ("gateway", self.gateway)]

    def title(self) -> str:
        """Return the line without the branches."""
        return "Tagged()"


@dataclass(frozen=True, slots=True, repr=False)
class SendTransportHeader(Layer[Dial, Dial]):
    """Tells the upstream's proxy what a connection is for, where TLS agreed on that. Stands outside ``Originate``.

    A target with an ``identity`` and a ``tagged_port`` is dialled on that port, and the header says which port was
    meant; one with something ``beyond`` it, which name and port. Others are dialled where they are, and get the header
    too if their proxy agreed on one.

    Args:
        port: What to ask for where the target names no port: an inner ``Connect("host:port")`` decides where to dial.

    Raises:
        UpstreamHandshakeFailed: if only a header could have told what is wanted, and there was no agreement on one.
        NoTarget: if there was an agreement, but there is nothing to tell.
    """

    port: int | None = None

    def __post_init__(self) -> None:
        if self.port is not None and not 1 <= self.port <= 65535:
            raise InvalidConfiguration(f"SendTransportHeader(port={self.port}) is no port: give 1 to 65535")

    async def serve(self, work: Dial, inner: Service[Dial]) -> None:
        """Pass the dial on, with the header sent before it is used."""
        target = work.target
        address = target.address
        needed = target.beyond is not None
        if isinstance(address, Address) and target.identity is not None and target.tagged_port is not None:
            needed = needed or target.tagged_port != address.port
            target = replace(target, address=Address(address.host, target.tagged_port))
        header = self._encoded(work.target)
        await inner(replace(work, target=target, use=_after(header, work.use, needed)))

    def _encoded(self, target: Target) -> bytes:
        """Return the header, or nothing if nothing says what it should ask for."""
        address = target.beyond or target.address
        port = address.port if isinstance(address, Address) else self.port
        name = None if target.beyond is None else target.beyond.host
        if not port or (name is not None and not is_name(name)):
            return b""
        protocol: SessionProtocol | None = None
        if target.protocol == "http/1" or target.protocol == "http/2":  # so that type checkers see what it can be
            protocol = target.protocol
        return encode_header(Header(port, name, protocol, hops()))


def _after(
    header: bytes, use: Callable[[trio.abc.HalfCloseableStream], Awaitable[None]], needed: bool
) -> Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]:
    async def send_first(stream: trio.abc.HalfCloseableStream) -> None:
        tls: Tls | None = getattr(stream, "tls", None)
        if tls is not None and tls.alpn == ALPN:
            if not header:
                problem = "nothing says which port or name the upstream's proxy is to be asked for"
                raise NoTarget(problem, layer="SendTransportHeader")
            await stream.send_all(header)
        elif needed:
            raise UpstreamHandshakeFailed(
                "the upstream's proxy takes no transport header, so it can't be told what is wanted",
                layer="SendTransportHeader",
            )
        await use(stream)

    return send_first
