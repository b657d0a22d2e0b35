"""HTTP/2 without I/O: bytes in, calls to a sink and bytes to an outbox out (RFC 9113).

Why not ``h2.connection``: a GOAWAY ends its streams, a malformed request ends its connection, a frame's length is
checked after it was buffered, the peer sizes its compression table, nothing counts floods, and content-length is
not checked on HEADERS or trailers that end a message (measured with 4.4.1). Its state machines alone take 195 us of
CPU for an exchange through both ends with all validation off, as much as the whole proxy may; these take 30.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from linkerd_proxy.http.h2 import wire
from linkerd_proxy.http.h2.codes import ErrorCode, StreamViolation, Violation
from linkerd_proxy.http.h2.decoder import Block, Decoder
from linkerd_proxy.http.h2.floods import Floods
from linkerd_proxy.http.h2.half import Half
from linkerd_proxy.http.h2.outbox import Outbox
from linkerd_proxy.http.h2.settings import INITIAL_WINDOW, MAX_WINDOW, PeerSettings
from linkerd_proxy.http.h2.stream import Stream
from linkerd_proxy.http.limits import Limits

__all__ = ["ConnectionSink", "Engine"]


class ConnectionSink(Protocol):
    """Whoever wants to know what happens on a connection. Nothing of this may block or raise."""

    def on_stream(self, stream: Stream, block: Block, ended: bool) -> None:
        """A client opened a stream; its ``sink`` must be set before this returns (servers only)."""

    def on_settings(self) -> None:
        """The peer's settings changed."""

    def on_pong(self, payload: bytes) -> None:
        """A PING of ours was answered."""

    def on_goaway(self, last: int, code: int) -> None:
        """The peer takes no more streams, and will not process those above ``last``."""

    def on_connection_window(self) -> None:
        """The connection's send window opened."""

    def on_output(self) -> None:
        """The outbox has something to write, and was empty before."""


