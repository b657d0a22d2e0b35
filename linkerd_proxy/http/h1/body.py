"""Bodies that come in over HTTP/1: of a declared length, in chunks, or until the connection ends."""

from __future__ import annotations

from typing import NoReturn, Protocol

from linkerd_proxy.core.message import Body
from linkerd_proxy.errors import BadRequest
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.fields import Framing
from linkerd_proxy.http.h1.chunks import ChunkDecoder
from linkerd_proxy.http.limits import Limits

__all__ = ["Incoming", "Source", "make_body"]


class Source(Protocol):
    """The connection that a body comes from."""

    buffer: bytes
    """What was received and is not used yet."""

    async def more(self, body: Incoming) -> None:
        """Append to ``buffer`` what arrives; at the connection's end, call ``body.cut()`` or fail."""

    async def malformed(self, error: BadRequest) -> NoReturn:
        """Give the connection up because of what the peer sent."""
        ...


class Incoming(Body):
    """A body whose bytes are taken from a connection as they are pulled."""

    __slots__ = ("done", "received", "source")

    def __init__(self, source: Source, length: int | None) -> None:
        super().__init__(length)
        self.source: Source = source
        self.done: bool = False
        """Whether all of it has been taken from the connection."""
        self.received: int = 0
        """Bytes of content taken so far."""

    def take(self) -> bytes:
        """Take what the buffer holds of this body. Raises BadRequest."""
        raise NotImplementedError

    def cut(self) -> bool:
        """Take note that the connection ended; return whether that ends the body rightly."""
        return self.done

    @property
    def ready(self) -> bool:
        """Whether the next pull will not wait, as far as can be told cheaply."""
        return bool(self.source.buffer)

    async def pull(self) -> bytes:
        """Return the next bytes of content, or ``b""`` at the end."""
        while not self.done:
            if self.source.buffer:
                try:
                    data = self.take()
                except BadRequest as error:
                    await self.source.malformed(error)
                if data:
                    self.received += len(data)
                    return data
            if not self.done:
                await self.source.more(self)
        return b""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} body, {self.received} bytes received{', done' if self.done else ''}>"


class Sized(Incoming):
    """A body with a declared length, which is not zero."""

    __slots__ = ("_left",)

    def __init__(self, source: Source, length: int) -> None:
        super().__init__(source, length)
        self._left = length

    def take(self) -> bytes:
        """Take at most what is left of the declared length."""
        data = self.source.buffer
        if len(data) > self._left:
            data, self.source.buffer = data[: self._left], data[self._left :]
        else:
            self.source.buffer = b""
        self._left -= len(data)
        self.done: bool = not self._left
        return data


class Chunked(Incoming):
    """A body in chunks, perhaps with trailers."""

    __slots__ = ("_decoder",)

    def __init__(self, source: Source, limits: Limits) -> None:
        super().__init__(source, None)
        self._decoder = ChunkDecoder(limits)

    def take(self) -> bytes:
        """Decode what has arrived."""
        decoder = self._decoder
        data, self.source.buffer = decoder.decode(self.source.buffer)
        if decoder.done:
            self.trailers: Headers | None = decoder.trailers
            self.done = True
        return data

    @property
    def ready(self) -> bool:
        """Whether a chunk may be complete enough: half a size line has no content."""
        return len(self.source.buffer) > 3


class UntilClose(Incoming):
    """A response body that ends where its connection does."""

    __slots__ = ()

    def take(self) -> bytes:
        """Take all there is."""
        data, self.source.buffer = self.source.buffer, b""
        return data

    def cut(self) -> bool:
        """Take note of the end."""
        self.done = True
        return True


def make_body(source: Source, framing: Framing, limits: Limits) -> Incoming:
    """Return the body that a message's framing announces; its length is not zero."""
    if framing.chunked:
        return Chunked(source, limits)
    if framing.length is None:
        return UntilClose(source, None)
    return Sized(source, framing.length)
