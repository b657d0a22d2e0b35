"""A stream with bytes put back in front of it: for whoever looked at a connection's first bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import trio

from linkerd_proxy.io.client_hello import ClientHello
from linkerd_proxy.io.streams import SocketStream, abort_nowait, watch_hangup

__all__ = ["Rewound"]


class Rewound(trio.abc.HalfCloseableStream):
    """Gives out ``data`` first and then what ``stream`` receives; everything else goes to ``stream``.

    A relay sees through it: it sends the bytes that are left and then moves the inner stream's directly.

    Args:
        stream: What is underneath. Closing this closes it.
        data: The bytes that were taken from it already.
        hello: The ClientHello that they are, if they were read as one: nobody needs to read it again.
    """

    __slots__ = ("_data", "_hello", "stream")

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        data: bytes | bytearray | memoryview,
        hello: ClientHello | None = None,
    ) -> None:
        self.stream: trio.abc.HalfCloseableStream = stream
        self._data = bytes(data)
        self._hello = hello

    @property
    def hello(self) -> ClientHello | None:
        """The ClientHello that the bytes put back are, as long as all of them are there; None if nobody read it."""
        return self._hello

    @property
    def bytes_received(self) -> int:
        """How many bytes were given out, if the inner stream counts (else AttributeError)."""
        return cast("SocketStream", self.stream).bytes_received - len(self._data)

    @property
    def bytes_sent(self) -> int:
        """How many bytes the inner stream sent, if it counts (else AttributeError)."""
        return cast("SocketStream", self.stream).bytes_sent

    def take(self) -> bytes:
        """Return the bytes that are left and forget them."""
        data, self._data = self._data, b""
        self._hello = None
        return data

    async def receive_some(self, max_bytes: int | None = 65536) -> bytes | bytearray:
        """Return some of the bytes put back, without waiting, or else what the stream receives."""
        if not self._data:
            return await self.stream.receive_some(max_bytes)
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        await trio.lowlevel.checkpoint()
        data = self._data
        self._hello = None
        if max_bytes is None or len(data) <= max_bytes:
            self._data = b""
            return data
        self._data = data[max_bytes:]
        return data[:max_bytes]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of ``data``, as the inner stream does."""
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until sending might not block, as the inner stream does."""
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Send the end of this side, as the inner stream does."""
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Close the inner stream and forget the bytes."""
        self.take()
        await self.stream.aclose()

    def abort(self) -> None:
        """Reset the inner stream, if it can be, and forget the bytes."""
        self.take()
        abort_nowait(self.stream)

    def watch_hangup(self, callback: Callable[[], None] | None) -> None:
        """Watch the inner stream's hangup, if it can tell."""
        watch_hangup(self.stream, callback)

    def __repr__(self) -> str:
        return f"<Rewound by {len(self._data)} bytes: {self.stream!r}>"
