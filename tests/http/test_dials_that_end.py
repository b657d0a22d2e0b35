"""A dial that ends without a connection: nothing was sent, and whoever waits for it may go elsewhere."""

from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from linkerd_proxy import Balance, Client, Http, Request, Response, RoundRobin, Static, handler, opened, serve
from linkerd_proxy.core.stack import Stack
from linkerd_proxy.core.work import Dial
from linkerd_proxy.errors import ConnectFailed
from linkerd_proxy.testing import MemoryConnect, MemoryListener, call


@dataclass(frozen=True, slots=True)
class Nowhere(Stack[Dial]):
    """Returns without having called ``use``, as a layer may that was told to stop."""

    @asynccontextmanager
    async def open(self):
        async def service(_: Dial) -> None:
            await trio.lowlevel.checkpoint()

        yield service


async def hello(request: Request) -> Response:
    return Response(200, body=await request.body.read(100))


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_nothing_was_sent(autojump_clock, version) -> None:
    request = Request("POST", "/", authority="test", body=b"x", version=version)
    with pytest.raises(ConnectFailed, match="without a connection"):
        async with call(Client() | Nowhere(), request):
            pass


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_any_request_goes_to_another_endpoint(autojump_clock, nursery, version) -> None:
    listener = MemoryListener()
    await nursery.start(serve, Http() | handler(hello), [listener])

    def replica(endpoint):
        return Client() | (Nowhere() if endpoint.address.port == 1 else MemoryConnect(listener))

    async with opened(Balance(Static("10.0.0.1:1", "10.0.0.1:2"), replica, pick=RoundRobin())) as service:
        for _ in range(4):
            request = Request("POST", "/", authority="test", body=b"x", version=version)
            async with call(service, request) as response:
                assert (response.status, await response.body.read()) == (200, b"x")
