"""SIGTERM: what was begun ends well, nothing new is taken, and the command exits with 0."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.flow import origins
from tests.flow.application import Application, random_bytes
from tests.flow.command import Proxy, proxy
from tests.flow.h2_client import H2Client
from tests.patience import PATIENCE


@pytest.fixture
def application() -> Application:
    """One whose gate no other test has opened."""
    return Application()


def connect(running: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=PATIENCE)


def read_all(stream: socket.socket) -> bytes:
    received = bytearray()
    while chunk := stream.recv(1 << 16):
        received += chunk
    return bytes(received)


def test_fifty_http2_streams_complete(application: Application):
    with (
        origins.listening(origins.http2(application)) as port,
        proxy("--to", f"127.0.0.1:{port}") as running,
        H2Client(running.port) as client,
    ):
        streams = [client.request(f"/gated/{16 * 1024}") for _ in range(50)]
        application.wait_for_waiting(50)
        running.terminate()
        while not client.goaways and not client.eof:
            client.read()
        assert client.goaways == [0]
        application.gate.set()
        client.read_until_over(*streams)
        assert client.ended == set(streams)
        assert all(client.bodies[one] == random_bytes(16 * 1024) for one in streams)
        while not client.eof:
            client.read()
        assert running.wait() == 0


@pytest.mark.parametrize("codec", ["h11", "httptools"])
def test_an_http1_answer_finishes_then_closes(application: Application, codec: str):
    with (
        origins.listening(origins.http1(application)) as port,
        proxy("--to", f"127.0.0.1:{port}", "--codec", codec) as running,
        connect(running) as begun,
        connect(running) as held,
    ):
        begun.sendall(b"GET /gated/100000 HTTP/1.1\r\nHost: a\r\n\r\n")
        held.sendall(b"GET /held/1000 HTTP/1.1\r\nHost: a\r\n\r\n")
        application.wait_for_waiting(2)
        first = begun.recv(1 << 16)
        running.terminate()
        wait_until_refused(running)
        application.gate.set()
        assert (first + read_all(begun)).endswith(random_bytes(100_000))
        answer = read_all(held)
        assert answer.endswith(random_bytes(1000))
        assert b"\r\nconnection: close\r\n" in answer.lower()
        assert running.wait() == 0


def test_idle_keep_alive_connections_are_closed(application: Application):
    with (
        origins.listening(origins.http1(application)) as port,
        proxy("--to", f"127.0.0.1:{port}") as running,
        connect(running) as stream,
    ):
        stream.sendall(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        received = b""
        while not received.endswith(b"hello, world!"):
            received += stream.recv(1 << 16)
        running.terminate()
        assert stream.recv(1) == b""
        assert running.wait() == 0


def test_a_tcp_connection_lives_until_both_ends_have_closed():
    def echo(stream: socket.socket) -> None:
        while chunk := stream.recv(1 << 16):
            stream.sendall(chunk)

    with (
        origins.listening(echo) as port,
        proxy("--to", f"127.0.0.1:{port}") as running,
        connect(running) as stream,
    ):
        stream.sendall(b"\x00before")
        assert stream.recv(7) == b"\x00before"
        running.terminate()
        wait_until_refused(running)
        stream.sendall(b"after")
        assert stream.recv(5) == b"after"
        assert running.process.poll() is None
        stream.shutdown(socket.SHUT_WR)
        assert stream.recv(1) == b""
        assert running.wait() == 0


def test_a_second_signal_ends_at_once(application: Application):
    with (
        origins.listening(origins.http1(application)) as port,
        proxy("--to", f"127.0.0.1:{port}") as running,
        connect(running) as stream,
    ):
        stream.sendall(b"GET /gated/100000 HTTP/1.1\r\nHost: a\r\n\r\n")
        application.wait_for_waiting(1)
        running.terminate()
        wait_until_refused(running)
        running.terminate()
        assert running.wait() != -signal.SIGKILL
        application.gate.set()


def wait_until_refused(running: Proxy) -> None:
    """Return when the proxy has begun to drain: it takes no connection any more."""
    for _ in range(10_000):
        try:
            connect(running).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # accepted by the kernel before the listener was closed
    pytest.fail("the proxy still accepts")
