"""Layers that take and send PROXY headers, so that a client's address survives the proxies on its way."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import trio

from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Connection, Dial
from linkerd_proxy.errors import BadRequest, DetectTimeout, InvalidConfiguration
from linkerd_proxy.io.proxy_protocol import (
    MAX_V2_LENGTH,
    NotProxied,
    ProxyHeader,
    Tlv,
    encode_v1,
    encode_v2,
    parse_header,
)
from linkerd_proxy.io.rewind import Rewound

__all__ = ["ProxyProtocol", "SendProxyProtocol"]

_LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True, repr=False)
class ProxyProtocol(Layer[Connection, Connection]):
    """Takes the PROXY header off a connection: its client becomes ``peer``, and where it went ``original_dst``.

    Whoever may send a header may claim to be anybody, so only ``trusted`` peers may.

    Args:
        trusted: The networks of the proxies in front, in CIDR notation; Unix sockets are always trusted.
        required: Whether a connection without a header, or from anybody else, is refused; otherwise it is passed on
            untouched.
        timeout: Seconds for the header to arrive. Without ``required``, silence for so long means that none comes.
        max_length: How many bytes a version 2 header may announce.

    Raises:
        BadRequest: if the header is malformed, or missing though required.
        DetectTimeout: if it did not arrive in time.
    """

    trusted: tuple[str, ...] = _LOOPBACK
    required: bool = True
    timeout: float = 5.0
    max_length: int = MAX_V2_LENGTH

    def __post_init__(self) -> None:
        try:
            _parsed(self.trusted)
        except ValueError as error:
            raise InvalidConfiguration(f"ProxyProtocol(trusted=...): {error}; write networks as 10.0.0.0/8") from None

    async def serve(self, work: Connection, inner: Service[Connection]) -> None:
        """Take the header off and pass the connection on."""
        if not _within(work.peer, self.trusted):
            if self.required:
                raise BadRequest(
                    f"{work.peer} may not send a PROXY header",
                    layer="ProxyProtocol",
                    remedy="connect through the proxy in front, or add its network to ProxyProtocol(trusted=...)",
                )
            return await inner(work)
        return await inner(await self._taken(work))

    async def _taken(self, connection: Connection) -> Connection:
        data = bytearray()
        header = None
        with trio.move_on_after(self.timeout) as scope:
            try:
                header = await self._header(connection.stream, data)
            except NotProxied as error:
                if self.required:
                    raise BadRequest(str(error), layer="ProxyProtocol", remedy="send a PROXY header first") from None
        if scope.cancelled_caught and self.required:
            raise DetectTimeout(
                "the PROXY header did not arrive",
                layer="ProxyProtocol",
                waited=self.timeout,
                remedy="send it first, or raise ProxyProtocol(timeout=...)",
            )
        rest = data[header.length if header else 0 :]
        stream = Rewound(connection.stream, rest) if rest else connection.stream
        if header is None or header.source is None:
            return connection.with_stream(stream)
        return replace(connection, stream=stream, peer=header.source, original_dst=header.destination)

    async def _header(self, stream: trio.abc.ReceiveStream, data: bytearray) -> ProxyHeader:
        while True:
            received = await stream.receive_some(4096)
            if not received:
                raise NotProxied("the connection ended before its PROXY header was complete")
            data += received
            header = parse_header(bytes(data), max_length=self.max_length)
            if header is not None:
                return header


def _within(peer: AnyAddress, networks: tuple[str, ...]) -> bool:
    if not isinstance(peer, Address):
        return True  # whoever may open the socket's file was trusted by its permissions
    ip = ipaddress.ip_address(peer.host.partition("%")[0])
    return any(ip in network for network in _parsed(networks))


@lru_cache(maxsize=64)
def _parsed(networks: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(network) for network in networks)


@dataclass(frozen=True, slots=True, repr=False)
class SendProxyProtocol(Layer[Dial, Dial]):
    """Sends a PROXY header on each new connection, which names the client that it is made for.

    A connection for nobody in particular (of a pool, for a health check) says LOCAL, or UNKNOWN in version 1.

    Args:
        version: 1 is text and has no extensions; 2 is binary.
        tlvs: Extensions for version 2.
        checksum: Whether to add a CRC32c to version 2.
    """

    version: Literal[1, 2] = 2
    tlvs: tuple[Tlv, ...] = ()
    checksum: bool = False

    def __post_init__(self) -> None:
        if self.version not in (1, 2):
            raise InvalidConfiguration(f"SendProxyProtocol(version={self.version!r}) does not exist: give 1 or 2")
        if self.version == 1 and (self.tlvs or self.checksum):
            raise InvalidConfiguration("version 1 of the PROXY protocol has no extensions: give version=2")

    async def serve(self, work: Dial, inner: Service[Dial]) -> None:
        """Pass the dial on, with the header sent before it is used."""
        if self.version == 1:
            header = encode_v1(work.client, work.destination)
        else:
            header = encode_v2(work.client, work.destination, tlvs=self.tlvs, checksum=self.checksum)
        await inner(replace(work, use=_after(header, work.use)))


def _after(
    header: bytes, use: Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]
) -> Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]:
    async def send_first(stream: trio.abc.HalfCloseableStream) -> None:
        await stream.send_all(header)
        await use(stream)

    return send_first
