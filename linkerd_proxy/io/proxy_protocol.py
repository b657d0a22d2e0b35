"""The PROXY protocol, versions 1 and 2: a header that tells a server who its proxy's client is. No I/O here.

Source: HAProxy, doc/proxy-protocol.txt (revision 2020/03/05).
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from linkerd_proxy.address import Address, AnyAddress, UnixAddress
from linkerd_proxy.errors import BadRequest

__all__ = ["MAX_V2_LENGTH", "NotProxied", "ProxyHeader", "Tlv", "encode_v1", "encode_v2", "parse_header"]

MAX_V2_LENGTH = 4096  # own figure: addresses take 216 bytes at most, the rest is for TLVs (a certificate's names)
_MAX_V1 = 107  # with CRLF: section 2.1
_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEAD = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
_UNSPEC = 0x00
_CRC32C, _NOOP = 0x03, 0x04

Tlv = tuple[int, bytes]
"""The type and the value of one extension (section 2.2)."""


class NotProxied(ValueError):
    """These bytes begin no PROXY header."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a PROXY header says.

    Args:
        source: The client; None if the sender speaks for itself (LOCAL, a health check) or does not know.
        destination: Where the client connected to; None like ``source``.
        tlvs: The extensions of version 2, without padding.
        length: How many bytes the header took.
    """

    source: AnyAddress | None
    destination: AnyAddress | None
    tlvs: tuple[Tlv, ...] = ()
    length: int = 0


def parse_header(data: bytes, *, max_length: int = MAX_V2_LENGTH) -> ProxyHeader | None:
    """Read the header at the beginning of ``data``, or return None if more bytes are needed to tell.

    Args:
        data: What has arrived so far.
        max_length: How many bytes a version 2 header may say to follow its first 16.

    Raises:
        NotProxied: as soon as the first bytes rule a header out.
        BadRequest: if there is a header and it is malformed.
    """
    if data.startswith(_V2):
        return _parse_v2(data, max_length)
    if data.startswith(_V1):
        return _parse_v1(data)
    if _V2.startswith(data[:12]) or _V1.startswith(data[:6]):
        return None
    raise NotProxied("no PROXY header")


def _bad(problem: str) -> BadRequest:
    return BadRequest(f"malformed PROXY header: {problem}", remedy="correct the proxy that sends it")


# --- version 1: one line of text ---------------------------------------------------------------


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _MAX_V1)
    if end < 0:
        if len(data) >= _MAX_V1:
            raise _bad(f"the line is longer than {_MAX_V1} bytes")
        if any(byte < 0x20 and byte != 0x0D for byte in data):
            raise _bad("control characters in the line")
        return None
    try:
        words = data[:end].decode("ascii").split(" ")
    except UnicodeDecodeError:
        raise _bad("the line is not ASCII") from None
    if words[1] == "UNKNOWN":
        return ProxyHeader(None, None, length=end + 2)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise _bad("expected PROXY TCP4|TCP6 source destination port port")
    version = 4 if words[1] == "TCP4" else 6
    source = Address(_ip(words[2], version), _port(words[4]))
    destination = Address(_ip(words[3], version), _port(words[5]))
    return ProxyHeader(source, destination, length=end + 2)


def _ip(text: str, version: int) -> str:
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        raise _bad("an address is none") from None
    if ip.version != version or "%" in text:
        raise _bad("an address is of another family")
    return str(ip)


def _port(text: str) -> int:
    if not text.isdigit() or len(text) > 5 or int(text) > 65535 or (len(text) > 1 and text[0] == "0"):
        raise _bad("a port is none")
    return int(text)


def encode_v1(source: AnyAddress | None, destination: AnyAddress | None) -> bytes:
    """Return a version 1 header; ``PROXY UNKNOWN`` unless both are IP addresses."""
    pair = _ip_pair(source, destination)
    if pair is None:
        return b"PROXY UNKNOWN\r\n"
    (one, one_port), (other, other_port) = pair
    return f"PROXY TCP{one.version} {one} {other} {one_port} {other_port}\r\n".encode()


_Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


def _ip_pair(
    source: AnyAddress | None, destination: AnyAddress | None
) -> tuple[tuple[_Ip, int], tuple[_Ip, int]] | None:
    """Return both as IP addresses of one family, an IPv4 one mapped into IPv6 if need be, or None."""
    if not isinstance(source, Address) or not isinstance(destination, Address):
        return None
    if not source.is_ip or not destination.is_ip:
        return None
    one, other = (ipaddress.ip_address(address.host.partition("%")[0]) for address in (source, destination))
    if one.version != other.version:
        one, other = (ipaddress.ip_address(f"::ffff:{ip}") if ip.version == 4 else ip for ip in (one, other))
    return (one, source.port), (other, destination.port)


# --- version 2: binary -------------------------------------------------------------------------


def _parse_v2(data: bytes, max_length: int) -> ProxyHeader | None:
    if len(data) < _V2_HEAD.size:
        return None
    _, command, family, length = _V2_HEAD.unpack_from(data)
    if command not in (_LOCAL, _PROXY):
        raise _bad(f"unknown version or command {command:#04x}")
    if length > max_length:
        raise _bad(f"it says {length} bytes follow, {max_length} are allowed")
    total = _V2_HEAD.size + length
    if len(data) < total:
        return None
    if command == _LOCAL or family == _UNSPEC:
        return ProxyHeader(None, None, length=total)  # to be skipped, whatever it holds: section 2.2
    layout = _FAMILIES.get(family)
    if layout is None:
        raise _bad(f"family {family:#04x} is no stream connection")
    fields, read = layout
    if length < fields.size:
        raise _bad("it is shorter than its addresses")
    source, destination = read(fields.unpack_from(data, _V2_HEAD.size))
    tlvs = _tlvs(data[:total], _V2_HEAD.size + fields.size)
    return ProxyHeader(source, destination, tlvs, total)


def _read_ip(fields: tuple[bytes, bytes, int, int]) -> tuple[AnyAddress, AnyAddress]:
    one, other, one_port, other_port = fields
    return Address(str(ipaddress.ip_address(one)), one_port), Address(str(ipaddress.ip_address(other)), other_port)


def _read_unix(fields: tuple[bytes, bytes]) -> tuple[AnyAddress, AnyAddress]:
    one, other = (_read_path(path) for path in fields)
    return one, other


def _read_path(path: bytes) -> UnixAddress:
    abstract = path.startswith(b"\0") and bool(path.strip(b"\0"))
    name = path[1:].partition(b"\0")[0] if abstract else path.partition(b"\0")[0]
    return UnixAddress(("@" if abstract else "") + name.decode("utf-8", "surrogateescape"))


_IPV4, _IPV6, _UNIX = struct.Struct("!4s4sHH"), struct.Struct("!16s16sHH"), struct.Struct("!108s108s")
_FAMILIES: dict[int, tuple[struct.Struct, Callable[..., tuple[AnyAddress, AnyAddress]]]] = {
    0x11: (_IPV4, _read_ip),
    0x21: (_IPV6, _read_ip),
    0x31: (_UNIX, _read_unix),
}


def _tlvs(header: bytes, start: int) -> tuple[Tlv, ...]:
    found: list[Tlv] = []
    while start < len(header):
        if len(header) - start < 3:
            raise _bad("an extension is cut short")
        kind, length = struct.unpack_from("!BH", header, start)
        value = header[start + 3 : start + 3 + length]
        if len(value) != length:
            raise _bad("an extension is cut short")
        if kind == _CRC32C:
            _check_crc(header, start + 3, value)
        if kind != _NOOP:
            found.append((kind, value))
        start += 3 + length
    return tuple(found)


def _check_crc(header: bytes, at: int, value: bytes) -> None:
    if len(value) != 4:
        raise _bad("a checksum is not 4 bytes long")
    if crc32c(header[:at] + bytes(4) + header[at + 4 :]) != int.from_bytes(value, "big"):
        raise _bad("the checksum is wrong")


def encode_v2(
    source: AnyAddress | None,
    destination: AnyAddress | None,
    *,
    tlvs: Sequence[Tlv] = (),
    checksum: bool = False,
) -> bytes:
    """Return a version 2 header; a LOCAL one if it is not known for whom the connection is.

    Args:
        source: The client.
        destination: Where it connected to.
        tlvs: Extensions to add.
        checksum: Whether to add a CRC32c of the whole header.

    Raises:
        ValueError: if it would be longer than 65,535 bytes.
    """
    family, addresses = _encode_addresses(source, destination)
    extensions = b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in tlvs)
    command = _PROXY if family else _LOCAL
    if checksum:
        extensions += struct.pack("!BHI", _CRC32C, 4, 0)
    length = len(addresses) + len(extensions)
    if length > 0xFFFF:
        raise ValueError("a PROXY header holds at most 65,535 bytes")
    header = _V2_HEAD.pack(_V2, command, family, length) + addresses + extensions
    return header[:-4] + crc32c(header).to_bytes(4, "big") if checksum else header


def _encode_addresses(source: AnyAddress | None, destination: AnyAddress | None) -> tuple[int, bytes]:
    pair = _ip_pair(source, destination)
    if pair is not None:
        (one, one_port), (other, other_port) = pair
        layout, family = (_IPV4, 0x11) if one.version == 4 else (_IPV6, 0x21)
        return family, layout.pack(one.packed, other.packed, one_port, other_port)
    if isinstance(source, UnixAddress) and isinstance(destination, UnixAddress):
        return 0x31, _UNIX.pack(_path(source), _path(destination))
    return _UNSPEC, b""


def _path(address: UnixAddress) -> bytes:
    path = address.path.encode("utf-8", "surrogateescape")
    return b"\0" + path[1:] if path.startswith(b"@") else path


# --- CRC32c (RFC 3720 appendix B.4) ------------------------------------------------------------


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the Castagnoli CRC of ``data``."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
