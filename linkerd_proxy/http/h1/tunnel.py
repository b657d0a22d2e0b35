"""The client's direction of a tunnel: what it sends after CONNECT or an accepted upgrade."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from linkerd_proxy.core.message import Body

__all__ = ["TunnelBody"]


class TunnelBody(Body):
    """Raw bytes until the peer's end; nothing before the tunnel is open (CVE-2025-64763).

    Args:
        receive: Returns the next bytes, or ``b""`` at the end.
    """

    __slots__ = ("_opened", "_receive", "ended")

    def __init__(self, receive: Callable[[], Awaitable[bytes]]) -> None:
        super().__init__(None)
        self._receive = receive
        self._opened = trio.Event()
        self.ended: trio.Event = trio.Event()
        """Set when the peer has said all it had to say."""

    def open(self) -> None:
        """Let the bytes through: the answer was positive."""
        self._opened.set()

    def refuse(self) -> None:
        """End at once: the answer was negative, so what the client sent is nobody's."""
        self.ended.set()
        self._opened.set()

    async def pull(self) -> bytes:
        """Return the next bytes, waiting for the tunnel to be opened first."""
        if not self._opened.is_set():
            await self._opened.wait()
        if self.ended.is_set():
            return b""
        data = await self._receive()
        if not data:
            self.ended.set()
        return data

    def __repr__(self) -> str:
        state = "ended" if self.ended.is_set() else "open" if self._opened.is_set() else "not open yet"
        return f"<TunnelBody {state}>"
