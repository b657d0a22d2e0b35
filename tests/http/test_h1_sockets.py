"""What only real sockets show: resets, races and leaks."""

import random
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Body, Request, Response, Streamed
from linkerd_proxy.core.serve import serve
from linkerd_proxy.core.stack import Layer, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import UpstreamClosed
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.server import Http
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.io.streams import SocketStream
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.testing import call
from tests.descriptors import descriptors
from tests.http.h2.frames import HELLO, Reader, headers, settings
from tests.patience import PATIENCE

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
pytestmark = pytest.mark.usefixtures("codec")


@asynccontextmanager
async def served(stack):
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(serve_one, stack)
        yield listener.address
        nursery.cancel_scope.cancel()


async def serve_one(stack, task_status):
    await serve(stack, await open_listeners("127.0.0.1:0"), task_status=task_status)


@asynccontextmanager
async def upstream(serve_stream):
    """A raw TCP server of the test's own, without the package's streams."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve_stream, 0)
        yield f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
async def clients():
    """The clients' sockets, closed when the test has ended."""
    _clients.clear()
    yield
    for client in _clients:
        await trio.aclose_forcefully(client)


_clients = []


async def connect(address):
    client = await trio.open_tcp_stream("127.0.0.1", address.port)
    _clients.append(client)
    return client


def reset(stream):
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    stream.socket.close()


async def read_all(stream):
    heard = b""
    try:
        while data := await stream.receive_some():
            heard += data
    except trio.BrokenResourceError:
        return heard, "reset"
    return heard, "end"


async def test_a_clients_reset_cancels_what_its_upstream_works_on(codec):
    arrived, ended = trio.Event(), trio.Event()

    async def slow(stream):
        await stream.receive_some()
        arrived.set()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        ended.set()

    async with upstream(slow) as origin, served(Http(codec) | Client(codec=codec) | Connect(origin)) as address:
        client = await connect(address)
        await client.send_all(GET)
        await arrived.wait()
        reset(client)
        with trio.fail_after(PATIENCE):
            await ended.wait()


async def test_a_clients_end_does_not_cancel(codec):
    async def slow(stream):
        await stream.receive_some()
        for _ in range(20):
            await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(OK)

    async with upstream(slow) as origin, served(Http(codec) | Client(codec=codec) | Connect(origin)) as address:
        client = await connect(address)
        await client.send_all(GET)
        await client.send_eof()
        heard, how = await read_all(client)
        assert heard.endswith(b"ok")
        assert how == "end"


async def test_a_truncated_response_without_length_is_reset(codec):
    async def fail(request):
        async def generate():
            yield b"half"
            raise UpstreamClosed("gone")

        return Response(body=Streamed(generate()))

    async with served(Http(codec) | handler(fail)) as address:
        for version in (b"1.0", b"1.1"):
            client = await connect(address)
            await client.send_all(GET.replace(b"1.1", version))
            heard, how = await read_all(client)
            assert how == "reset"
            assert not heard.endswith(b"0\r\n\r\n")


async def test_late_bytes_of_an_upstream_are_nobodys_answer(codec):
    connections = 0

    async def poison(stream):
        nonlocal connections
        connections += 1
        await stream.receive_some()
        await stream.send_all(OK)
        await stream.send_all(OK.replace(b"ok", b"NO"))
        await stream.receive_some()

    async with upstream(poison) as origin, served(Http(codec) | Client(codec=codec) | Connect(origin)) as address:
        client = await connect(address)
        for _ in range(3):
            await client.send_all(GET)
            assert (await client.receive_some()).endswith(b"ok")
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert connections == 3


async def test_an_upstream_that_closes_idle_connections_costs_nobody_an_error(codec):
    async def once(stream):
        await stream.receive_some()
        await stream.send_all(OK)

    async with upstream(once) as origin, served(Http(codec) | Client(codec=codec) | Connect(origin)) as address:
        client = await connect(address)
        for _ in range(50):
            await client.send_all(GET.replace(b"GET", b"POST"))
            heard = await client.receive_some()
            assert heard.endswith(b"ok"), heard
            await trio.testing.wait_all_tasks_blocked(0.002)


