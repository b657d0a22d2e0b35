"""Test your own layer without a network. Usage: pytest test_own_layer.py"""

import re

import trio
from own_layer import Took

from linkerd_proxy import Http, Request, Response, handler, serve
from linkerd_proxy.testing import EOF, MemoryListener, Script, call


@handler
async def slow(request: Request) -> Response:
    await trio.sleep(2)
    return Response(200, body=b"good morning")


async def test_the_answer_tells_how_long_it_took(autojump_clock: trio.testing.MockClock) -> None:
    async with call(Took() | slow, Request()) as response:
        assert response.headers["x-took-ms"] == "2000.0"
        assert await response.body.read() == b"good morning"


async def test_what_goes_over_the_wire(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    listener = MemoryListener()
    nursery.start_soon(serve, Http() | Took("took") | slow, [listener])
    conversation = (
        Script()
        >> b"GET / HTTP/1.1\r\nhost: example.test\r\nconnection: close\r\n\r\n"
        << re.compile(rb"HTTP/1.1 200 OK\r\n(?s:.*)took: 2000\.0\r\n(?s:.*)\r\n\r\ngood morning")
        << EOF
    )
    await conversation.play(listener.connect())
    nursery.cancel_scope.cancel()
