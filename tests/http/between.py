"""Two proxies and an application in memory, with a tap on every wire between them."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio
import trio.testing

from linkerd_proxy.core.contain import contained
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Response, Streamed
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Connection, Dial, Exchange, Tls
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.mesh_headers import InboundHeaders, OutboundHeaders
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.http.server import Http
from linkerd_proxy.http.upgrade import BETWEEN_PROXIES, Downgrade, Upgrade
from linkerd_proxy.testing import memory_connection

WEB, APP = "web.ns", "app.ns"
MESHED = Tls(WEB, APP)


@dataclass(frozen=True, slots=True)
class Leaf(Stack[Exchange]):
    """An application made of a function of the exchange."""

    function: object

    @asynccontextmanager
    async def open(self):
        yield self.function


@dataclass(eq=False)
class Wire:
    """What went over one connection, both ways."""

    sent: bytes = b""
    received: bytes = b""


class Tapped(trio.abc.HalfCloseableStream):
    """A client's end whose bytes are kept."""

    def __init__(self, stream, wire, served):
        self.stream = stream
        self.wire = wire
        self.served = served

    async def send_all(self, data):
        self.wire.sent += bytes(data)
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self):
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self):
        await self.stream.send_eof()

    async def receive_some(self, max_bytes=None):
        data = await self.stream.receive_some(max_bytes)
        self.wire.received += data
        return data

    def abort(self):
        """Break the connection, which a socket tells the other side although nobody reads; memory can't."""
        self.served.cancel()

    async def aclose(self):
        await self.stream.aclose()


@dataclass(frozen=True, slots=True)
class Link(Stack[Dial]):
    """Connects to another stack of this process."""

    to: Stack[Connection]
    tls: Tls | None = None
    wires: list = field(default_factory=list)

    @asynccontextmanager
    async def open(self):
        async with opened(self.to) as service, trio.open_nursery() as nursery:

            async def dial(dial):
                client, connection = memory_connection(tls=self.tls)
                wire = Wire()
                self.wires.append(wire)
                served = trio.CancelScope()

                async def serve():
                    with served:
                        await contained(service, connection)

                nursery.start_soon(serve)
                try:
                    await dial.use(Tapped(client, wire, served))
                finally:
                    await trio.aclose_forcefully(client)

            yield dial
            nursery.cancel_scope.cancel()


class Application:
    """Answers by path, and keeps what it was asked."""

    def __init__(self):
        self.seen = []
        self.gate = trio.Event()
        self.running = 0

    async def __call__(self, exchange):
        self.seen.append(exchange.request)
        self.running += 1
        try:
            await self.answer(exchange)
        finally:
            self.running -= 1

    async def answer(self, exchange):
        request = exchange.request
        path = request.path
        if path == "/hang":
            await trio.sleep_forever()
        if path == "/gated":
            await exchange.respond(Response(200, body=gated(self.gate)))
        elif path.startswith("/big"):
            await exchange.respond(Response(200, body=bytes(200_000)))
        elif path == "/echo":
            await exchange.respond(Response(200, body=request.body))
        else:
            content = await request.body.read()
            await exchange.respond(Response(200, [("x-version", request.version)], b"got " + content))


def gated(gate):
    """Return a body whose second half waits for the gate."""

    async def halves():
        yield b"first,"
        await gate.wait()
        yield b"second"

    return Streamed(halves(), 12)


@dataclass(eq=False)
class Mesh:
    """The outbound proxy as a service of connections, and what passed behind it."""

    service: object
    nursery: trio.Nursery
    application: Application
    between: list
    last: list
    drain: Drain = field(default_factory=Drain)
    scopes: dict = field(default_factory=dict)

    def connect(self, **values):
        """Return the client's end of a new connection to the outbound proxy."""
        client, connection = memory_connection(**values)
        scope = self.scopes[client] = trio.CancelScope()

        async def serve():
            with scope:
                await contained(self.service, replace(connection, drain=self.drain))

        self.nursery.start_soon(serve)
        return client

    async def hang_up(self, client):
        """Go away, which a socket tells the proxy although nobody reads; memory can't."""
        await client.aclose()
        self.scopes.pop(client).cancel()
        await trio.testing.wait_all_tasks_blocked()

    async def ask(self, data, *, end=False, **values):
        """Send bytes on a connection of their own, and return all that comes until nothing moves any more."""
        client = self.connect(**values)
        await client.send_all(data)
        if end:
            await client.send_eof()
        return await heard(client)


async def heard(client):
    """Return what has come when nothing moves any more; ``<end>`` and ``<broken>`` tell how it ended."""
    said = b""

    async def read():
        nonlocal said
        try:
            while data := await client.receive_some():
                said += data
            said += b"<end>"
        except trio.BrokenResourceError:
            said += b"<broken>"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return said


def outbound(link, *, upgrade=None, limits=None):
    """What stands beside the client: HTTP in, mesh out."""
    return (
        Http()
        | Rescue()
        | OutboundHeaders(APP)
        | (upgrade or Upgrade())
        | Client(protocol="h2", limits=limits or Limits(), absolute_form=True)
        | link
    )


def inbound(application, *, limits=BETWEEN_PROXIES):
    """What stands beside the application: mesh in, the request as it was out."""
    return Http(limits=limits) | Downgrade() | Rescue(headers="meshed") | InboundHeaders() | application


@asynccontextmanager
async def mesh(application=None, *, tls=MESHED, upgrade=None, limits=None, inner=None, peer=None, absolute_form=True):
    """Yield two proxies before an application that is served over HTTP once more."""
    application = application or Application()
    between, last = [], []
    leaf = inner or Client(absolute_form=absolute_form) | Link(Http() | Leaf(application), wires=last)
    link = Link(peer or inbound(leaf), tls, between)
    async with trio.open_nursery() as nursery, opened(outbound(link, upgrade=upgrade, limits=limits)) as service:
        yield Mesh(service, nursery, application, between, last)
        nursery.cancel_scope.cancel()
