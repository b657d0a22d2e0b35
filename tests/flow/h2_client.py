"""A small blocking HTTP/2 client that shows every event, for what curl hides."""

from __future__ import annotations

import socket
from typing import Self

import h2.config
import h2.connection
import h2.events

from tests.patience import PATIENCE

Headers = list[tuple[str, str]]
GOAWAY = 7


class H2Client:
    """One connection with prior knowledge. Windows are opened as data arrive."""

    def __init__(self, port: int) -> None:
        self.stream = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.codec = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.codec.initiate_connection()
        self.heads: dict[int, Headers] = {}
        self.informational: dict[int, list[Headers]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.trailers: dict[int, Headers] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaways: list[int] = []
        self.eof = False
        self.pending = b""
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def request(self, path: str, *headers: tuple[str, str], method: str = "GET", end: bool = True) -> int:
        """Send a request's head and return its stream's number."""
        stream_id = self.codec.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":authority", "flow.test"), (":path", path), *headers]
        self.codec.send_headers(stream_id, head, end_stream=end)
        self.bodies[stream_id] = bytearray()
        self._flush()
        return stream_id

    def data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send a piece of a request's body, which must fit the window."""
        self.codec.send_data(stream_id, data, end_stream=end)
        self._flush()

    def reset(self, stream_id: int, code: int = 8) -> None:
        """Cancel a stream."""
        self.codec.reset_stream(stream_id, code)
        self._flush()

    def read(self) -> None:
        """Take what arrives next. Sets ``eof`` when the peer has closed."""
        data = self.stream.recv(1 << 16)
        if not data:
            self.eof = True
            return
        self.pending += data
        while (frame := self._next_frame()) is not None:
            if frame[3] == GOAWAY:  # h2 would end the connection, though RFC 9113 6.8 lets its streams finish
                self.goaways.append(int.from_bytes(frame[13:17], "big"))
                continue
            for event in self.codec.receive_data(frame):
                self._handle(event)
        self._flush()

    def _next_frame(self) -> bytes | None:
        end = 9 + int.from_bytes(self.pending[:3], "big")
        if len(self.pending) < max(9, end):
            return None
        frame, self.pending = self.pending[:end], self.pending[end:]
        return frame

    def read_until_over(self, *streams: int) -> None:
        """Read until each of the streams has ended or was reset, or the connection is closed."""
        while not self.eof and any(one not in self.ended and one not in self.resets for one in streams):
            self.read()

    def status(self, stream_id: int) -> str:
        return dict(self.heads[stream_id])[":status"]

    def _flush(self) -> None:
        data = self.codec.data_to_send()
        if data:
            self.stream.sendall(data)

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self.heads[event.stream_id] = event.headers
        elif isinstance(event, h2.events.InformationalResponseReceived):
            self.informational.setdefault(event.stream_id, []).append(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] += event.data
            self.codec.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self.trailers[event.stream_id] = event.headers
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets[event.stream_id] = int(event.error_code)
