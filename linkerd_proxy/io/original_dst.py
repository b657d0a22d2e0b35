"""Where a redirected connection was going before iptables sent it to the proxy."""

from __future__ import annotations

import socket
import struct
import sys

from linkerd_proxy.address import Address

__all__ = ["original_destination"]

_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST in linux/netfilter_ipv6/ip6_tables.h
_SOL_IPV6 = 41
_SOCKADDR_IN = struct.Struct("!2xH4s8x")  # family in host order, port, address
_SOCKADDR_IN6 = struct.Struct("!2xHI16s4x")


def original_destination(sock: socket.socket) -> Address | None:
    """Return where the client of an accepted socket meant to connect to, or None where the system does not know.

    A dual-stack socket is asked as IPv4 first if its peer is IPv4. The answer may be the socket's own address: then
    nothing was redirected.
    """
    if sys.platform != "linux":
        return None
    if sock.family == socket.AF_INET:
        return _ipv4(sock)
    if sock.family == socket.AF_INET6:
        return _ipv4(sock) if sock.getpeername()[0].startswith("::ffff:") else _ipv6(sock)
    return None


def _ipv4(sock: socket.socket) -> Address | None:
    try:
        raw = sock.getsockopt(socket.IPPROTO_IP, _SO_ORIGINAL_DST, _SOCKADDR_IN.size)
    except OSError:  # ENOENT: not tracked, so not redirected; ENOPROTOOPT: no such module
        return None
    port, host = _SOCKADDR_IN.unpack(raw)
    return Address(socket.inet_ntop(socket.AF_INET, host), port)


def _ipv6(sock: socket.socket) -> Address | None:
    try:
        raw = sock.getsockopt(_SOL_IPV6, _SO_ORIGINAL_DST, _SOCKADDR_IN6.size)
    except OSError:
        return None
    port, _flow, host = _SOCKADDR_IN6.unpack(raw)
    return Address(socket.inet_ntop(socket.AF_INET6, host), port)
