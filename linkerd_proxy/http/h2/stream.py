"""One HTTP/2 stream's state (RFC 9113 section 5.1), without I/O."""

from __future__ import annotations

from typing import Protocol

from linkerd_proxy.http.h2.codes import ErrorCode, StreamViolation
from linkerd_proxy.http.h2.decoder import Block

__all__ = ["Stream", "StreamSink", "declared_length"]


class StreamSink(Protocol):
    """Whoever wants to know what happens on a stream. Nothing of this may block or raise."""

    def on_head(self, block: Block, ended: bool) -> None:
        """A response's head came, informational or final (clients only)."""

    def on_data(self, data: bytes) -> None:
        """Content came; the window opens again when it is reported as consumed."""

    def on_end(self, trailers: Block | None) -> None:
        """The message is complete."""

    def on_reset(self, code: int, remote: bool, problem: str) -> None:
        """The stream is over before its time, by the peer's RST_STREAM or by its breach of the protocol."""

    def on_window(self) -> None:
        """The stream's send window may have opened."""


class Stream:
    """What both sides have said on one stream, and how much more they may say.

    Args:
        stream_id: Its number.
        send_window: What the peer lets us send.
        recv_window: What we let the peer send.
    """

    __slots__ = (
        "credit",
        "dead",
        "expected",
        "headed",
        "held",
        "id",
        "local_closed",
        "no_content",
        "received",
        "recv_window",
        "remote_closed",
        "responded",
        "send_window",
        "sink",
        "tunnel",
    )

    sink: StreamSink

    def __init__(self, stream_id: int, send_window: int, recv_window: int) -> None:
        self.id: int = stream_id
        self.send_window: int = send_window
        self.recv_window: int = recv_window
        self.held: int = 0
        """Bytes received and not consumed: the connection's window stays closed by as much."""
        self.credit: int = 0
        """Bytes consumed and not yet told to the peer."""
        self.received: int = 0
        self.expected: int | None = None
        """The content's declared length."""
        self.headed: bool = False
        """Whether the peer's final head has come."""
        self.responded: bool = False
        """Whether a response has begun."""
        self.no_content: bool = False
        """Whether the message that comes has no content whatever it declares (the answer to HEAD)."""
        self.tunnel: bool = False
        """Whether DATA is a tunnel's bytes, so that no length counts."""
        self.local_closed: bool = False
        self.remote_closed: bool = False
        self.dead: bool = False
        """Whether it was reset, by either side: nothing more is sent or counted."""

    def take(self, size: int) -> None:
        """Count content against the declared length (RFC 9113 section 8.1.1)."""
        self.received += size
        if self.expected is not None and self.received > self.expected:
            raise StreamViolation(
                self.id, ErrorCode.PROTOCOL_ERROR, f"more content than the {self.expected} bytes declared"
            )

    def finish(self) -> None:
        """Check at any end of the message, be it on DATA, on HEADERS or on trailers, that nothing is missing."""
        if self.expected is not None and self.received != self.expected and not self.no_content:
            raise StreamViolation(
                self.id,
                ErrorCode.PROTOCOL_ERROR,
                f"the message ends after {self.received} of {self.expected} bytes declared",
            )

    def __repr__(self) -> str:
        if self.dead:
            state = "reset"
        else:
            state = (
                ("closed" if self.remote_closed else "half-closed (local)")
                if self.local_closed
                else ("half-closed (remote)" if self.remote_closed else "open")
            )
        return f"<Stream {self.id} {state}, may send {self.send_window}, holds {self.held}>"


def declared_length(stream_id: int, block: Block) -> int | None:
    """Return a head's content-length.

    Raises:
        StreamViolation: unless it is one decimal number below 2**63.
    """
    found: bytes | None = None
    for name, value in block.fields:
        if name == b"content-length":
            if found is not None or not value.isdigit() or len(value) > 18:
                raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR, "content-length is not one decimal number")
            found = value
    return None if found is None else int(found)
