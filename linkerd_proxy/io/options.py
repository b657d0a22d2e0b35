"""Options of TCP sockets, the same for those accepted and those dialled."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from linkerd_proxy.errors import InvalidConfiguration

__all__ = ["TcpOptions"]


@dataclass(frozen=True, slots=True)
class TcpOptions:
    """What is set on every TCP socket besides ``TCP_NODELAY``, which always is. Linkerd has both off by default.

    Args:
        keepalive: Seconds of silence after which the peer is probed, and between probes.
        user_timeout: Seconds after which data that the peer does not acknowledge breaks the connection (RFC 5482).
    """

    keepalive: float | None = None
    user_timeout: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("keepalive", self.keepalive), ("user_timeout", self.user_timeout)):
            if value is not None and not 0 < value < 2**31 / 1000:
                raise InvalidConfiguration(f"{name}={value!r} is no time span: give seconds above 0, or None for off")

    def apply(self, sock: socket.socket) -> None:
        """Set the options on a socket; on Linux, what a listening socket accepts inherits them.

        Raises:
            OSError: if the system refuses one.
        """
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.keepalive is not None:
            seconds = max(1, round(self.keepalive))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
                if hasattr(socket, name):  # Linux; other systems keep their own times
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        if self.user_timeout is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            milliseconds = max(1, round(self.user_timeout * 1000))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