class Engine(Half):
    """The frames of one connection, common to both roles.

    Args:
        sink: Is told what happens.
        limits: What the peer may do.
        clock: Gives the time in seconds, for flood limits.
        is_server: Which side we are.
    """

    # Of Half, changed here.
    recv_window: int
    send_window: int
    dribbles: int

    def __init__(self, sink: ConnectionSink, limits: Limits, clock: Callable[[], float], *, is_server: bool) -> None:
        super().__init__(Outbox(sink.on_output), PeerSettings(is_server=not is_server), Floods(limits, clock), limits)
        self.greeted: bool = False
        """Whether the peer's first SETTINGS have come."""
        self.frames: int = 0
        """Frames received so far."""
        self.acked: bool = False
        """Whether the peer has acknowledged our SETTINGS."""
        self._sink = sink
        self._decoder = Decoder(limits.max_head, limits.max_fields)
        self._splitter = wire.Splitter()
        self._block_id = 0
        self._block_end = False
        self._block: list[bytes] = []
        self._handlers = (
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_rst_stream,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        )

    # --- what the roles differ in ---

    def is_idle(self, stream_id: int) -> bool:
        """Whether nobody ever opened this stream."""
        raise NotImplementedError

    def _head_received(self, stream_id: int, stream: Stream | None, block: Block, ended: bool) -> None:
        raise NotImplementedError

    # --- receiving ---

    @property
    def inside(self) -> bool:
        """Whether a frame or a field block has begun and not ended."""
        return self._splitter.inside or self._block_id != 0

    @property
    def in_block(self) -> bool:
        """Whether a field block has begun and not ended."""
        return self._block_id != 0

    def receive(self, data: bytes) -> None:
        """Take bytes from the peer.

        Raises:
            Violation: if the connection must end; call :meth:`goaway` with its code, flush, and close.
        """
        self.floods.received(len(data))
        for kind, flags, stream_id, payload in self._splitter.feed(data):
            self.frames += 1
            if self._block_id and (kind != wire.CONTINUATION or stream_id != self._block_id):
                raise Violation(ErrorCode.PROTOCOL_ERROR, "another frame inside a field block")
            if not self.greeted and (kind != wire.SETTINGS or flags & wire.ACK):
                raise Violation(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            try:
                if kind < 10:
                    self._handlers[kind](flags, stream_id, payload)
                else:
                    self.floods.glitch()  # unknown frames are ignored (section 5.5), though not without end
            except StreamViolation as breach:
                self._breach(breach)

    def _breach(self, breach: StreamViolation) -> None:
        stream = self.streams.get(breach.stream_id)
        if stream is not None:
            self.reset(stream, breach.code)
            stream.sink.on_reset(breach.code, False, breach.problem)
        elif not self.is_idle(breach.stream_id):
            self.outbox.put_control(wire.rst_stream(breach.stream_id, breach.code))
            self.remember(breach.stream_id, reset=True)
        self.floods.unsent(self.outbox.control)
        self.floods.own_reset()

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        if self.is_idle(stream_id):  # stream 0 is idle for ever
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"DATA on idle stream {stream_id}")
        self.recv_window -= size
        if self.recv_window < 0:
            raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window allows")
        ended = bool(flags & wire.END_STREAM)
        if flags & wire.PADDED:
            payload = wire.unpadded(payload)
        stream = self.streams.get(stream_id)
        if stream is None or stream.remote_closed:
            self._data_too_late(stream_id, stream, size)
            return
        self.floods.data(len(payload), ended)
        stream.recv_window -= size
        stream.held += size
        if stream.recv_window < 0:
            raise StreamViolation(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window allows")
        if not stream.headed:
            raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR, "DATA before the head")
        stream.take(len(payload))
        if payload:
            stream.sink.on_data(payload)
        if size > len(payload):
            self.consumed(stream, size - len(payload))
        if ended:
            self._message_ended(stream, None)

    def _data_too_late(self, stream_id: int, stream: Stream | None, size: int) -> None:
        self.give_back(size)
        if stream is not None or not self.recent.get(stream_id, True):
            raise StreamViolation(stream_id, ErrorCode.STREAM_CLOSED, "DATA after the end of the message")

    def _message_ended(self, stream: Stream, trailers: Block | None) -> None:
        stream.finish()
        stream.remote_closed = True
        if stream.local_closed:
            self.forget(stream)
        stream.sink.on_end(trailers)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & wire.PADDED:
            payload = wire.unpadded(payload)
        if flags & wire.PRIORITY_FLAG:
            if len(payload) < 5:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            payload = payload[5:]  # deprecated by RFC 9113 section 5.3: read and forgotten
        ended = bool(flags & wire.END_STREAM)
        if flags & wire.END_HEADERS:
            self._on_block(stream_id, payload, ended)
            return
        if not payload:
            self.floods.empty()
        self._block_id = stream_id
        self._block_end = ended
        self._block = [payload]

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._block_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a field block")
        self._block.append(payload)
        if len(self._block) > 1 + self.limits.h2_max_continuations:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, "too many CONTINUATION frames (h2_max_continuations)")
        if flags & wire.END_HEADERS:
            self._block_id = 0
            self._on_block(stream_id, b"".join(self._block), self._block_end)
            self._block = []
        elif not payload:
            self.floods.empty()

    def _on_block(self, stream_id: int, data: bytes, ended: bool) -> None:
        self.floods.block(len(data))
        block = self._decoder.decode(data)
        stream = self.streams.get(stream_id)
        if stream is None or not stream.headed:
            self._head_received(stream_id, stream, block, ended)
        elif stream.remote_closed:
            raise StreamViolation(stream_id, ErrorCode.STREAM_CLOSED, "HEADERS after the end of the message")
        elif not ended or block.oversized or any(name[:1] == b":" for name, _ in block.fields):
            raise StreamViolation(stream_id, ErrorCode.PROTOCOL_ERROR, "HEADERS that are no trailers")
        else:
            self._message_ended(stream, block)

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        self.floods.priority()
        if len(payload) != 5:
            raise StreamViolation(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a size other than 5")

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of a size other than 4")
        if self.is_idle(stream_id):
            raise Violation(ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on idle stream {stream_id}")
        stream = self.streams.get(stream_id)
        if stream is None or not self.peer.is_server:
            self.floods.reset()  # a server can only reset what we opened, and may well do that often
        if stream is None:
            return
        self.kill(stream)
        stream.sink.on_reset(int.from_bytes(payload, "big"), True, "")
        if not stream.responded and not self.peer.is_server:
            self.floods.early_reset()

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & wire.ACK:
            if payload:
                raise Violation(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with content")
            self._settings_acked()
            return
        if len(payload) % 6:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a size that is no multiple of 6")
        self.floods.settings()
        window = self.peer.window
        self.peer.apply(payload)
        self.encoder.resize(self.peer.table_size)
        self._windows_changed(self.peer.window - window)
        self.greeted = True
        self.outbox.put_control(wire.frame(wire.SETTINGS, wire.ACK, 0))
        self.floods.unsent(self.outbox.control)
        self._sink.on_settings()

    def _windows_changed(self, delta: int) -> None:
        if not delta:
            return
        for stream in list(self.streams.values()):
            stream.send_window += delta
            if stream.send_window > MAX_WINDOW:
                raise Violation(ErrorCode.FLOW_CONTROL_ERROR, "an initial window that overflows a stream's")
            if delta > 0:
                stream.sink.on_window()

    def _settings_acked(self) -> None:
        if self.acked:
            self.floods.glitch()
            return
        self.acked = True
        # A window below the initial one binds the peer from here on; streams opened before had the initial one.
        delta = min(0, self.limits.h2_stream_window - INITIAL_WINDOW)
        for stream in self.streams.values():
            stream.recv_window += delta

    def _on_push_promise(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise Violation(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which was never allowed")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "PING of a size other than 8")
        self.floods.ping()
        if flags & wire.ACK:
            self._sink.on_pong(payload)
            return
        self.outbox.put_control(wire.frame(wire.PING, wire.ACK, 0, payload))
        self.floods.unsent(self.outbox.control)

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise Violation(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of less than 8 bytes")
        self.floods.glitch()
        last = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        self._sink.on_goaway(last, int.from_bytes(payload[4:8], "big"))

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Violation(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of a size other than 4")
        self.floods.window_update()
        while self.dribbles:
            self.dribbles -= 1
            self.floods.glitch()
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if not stream_id:
            self.send_window += increment
            if not increment or self.send_window > MAX_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
                raise Violation(code, f"a window update by {increment} on the connection")
            self._sink.on_connection_window()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self.is_idle(stream_id):
                raise Violation(ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE on idle stream {stream_id}")
            return
        stream.send_window += increment
        if not increment or stream.send_window > MAX_WINDOW:
            wrong = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
            raise StreamViolation(stream_id, wrong, f"a window update by {increment}")
        stream.sink.on_window()
