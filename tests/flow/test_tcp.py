"""Raw bytes through the command: exact, in both directions, whoever speaks first and whoever ends first."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.flow import origins
from tests.flow.command import Proxy, proxy
from tests.patience import PATIENCE
from tests.ports import held_port

SIZE = 10_000_000
BANNER = b"220 flow.test ready\r\n"


def read_all(stream: socket.socket) -> bytes:
    received = bytearray()
    while chunk := stream.recv(1 << 16):
        received += chunk
    return bytes(received)


def read_exactly(stream: socket.socket, size: int) -> bytes:
    """Not MSG_WAITALL: a socket with a timeout does not block, so that it gives what is there."""
    received = bytearray()
    while len(received) < size and (chunk := stream.recv(size - len(received))):
        received += chunk
    return bytes(received)


def serve(stream: socket.socket) -> None:
    """Do what the first byte says."""
    first = stream.recv(1)
    if first == b"\x01":  # echo until the end
        while chunk := stream.recv(1 << 16):
            stream.sendall(chunk)
    elif first == b"\x02":  # answer the digest after the client's end
        stream.sendall(hashlib.sha256(read_all(stream)).digest())
    elif first == b"\x03":  # end first, and still listen
        stream.sendall(b"bye")
        stream.shutdown(socket.SHUT_WR)
        late.append(read_all(stream))
        heard.set()
    elif first == b"\x04":  # break the connection in the middle
        stream.sendall(b"half")
        origins.reset(stream)


late: list[bytes] = []
heard = threading.Event()


@pytest.fixture(scope="module", params=["detecting", "opaque"])
def tcp(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    options = ["--opaque"] if request.param == "opaque" else []
    with origins.listening(serve) as port, proxy("--to", f"127.0.0.1:{port}", *options) as running:
        yield running


@pytest.fixture(scope="module", params=["detecting", "opaque"])
def greeting(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """A proxy before a server that speaks first."""

    def greet(stream: socket.socket) -> None:
        stream.sendall(BANNER)
        stream.sendall(b"you said " + stream.recv(100))

    options = ["--opaque"] if request.param == "opaque" else []
    with origins.listening(greet) as port, proxy("--to", f"127.0.0.1:{port}", *options) as running:
        yield running


def connect(running: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)


def test_bytes_are_echoed_as_they_come(tcp: Proxy):
    with connect(tcp) as stream:
        stream.sendall(b"\x01")
        for size in (1, 10, 1000, 70_000):
            data = os.urandom(size)
            stream.sendall(data)
            assert read_exactly(stream, size) == data


def test_ten_megabytes_each_way_at_once_are_exact(tcp: Proxy):
    data = os.urandom(SIZE)
    with connect(tcp) as stream:
        stream.sendall(b"\x01")

        def send() -> None:
            stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = read_all(stream)
        sender.join(PATIENCE)
    assert received == data


def test_a_server_that_speaks_first_is_heard(greeting: Proxy):
    with connect(greeting) as stream:
        assert read_exactly(stream, len(BANNER)) == BANNER
        stream.sendall(b"EHLO")
        assert read_all(stream) == b"you said EHLO"


def test_the_client_may_end_first(tcp: Proxy):
    data = os.urandom(SIZE)
    with connect(tcp) as stream:
        stream.sendall(b"\x02" + data)
        stream.shutdown(socket.SHUT_WR)
        assert read_all(stream) == hashlib.sha256(data).digest()


def test_the_server_may_end_first(tcp: Proxy):
    heard.clear()
    with connect(tcp) as stream:
        stream.sendall(b"\x03")
        assert read_all(stream) == b"bye"
        stream.sendall(b"still talking")
        stream.shutdown(socket.SHUT_WR)
        assert heard.wait(PATIENCE)
    assert late[-1] == b"still talking"


def test_a_broken_server_breaks_the_client(tcp: Proxy):
    with connect(tcp) as stream:
        stream.sendall(b"\x04")
        try:
            received = read_all(stream)
        except ConnectionResetError:
            return  # as the server did it
        pytest.fail(f"the end looks proper after {received!r}")


def test_many_connections_at_once(tcp: Proxy):
    streams = [connect(tcp) for _ in range(100)]
    for number, stream in enumerate(streams):
        stream.sendall(b"\x01" + number.to_bytes(4, "big"))
    for number, stream in enumerate(streams):
        assert read_exactly(stream, 4) == number.to_bytes(4, "big")
        stream.close()


def test_no_server_ends_the_connection(tmp_path_factory: pytest.TempPathFactory):
    with held_port() as port, proxy("--to", f"127.0.0.1:{port}", "--opaque") as running:
        with contextlib.suppress(ConnectionResetError), connect(running) as stream:
            assert stream.recv(10) == b""
        running.terminate()
        assert running.wait() == 0
    assert "WARNING UF " in running.output
