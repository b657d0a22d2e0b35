"""A leaf of a plain function."""

import pytest
import trio

from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import NoRoute
from linkerd_proxy.http.handler import handler
from linkerd_proxy.testing import call, memory_connection


async def test_the_function_answers_each_request() -> None:
    @handler
    async def hello(request: Request) -> Response:
        return Response(201, body=b"hello " + request.path.encode())

    async with opened(hello) as service:
        for path in ("/a", "/b"):
            async with call(service, Request("GET", path)) as response:
                assert (response.status, await response.body.read()) == (201, f"hello {path}".encode())
    assert repr(hello) == str(hello) == "handler(hello)"


async def test_what_the_function_raises_passes_through() -> None:
    async def nowhere(_: Request) -> Response:
        raise NoRoute("not here")

    with pytest.raises(NoRoute):
        async with call(handler(nowhere), Request()):
            pytest.fail("answered")


async def test_the_function_is_cancelled_with_its_client(autojump_clock) -> None:
    async def slow(_: Request) -> Response:
        await trio.sleep(10)
        return Response()

    async def never(_: Response) -> None:
        pytest.fail("answered")

    _, connection = memory_connection()
    async with opened(handler(slow)) as service:
        with trio.move_on_after(1) as scope:
            await service(Exchange(Request(), never, connection))
    assert scope.cancelled_caught


def test_a_callable_without_a_name_is_shown_too() -> None:
    class Answerer:
        async def __call__(self, request: Request) -> Response:
            return Response()

        def __repr__(self) -> str:
            return "<Answerer>"

    assert repr(handler(Answerer())) == "handler(<Answerer>)"
