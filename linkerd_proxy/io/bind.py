"""Bind listening sockets: names, dual stack, Unix sockets, and errors that say what to do."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
from dataclasses import dataclass

import trio

from linkerd_proxy.address import Address, AnyAddress, UnixAddress, parse_address
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.io.sockaddr import unix_sockaddr

__all__ = ["Bound", "bound_sockets", "remove_socket_file"]

_REMEDIES = {
    errno.EADDRINUSE: "stop what listens there, choose another port, or port 0 for any",
    errno.EADDRNOTAVAIL: "give an address of this host",
    errno.EACCES: "choose a port above 1023, or one that you may use",
    errno.EPERM: "choose a port above 1023, or one that you may use",
    errno.EAFNOSUPPORT: "give an IPv4 address: this host has no IPv6",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENOENT: "create the directory first",
}


@dataclass(frozen=True, slots=True)
class Bound:
    """A listening socket, and for a Unix socket the device and inode of the file made for it."""

    socket: socket.socket
    inode: tuple[int, int] | None = None


async def bound_sockets(
    address: str | int | AnyAddress, *, backlog: int, reuse_port: bool, unix_mode: int | None
) -> list[Bound]:
    """Return a listening socket for each address that ``address`` stands for.

    Raises:
        InvalidConfiguration: naming the address and the remedy. Nothing stays open.
    """
    wanted = parse_address(str(address)) if isinstance(address, (str, int)) else address
    try:
        if isinstance(wanted, UnixAddress):
            return [_bind_unix(wanted, backlog, unix_mode)]
        if not wanted.host:
            return [Bound(_bind_everywhere(wanted.port, backlog, reuse_port))]
        sockets: list[socket.socket] = []
        try:
            for host in await _hosts(wanted):
                # Port 0: the first socket chooses, so that one name has one port.
                port = wanted.port or (sockets[0].getsockname()[1] if sockets else 0)
                sockets.append(_bind_ip(host, port, backlog, reuse_port))
        except OSError:
            for sock in sockets:
                sock.close()
            raise
        return [Bound(sock) for sock in sockets]
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "give another address")
        raise InvalidConfiguration(f"cannot listen on {wanted}: {error.strerror or error}; {remedy}") from error


async def _hosts(address: Address) -> list[str]:
    if address.is_ip:
        return [address.host]
    found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _bind_everywhere(port: int, backlog: int, reuse_port: bool) -> socket.socket:
    """Listen on every interface: one socket for IPv4 and IPv6, so that port 0 gives both the same port."""
    try:
        return _bind_ip("::", port, backlog, reuse_port, dual_stack=True)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return _bind_ip("0.0.0.0", port, backlog, reuse_port)  # a host without IPv6


def _bind_ip(host: str, port: int, backlog: int, reuse_port: bool, *, dual_stack: bool = False) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    family, kind, protocol, _, sockaddr = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let others take the port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        sock.bind(sockaddr)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


# --- Unix sockets ------------------------------------------------------------------------------


def _bind_unix(address: UnixAddress, backlog: int, mode: int | None) -> Bound:
    abstract = address.path.startswith("@")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not abstract:
            _remove_stale(address)
        sock.bind(unix_sockaddr(address))
        inode = None
        if not abstract:
            if mode is not None:
                os.chmod(address.path, mode)  # before listen(): until then nobody can connect
            inode = _inode(address.path)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return Bound(sock, inode)


def _remove_stale(address: UnixAddress) -> None:
    """Remove the file of a listener that is gone, and nothing else."""
    try:
        found = os.lstat(address.path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise InvalidConfiguration(f"cannot listen on {address}: a file is there that is no socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(address.path)
    if code != errno.ECONNREFUSED:  # 0 or EAGAIN (backlog full): somebody listens
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    os.unlink(address.path)


def _inode(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def remove_socket_file(path: str, inode: tuple[int, int]) -> None:
    """Remove a Unix socket's file, unless it is another one's by now: a successor may have replaced it."""
    try:
        if _inode(path) == inode:
            os.unlink(path)
    except OSError:
        return  # removed by somebody else, or no longer ours to remove
