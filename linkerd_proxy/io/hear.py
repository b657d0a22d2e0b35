"""Take a ClientHello off a stream, to know whom it asks for before anything is decided."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from linkerd_proxy.io.client_hello import MAX_BYTES, ClientHello, ClientHelloReader
from linkerd_proxy.io.rewind import Rewound

__all__ = ["Heard", "hear"]


@dataclass(frozen=True, slots=True)
class Heard:
    """A connection's first bytes.

    Args:
        stream: What comes after them.
        data: The bytes.
        hello: The ClientHello that they are, or None if they are none.
    """

    stream: trio.abc.HalfCloseableStream
    data: bytes
    hello: ClientHello | None

    def put_back(self) -> trio.abc.HalfCloseableStream:
        """Return a stream that gives the bytes out first, and tells the next who asks what they are."""
        return Rewound(self.stream, self.data, self.hello) if self.data else self.stream


async def hear(stream: trio.abc.HalfCloseableStream) -> Heard:
    """Receive until it is certain whether the bytes are a ClientHello, and not one byte longer.

    Raises:
        trio.BrokenResourceError: if the connection broke after some of them. One that broke before the first byte has
            none, as one that ended.

    Cancelled, it keeps what it has received: the stream is good for nothing but closing.
    """
    data = bytearray()
    if isinstance(stream, Rewound):
        if (hello := stream.hello) is not None:  # whoever looked at the bytes has read it
            return Heard(stream.stream, stream.take(), hello)
        data += stream.take()
        stream = stream.stream
    reader = ClientHelloReader()
    verdict = reader.feed(bytes(data)) if data else None
    while verdict is None:
        try:
            received = await stream.receive_some(MAX_BYTES - len(data))
        except trio.BrokenResourceError:
            if data:
                raise
            break
        if not received:
            break
        data += received
        verdict = reader.feed(bytes(received))
    return Heard(stream, bytes(data), reader.hello if verdict else None)
