"""Threaded origins on real sockets, written with other people's codecs and none of ours."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h11

from tests.flow.application import Answer, Application, Asked
from tests.patience import PATIENCE

Serve = Callable[[socket.socket], None]


@contextlib.contextmanager
def listening(serve: Serve) -> Iterator[int]:
    """Serve connections in threads, and give the port. What a peer breaks ends its own connection only."""

    connections: dict[threading.Thread, socket.socket] = {}

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connections[threading.current_thread()] = self.request
            self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.request.settimeout(PATIENCE)
            with contextlib.suppress(OSError):
                serve(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join(PATIENCE)
            # None may outlive the test: its descriptor would close in the middle of a later one.
            for worker, stream in list(connections.items()):
                with contextlib.suppress(OSError):
                    stream.shutdown(socket.SHUT_RDWR)
                worker.join(PATIENCE)
                assert not worker.is_alive(), "a connection of the origin has not ended"


def reset(stream: socket.socket) -> None:
    """Close with RST, so that the peer sees the connection break."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


# --- HTTP/1 ------------------------------------------------------------------------------------


def http1(application: Application) -> Serve:
    """HTTP/1.0 and 1.1 with keep-alive, on h11."""

    def serve(stream: socket.socket) -> None:
        codec = h11.Connection(h11.SERVER)
        while True:
            answer = _ask(application, codec, stream)
            if answer is None:
                return
            _send_http1(codec, stream, answer)
            if answer.ends == "cut off":
                reset(stream)
                return
            if codec.our_state is not h11.DONE or codec.their_state is not h11.DONE:
                return
            codec.start_next_cycle()

    return serve


def _next(codec: h11.Connection, stream: socket.socket) -> h11.Event | type[h11.PAUSED]:
    while (event := codec.next_event()) is h11.NEED_DATA:
        codec.receive_data(stream.recv(1 << 16))
    return event  # type: ignore[return-value]


def _ask(application: Application, codec: h11.Connection, stream: socket.socket) -> Answer | None:
    event = _next(codec, stream)
    if not isinstance(event, h11.Request):
        return None
    method, path = event.method.decode(), event.target.decode()
    headers = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
    version = event.http_version.decode()
    if application.answers_early(method, path):
        return application.answer(Asked(method, path, version, headers))
    if codec.they_are_waiting_for_100_continue:
        stream.sendall(codec.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
    body = bytearray()
    while isinstance(event := _next(codec, stream), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    trailers = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
    return application.answer(Asked(method, path, version, headers, bytes(body), trailers))


def _send_http1(codec: h11.Connection, stream: socket.socket, answer: Answer) -> None:
    if answer.hints:
        hint = h11.InformationalResponse(status_code=103, headers=[("link", "</style.css>; rel=preload")])
        stream.sendall(codec.send(hint) or b"")
    headers = list(answer.headers)
    if answer.length is not None:
        headers.append(("content-length", str(answer.length)))
    elif answer.ends == "by closing":
        headers.append(("connection", "close"))
    if answer.ends == "by closing":
        # h11 would use chunks towards a 1.1 client: say the head by hand, and close at the end.
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        stream.sendall(f"HTTP/1.1 {answer.status} OK\r\n{lines}\r\n".encode())
        for chunk in answer.chunks:
            stream.sendall(chunk)
        stream.shutdown(socket.SHUT_WR)
        codec.send_failed()
        return
    stream.sendall(codec.send(h11.Response(status_code=answer.status, headers=headers)) or b"")
    # h11 knows that an answer to HEAD has no content, and minds if it is given some.
    for chunk in () if answer.is_head else answer.chunks:
        stream.sendall(codec.send(h11.Data(data=chunk)) or b"")
    if answer.ends == "properly":
        stream.sendall(codec.send(h11.EndOfMessage(headers=answer.trailers)) or b"")


# --- HTTP/2 ------------------------------------------------------------------------------------


def http2(application: Application) -> Serve:
    """HTTP/2 with prior knowledge, on h2: a reader, and a thread for each stream."""
    return lambda stream: _Http2(application, stream).run()


class _Http2:
    def __init__(self, application: Application, stream: socket.socket) -> None:
        self.application = application
        self.stream = stream
        # h2 wants an :authority, which RFC 9113 8.3.1 lets a request go without.
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8", validate_inbound_headers=False)
        self.codec = h2.connection.H2Connection(config)
        self.turn = threading.Condition()
        self.heads: dict[int, list[tuple[str, str]]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.trailers: dict[int, list[tuple[str, str]]] = {}
        self.gone: set[int] = set()
        self.closed = False

    def run(self) -> None:
        with self.turn:
            self.codec.initiate_connection()
            self._flush()
        try:
            while data := self.stream.recv(1 << 16):
                with self.turn:
                    for event in self.codec.receive_data(data):
                        self._handle(event)
                    self._flush()
                    self.turn.notify_all()
        except h2.exceptions.ProtocolError:
            with self.turn:
                self._flush()
        finally:
            with self.turn:
                self.closed = True
                self.turn.notify_all()

    def _flush(self) -> None:
        data = self.codec.data_to_send()
        if data:
            self.stream.sendall(data)

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            self.heads[event.stream_id] = event.headers
            self.bodies[event.stream_id] = bytearray()
            self.trailers[event.stream_id] = []
            if self.application.answers_early(*self._target(event.stream_id)):
                self._start(event.stream_id)
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] += event.data
            self.codec.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self.trailers[event.stream_id] = event.headers
        elif isinstance(event, h2.events.StreamEnded):
            if not self.application.answers_early(*self._target(event.stream_id)):
                self._start(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.gone.add(event.stream_id)

    def _target(self, stream_id: int) -> tuple[str, str]:
        head = dict(self.heads[stream_id])
        return head[":method"], head.get(":path", "")

    def _start(self, stream_id: int) -> None:
        threading.Thread(target=self._answer, args=(stream_id,), daemon=True).start()

    def _answer(self, stream_id: int) -> None:
        method, path = self._target(stream_id)
        asked = Asked(method, path, "2", self.heads[stream_id], bytes(self.bodies[stream_id]), self.trailers[stream_id])
        answer = self.application.answer(asked)
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            self._send(stream_id, answer)

    def _send(self, stream_id: int, answer: Answer) -> None:
        headers = [(":status", str(answer.status)), *answer.headers]
        if answer.length is not None:
            headers.append(("content-length", str(answer.length)))
        with self.turn:
            if answer.hints:
                hint = [(":status", "103"), ("link", "</style.css>; rel=preload")]
                self.codec.send_headers(stream_id, hint)
            self.codec.send_headers(stream_id, headers)
            self._flush()
        for chunk in () if answer.is_head else answer.chunks:
            self._send_data(stream_id, chunk)
        with self.turn:
            if answer.ends == "cut off":
                self.codec.reset_stream(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
            elif answer.trailers:
                self.codec.send_headers(stream_id, answer.trailers, end_stream=True)
            else:
                self.codec.end_stream(stream_id)
            self._flush()

    def _send_data(self, stream_id: int, chunk: bytes) -> None:
        while chunk:
            with self.turn:
                while not self._room(stream_id):
                    assert self.turn.wait(PATIENCE), f"no window for stream {stream_id}"
                size = self._room(stream_id)
                self.codec.send_data(stream_id, chunk[:size])
                self._flush()
            chunk = chunk[size:]

    def _room(self, stream_id: int) -> int:
        if self.closed or stream_id in self.gone:
            raise ConnectionResetError
        return min(self.codec.local_flow_control_window(stream_id), self.codec.max_outbound_frame_size)
