"""The transport header: what one proxy tells the next about a connection before its first byte. No I/O here.

The preface, four bytes of length, and a protobuf message that names the port, perhaps a host, and perhaps the version
of HTTP. Source: linkerd2-proxy, linkerd/transport-header (transport.proto).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, TypeAlias

from linkerd_proxy.address import is_name
from linkerd_proxy.errors import BadRequest

__all__ = ["ALPN", "MAX_LENGTH", "PREFACE", "Header", "SessionProtocol", "encode_header", "parse_header"]

ALPN = "transport.l5d.io/v1"
"""What both proxies agree on in the TLS handshake if the header comes next."""
PREFACE = b"transport.l5d.io/v1\r\n\r\n"
MAX_LENGTH = 64 * 1024
"""Bytes that a header may have, its preface included (Linkerd's buffer)."""

SessionProtocol: TypeAlias = Literal["http/1", "http/2"]

_LENGTH = struct.Struct("!I")
_START = len(PREFACE) + _LENGTH.size
_VARINT, _LEN, _GROUP_END = 0, 2, 4  # protobuf's wire types
_PORT, _NAME, _PROTOCOL = 1, 2, 3
# Ours alone: Linkerd skips what it does not know. It is sent only by a proxy that passes on what another gave it.
_HOPS = 1000
_KINDS: dict[int, SessionProtocol] = {1: "http/1", 2: "http/2"}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_MAX_FIELD = 2**29 - 1
_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True)
class Header:
    """What a transport header says.

    Args:
        port: Where the connection shall go, from 1 to 65535.
        name: The host that it shall go to, in lower case; None for the one that the proxy stands before.
        protocol: What is spoken on it; None for what no proxy shall look into.
        hops: How many proxies have passed it on without an application between them.
    """

    port: int
    name: str | None = None
    protocol: SessionProtocol | None = None
    hops: int = 0


def encode_header(header: Header) -> bytes:
    """Return a header's bytes.

    Raises:
        ValueError: for a port or a name that the other side would refuse.
    """
    if not 1 <= header.port <= 65535:
        raise ValueError(f"a transport header can't name port {header.port}")
    message = bytearray(_key(_PORT, _VARINT) + _varint(header.port))
    if header.name is not None:
        if not is_name(header.name):
            raise ValueError(f"a transport header can't name host {header.name!r}")
        name = header.name.lower().encode("ascii")
        message += _key(_NAME, _LEN) + _varint(len(name)) + name
    if header.protocol is not None:
        kind = _key(_NUMBERS[header.protocol], _LEN) + b"\0"
        message += _key(_PROTOCOL, _LEN) + _varint(len(kind)) + kind
    if header.hops:
        message += _key(_HOPS, _VARINT) + _varint(header.hops)
    return PREFACE + _LENGTH.pack(len(message)) + message


def parse_header(data: bytes | bytearray, *, max_length: int = MAX_LENGTH) -> tuple[Header, int] | None:
    """Read the header at the beginning of ``data``, or return None if more bytes are needed.

    Returns:
        The header, and how many bytes it took.

    Raises:
        BadRequest: as soon as the bytes can't become one. What is not known is skipped, as protobuf asks.
    """
    if not data.startswith(PREFACE):
        if PREFACE.startswith(data):
            return None
        raise _bad("the preface is missing")
    if len(data) < _START:
        return None
    (length,) = _LENGTH.unpack_from(data, len(PREFACE))
    end = _START + length
    if end > max_length:
        raise _bad(f"it would have {end} bytes, {max_length} are allowed")
    if len(data) < end:
        return None
    return _read(bytes(data[_START:end])), end


def _bad(problem: str) -> BadRequest:
    return BadRequest(f"malformed transport header: {problem}", remedy="correct the proxy that sends it")


def _read(message: bytes) -> Header:
    port, hops = 0, 0
    name: str | None = None
    protocol: SessionProtocol | None = None
    fields = _Fields(message)
    while fields.at < len(message):
        number, wire = fields.key()
        if number == _PORT:
            port = fields.varint_of(wire)
        elif number == _HOPS:
            hops = fields.varint_of(wire)
        elif number == _NAME:
            name = _name(fields.bytes_of(wire))
        elif number == _PROTOCOL:  # one that comes twice is merged, so that the last kind counts
            protocol = _protocol(fields.bytes_of(wire)) or protocol
        else:
            fields.skip(number, wire)
    if not 1 <= port <= 65535:
        raise _bad(f"{port} is no port")
    return Header(port, name, protocol, hops)


def _name(value: bytes) -> str | None:
    try:
        name = value.decode("ascii").lower()
    except UnicodeDecodeError:
        raise _bad("its name is not ASCII") from None
    if name and not is_name(name):
        raise _bad(f"{name[:64]!r} is no name")
    return name.removesuffix(".") or None  # what is empty is as good as absent


def _protocol(message: bytes) -> SessionProtocol | None:
    kind: SessionProtocol | None = None
    fields = _Fields(message)
    while fields.at < len(message):
        number, wire = fields.key()
        if number in _KINDS:
            kind = _KINDS[number]
            inner = fields.bytes_of(wire)
            unknown = _Fields(inner)  # Http1 and Http2 have no fields yet, but must be messages
            while unknown.at < len(inner):
                unknown.skip(*unknown.key())
        else:
            fields.skip(number, wire)
    return kind


# --- protobuf's wire format --------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


class _Fields:
    """Reads the fields of one message, each of which must end inside it."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def key(self) -> tuple[int, int]:
        """Return the next field's number and wire type."""
        key = self.varint()
        number = key >> 3
        if not 1 <= number <= _MAX_FIELD:
            raise _bad("a field has no valid number")
        return number, key & 7

    def varint(self) -> int:
        value = 0
        for index in range(10):
            if self.at >= len(self.data):
                raise _bad("it is cut short")
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                return value
        raise _bad("a number is too long")

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise _bad("it is cut short")
        self.at += size
        return self.data[self.at - size : self.at]

    def varint_of(self, wire: int) -> int:
        """Return the value of a field that must be a number."""
        if wire != _VARINT:
            raise _bad("a number is of another type")
        return self.varint()

    def bytes_of(self, wire: int) -> bytes:
        """Return the value of a field that must have a length."""
        if wire != _LEN:
            raise _bad("a name or a message is of another type")
        return self.take(self.varint())

    def skip(self, number: int, wire: int, depth: int = 0) -> None:
        """Pass over the value of a field that is not known."""
        match wire:
            case 0:
                self.varint()
            case 1:
                self.take(8)
            case 2:
                self.take(self.varint())
            case 5:
                self.take(4)
            case 3 if depth < _MAX_DEPTH:
                while (inner := self.key()) != (number, _GROUP_END):
                    self.skip(*inner, depth + 1)
            case _:
                raise _bad("a field is of no type")