async def test_a_connection_whose_end_has_come_is_never_chosen(codec):
    """The end is in the kernel, and no task of ours has run since: a POST must not be risked on it."""
    streams, asked = [], []

    async def keep(stream):
        streams.append(stream)
        asked.append(await stream.receive_some())
        await stream.send_all(OK)
        await trio.sleep_forever()

    async with upstream(keep) as origin, opened(Client(codec=codec) | Connect(origin)) as service:
        for turn in range(20):
            async with call(service, Request("POST", "/", authority="a")) as response:
                assert (response.status, await response.body.read()) == (200, b"ok")
            streams[-1].socket.shutdown(socket.SHUT_WR)
            assert len(streams) == len(asked) == turn + 1
    assert all(one.startswith(b"POST / ") for one in asked)


async def test_an_answer_to_a_refused_upload_can_be_read(codec):
    async def no(request):
        return Response(403)

    async with served(Http(codec) | handler(no)) as address:
        client = await connect(address)
        await client.send_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10000000\r\n\r\n")

        async def upload():
            try:
                for _ in range(160):
                    await client.send_all(b"x" * 65536)
            except trio.BrokenResourceError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(upload)
            heard = await client.receive_some()
            nursery.cancel_scope.cancel()
        assert heard.startswith(b"HTTP/1.1 403 ")


# --- faults at every await ---


class Pieces(Body):
    """A body in pieces with a scheduling point before each; not a generator, which has to be closed."""

    __slots__ = ("pieces",)

    def __init__(self, pieces):
        super().__init__()
        self.pieces = pieces

    async def pull(self):
        await trio.lowlevel.checkpoint()
        return self.pieces.pop(0) if self.pieces else b""


class Injected(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Faults(Layer[Exchange, Exchange]):
    """Fails or gives up an exchange at its n-th scheduling point."""

    seed: int
    log: list = field(default_factory=list, repr=False)

    async def serve(self, exchange, inner):
        chance = random.Random(f"{self.seed}{exchange.request.path}")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.strike, chance, scope)
                await inner(exchange)
                nursery.cancel_scope.cancel()
        self.log.append(scope.cancelled_caught)

    async def strike(self, chance, scope):
        if chance.random() < 0.3:
            return
        for _ in range(chance.randint(0, 12)):
            await trio.lowlevel.checkpoint()
        if chance.random() < 0.5:
            scope.cancel()
        else:
            raise Injected


@pytest.mark.parametrize("seed", range(6))
async def test_a_fault_at_any_await_harms_only_its_own_exchange(codec, seed, caplog):
    async def answer(request):
        body = await request.body.read()

        return Response(body=Pieces([b"<", body, b">"]))

    async with served(Http(codec) | handler(answer)) as warming:  # what a run keeps: the reactor, threads
        await one_request(warming, 0, True)
    await trio.testing.wait_all_tasks_blocked(0.01)
    faults = Faults(seed)
    before = descriptors()
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with served(Http(codec) | handler(answer)) as origin:
        proxy = Http(codec) | faults | Client(codec=codec) | Connect(origin)
        async with served(proxy) as address, trio.open_nursery() as nursery:
            good = Http(codec) | Client(codec=codec) | Connect(origin)
            async with served(good) as good_address:
                for number in range(20):
                    nursery.start_soon(one_request, address, number, None)
                    nursery.start_soon(one_request, good_address, number, True)
                while nursery.child_tasks:
                    await trio.testing.wait_all_tasks_blocked(0.01)
    assert any(faults.log) or len(faults.log) < 20
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert descriptors() - before == set()
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert "Traceback" not in caplog.text


