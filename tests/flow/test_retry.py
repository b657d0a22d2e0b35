"""Retries over real sockets: faults of many kinds behind the proxy, and what the client and the origins see of them."""

from __future__ import annotations

import random
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from linkerd_proxy import (
    Backoff,
    Budget,
    Client,
    Connect,
    Http,
    Request,
    Rescue,
    Response,
    Retry,
    Stack,
    Timeouts,
    opened,
)
from linkerd_proxy.core.message import Streamed
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import ProxyError
from linkerd_proxy.io.streams import abort_nowait
from linkerd_proxy.testing import call, echo, http_origin, serving, tcp_origin
from tests.patience import PATIENCE
from tests.ports import held_port

QUICK = Backoff(0.001, 0.01)
PLENTY = Budget(1, 1000)


@dataclass(frozen=True, slots=True)
class Spread(Stack[Exchange]):
    """Each exchange goes to the next of several stacks."""

    stacks: tuple[Stack[Exchange], ...] = field(repr=False)

    @asynccontextmanager
    async def open(self):
        async with AsyncExitStack() as exits:
            services = [await exits.enter_async_context(opened(stack)) for stack in self.stacks]
            turn = 0

            async def service(exchange: Exchange) -> None:
                nonlocal turn
                turn += 1
                await services[turn % len(services)](exchange)

            yield service


def proxy(retry, addresses, protocol="same"):
    return serving(Http() | Rescue() | retry | Spread(tuple(Client(protocol) | Connect(str(a)) for a in addresses)))


class Faulty:
    """An HTTP/1 origin that notes the id of each request that it got, and then often does not answer it well."""

    FAULTS = ("answers", "answers", "resets", "closes", "truncates", "fails", "cuts the head")

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.got = []

    async def serve(self, connection):
        stream = connection.stream
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                chunk = await stream.receive_some(65536)
                if not chunk:
                    return
                buffer += chunk
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            self.got.append(head.split(b" ", 2)[1].decode())
            fault = self.dice.choice(self.FAULTS)
            if fault == "answers":
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789")
            elif fault == "fails":
                await stream.send_all(b"HTTP/1.1 503 Not Now\r\ncontent-length: 4\r\n\r\nbusy")
            elif fault == "resets":
                abort_nowait(stream)
                return
            elif fault == "truncates":
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123")
                return
            else:
                await stream.send_all(b"" if fault == "closes" else b"HTTP/1.1 200 OK\r\ncontent-le")
                return


@pytest.mark.parametrize("seed", range(3))
async def test_faults_are_hidden_where_that_is_safe_and_nothing_is_delivered_twice_that_may_not_be(seed):
    origins = [Faulty(seed * 10 + number) for number in range(3)]
    outcomes = {"GET": [], "POST": []}
    async with AsyncExitStack() as exits:
        addresses = [(await exits.enter_async_context(tcp_origin(origin.serve))).address for origin in origins]
        front = await exits.enter_async_context(proxy(Retry(PLENTY, limit=60, backoff=QUICK), addresses))
        client = await exits.enter_async_context(opened(Client() | Connect(str(front))))

        async def ask(method, number):
            request = Request(method, f"/{method}/{number}", authority="test")
            try:
                async with call(client, request) as response:
                    body = await response.body.read()
                    outcomes[method].append((response.status, body))
            except ProxyError as error:
                outcomes[method].append((0, error.code))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(ask, "GET", number)
                    nursery.start_soon(ask, "POST", number)

    got = [one for origin in origins for one in origin.got]
    posts = [one for one in got if one.startswith("/POST")]
    assert len(posts) == len(set(posts)), "a POST was delivered twice"
    assert len(got) - len(posts) > 70, "no GET was repeated"
    # An answer that has begun can't be repeated: its client sees that it is cut off. Nothing else reaches the client.
    assert {outcome for outcome in outcomes["GET"] if outcome[0]} == {(200, b"0123456789")}
    assert all(status in {0, 200, 502, 503} for status, _ in outcomes["POST"])
    assert all(body == b"0123456789" for status, body in outcomes["POST"] if status == 200)


async def test_an_origin_that_hangs_is_left_for_another():
    async def hangs(connection):
        await trio.sleep_forever()

    async with tcp_origin(hangs) as first, http_origin() as second:
        retry = Retry(timeout=1, backoff=QUICK)
        request = Request("GET", "/x", authority="test")
        async with (
            proxy(retry, [second.address, first.address]) as front,
            call(Client() | Connect(str(front)), request) as response,
        ):
            assert await response.body.read() == b"GET /x"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_origin_that_is_not_there_costs_no_request_of_any_method(method):
    async def upload():
        yield b"one "
        yield b"two"

    with held_port() as gone:
        async with (
            http_origin() as origin,
            proxy(Retry(PLENTY, backoff=QUICK), [origin.address, f"127.0.0.1:{gone}"]) as front,
            opened(Client() | Connect(str(front))) as client,
        ):
            for number in range(20):
                body = Streamed(upload()) if number % 2 else b"one two"
                async with call(client, Request(method, "/", body=body, authority="test")) as response:
                    assert (response.status, await response.body.read()) == (200, b"one two")
    assert len(origin.requests) == 20


