"""The flows once more, through two proxies with mutual TLS between them: nothing changes, and nothing is heard."""

from __future__ import annotations

import inspect
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from types import ModuleType

import pytest
from trio.abc import HalfCloseableStream
from trio.testing import memory_stream_pair

from linkerd_proxy import Dial, Target
from tests.flow import origins, test_curl_http1, test_grpc, test_http2, test_tcp, test_transparency, test_websocket
from tests.flow.application import Application
from tests.flow.pair import MARKERS, Ear, Pair, Tap, pair
from tests.patience import PATIENCE

CODECS = ["h11", "httptools"]


@pytest.fixture(scope="module", params=CODECS)
def http1(request: pytest.FixtureRequest, http1_origin: int) -> Iterator[Pair]:
    with pair(http1_origin, codec=request.param) as running:
        yield running


@pytest.fixture(scope="module")
def http2(http2_origin: int) -> Iterator[Pair]:
    with pair(http2_origin) as running:
        yield running


@pytest.fixture(scope="module", params=CODECS)
def tunnel(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with origins.listening(test_transparency.tunnel_end) as port, pair(port, codec=request.param) as running:
        yield running


@pytest.fixture(scope="module", params=["detecting", "opaque"])
def tcp(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with origins.listening(test_tcp.serve) as port, pair(port, opaque=request.param == "opaque") as running:
        yield running


@pytest.fixture(scope="module", params=["detecting", "opaque"])
def greeting(request: pytest.FixtureRequest) -> Iterator[Pair]:
    def greet(stream: socket.socket) -> None:
        stream.sendall(test_tcp.BANNER)
        stream.sendall(b"you said " + stream.recv(100))

    with origins.listening(greet) as port, pair(port, opaque=request.param == "opaque") as running:
        yield running


@pytest.fixture(scope="module", params=CODECS)
def websocket(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with test_websocket.serve(test_websocket.answer, "127.0.0.1", 0, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with pair(server.socket.getsockname()[1], codec=request.param) as running:
            yield running
        server.shutdown()
        thread.join(PATIENCE)


@pytest.fixture(scope="module")
def service() -> test_grpc.Service:
    return test_grpc.Service()


@pytest.fixture(scope="module")
def through(service: test_grpc.Service) -> Iterator[Pair]:
    executor = futures.ThreadPoolExecutor(32)
    server = test_grpc.grpc.server(executor, handlers=[service], options=test_grpc.ANY_SIZE)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with pair(port) as running:
        yield running
    server.stop(0).wait(PATIENCE)


channel = test_grpc.channel

MINE = {"http1", "http2", "tunnel", "tcp", "greeting", "websocket", "channel"}


def flows(module: ModuleType) -> dict[str, object]:
    """Return the flows of a module that reach the proxy through a fixture."""
    kind = module.__name__.rpartition("test_")[2]
    return {
        f"test_{kind}_{name.removeprefix('test_')}": flow
        for name, flow in vars(module).items()
        if name.startswith("test_") and inspect.isfunction(flow) and MINE & inspect.signature(flow).parameters.keys()
    }


for _module in (test_curl_http1, test_http2, test_transparency, test_tcp, test_grpc, test_websocket):
    globals().update(flows(_module))


def test_many_http_1_clients_share_a_connection(http1: Pair, application: Application):
    before = http1.connections
    asked = len(application.asked)
    streams = [test_transparency.connect(http1) for _ in range(30)]
    for stream in streams:
        stream.sendall(b"GET /hello HTTP/1.1\r\nHost: flow.test\r\n\r\n")
    for stream in streams:
        assert test_transparency.read_until(stream, b"hello, world!").endswith(b"hello, world!")
        stream.close()
    assert http1.connections - before <= 1
    assert all(one.version == "1.1" for one in application.asked[asked:])
    assert all(one.get_all("l5d-client-id") == ["client.ns.mesh.local"] for one in application.asked[asked:])


@pytest.mark.parametrize("marker", MARKERS)
def test_the_ear_hears_what_is_said_in_the_clear(marker: bytes):
    heard: set[bytes] = set()
    ear = Ear(heard)
    for piece in (b"\x17\x03\x03\x00", b"\x40" + bytes(20) + marker[:2], marker[2:] + bytes(64)):
        ear.listen(piece)
    assert marker in heard


async def test_a_wire_without_tls_would_be_noticed():
    tap = Tap()
    near, far = memory_stream_pair()

    async def use(stream: HalfCloseableStream) -> None:
        await stream.send_all(b"GET /hello HTTP/1.1\r\nhost: flow.test\r\n\r\n")
        assert await stream.receive_some() == b"hello, world!"

    async def inner(dial: Dial) -> None:
        await far.send_all(b"hello, world!")
        await dial.use(near)

    async with tap.open(inner) as service:
        await service(Dial(Target(), use))
    assert tap.heard >= {b"GET /hello", b"HTTP/1.", b"flow.test", b"hello, world!"}
    assert [ear.other_records > 0 for ear in tap.ears] == [True, True]
