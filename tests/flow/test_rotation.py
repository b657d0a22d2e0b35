"""Certificates are renewed under load, on both sides of a link: no request notices."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from linkerd_proxy import (
    Client,
    Connect,
    Forward,
    Http,
    Identity,
    Originate,
    Rescue,
    Terminate,
    handler,
    open_listeners,
    opened,
    serve,
)
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.testing import Authority
from linkerd_proxy.tls.identity import LiveIdentity

SERVER, CLIENT = "server.mesh.local", "client.mesh.local"


@dataclass(frozen=True, slots=True)
class Rotating(Identity):
    """An identity that is renewed when the test says so."""

    authority: Authority
    name: str
    opened: list[LiveIdentity] = field(default_factory=list, repr=False)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LiveIdentity]:
        live = LiveIdentity(self.name, self.authority.issue(self.name))
        self.opened.append(live)
        yield live

    def rotate(self) -> None:
        for live in self.opened:
            live.publish(self.authority.issue(self.name))


@handler
async def hello(request):
    return Response(200, body=await request.body.read(1 << 20) or b"hello")


class Tally:
    def __init__(self):
        self.right = 0
        self.wrong = []


async def ask(service, tally, *, body=b""):
    async def respond(response):
        data = await response.body.read()
        if (response.status, data) == (200, body or b"hello"):
            tally.right += 1
        else:
            tally.wrong.append((response.status, response.headers.get("l5d-proxy-error")))

    try:
        await service(Exchange(Request("POST", "/", body=body, authority="x"), respond, own_connection()))
    except Exception as error:
        tally.wrong.append(repr(error))


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
async def test_no_request_fails_while_both_sides_rotate(nursery, protocol):
    authority = Authority()
    server, client = Rotating(authority, SERVER), Rotating(authority, CLIENT)
    (listener,) = await open_listeners("127.0.0.1:0")
    await nursery.start(serve, Terminate(server, require_identity=True) | Http() | Rescue() | hello, [listener])
    link = Originate(client, peer=SERVER) | Connect(listener.address)
    tally = Tally()
    rotations = 0

    async def stay(service):
        """Ask over connections that are kept: they go on with the certificates that they began with."""
        for _ in range(150):
            await ask(service, tally, body=b"x" * 5000)

    async def come_anew():
        """Ask over a fresh connection each time: it has to prove itself with what is new."""
        for _ in range(20):
            async with opened(Rescue() | Client(protocol=protocol) | link) as fresh:
                await ask(fresh, tally)

    async def rotate():
        nonlocal rotations
        due = 0
        while True:
            await trio.lowlevel.checkpoint()
            if tally.right >= due:
                server.rotate()
                client.rotate()
                rotations += 1
                due = tally.right + 20

    async with opened(Rescue() | Client(protocol=protocol) | link) as service, trio.open_nursery() as around:
        around.start_soon(rotate)
        async with trio.open_nursery() as load:
            for _ in range(4):
                load.start_soon(stay, service)
                load.start_soon(come_anew)
        around.cancel_scope.cancel()
    assert tally.wrong == []
    assert tally.right == 4 * 150 + 4 * 20
    assert rotations >= 20


async def test_a_live_connection_of_any_protocol_goes_on_over_a_rotation(nursery):
    authority = Authority()
    server, client = Rotating(authority, SERVER), Rotating(authority, CLIENT)
    (far,) = await open_listeners("127.0.0.1:0")
    (near,) = await open_listeners("127.0.0.1:0")
    (entrance,) = await open_listeners("127.0.0.1:0")
    await nursery.start(serve, Terminate(server, require_identity=True) | Forward() | Connect(far.address), [near])
    await nursery.start(serve, Forward() | Originate(client, peer=SERVER) | Connect(near.address), [entrance])
    async with await trio.open_tcp_stream("127.0.0.1", entrance.address.port) as stream:
        await stream.send_all(b"before")
        origin = await far.accept()
        assert await origin.stream.receive_some() == b"before"
        server.rotate()
        client.rotate()
        await origin.stream.send_all(b"after")
        assert await stream.receive_some() == b"after"
        await stream.send_eof()
        assert await origin.stream.receive_some() == b""
        await origin.stream.aclose()
        assert await stream.receive_some() == b""
    await far.aclose()
