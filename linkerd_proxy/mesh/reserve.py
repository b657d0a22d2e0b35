"""Hold a port without listening on it: several processes can share it, and the system gives it to nobody else."""

from __future__ import annotations

import errno
import socket
from types import TracebackType
from typing import Self

import trio

from linkerd_proxy.address import Address, AnyAddress, UnixAddress, parse_address
from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["Reserved", "reserve"]

_REMEDIES = {
    errno.EADDRINUSE: "stop what listens there, or give another port (0 lets the system choose)",
    errno.EACCES: "ports below 1024 need privileges: give a higher one",
    errno.EADDRNOTAVAIL: "give an address of this host",
}


class Reserved:
    """A socket that is bound with ``SO_REUSEPORT`` and does not listen, so no connection comes to it.

    As a context manager it closes at the end of the block.
    """

    __slots__ = ("_socket", "address")

    def __init__(self, sock: socket.socket, address: Address) -> None:
        self._socket = sock
        self.address: Address = address
        """The address, with the port that the system chose for port 0."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def __repr__(self) -> str:
        return f"<Reserved {self.address}>"


async def reserve(address: str | AnyAddress) -> list[Reserved]:
    """Return the reservation of each IP address that ``address`` stands for.

    Raises:
        InvalidConfiguration: one line that names the address, what is wrong, and the remedy.
    """
    wanted = parse_address(address) if isinstance(address, str) else address
    if isinstance(wanted, UnixAddress):
        raise InvalidConfiguration(f"workers can't share {wanted}: give a TCP address, or serve with one worker")
    reserved: list[Reserved] = []
    try:
        for host in await _hosts(wanted):
            port = wanted.port or (reserved[0].address.port if reserved else 0)
            reserved.append(_bound(host, port))
    except OSError as error:
        for one in reserved:
            one.__exit__(None, None, None)
        remedy = _REMEDIES.get(error.errno or 0, "give another address")
        raise InvalidConfiguration(f"cannot listen on {wanted}: {error.strerror or error}; {remedy}") from error
    return reserved


async def _hosts(address: Address) -> list[str]:
    if not address.host or address.is_ip:
        return [address.host]
    found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _bound(host: str, port: int) -> Reserved:
    family = socket.AF_INET6 if not host or ":" in host else socket.AF_INET
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        if host:
            raise
        return _bound("0.0.0.0", port)  # every interface, of a system without IPv6
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, bool(host))
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return Reserved(sock, Address(host, sock.getsockname()[1]))
