from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from linkerd_proxy.io import reactor
from linkerd_proxy.io.streams import SocketStream

Pair = tuple[SocketStream, SocketStream]


@pytest.fixture(params=["epoll", "portable"])
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with the reactor, and again on trio's own waits."""
    monkeypatch.setattr(reactor, "_enabled", request.param == "epoll")
    return str(request.param)


def tcp_sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    for sock in (client, accepted):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client, accepted


@pytest.fixture
def sockets() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Make connected pairs of plain TCP sockets, closed at the end."""
    made: list[socket.socket] = []

    def make() -> tuple[socket.socket, socket.socket]:
        pair = tcp_sockets()
        made.extend(pair)
        return pair

    yield make
    for sock in made:
        sock.close()


@pytest.fixture
def streams(mode: str, sockets: Callable[[], tuple[socket.socket, socket.socket]]) -> Callable[[], Pair]:
    """Make connected pairs of streams, in both modes."""

    def make() -> Pair:
        first, second = sockets()
        return SocketStream(first), SocketStream(second)

    return make
