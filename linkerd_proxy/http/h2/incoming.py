"""The content that comes on a stream, pulled by whoever sends it on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from linkerd_proxy.core.message import Body
from linkerd_proxy.core.waiter import Waiter
from linkerd_proxy.errors import ProxyError
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.deadlines import Deadline

if TYPE_CHECKING:
    from linkerd_proxy.http.h2.channel import Channel

__all__ = ["Incoming"]

_JOIN = 64


class Incoming(Body):
    """A body whose flow-control window opens when a chunk is pulled, never before.

    Args:
        channel: The stream that it comes on.
        length: What the head declared.
    """

    __slots__ = ("_channel", "_chunks", "_deadline", "_error", "_waiter", "ended", "finished", "received", "waited")

    def __init__(self, channel: Channel, length: int | None = None) -> None:
        super().__init__(length)
        self._channel = channel
        self._chunks: list[bytes] = []
        self._waiter = Waiter()
        self._error: ProxyError | None = None
        self._deadline: Deadline | None = None
        self.waited: float = 0.0
        """Seconds that its reader has waited for it."""
        self.received: int = 0
        """Bytes that have come."""
        self.ended: bool = False
        """Whether the peer has sent all of it."""
        self.finished: bool = False
        """Whether the reader has seen its end, or nobody will."""

    def feed(self, data: bytes) -> None:
        """Take in what came."""
        chunks = self._chunks
        if len(chunks) >= _JOIN:
            self._chunks = [b"".join(chunks), data]  # a window of single bytes must not cost fifty times its size
        else:
            chunks.append(data)
        self.received += len(data)
        self._waiter.wake()

    def end(self, trailers: Headers | None) -> None:
        """Take the end as come."""
        self.trailers = trailers
        self.ended = True
        self._waiter.wake()

    def fail(self, error: ProxyError) -> None:
        """Raise this from the next pull that finds nothing more."""
        if not self.ended and self._error is None:
            self._error = error
            self._waiter.wake()

    def discard(self) -> None:
        """Throw away what came, for nobody will pull."""
        self._chunks = []
        self.close()
        if not self.ended:
            self.ended = True
        self.finished = True

    def close(self) -> None:
        """Take the deadline out."""
        if self._deadline is not None:
            self._channel.link.deadlines.remove(self._deadline)
            self._deadline = None

    async def pull(self) -> bytes:
        """Return what has come since the last pull, or wait for more; ``b""`` at the end."""
        while True:
            chunks = self._chunks
            if chunks:
                data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
                self._chunks = []
                channel = self._channel
                channel.link.engine.consumed(channel.stream, len(data))
                return data
            if self.ended:
                if not self.finished:
                    self.finished = True
                    self.close()
                    self._channel.body_finished()
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()

    async def _wait(self) -> None:
        self._channel.body_wanted()
        patience = self._channel.patience(self)
        if patience is None:
            await self._waiter.wait()
            return
        if self._deadline is None:
            self._deadline = self._channel.link.deadlines.add(self._channel.body_late)
        began = trio.current_time()
        self._deadline.deadline = began + patience
        try:
            await self._waiter.wait()
        finally:
            self.waited += trio.current_time() - began
            if self._deadline is not None:
                self._deadline.deadline = _NEVER

    def __repr__(self) -> str:
        state = "ended" if self.ended else "failed" if self._error else "open"
        return f"<Incoming body on stream {self._channel.stream.id}, {self.received} bytes, {state}>"


_NEVER = float("inf")
