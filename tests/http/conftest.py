"""A server under test, in memory: what a leaf answers, and what a client sees."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from linkerd_proxy.core.contain import contained
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Response
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.server import Http
from linkerd_proxy.testing import memory_connection


@dataclass(frozen=True, slots=True)
class Answering(Stack[Exchange]):
    """A leaf made of a function of the exchange."""

    function: Callable[[Exchange], Awaitable[None]]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service[Exchange]]:
        yield self.function


async def echo(exchange: Exchange) -> None:
    """Answer with what was asked."""
    request = exchange.request
    body = await request.body.read()
    text = f"{request.method} {request.path} {request.authority} {body.decode('latin-1')}"
    await exchange.respond(Response(200, body=text.encode("latin-1")))


@dataclass
class Served:
    """One connection that is being served."""

    client: trio.abc.HalfCloseableStream
    connection: Connection
    drain: Drain
    over: trio.Event = field(default_factory=trio.Event)

    async def everything(self) -> bytes:
        """Return all that comes until the connection ends or breaks."""
        heard = b""
        try:
            while data := await self.client.receive_some():
                heard += data
        except trio.BrokenResourceError:
            heard += b"<broken>"
        return heard


@pytest.fixture(params=["h11", "httptools"])
def codec(request):
    return request.param


@pytest.fixture
async def serving(codec, nursery):
    """Serve a connection with a function of the exchange; returns its client's side."""

    async def serve(function=echo, limits=None, **connection_values) -> Served:
        client, connection = memory_connection(**connection_values)
        drain = connection.drain = Drain()
        served = Served(client, connection, drain)

        async def run(task_status=trio.TASK_STATUS_IGNORED):
            async with opened(Http(codec=codec, limits=limits or Limits()) | Answering(function)) as service:
                task_status.started()
                await contained(service, connection)
                served.over.set()

        await nursery.start(run)
        return served

    return serve
