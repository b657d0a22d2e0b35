"""Who is at the other end of a Unix socket, as the kernel tells it."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

import trio

from linkerd_proxy.io.streams import SocketStream

__all__ = ["UnixPeer", "unix_peer"]

_FORMAT = struct.Struct("=iII")  # struct ucred, unix(7)


@dataclass(frozen=True, slots=True)
class UnixPeer:
    """The process that connected, at that moment.

    Args:
        pid: Its number; 0 for one outside of our PID namespace.
        uid: Its effective user; 65534 for one that has no number in our user namespace.
        gid: Its effective group.
    """

    pid: int
    uid: int
    gid: int


def unix_peer(stream: trio.abc.AsyncResource) -> UnixPeer | None:
    """Return who connected to a Unix socket; None for streams of other kinds, and where the system does not tell.

    Source: ``SO_PEERCRED``, socket(7). The peer can't choose it, and later changes of its user do not change it.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None or not isinstance(stream, SocketStream) or stream.socket.family != socket.AF_UNIX:
        return None
    try:
        pid, uid, gid = _FORMAT.unpack(stream.socket.getsockopt(socket.SOL_SOCKET, option, _FORMAT.size))
    except OSError:
        return None  # closed meanwhile
    return UnixPeer(pid, uid, gid)
