"""What passes a proxy unchanged, and what must not: the rows of linkerd2-proxy's transparency tests."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from tests.flow import origins
from tests.flow.application import Application
from tests.flow.command import Proxy, proxy
from tests.flow.curl import curl
from tests.flow.h2_client import H2Client
from tests.patience import PATIENCE
from tests.ports import held_port


def connect(running: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)


def read_until(stream: socket.socket, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end) and (chunk := stream.recv(1 << 16)):
        received += chunk
    return received


def read_all(stream: socket.socket) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while chunk := stream.recv(1 << 16):
            received += chunk
    return bytes(received)


def fields_of(answer: bytes) -> list[list[str]]:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def ask(running: Proxy, request: str) -> bytes:
    with connect(running) as stream:
        stream.sendall(request.encode())
        return read_all(stream)


def test_an_absolute_target_wins_over_host(http1: Proxy):
    answer = ask(http1, "GET http://foo.test/headers HTTP/1.1\r\nHost: foo.test\r\nConnection: close\r\n\r\n")
    assert ["host", "foo.test"] in fields_of(answer)


def test_http_1_0_without_host_is_served(http1: Proxy):
    assert ask(http1, "GET /hello HTTP/1.0\r\n\r\n").endswith(b"hello, world!")


def test_http_1_1_without_host_is_refused(http1: Proxy):
    assert ask(http1, "GET /hello HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_an_offer_of_h2c_goes_no_further(http1: Proxy):
    request = (
        "GET /headers HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    )
    assert not {"upgrade", "http2-settings"} & {name for name, _ in fields_of(ask(http1, request))}


def test_one_upstream_connection_serves_requests_in_turn():
    application, streams = Application(), []

    def serve(stream: socket.socket) -> None:
        streams.append(stream)
        origins.http1(application)(stream)

    with origins.listening(serve) as port, proxy("--to", f"127.0.0.1:{port}") as running:
        for _ in range(5):
            assert curl(f"{running.origin}/hello").body == b"hello, world!"
    assert len(streams) == 1


def test_an_http2_request_without_an_authority_is_served(http2: Proxy):
    with H2Client(http2.port) as client:
        stream = client.codec.get_next_available_stream_id()
        client.codec.config.validate_outbound_headers = False
        client.codec.send_headers(
            stream, [(":method", "GET"), (":scheme", "http"), (":path", "/hello")], end_stream=True
        )
        client.bodies[stream] = bytearray()
        client.stream.sendall(client.codec.data_to_send())
        client.read_until_over(stream)
        assert client.bodies[stream] == b"hello, world!"


# --- tunnels -----------------------------------------------------------------------------------


def tunnel_end(stream: socket.socket) -> None:
    """Accept CONNECT and any upgrade, then answer each line of the tunnel."""
    head = read_until(stream, b"\r\n\r\n")
    if head.startswith(b"CONNECT "):
        # RFC 9110 9.3.6: neither field belongs here, and a proxy that believed them would cut the tunnel.
        framing = b"Content-Length: 5" if b" length.test" in head else b"Transfer-Encoding: chunked"
        stream.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
    elif b"upgrade:" in head.lower():
        stream.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst ")
    else:
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nno offer")
        return
    while line := read_until(stream, b"\n"):
        stream.sendall(b"you said " + line)
    stream.sendall(b"bye")


@pytest.fixture(scope="module", params=["h11", "httptools"])
def tunnel(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with (
        origins.listening(tunnel_end) as port,
        proxy("--to", f"127.0.0.1:{port}", "--codec", request.param) as running,
    ):
        yield running


@pytest.mark.parametrize("host", ["length.test:80", "chunked.test:80"])
def test_connect_opens_a_tunnel_without_framing(tunnel: Proxy, host: str):
    with connect(tunnel) as stream:
        stream.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = read_until(stream, b"\r\n\r\n").lower()
        assert head.startswith(b"http/1.1 200 ")
        assert b"content-length" not in head
        assert b"transfer-encoding" not in head
        stream.sendall(b"hello\n")
        assert read_until(stream, b"\n") == b"you said hello\n"
        stream.shutdown(socket.SHUT_WR)
        assert read_all(stream) == b"bye"


def test_an_upgrade_opens_a_tunnel_both_ways(tunnel: Proxy):
    with connect(tunnel) as stream:
        # Bytes of the new protocol may follow the request at once.
        stream.sendall(b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        received = read_until(stream, b"first ")
        assert received.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nupgrade: websocket\r\n" in received.lower()
        stream.sendall(b"hello\n")
        assert read_until(stream, b"\n") == b"you said hello\n"
        stream.shutdown(socket.SHUT_WR)
        assert read_all(stream) == b"bye"


@pytest.mark.parametrize(
    "line",
    [
        "CONNECT /origin-form HTTP/1.1",
        "CONNECT / HTTP/1.1",
        "CONNECT http://test/bar HTTP/1.1",
        "CONNECT http://test HTTP/1.1",
        "CONNECT * HTTP/1.1",
        "CONNECT test HTTP/1.0",
        "GET test HTTP/1.1",
    ],
)
def test_bad_targets_are_refused(http1: Proxy, application: Application, line: str):
    before = len(application.asked)
    assert ask(http1, f"{line}\r\nHost: test\r\n\r\n").split()[1] == b"400"
    assert len(application.asked) == before


# --- clients and servers that go away ----------------------------------------------------------


def test_a_client_that_goes_away_frees_the_origin():
    """The origin of an unfinished download sees its connection end, and others are served."""
    ended: list[str] = []

    def endless(stream: socket.socket) -> None:
        read_until(stream, b"\r\n\r\n")
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
        try:
            while True:
                stream.sendall(bytes(1 << 16))
        except OSError as error:
            ended.append(type(error).__name__)

    with origins.listening(endless) as port, proxy("--to", f"127.0.0.1:{port}") as running:
        with connect(running) as stream:
            stream.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert stream.recv(1 << 16).startswith(b"HTTP/1.1 200")
        running.terminate()
        assert running.wait() == 0  # nothing of the download is left to wait for
    assert ended


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_an_origin_that_ends_early_is_no_proper_end(framing: str):
    """FIN in the middle of a body, where RST would be too obvious."""

    def half(stream: socket.socket) -> None:
        read_until(stream, b"\r\n\r\n")
        stream.sendall(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + b"40\r\n" + b"x" * 50)

    with origins.listening(half) as port, proxy("--to", f"127.0.0.1:{port}") as running:
        answer = curl(running.origin, check=False)
        assert answer.exit_status in {18, 56} or answer.status == 502
        running.terminate()
        assert running.wait() == 0


def test_no_origin_is_explained_with_502(http1: Proxy):
    with held_port() as port, proxy("--to", f"127.0.0.1:{port}") as running:
        answer = curl(running.origin)
        assert answer.status == 502
        assert answer.get_all("l5d-proxy-error")[0].startswith("UF ")


def test_workers_share_the_port_and_drain(http1_origin: int):
    with proxy("--to", f"127.0.0.1:{http1_origin}", "--workers", "2") as running:
        for _ in range(20):
            assert curl(f"{running.origin}/hello").body == b"hello, world!"
        running.terminate()
        assert running.wait() == 0
