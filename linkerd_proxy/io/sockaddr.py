"""Between the operating system's socket addresses and ours."""

from __future__ import annotations

import socket
from typing import TypeAlias

from linkerd_proxy.address import Address, AnyAddress, UnixAddress

__all__ = ["SockAddr", "from_sockaddr", "local_address", "unix_sockaddr"]

SockAddr: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | str | bytes
"""What the ``socket`` module takes and gives for IPv4, IPv6, and Unix sockets."""

_MAPPED = "::ffff:"


def from_sockaddr(sockaddr: SockAddr) -> AnyAddress:
    """Return our address; an IPv4 address mapped into IPv6, as a dual-stack listener reports it, is IPv4 again."""
    if isinstance(sockaddr, tuple):
        host = sockaddr[0]
        if host.startswith(_MAPPED) and "." in host:
            host = host.removeprefix(_MAPPED)
        return Address(host, sockaddr[1])
    path = sockaddr.decode("utf-8", "surrogateescape") if isinstance(sockaddr, bytes) else sockaddr
    return UnixAddress(f"@{path[1:]}" if path.startswith("\0") else path)


def unix_sockaddr(address: UnixAddress) -> str:
    """Return what the system calls a Unix address: an abstract name starts with NUL there."""
    return f"\0{address.path[1:]}" if address.path.startswith("@") else address.path


def local_address(sock: socket.socket) -> AnyAddress:
    """Return the address of this end."""
    return from_sockaddr(sock.getsockname())
