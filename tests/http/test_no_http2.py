"""An upstream that speaks HTTP/1 alone is asked in HTTP/1, whatever the client speaks."""

import pytest
import trio
import trio.testing

from linkerd_proxy.core.message import Body, Request, Whole
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Dial
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.no_http2 import SpeaksNoHttp2
from linkerd_proxy.testing import call, memory_connection
from tests.http.between import Leaf

OLD_SERVERS = {
    "by a status": b"HTTP/1.1 505 HTTP Version Not Supported\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
    "by a page": b"<!DOCTYPE HTML>\n<html><body>Error code: 400</body></html>",
}


class Old:
    """A server of HTTP/1.1 that answers the preface of HTTP/2 as such servers do, and counts what it was asked."""

    def __init__(self, refusal: bytes, *, piecewise: bool = False) -> None:
        self.refusal = refusal
        self.piecewise = piecewise
        self.prefaces = 0
        self.requests: list[bytes] = []
        self.bodies: list[bytes] = []

    async def dial(self, dial: Dial) -> None:
        client, connection = memory_connection()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve, connection.stream)
            await dial.use(client)
            await client.aclose()
            nursery.cancel_scope.cancel()

    async def _serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        data = b""
        while True:
            more = bytes(await stream.receive_some())
            if not more:
                return
            data += more
            if data.startswith(b"PRI "):
                self.prefaces += 1
                for size in range(len(self.refusal)) if self.piecewise else [0]:
                    await stream.send_all(self.refusal[size : size + 1] if self.piecewise else self.refusal)
                await stream.aclose()
                return
            while b"\r\n\r\n" in data:
                head, _, rest = data.partition(b"\r\n\r\n")
                if b"transfer-encoding: chunked" in head:
                    if not rest.endswith(b"0\r\n\r\n"):
                        break
                    self.bodies.append(b"".join(rest.split(b"\r\n")[1:-3:2]))
                    rest = b""
                elif size := int(dict(line.split(b": ") for line in head.split(b"\r\n")[1:]).get(b"content-length", 0)):
                    if len(rest) < size:
                        break
                    self.bodies.append(rest[:size])
                    rest = rest[size:]
                data = rest
                self.requests.append(head)
                await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


class Upload(Body):
    """A body that comes in pieces."""

    length = None
    trailers = None

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def pull(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._pieces.pop(0) if self._pieces else b""


def in_http2(method: str = "GET", **more) -> Request:
    return Request(method, "/", authority="x", version="2", **more)


@pytest.mark.parametrize("piecewise", [False, True])
@pytest.mark.parametrize("refusal", OLD_SERVERS.values(), ids=OLD_SERVERS)
async def test_a_client_of_http2_is_answered_all_the_same(refusal, piecewise, autojump_clock):
    old = Old(refusal, piecewise=piecewise)
    async with opened(Client() | Leaf(old.dial)) as client:
        for method in ("GET", "POST", "DELETE"):
            async with call(client, in_http2(method)) as response:
                assert (response.status, await response.body.read()) == (200, b"ok")
    assert old.prefaces == 1  # learnt once
    assert [head.split()[0] for head in old.requests] == [b"GET", b"POST", b"DELETE"]  # and nothing was asked twice


async def test_many_that_find_out_together_are_all_answered(autojump_clock):
    old = Old(OLD_SERVERS["by a status"])
    async with opened(Client() | Leaf(old.dial)) as client:

        async def ask() -> None:
            async with call(client, in_http2()) as response:
                assert response.status == 200

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
    assert len(old.requests) == 20


@pytest.mark.parametrize(
    ("client", "request_"),
    [
        (Client(protocol="h2"), in_http2()),
        (Client(), in_http2("POST", headers=[("content-type", "application/grpc"), ("te", "trailers")])),
    ],
    ids=["who insists on it", "gRPC"],
)
async def test_where_http1_will_not_do_it_is_told(client, request_, autojump_clock):
    old = Old(OLD_SERVERS["by a page"])
    async with opened(client | Leaf(old.dial)) as service:
        for _ in range(2):
            with pytest.raises(SpeaksNoHttp2, match=r"the upstream speaks no HTTP/2: it answers in text.*HTTP/1"):
                async with call(service, request_):
                    raise AssertionError("it was answered")
    assert old.requests == []


async def test_a_body_is_not_pulled_before_it_is_known_how_to_send_it(autojump_clock):
    old = Old(OLD_SERVERS["by a status"])
    async with opened(Client() | Leaf(old.dial)) as client:
        for body in (Upload(b"some", b"thing"), Upload(b"more"), Whole(b"whole")):
            async with call(client, in_http2("POST", body=body)) as response:
                assert response.status == 200
    assert old.prefaces == 1
    assert old.bodies == [b"something", b"more", b"whole"]
