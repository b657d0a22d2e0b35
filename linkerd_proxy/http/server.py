"""The layer that serves HTTP of every version: connections in, exchanges out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.http.deadlines import open_deadlines
from linkerd_proxy.http.h1.codec import CodecName, make_codec
from linkerd_proxy.http.h1.heads import Heads
from linkerd_proxy.http.h1.server import serve_h1
from linkerd_proxy.http.limits import Limits, described
from linkerd_proxy.io.rewind import Rewound
from linkerd_proxy.io.streams import has_unread

__all__ = ["Http"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DEFAULT = Limits()


@dataclass(frozen=True, slots=True, repr=False)
class Http(Layer[Connection, Exchange]):
    """Serves HTTP/1.0, HTTP/1.1 and HTTP/2: every request becomes an exchange.

    The version is what the connection says (``protocol``), what TLS agreed on (ALPN), or what the first bytes are:
    the preface of HTTP/2, or else HTTP/1.

    Args:
        codec: The library that parses HTTP/1 heads: ``auto`` (httptools where it is installed), ``h11``, ``httptools``.
        limits: What clients may ask.

    Raises:
        ProxyError: what a client did wrong, after it was told; what the service raised, after an empty 500 or 502.

    HTTP/1 runs one exchange at a time per connection, in the connection's own task; pipelined requests wait. A client
    that goes away cancels its exchange.
    """

    codec: CodecName = "auto"
    limits: Limits = _DEFAULT

    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Connection]]:
        """Yield the service of connections."""
        limits = self.limits
        heads = Heads(make_codec(self.codec), limits)
        async with open_deadlines() as deadlines:

            def service(connection: Connection) -> Awaitable[None]:
                # No coroutine of its own where nothing is to be awaited: each frame costs at every wait inside.
                since = trio.current_time()
                initial = b""
                stream = connection.stream
                if isinstance(stream, Rewound):  # its bytes are ours: without it in between, every call costs less
                    initial = stream.take()
                    connection = connection.with_stream(stream.stream)
                is_h2 = _known(connection)
                if is_h2 is None:
                    return find_out(connection, initial, since)
                return serve_known(connection, is_h2, initial, since)

            def serve_known(connection: Connection, is_h2: bool, initial: bytes, since: float) -> Awaitable[None]:
                if is_h2:
                    from linkerd_proxy.http.h2.server import serve_h2

                    return serve_h2(connection, inner, limits, deadlines, initial)
                return serve_h1(connection, inner, heads, deadlines, initial, since)

            async def find_out(connection: Connection, initial: bytes, since: float) -> None:
                initial = await _first_bytes(connection, initial, limits.header_timeout)
                await serve_known(connection, initial.startswith(_PREFACE), initial, since)

            yield service

    def __repr__(self) -> str:
        return described("Http", codec=(self.codec, "auto"), limits=(self.limits, _DEFAULT))


def _known(connection: Connection) -> bool | None:
    """Whether the connection is known to speak HTTP/2, or None if its first bytes must tell."""
    if connection.protocol == "http/2":
        return True
    if connection.protocol == "http/1":
        return False
    alpn = connection.tls.alpn if connection.tls is not None else None
    return None if alpn is None else alpn == "h2"


async def _first_bytes(connection: Connection, initial: bytes, timeout: float) -> bytes:
    """Return enough bytes to tell the preface from anything else; fewer if no more come in time."""

    def on_drain() -> None:
        if not has_unread(connection.stream):
            scope.cancel()

    with trio.move_on_after(timeout) as scope, connection.drain.calling(on_drain):
        while len(initial) < len(_PREFACE) and _PREFACE.startswith(initial):
            try:
                data = await connection.stream.receive_some(65536)
            except trio.BrokenResourceError:
                break
            if not data:
                break
            initial += data
    return initial
