"""What a parent and its workers say to each other: lines of JSON over a private pair of Unix sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable

import trio

__all__ = ["Channel"]

_LONGEST = 64 << 20  # bytes; a family of 1000 histograms has a tenth of that


class Channel:
    """One end of the pair.

    Args:
        sock: A connected stream socket; the channel owns it.
    """

    __slots__ = ("_buffer", "_sending", "_stream")

    def __init__(self, sock: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._buffer = bytearray()
        self._sending = trio.Lock()

    async def send(self, *lines: str) -> None:
        """Send lines. Raises trio.BrokenResourceError if the other side is gone."""
        async with self._sending:
            await self._stream.send_all(_encoded(lines))

    async def send_event(self, event: str, text: str = "") -> None:
        """Send an event, with a text where it has one."""
        await self.send(json.dumps({"event": event, "text": text}))

    async def receive(self) -> bytes | None:
        """Return the next line without its end, or None when the other side has closed or died."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > _LONGEST:
                return None
            try:
                data = await self._stream.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def aclose(self) -> None:
        """Close this end."""
        await self._stream.aclose()


def _encoded(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
