"""The handshake: carry messages between a TLS engine and a stream until both sides have what they need."""

from __future__ import annotations

from contextlib import suppress

import trio

from linkerd_proxy.io.streams import SocketStream
from linkerd_proxy.metrics.histogram import Histogram
from linkerd_proxy.metrics.registry import Counter, current_registry
from linkerd_proxy.tls.engine import Engine
from linkerd_proxy.tls.refusal import Refused, Side
from linkerd_proxy.tls.stream import TlsStream

__all__ = ["HandshakeMetrics", "shake"]

_CHUNK = 65536
_LEAVE = 0.5  # own figure: seconds that a refused client has to read why
_LEAVE_BYTES = 65536


async def shake(stream: trio.abc.HalfCloseableStream, engine: Engine, *, initial: bytes = b"") -> TlsStream:
    """Finish a handshake and return the stream inside.

    Args:
        stream: Owned by the TLS stream in the end, and by the caller if there is none.
        engine: New.
        initial: What was received from the stream already.

    Raises:
        Refused: if it failed; the peer was told why as far as it can be without waiting long.

    Cancelled, it leaves the stream good for nothing but closing.
    """
    try:
        if initial:
            engine.feed(initial)
        while True:
            done = engine.handshake()
            if not (done and engine.unhurried) and (out := engine.take()):
                await stream.send_all(out)
            if done:
                if isinstance(stream, SocketStream):
                    stream.look_again()  # a client's first words follow its last message, which took long to check
                return TlsStream(stream, engine)
            received = await stream.receive_some(_CHUNK)
            if not received:
                raise Refused("eof")
            engine.feed(received)
    except trio.BrokenResourceError as error:
        raise Refused("reset", str(error)) from error
    except Refused:
        await _take_leave(stream, engine.take())
        raise


async def _take_leave(stream: trio.abc.HalfCloseableStream, alert: bytes) -> None:
    """Send the alert, and take what the peer has sent already: closing before that would make the system reset it."""
    if not alert:
        return
    size = 0
    with trio.move_on_after(_LEAVE), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_all(alert)
        await stream.send_eof()
        while size < _LEAVE_BYTES and (received := await stream.receive_some(_CHUNK)):
            size += len(received)


class HandshakeMetrics:
    """The counters of one side's handshakes."""

    __slots__ = ("_registry", "_side", "seconds", "total")

    def __init__(self, side: Side) -> None:
        self._registry = registry = current_registry()
        self._side = side
        self.total: Counter = registry.counter(
            "tls_handshakes_total", "TLS handshakes begun, by which side this proxy is", side=side
        )
        self.seconds: Histogram = registry.histogram(
            "tls_handshake_duration_seconds", "From a handshake's first message to its end", side=side
        )

    def failed(self, refused: Refused) -> None:
        """Count one that failed, by its reason."""
        self._registry.counter(
            "tls_handshake_failures_total",
            "TLS handshakes that failed, by reason",
            side=self._side,
            reason=refused.reason,
        ).value += 1

    def __repr__(self) -> str:
        return f"<HandshakeMetrics of the {self._side}, {self.total.value} begun>"
