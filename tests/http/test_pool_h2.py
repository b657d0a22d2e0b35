"""The pool of HTTP/2 connections: one that ends says nothing about the one that is being dialled."""

from dataclasses import replace

import trio
import trio.testing

from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Dial
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.server import Http
from linkerd_proxy.testing import call, memory_connection
from tests.http.between import Leaf


async def test_a_connection_that_ends_while_the_next_is_dialled_fails_nobody(autojump_clock):
    """After GOAWAY a request waits for a new connection; the old one's end used to be taken for that one's failure."""
    slow, may_dial = trio.Event(), trio.Event()
    drain = Drain()
    dials = 0

    async def answer(request):
        if request.path == "/slow":
            await slow.wait()
        return Response(200, (), request.path.encode())

    async with opened(Http() | handler(answer)) as serve, trio.open_nursery() as nursery:

        async def dial(dial: Dial) -> None:
            nonlocal dials
            dials += 1
            if dials == 2:
                await may_dial.wait()
            client, connection = memory_connection()
            nursery.start_soon(serve_one, replace(connection, drain=drain if dials == 1 else Drain()))
            await dial.use(client)

        async def serve_one(connection) -> None:
            await serve(connection)
            await connection.stream.aclose()

        async def ask(path) -> None:
            async with call(client, Request("GET", path, authority="x")) as response:
                answers[path] = await response.body.read()

        answers: dict[str, bytes] = {}
        async with opened(Client(protocol="h2") | Leaf(dial)) as client:
            async with trio.open_nursery() as asking:
                asking.start_soon(ask, "/slow")
                await trio.testing.wait_all_tasks_blocked()
                drain.start()
                await trio.sleep(2)
                asking.start_soon(ask, "/next")
                await trio.testing.wait_all_tasks_blocked()
                slow.set()
                await trio.sleep(1)
                may_dial.set()
            assert answers == {"/slow": b"/slow", "/next": b"/next"}
        assert dials == 2
        nursery.cancel_scope.cancel()
