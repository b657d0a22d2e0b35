"""Listening sockets that accept connections and survive whatever the system or a peer does meanwhile."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from typing import TypeAlias

import trio

from linkerd_proxy.address import AnyAddress, UnixAddress
from linkerd_proxy.core.work import Connection
from linkerd_proxy.io.bind import bound_sockets, remove_socket_file
from linkerd_proxy.io.loops import came_through
from linkerd_proxy.io.options import TcpOptions
from linkerd_proxy.io.original_dst import original_destination
from linkerd_proxy.io.sockaddr import SockAddr, from_sockaddr, local_address
from linkerd_proxy.io.streams import SocketStream

__all__ = ["SocketListener", "open_listeners"]

logger: logging.Logger = logging.getLogger("linkerd_proxy.io")

_Socket: TypeAlias = socket.socket  # where an argument is called socket

_BACKLOG = 1024  # the system caps it at net.core.somaxconn
_AT_ONCE = 32  # accepted in a row before other tasks get a turn
_PAUSE = 0.1  # seconds, as trio.serve_tcp waits when the system is out of something
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC}
# accept(2): errors of the connection that was about to be accepted, not of the listener.
_TRANSIENT = {
    getattr(errno, name)
    for name in (
        *("EPERM", "ECONNABORTED", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH"),
        *("EOPNOTSUPP", "ENETUNREACH", "ENOSR", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT", "ETIMEDOUT", "ECONNRESET"),
    )
    if hasattr(errno, name)
}


class SocketListener(trio.abc.AsyncResource):
    """Accepts connections from a listening socket; satisfies :class:`linkerd_proxy.core.serve.Listener`.

    Args:
        socket: Bound and listening. The listener owns it and makes it non-blocking.
        options: For the accepted TCP connections.
        original_dst: Whether to ask where redirected connections were going.
    """

    __slots__ = ("_address", "_allowance", "_fixed", "_inherits", "_inode", "_options", "_original_dst", "socket")

    def __init__(
        self,
        socket: socket.socket,
        *,
        options: TcpOptions = TcpOptions(),  # noqa: B008  # frozen
        original_dst: bool = False,
        inode: tuple[int, int] | None = None,
    ) -> None:
        socket.setblocking(False)
        self.socket: _Socket = socket
        self._address = local_address(socket)
        self._options = options
        self._original_dst = original_dst
        self._allowance = _AT_ONCE
        self._inode = inode
        self._inherits = sys.platform == "linux"  # then options are set once on the listening socket
        if self._inherits:
            options.apply(socket)
        # Bound to one address, every connection has that local address: no need to ask.
        self._fixed = isinstance(self._address, UnixAddress) or self._address.host not in ("0.0.0.0", "::")

    @property
    def address(self) -> AnyAddress:
        """Where it listens, with the port that the system chose for port 0."""
        return self._address

    async def accept(self) -> Connection:
        """Wait for the next connection.

        Running out of descriptors or memory makes it wait 0.1 s and try again, for as long as it takes; errors that
        belong to one connection are ignored.

        Raises:
            trio.ClosedResourceError: once closed, also while waiting.
        """
        if self._allowance <= 0:
            await trio.lowlevel.checkpoint()
            self._allowance = _AT_ONCE
        while True:
            self._allowance -= 1
            try:
                return self._accept()
            except BlockingIOError:
                self._allowance = _AT_ONCE
                await trio.lowlevel.wait_readable(self.socket)
            except OSError as error:
                await self._survive(error)

    def accept_nowait(self) -> Connection:
        """Return a connection that stands already.

        Raises:
            trio.WouldBlock: if there is none, or no descriptor for it.
            trio.ClosedResourceError: once closed.
        """
        for _ in range(_AT_ONCE):
            try:
                return self._accept()
            except OSError as error:
                if error.errno not in _TRANSIENT:
                    break
        raise trio.WouldBlock

    def _accept(self) -> Connection:
        if self.socket.fileno() < 0:
            raise trio.ClosedResourceError("this listener was closed")
        sock, peer = self.socket.accept()
        came_through(self._address)
        try:
            return self._connection(sock, peer)
        except OSError as error:
            sock.close()
            if error.errno in _EXHAUSTED:
                raise
            # A peer that is gone already: some systems then refuse every option.
            raise ConnectionAbortedError(errno.ECONNABORTED, "gone before it was accepted") from error

    def _connection(self, sock: socket.socket, peer: SockAddr) -> Connection:
        local = self._address if self._fixed else local_address(sock)
        if not self._inherits:
            self._options.apply(sock)
        original = None
        if self._original_dst:
            original = original_destination(sock)
            if original == local:
                original = None
        return Connection(SocketStream(sock), from_sockaddr(peer), local, original)

    async def _survive(self, error: OSError) -> None:
        if error.errno in _EXHAUSTED:
            logger.warning("cannot accept on %s, trying again in %g s: %s", self._address, _PAUSE, error.strerror)
            await trio.sleep(_PAUSE)
        elif error.errno in _TRANSIENT:
            await trio.lowlevel.checkpoint()
        else:
            raise error

    async def aclose(self) -> None:
        """Stop listening; connections in the backlog are reset by the system. A Unix socket's file is removed."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Stop listening at once. A second call changes nothing."""
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
            if isinstance(self._address, UnixAddress) and self._inode is not None:
                remove_socket_file(self._address.path, self._inode)

    def __repr__(self) -> str:
        return f"<SocketListener {'on' if self.socket.fileno() >= 0 else 'closed, was on'} {self._address}>"


async def open_listeners(
    *addresses: str | int | AnyAddress,
    backlog: int = _BACKLOG,
    reuse_port: bool = False,
    unix_mode: int | None = None,
    original_dst: bool = False,
    options: TcpOptions = TcpOptions(),  # noqa: B008  # frozen
) -> list[SocketListener]:
    """Listen on every address and return the listeners, in that order.

    Args:
        addresses: Ports (every interface, IPv4 and IPv6), or what :func:`~linkerd_proxy.address.parse_address` reads.
            A name is resolved and listened on at each of its addresses. Port 0 lets the system choose.
        backlog: Connections that the system completes before they are accepted.
        reuse_port: Whether other sockets, of other processes too, may share the port (``SO_REUSEPORT``).
        unix_mode: Permissions of a Unix socket's file; by default as the umask says.
        original_dst: Whether connections shall tell where they were going before iptables redirected them.
        options: For the accepted connections.

    Raises:
        InvalidConfiguration: one line that names the address, what is wrong, and the remedy. Nothing stays open.
    """
    listeners: list[SocketListener] = []
    whole = False
    try:
        for address in addresses:
            for bound in await bound_sockets(address, backlog=backlog, reuse_port=reuse_port, unix_mode=unix_mode):
                listeners.append(  # noqa: PERF401  # closed one by one if the next fails
                    SocketListener(bound.socket, options=options, original_dst=original_dst, inode=bound.inode)
                )
        whole = True
    finally:
        if not whole:
            for listener in listeners:
                listener.close()
    return listeners