async def one_request(address, number, must_succeed):
    client = await connect(address)
    body = b"%d" % number * 10
    head = b"POST /%d HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" % number
    try:
        await client.send_all(head)
        await client.send_all(b"%x\r\n%b\r\n" % (len(body), body))
        await client.send_all(b"0\r\n\r\n")
    except trio.BrokenResourceError:
        assert not must_succeed
    heard = b""
    with trio.fail_after(PATIENCE):
        while not heard.endswith(b"0\r\n\r\n"):
            try:
                data = await client.receive_some()
            except trio.BrokenResourceError:
                break
            if not data:
                break
            heard += data
    await client.aclose()
    complete = heard.endswith(b"0\r\n\r\n")
    assert complete or not must_succeed
    if complete:
        content = heard.partition(b"\r\n\r\n")[2]
        assert body in content
        assert heard.startswith(b"HTTP/1.1 200 OK\r\n")


# --- drain ---


async def test_drain_ends_idle_connections_and_lets_busy_ones_finish(codec):
    release = trio.Event()

    async def slow(request):
        if request.path == "/slow":
            await release.wait()
        return Response(body=b"ok")

    drain = Drain()
    async with trio.open_nursery() as nursery:
        listeners = await open_listeners("127.0.0.1:0")
        nursery.start_soon(lambda: serve(Http(codec) | handler(slow), listeners, drain=drain))
        idle, busy = await connect(listeners[0].address), await connect(listeners[0].address)
        await idle.send_all(GET)
        assert (await idle.receive_some()).endswith(b"ok")
        await busy.send_all(GET.replace(b"/ ", b"/slow "))
        await trio.testing.wait_all_tasks_blocked(0.01)
        drain.start()
        assert await read_all(idle) == (b"", "end")
        await idle.aclose()
        release.set()
        heard, how = await read_all(busy)
        assert b"\r\nconnection: close\r\n" in heard
        assert how == "end"
        await busy.aclose()


@pytest.mark.parametrize("state", ["not accepted", "silent until now", "idle"])
async def test_a_request_that_is_there_when_a_drain_starts_is_answered(codec, state):
    async def fine(request):
        return Response(body=b"ok")

    drain = Drain()
    async with trio.open_nursery() as nursery:
        listeners = await open_listeners("127.0.0.1:0")
        nursery.start_soon(lambda: serve(Http(codec) | handler(fine), listeners, drain=drain))
        await trio.testing.wait_all_tasks_blocked()
        with socket.create_connection(listeners[0].socket.getsockname()) as client:
            if state != "not accepted":
                await trio.testing.wait_all_tasks_blocked(0.01)
            client.setblocking(False)
            stream = SocketStream(client)
            if state == "idle":
                await stream.send_all(GET)
                assert (await stream.receive_some()).endswith(b"ok")
                await trio.testing.wait_all_tasks_blocked(0.01)
            client.send(GET)
            drain.start()  # before the server has had a turn to read it
            heard, how = await read_all(stream)
            assert heard.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\nconnection: close\r\n" in heard
            assert how == "end"
            await stream.aclose()


async def test_an_http2_request_that_is_there_when_a_drain_starts_is_answered():
    async def fine(request):
        return Response(body=b"ok")

    drain = Drain()
    async with trio.open_nursery() as nursery:
        listeners = await open_listeners("127.0.0.1:0")
        nursery.start_soon(lambda: serve(Http() | handler(fine), listeners, drain=drain))
        await trio.testing.wait_all_tasks_blocked()
        with socket.create_connection(listeners[0].socket.getsockname()) as client:
            await trio.testing.wait_all_tasks_blocked(0.01)
            client.setblocking(False)
            stream = SocketStream(client)
            client.send(HELLO + settings(ack=True) + headers(1))
            drain.start()
            reader = Reader()
            heard = b""
            while not reader.ended(1):
                data = await stream.receive_some()
                assert data, heard
                heard += data
                reader.feed(data)
            assert reader.statuses(1) == ["200"]
            await stream.aclose()


async def test_the_streams_under_test_are_our_own(codec):
    kinds = []

    async def look(request):
        return Response()

    @dataclass(frozen=True, slots=True)
    class Look(Layer[Exchange, Exchange]):
        async def serve(self, exchange, inner):
            kinds.append(type(exchange.connection.stream))
            await inner(exchange)

    async with served(Http(codec) | Look() | handler(look)) as address:
        client = await connect(address)
        await client.send_all(GET)
        await client.receive_some()
    assert kinds == [SocketStream]
