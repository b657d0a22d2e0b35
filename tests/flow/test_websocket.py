"""The websockets library through the command: an upgrade, then frames of its own both ways."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack

import pytest

from tests.flow.command import Proxy, proxy
from tests.flow.curl import curl
from tests.patience import PATIENCE

websockets = pytest.importorskip("websockets")
from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.sync.client import ClientConnection, connect  # noqa: E402
from websockets.sync.server import ServerConnection, serve  # noqa: E402


def answer(connection: ServerConnection) -> None:
    """Echo messages; one that reads "close CODE" is obeyed."""
    for message in connection:
        if isinstance(message, str) and message.startswith("close "):
            connection.close(int(message.removeprefix("close ")), "as you asked")
        else:
            connection.send(message)


@pytest.fixture(scope="module", params=["h11", "httptools"])
def websocket(request: pytest.FixtureRequest) -> Iterator[Proxy]:
    with serve(answer, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        port = server.socket.getsockname()[1]
        with proxy("--to", f"127.0.0.1:{port}", "--codec", request.param) as running:
            yield running
        server.shutdown()
        thread.join(PATIENCE)


def connected(running: Proxy) -> AbstractContextManager[ClientConnection]:
    url = f"ws://127.0.0.1:{running.port}/"
    return connect(url, proxy=None, max_size=None, open_timeout=PATIENCE, close_timeout=PATIENCE)


def test_text_and_binary_are_echoed(websocket: Proxy):
    with connected(websocket) as client:
        for message in ("hello", "größer", b"\x00\xff" * 100, ""):
            client.send(message)
            assert client.recv(timeout=PATIENCE) == message


def test_ping_is_answered(websocket: Proxy):
    with connected(websocket) as client:
        assert client.ping().wait(PATIENCE)


def test_big_frames_are_exact(websocket: Proxy):
    data = os.urandom(5_000_000)
    with connected(websocket) as client:
        client.send(data)
        assert client.recv(timeout=PATIENCE) == data


@pytest.mark.parametrize("code", [1000, 1011, 4321])
def test_the_servers_close_code_arrives(websocket: Proxy, code: int):
    with connected(websocket) as client:
        client.send(f"close {code}")
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(timeout=PATIENCE)
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, "as you asked")


def test_the_clients_close_is_answered(websocket: Proxy):
    with connected(websocket) as client:
        client.close(1001, "leaving")
        assert client.close_code == 1001


def test_many_connections_talk_at_once(websocket: Proxy):
    with ExitStack() as exits:
        clients = [exits.enter_context(connected(websocket)) for _ in range(20)]
        for round_ in range(5):
            for number, client in enumerate(clients):
                client.send(f"{round_} {number}")
            for number, client in enumerate(clients):
                assert client.recv(timeout=PATIENCE) == f"{round_} {number}"


def test_a_refused_upgrade_is_a_plain_answer(websocket: Proxy):
    result = curl("-H", "Connection: Upgrade", "-H", "Upgrade: websocket", f"{websocket.origin}/")
    assert result.status in {400, 426}
