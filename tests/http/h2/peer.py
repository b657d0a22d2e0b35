"""A client made of raw frames, before a served connection in memory."""

import logging
from contextlib import asynccontextmanager

import trio
import trio.testing

from linkerd_proxy.address import Address
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Body, Response
from linkerd_proxy.core.work import Connection
from linkerd_proxy.errors import BadRequest, IdleTimeout
from linkerd_proxy.http.deadlines import open_deadlines
from linkerd_proxy.http.h2.server import serve_h2
from linkerd_proxy.http.limits import Limits
from tests.http.h2.frames import HELLO, Reader, get, headers, settings

CLIENT = Address("127.0.0.1", 50000)
SERVER = Address("127.0.0.1", 80)


class Application:
    """What stands behind the connection: by path, and it keeps what it saw."""

    def __init__(self):
        self.seen = []
        self.running = 0
        self.cancelled = 0

    async def __call__(self, exchange):
        self.seen.append(exchange.request)
        self.running += 1
        try:
            await self.serve(exchange)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def serve(self, exchange):
        request = exchange.request
        path = request.path.partition("?")[0]
        if path == "/hang":
            await trio.sleep_forever()
        elif path == "/early":
            await exchange.respond(Response(200, [], b"early"))
        elif path == "/fail":
            raise RuntimeError("a bug in a layer")
        elif path == "/silent":
            pass
        elif path == "/big":
            await exchange.respond(Response(200, [], Zeros(300_000)))
        elif path == "/echo":
            await exchange.respond(Response(200, [], request.body))
        else:
            content = await request.body.read()
            await exchange.respond(Response(200, [("seen", str(len(content)))], b"ok"))


class Handler(Application):
    """An application of one function."""

    def __init__(self, function):
        super().__init__()
        self.serve = function


class Zeros(Body):
    """A body of zeros, which counts how much of it was pulled."""

    def __init__(self, size, piece=50_000):
        super().__init__()
        self.size = size
        self.piece = piece
        self.pulled = 0

    async def pull(self):
        taken = min(self.piece, self.size - self.pulled)
        self.pulled += taken
        return bytes(taken)


class Peer:
    """The client's side: send frames, then look at what came back once everything is quiet."""

    def __init__(self, stream, application, drain):
        self.stream = stream
        self.application = application
        self.drain = drain
        self.reader = Reader()
        self.closed = False
        self.failure = None
        self.done = trio.Event()
        self.reading = trio.CancelScope()

    async def send(self, *frames):
        for frame in frames:
            try:
                await self.stream.send_all(frame)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                break
        await self.settle()
        return self.reader

    async def settle(self):
        await trio.testing.wait_all_tasks_blocked()

    async def receive(self):
        with self.reading:
            await self._receive()

    async def _receive(self):
        while True:
            try:
                data = await self.stream.receive_some(1 << 20)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                self.closed = True
                return
            self.reader.feed(data)

    async def is_well(self, stream=2**31 - 1001):
        """Whether another request on the same connection is answered."""
        await self.send(headers(stream, get("/")))
        return self.reader.statuses(stream) == ["200"] and not self.reader.goaways()


@asynccontextmanager
async def served(application=None, *, limits=None, hello=True, drain=None, pair=trio.testing.memory_stream_pair):
    """Serve one connection of raw frames in memory."""
    client, server = pair()
    owned = application is None
    application = application or Application()
    drain = drain or Drain()
    connection = Connection(server, CLIENT, SERVER, drain=drain)
    peer = Peer(client, application, drain)
    peer.owns_application = owned
    inner = application

    async def serve():
        try:
            await serve_h2(connection, inner, limits or Limits(), deadlines)
        except (BadRequest, IdleTimeout) as error:
            peer.failure = error
        finally:
            peer.done.set()
            await trio.aclose_forcefully(server)

    logging.getLogger("linkerd_proxy").setLevel(logging.CRITICAL)
    async with open_deadlines() as deadlines, trio.open_nursery() as nursery:
        peer.deadlines = deadlines
        nursery.start_soon(serve)
        nursery.start_soon(peer.receive)
        if hello:
            await client.send_all(HELLO + settings(ack=True))
            await peer.settle()
        yield peer
        nursery.cancel_scope.cancel()
    if peer.owns_application:
        assert application.running == 0
    assert len(deadlines) == 0
