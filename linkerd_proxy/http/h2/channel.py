"""One stream with its tasks: what comes in is kept for a reader, what goes out waits for windows and for its turn."""

from __future__ import annotations

from typing import Generic

import trio
from typing_extensions import TypeVar

from linkerd_proxy.core.message import Body, Whole
from linkerd_proxy.core.waiter import Waiter
from linkerd_proxy.errors import UpstreamProtocolError
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.http.h2.incoming import Incoming
from linkerd_proxy.http.h2.link import QUANTUM, Link
from linkerd_proxy.http.h2.stream import Stream

__all__ = ["Channel"]

L = TypeVar("L", bound=Link, covariant=True, default=Link)


class Channel(Generic[L]):
    """What the two ends of a stream share. Subclasses are the stream's sink.

    Args:
        link: The connection.
        stream: The stream.
    """

    __slots__ = ("_sender", "body", "link", "stream")

    def __init__(self, link: L, stream: Stream) -> None:
        self.link: L = link
        self.stream: Stream = stream
        self.body: Incoming = Incoming(self)
        """What comes in."""
        self._sender = Waiter()

    # --- for subclasses ---

    def patience(self, body: Incoming) -> float | None:
        """Return how long the next bytes may take to come, or None for any time."""
        raise NotImplementedError

    def body_wanted(self) -> None:
        """Act on that somebody waits for content."""

    def body_late(self) -> None:
        """Give up, because the next bytes did not come in time."""
        raise NotImplementedError

    def body_finished(self) -> None:
        """Act on that the body's reader has seen its end."""

    def stalled(self) -> None:
        """Give up, because the peer's windows stayed closed too long."""
        raise NotImplementedError

    # --- the engine's sink ---

    def on_data(self, data: bytes) -> None:
        """Keep content for the body's reader."""
        self.body.feed(data)

    def on_window(self) -> None:
        """Go on sending."""
        self._sender.wake()

    # --- sending ---

    async def send_body(self, body: Body, length: int | None) -> None:
        """Pull a body and send all of it, with its trailers. Returns early once the stream is reset.

        Raises:
            UpstreamProtocolError: if it is longer or shorter than its head declared.
        """
        sent = 0
        while chunk := await body.pull():
            sent += len(chunk)
            if length is not None and sent > length:
                raise UpstreamProtocolError(f"a body is longer than the {length} bytes that its head declared")
            await self.send(chunk, end=False)
            if self.stream.dead:
                return
        if length is not None and sent < length:
            raise UpstreamProtocolError(f"a body ends after {sent} of the {length} bytes that its head declared")
        self.send_end(body.trailers)

    async def send_whole(self, body: Whole) -> None:
        """Send a body that is in memory, without using it up."""
        if body.data:
            await self.send(body.data, end=not body.trailers)
        if body.trailers or not body.data:
            self.send_end(body.trailers)

    def send_end(self, trailers: Headers | None) -> None:
        """End the message, with trailers where there are any."""
        if trailers is not None and trailers.raw:
            self.link.engine.send_head(self.stream, trailers.raw, end=True)
        else:
            self.link.engine.send_data(self.stream, b"", end=True)

    async def send(self, data: bytes, *, end: bool) -> None:
        """Send content, in its turn and as the peer's windows allow."""
        link = self.link
        if not link.crowded and len(data) <= link.allowance(self.stream):
            link.engine.send_data(self.stream, data, end=end)
            return
        entry = link.deadlines.add(self.stalled)
        try:
            at = 0
            while at < len(data) and not self.stream.dead:
                entry.deadline = trio.current_time() + link.limits.write_stall
                if self.stream.send_window <= 0:
                    link.wake_senders()
                    await self._sender.wait()
                elif await link.turn(self._sender, self.stream) and not self.stream.dead:
                    at = self._send_piece(data, at, end)
        finally:
            link.deadlines.remove(entry)
            link.wake_senders()  # a turn that was given and not used is the next one's

    def _send_piece(self, data: bytes, at: int, end: bool) -> int:
        size = min(self.link.allowance(self.stream), QUANTUM)
        if size <= 0:
            return at
        stop = min(len(data), at + size)
        engine = self.link.engine
        if stop < len(data) and stop - at < _DRIBBLE and engine.sendable(self.stream) == stop - at:
            engine.dribble()
        engine.send_data(self.stream, data[at:stop], end=end and stop == len(data))
        return stop

    def finish_body(self) -> None:
        """Throw away what nobody pulled, and never wait for more."""
        self.body.discard()
        self.link.engine.consumed(self.stream, self.stream.held)


_DRIBBLE = 256


def end_to_end(raw: RawHeaders) -> RawHeaders:
    """Return the fields without ``connection: close``, the one hop-by-hop field that a layer may set."""
    return [field for field in raw if field[0] != b"connection"] if (b"connection", b"close") in raw else raw
