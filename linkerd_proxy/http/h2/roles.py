"""The two ends of an HTTP/2 connection: what a server and a client do differently."""

from __future__ import annotations

from collections.abc import Callable

from linkerd_proxy.http.h2 import wire
from linkerd_proxy.http.h2.codes import ErrorCode, NotHttp2, StreamViolation, Violation
from linkerd_proxy.http.h2.decoder import Block
from linkerd_proxy.http.h2.engine import ConnectionSink, Engine
from linkerd_proxy.http.h2.settings import (
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    INITIAL_WINDOW,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
)
from linkerd_proxy.http.h2.stream import Stream, declared_length
from linkerd_proxy.http.limits import Limits

__all__ = ["LAST_STREAM", "ClientEngine", "ServerEngine"]

LAST_STREAM = 2**31 - 1


def _announced(limits: Limits, more: dict[int, int]) -> bytes:
    """Return our SETTINGS, and the connection window that they can't tell."""
    values = {MAX_HEADER_LIST_SIZE: limits.max_head, **more}
    if limits.h2_stream_window != INITIAL_WINDOW:
        values[INITIAL_WINDOW_SIZE] = limits.h2_stream_window
    greeting = wire.settings(values)
    if limits.h2_connection_window > INITIAL_WINDOW:
        greeting += wire.window_update(0, limits.h2_connection_window - INITIAL_WINDOW)
    return greeting


class ServerEngine(Engine):
    """The server's end: streams are opened by the peer.

    Args:
        sink: Is told what happens.
        limits: What the client may do.
        clock: Gives the time in seconds.
    """

    def __init__(self, sink: ConnectionSink, limits: Limits, clock: Callable[[], float]) -> None:
        super().__init__(sink, limits, clock, is_server=True)
        self.last: int = 0
        """The highest stream that the client has opened."""
        self.accepts: int = LAST_STREAM
        """The highest stream that is still taken: what a GOAWAY said."""
        self.busy: int = 0
        """Streams whose work is not over; a reset alone does not make room for another (CVE-2023-44487)."""
        self.finished: int = 0
        """Those among them on which both sides have said all: to the client they are closed."""
        self._preface = wire.PREFACE
        self.outbox.put(_announced(limits, {MAX_CONCURRENT_STREAMS: limits.h2_max_streams, ENABLE_CONNECT_PROTOCOL: 1}))

    def is_idle(self, stream_id: int) -> bool:
        """Whether nobody ever opened this stream."""
        return stream_id > self.last or not stream_id & 1

    @property
    def inside(self) -> bool:
        """Whether a preface, a frame or a field block has begun and not ended."""
        return bool(self._preface) or super().inside

    def receive(self, data: bytes) -> None:
        """Take bytes from the client, the connection preface first."""
        if self._preface:
            size = len(self._preface)
            if not self._preface.startswith(data[:size]):
                raise Violation(ErrorCode.PROTOCOL_ERROR, "not an HTTP/2 connection preface")
            self._preface = self._preface[len(data) :]
            data = data[size:]
        super().receive(data)

    def _head_received(self, stream_id: int, stream: Stream | None, block: Block, ended: bool) -> None:
        if not stream_id & 1:
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}, which is not a client's")
        if stream_id <= self.last:
            self._late(stream_id)
            return
        self.last = stream_id
        if stream_id > self.accepts:
            self.remember(stream_id, reset=True)  # RFC 9113 section 6.8: ignored, the client repeats it elsewhere
            return
        if not self._has_room():
            self.outbox.put_control(wire.rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            self.remember(stream_id, reset=True)
            self.floods.unsent(self.outbox.control)
            self.floods.reset()
            return
        self.floods.streams += 1
        window = self.limits.h2_stream_window if self.acked else max(self.limits.h2_stream_window, INITIAL_WINDOW)
        stream = Stream(stream_id, self.peer.window, window)
        stream.headed = True
        stream.expected = None if block.oversized else declared_length(stream_id, block)
        if ended:
            stream.finish()
            stream.remote_closed = True
        self.streams[stream_id] = stream
        self.busy += 1
        self._sink.on_stream(stream, block, ended)

    def _has_room(self) -> bool:
        limit = self.limits.h2_max_streams
        return self.busy - self.finished < limit and self.busy < 2 * limit

    def forget(self, stream: Stream) -> None:
        """Close a stream on which both sides have said all, which makes room for another."""
        super().forget(stream)
        self.finished += 1

    def release(self, stream: Stream) -> None:
        """Count the work on a stream as over."""
        self.busy -= 1
        if not stream.dead and stream.local_closed and stream.remote_closed:
            self.finished -= 1

    def _late(self, stream_id: int) -> None:
        """Treat HEADERS on a stream that was closed, or passed over (RFC 9113 sections 5.1 and 5.1.1)."""
        reset = self.recent.get(stream_id)
        if reset:
            self.floods.reset()
            return
        if reset is None:
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} comes after stream {self.last}")
        raise Violation(ErrorCode.STREAM_CLOSED, f"HEADERS on closed stream {stream_id}")


class ClientEngine(Engine):
    """The client's end: streams are opened by us.

    Args:
        sink: Is told what happens.
        limits: What the server may do.
        clock: Gives the time in seconds.
    """

    def __init__(self, sink: ConnectionSink, limits: Limits, clock: Callable[[], float]) -> None:
        super().__init__(sink, limits, clock, is_server=False)
        self.next: int = 1
        """The number of the next stream."""
        self.outbox.put(wire.PREFACE + _announced(limits, {ENABLE_PUSH: 0}))

    def receive(self, data: bytes) -> None:
        """Take bytes from the server. Raises NotHttp2, and what an engine raises."""
        # From a space on, the first byte would begin a first frame of two megabytes: nobody may send one.
        if not self.frames and not self.inside and data[:1] >= b" ":
            raise NotHttp2
        super().receive(data)

    def is_idle(self, stream_id: int) -> bool:
        """Whether nobody ever opened this stream."""
        return stream_id >= self.next or not stream_id & 1

    def open_stream(self) -> Stream:
        """Return a new stream; its ``sink`` must be set before anything is received."""
        window = self.limits.h2_stream_window if self.acked else max(self.limits.h2_stream_window, INITIAL_WINDOW)
        stream = Stream(self.next, self.peer.window, window)
        self.streams[stream.id] = stream
        self.next += 2
        self.floods.streams += 1
        return stream

    def _head_received(self, stream_id: int, stream: Stream | None, block: Block, ended: bool) -> None:
        if stream is None:
            if self.is_idle(stream_id):
                raise Violation(ErrorCode.PROTOCOL_ERROR, f"HEADERS on idle stream {stream_id}")
            if self.recent.get(stream_id, True):
                return
            raise Violation(ErrorCode.STREAM_CLOSED, f"HEADERS on closed stream {stream_id}")
        stream.responded = True
        status = next((value for name, value in block.fields if name == b":status"), b"")
        if status[:1] == b"1":
            if ended:
                raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR, "an informational response ends the stream")
            stream.sink.on_head(block, False)
            return
        stream.headed = True
        stream.expected = self._expected(stream, status, block)
        if ended:
            stream.finish()
            stream.remote_closed = True
            if stream.local_closed:
                self.forget(stream)
        stream.sink.on_head(block, ended)

    @staticmethod
    def _expected(stream: Stream, status: bytes, block: Block) -> int | None:
        if stream.no_content or status in {b"204", b"304"}:
            stream.no_content = True
            return 0
        if block.oversized or (stream.tunnel and status[:1] == b"2"):
            return None
        return declared_length(stream.id, block)
