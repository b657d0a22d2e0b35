"""Test your own layer. Usage: pytest test_own_layer.py"""

import trio
from own_layer import Took

from linkerd_proxy import Exchange, Http, Request, Response, handler
from linkerd_proxy.testing import MemoryListener, Script, call, check_layer, memory_connection, serving


@handler
async def slow(request: Request) -> Response:
    await trio.sleep(2)
    return Response(200, body=b"good morning")


def exchange() -> Exchange:
    async def respond(response: Response) -> None:
        await response.body.read()

    return Exchange(Request(), respond, memory_connection()[1])


async def test_it_keeps_the_rules_of_every_layer() -> None:
    await check_layer(Took("took"), exchange)


async def test_the_answer_tells_how_long_it_took(autojump_clock: trio.testing.MockClock) -> None:
    async with call(Took() | slow, Request()) as response:
        assert response.headers["x-took-ms"] == "2000.0"
        assert await response.body.read() == b"good morning"


async def test_what_goes_over_the_wire(autojump_clock: trio.testing.MockClock) -> None:
    conversation = (
        Script()
        >> b"GET / HTTP/1.1\r\nhost: example.test\r\n\r\n"
        << b"HTTP/1.1 200 OK\r\nx-took-ms: 2000.0\r\ncontent-length: 12\r\n\r\ngood morning"
    )
    async with serving(Http() | Took() | slow, listener := MemoryListener()):
        await conversation.play(listener.connect())