async def test_failed_answers_leave_the_windows_of_their_connection_open():
    seen = []

    async def answer(request):
        seen.append(request.path)
        await request.body.read()
        failed = len(seen) % 2 == 1
        return Response(503 if failed else 200, body=bytes(100_000) if failed else b"fine")

    async with (
        http_origin(answer) as origin,
        proxy(Retry(PLENTY, backoff=QUICK), [origin.address], "h2") as front,
        opened(Client("h2") | Connect(str(front))) as client,
    ):
        with trio.fail_after(PATIENCE):
            for _ in range(60):  # six megabytes: several times the connection's window
                async with call(client, Request("PUT", "/", body=b"x" * 1000, authority="test")) as response:
                    assert (response.status, await response.body.read()) == (200, b"fine")
    assert len(seen) == 120
    assert origin.connections == 1


async def test_an_upgrade_passes_through_all_layers_once_it_was_connected():
    async def origin(connection):
        head = await connection.stream.receive_some(65536)
        assert b"upgrade: websocket" in head.lower()
        await connection.stream.send_all(b"HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        await echo(connection)

    layers = Timeouts(request=PATIENCE, response=PATIENCE, idle=PATIENCE) | Retry(PLENTY, limit=3, backoff=QUICK)
    with trio.fail_after(PATIENCE), held_port() as gone:
        async with (
            tcp_origin(origin) as live,
            proxy(layers, [live.address, f"127.0.0.1:{gone}"]) as front,
            await trio.open_tcp_stream("127.0.0.1", front.port) as client,
        ):
            await client.send_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            assert b" 101 " in await client.receive_some(65536)
            await client.send_all(b"both ways")
            assert await client.receive_some(65536) == b"both ways"
            await client.send_eof()
            assert await client.receive_some(65536) == b""


ORIGIN = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self):
        print(self.path, flush=True)
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


class Process:
    """An origin in a process of its own, which can be killed, and the lines that it has written."""

    def __init__(self, process):
        self.process = process
        self.text = b""
        self.ready = trio.Event()

    async def read(self):
        async with self.process.stdout:
            async for chunk in self.process.stdout:
                self.text += chunk
                self.ready.set()

    async def wait_port(self):
        await self.ready.wait()
        return int(self.text.partition(b"\n")[0])

    async def end(self):
        self.process.kill()
        with trio.CancelScope(shield=True):
            await self.process.wait()

    @property
    def got(self):
        return self.text.decode().split()[1:]


async def test_an_origin_that_is_killed_costs_no_idempotent_request_and_doubles_no_other():
    done = {"GET": [], "POST": []}
    async with trio.open_nursery() as nursery:
        origins = []
        for _ in range(3):
            process = await trio.lowlevel.open_process(
                [sys.executable, "-c", ORIGIN], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            origins.append(Process(process))
            nursery.start_soon(origins[-1].read)
        try:
            with trio.fail_after(PATIENCE):
                addresses = [f"127.0.0.1:{await origin.wait_port()}" for origin in origins]
                async with (
                    proxy(Retry(PLENTY, limit=30, backoff=QUICK), addresses) as front,
                    opened(Client() | Connect(str(front))) as client,
                ):

                    async def ask(worker):
                        for number in range(50):
                            for method in ("GET", "POST"):
                                request = Request(method, f"/{method}-{worker}-{number}", authority="test")
                                async with call(client, request) as response:
                                    await response.body.read()
                                    done[method].append(response.status)
                            if len(done["GET"]) == 100:
                                origins[0].process.kill()

                    async with trio.open_nursery() as workers:
                        for worker in range(6):
                            workers.start_soon(ask, worker)
        finally:
            for origin in origins:
                await origin.end()
    got = [path for origin in origins for path in origin.got]
    posts = [path for path in got if path.startswith("/POST")]
    assert done["GET"] == [200] * 300
    assert set(done["POST"]) <= {200, 502}
    assert done["POST"].count(502) <= 6, "each of the six may have had one under way at the moment of the kill"
    assert len(posts) == len(set(posts))
    assert min(len(origin.got) for origin in origins[1:]) > 150
