"""Addresses, methods, schemes and header fields as Linkerd's APIs have them.

Source: linkerd2-proxy-api, proto/net.proto and proto/http_types.proto.
"""

from __future__ import annotations

import ipaddress
from collections.abc import MutableSequence

from linkerd_proxy.address import Address, AnyAddress
from linkerd_proxy.grpc.schema import Field, Message, blob, fixed32, fixed64, int32, nested, repeated, string, uint32

__all__ = [
    "HttpHeaders", "HttpMethod", "HttpScheme", "IpAddress", "TcpAddress",
    "header_fields", "http_method", "http_scheme", "ip_of", "method_of", "scheme_of", "tcp_address",
]  # fmt: skip

_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "HEAD", "TRACE")  # by their numbers
_SCHEMES = ("http", "https")


class Ipv6(Message, name="io.linkerd.proxy.net.IPv6"):
    """An IPv6 address in two halves."""

    first: Field[int] = fixed64(1)
    last: Field[int] = fixed64(2)


class IpAddress(Message, name="io.linkerd.proxy.net.IPAddress"):
    """An address; of IPv4 the first octet is the most significant one."""

    ipv4: Field[int] = fixed32(1, oneof="ip")
    ipv6: Field[Ipv6] = nested(2, Ipv6, oneof="ip")


class TcpAddress(Message, name="io.linkerd.proxy.net.TcpAddress"):
    """An address and a port."""

    ip: Field[IpAddress] = nested(1, IpAddress)
    port: Field[int] = uint32(2)


class HttpMethod(Message, name="io.linkerd.proxy.http_types.HttpMethod"):
    """A method, by number where it has one."""

    registered: Field[int] = int32(1, oneof="type")
    unregistered: Field[str] = string(2, oneof="type")


class HttpScheme(Message, name="io.linkerd.proxy.http_types.Scheme"):
    """A scheme, by number where it has one."""

    registered: Field[int] = int32(1, oneof="type")
    unregistered: Field[str] = string(2, oneof="type")


class HttpHeader(Message, name="io.linkerd.proxy.http_types.Header"):
    """A header field."""

    name: Field[str] = string(1)
    value: Field[bytes] = blob(2)


class HttpHeaders(Message, name="io.linkerd.proxy.http_types.Headers"):
    """Header fields in their order."""

    headers: Field[MutableSequence[HttpHeader]] = repeated(nested(1, HttpHeader))


def tcp_address(address: AnyAddress) -> TcpAddress | None:
    """Return an address as a message, or None for one that is no IP address: a Unix socket, or a name."""
    if not isinstance(address, Address) or not address.is_ip:
        return None
    ip = ipaddress.ip_address(address.host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return TcpAddress(ip=IpAddress(ipv4=int(ip)), port=address.port)
    high, low = divmod(int(ip), 1 << 64)
    return TcpAddress(ip=IpAddress(ipv6=Ipv6(first=high, last=low)), port=address.port)


def ip_of(message: IpAddress) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return a message's address, or None if it holds none."""
    kind = message.WhichOneof("ip")
    if kind is None:
        return None
    if kind == "ipv4":
        return ipaddress.IPv4Address(message.ipv4)
    return ipaddress.IPv6Address((message.ipv6.first << 64) + message.ipv6.last)


def http_method(name: str) -> HttpMethod:
    """Return a method as a message."""
    return HttpMethod(registered=_METHODS.index(name)) if name in _METHODS else HttpMethod(unregistered=name)


def method_of(message: HttpMethod) -> str:
    """Return a message's method, empty for a number that is none."""
    return _word(message, _METHODS)


def http_scheme(name: str) -> HttpScheme:
    """Return a scheme as a message."""
    return HttpScheme(registered=_SCHEMES.index(name)) if name in _SCHEMES else HttpScheme(unregistered=name)


def scheme_of(message: HttpScheme) -> str:
    """Return a message's scheme, empty for a number that is none."""
    return _word(message, _SCHEMES)


def _word(message: HttpMethod | HttpScheme, words: tuple[str, ...]) -> str:
    if message.WhichOneof("type") == "unregistered":
        return message.unregistered
    number = message.registered if message.WhichOneof("type") else -1
    return words[number] if 0 <= number < len(words) else ""


def header_fields(pairs: tuple[tuple[str, str], ...]) -> HttpHeaders:
    """Return header fields as a message."""
    return HttpHeaders(headers=[HttpHeader(name=name, value=value.encode("latin-1")) for name, value in pairs])
