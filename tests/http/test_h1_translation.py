"""Http() | Client(), in every combination of versions, with what each must keep."""

import pytest
import trio

from linkerd_proxy.core.contain import contained
from linkerd_proxy.core.message import Request, Response, Streamed, Whole
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.errors import ProxyError, UpstreamClosed
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.server import Http
from linkerd_proxy.testing import MemoryConnect, MemoryListener, call


def streamed(*pieces, trailers=None, error=None):
    async def generate():
        for piece in pieces:
            yield piece
        if error is not None:
            raise error
        body.trailers = trailers

    body = Streamed(generate())
    return body


@pytest.fixture(params=["1.0", "1.1", "2"])
def asked(request):
    return request.param


@pytest.fixture(params=["http/1.1", "h2"])
def upstream(request):
    return request.param


@pytest.fixture
async def chained(codec, asked, upstream, nursery):
    """A client that asks in one version, a proxy that asks upstream in another, and a server that answers."""

    async def serve(listener, stack):
        async with opened(stack) as service, trio.open_nursery() as connections:
            while True:
                connections.start_soon(contained, service, await listener.accept())

    async def chain(leaf: Stack) -> Stack:
        """Return the client; what the origin answers is the leaf's business."""
        origin, middle = MemoryListener(), MemoryListener()
        nursery.start_soon(serve, origin, Http(codec=codec) | leaf)
        nursery.start_soon(serve, middle, Http(codec=codec) | Client(upstream, codec=codec) | MemoryConnect(origin))
        return Client("h2" if asked == "2" else "http/1.1", codec=codec) | MemoryConnect(middle)

    return chain


@pytest.fixture
def answering():
    from tests_http_answering import Answering  # type: ignore[import-not-found]

    return Answering


def ask(asked, method="GET", path="/x?y", headers=(), body=b"", **values):
    return Request(method, path, headers, body, authority="example.test", version=asked, **values)


async def test_a_plain_exchange(chained, asked, upstream, autojump_clock):
    seen = []

    async def answer(request):
        seen.append(request)
        return Response(201, [("x-b", "2"), ("set-cookie", "a=b"), ("set-cookie", "c=d")], b"hello")

    stack = await chained(handler(answer))
    async with call(stack, ask(asked, headers=[("x-a", "1")])) as response:
        assert await response.body.read() == b"hello"
        assert response.status == 201
        assert response.body.length == 5
        assert response.headers == Headers([("x-b", "2"), ("set-cookie", "a=b"), ("set-cookie", "c=d")])
    (request,) = seen
    assert (request.method, request.path, request.authority) == ("GET", "/x?y", "example.test")
    assert request.headers == Headers([("x-a", "1")])
    assert request.version == ("2" if upstream == "h2" else "1.0" if asked == "1.0" else "1.1")


async def test_bodies_of_known_and_unknown_length(chained, asked, upstream, autojump_clock):
    async def answer(request):
        body = await request.body.read()
        return Response(200, body=streamed(body, b"!") if request.path == "/stream" else Whole(body + b"!"))

    stack = await chained(handler(answer))
    async with opened(stack) as service:
        for path in ("/stream", "/whole"):
            async with call(service, ask(asked, "POST", path, body=b"x" * 100_000)) as response:
                assert await response.body.read() == b"x" * 100_000 + b"!"
            if asked != "1.0":
                async with call(service, ask(asked, "PUT", path, body=streamed(b"ab", b"cd"))) as response:
                    assert await response.body.read() == b"abcd!"


async def test_trailers_both_ways(chained, asked, upstream, autojump_clock):
    seen = []

    async def answer(request):
        await request.body.read()
        seen.append(request.body.trailers)
        return Response(200, body=streamed(b"x", trailers=Headers([("grpc-status", "0")])))

    stack = await chained(handler(answer))
    if asked == "1.0":
        return
    body = streamed(b"ab", trailers=Headers([("x-sum", "1")]))
    async with call(stack, ask(asked, "POST", headers=[("te", "trailers")], body=body)) as response:
        assert await response.body.read() == b"x"
        assert response.body.trailers == Headers([("grpc-status", "0")])
    assert seen == [Headers([("x-sum", "1")])]


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_content(chained, asked, upstream, autojump_clock, status):
    async def answer(request):
        return Response(status, [("x-b", "2")])

    async with call(await chained(handler(answer)), ask(asked)) as response:
        assert (response.status, await response.body.read()) == (status, b"")
        assert response.headers == Headers([("x-b", "2")])


async def test_head(chained, asked, upstream, autojump_clock):
    async def answer(request):
        return Response(200, declared_length=55)

    async with call(await chained(handler(answer)), ask(asked, "HEAD")) as response:
        assert (response.status, await response.body.read()) == (200, b"")
        assert response.declared_length == 55


async def test_cookie_crumbs_are_joined(chained, asked, upstream, autojump_clock):
    seen = []

    async def answer(request):
        seen.append(request.headers.get_all("cookie"))
        return Response()

    headers = [("cookie", "a=b"), ("cookie", "c=d")] if asked == "2" else [("cookie", "a=b; c=d")]
    async with call(await chained(handler(answer)), ask(asked, headers=headers)) as response:
        await response.body.read()
    assert seen == [["a=b; c=d"]]


async def test_a_response_cut_short_is_an_error_in_every_version(chained, asked, upstream, autojump_clock):
    async def answer(request):
        return Response(200, body=streamed(b"ab", error=UpstreamClosed("gone")))

    stack = await chained(handler(answer))
    if asked == "1.0":
        return  # ends with its connection: only a reset tells, and there is none in memory (see test_h1_sockets.py)
    with pytest.raises(ProxyError):
        async with call(stack, ask(asked)) as response:
            await response.body.read()


async def test_both_ways_at_once(chained, asked, upstream, autojump_clock):
    if asked == "1.0":
        return

    async def answer(request):
        async def shout():
            async for piece in request.body:
                yield piece.upper()

        return Response(200, body=Streamed(shout()))

    say, hear = trio.open_memory_channel[bytes](1)
    async with call(await chained(handler(answer)), ask(asked, "POST", body=Streamed(hear))) as response:
        for word in (b"one", b"two", b"three"):
            await say.send(word)
            assert await response.body.pull() == word.upper()
        say.close()
        assert await response.body.pull() == b""
