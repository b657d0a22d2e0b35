"""Failures become answers."""

import logging

import pytest
import trio

from linkerd_proxy import errors
from linkerd_proxy.core.message import Body, Request, Response, Streamed, Whole
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import (
    CODES,
    AlreadyAnswered,
    ConnectFailed,
    GrpcStatus,
    NoRoute,
    Overloaded,
    ProxyError,
    RequestRefused,
    ResponseTimeout,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamReset,
)
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.handler import Handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.testing import call, memory_connection

H1 = Request("GET", "/x", authority="a")
H2 = Request("GET", "/x", authority="a", version="2")
GRPC = Request("POST", "/pkg.Service/Call", [("content-type", "application/grpc+proto")], authority="a", version="2")


def failing(error: Exception) -> Handler:
    async def fail(_: Request) -> Response:
        raise error

    return Handler(fail)


def breaking(error: Exception, *, length: int | None = None, trailers: Headers | None = None) -> Handler:
    """Answer with a chunk, and then fail."""

    async def answer(_: Request) -> Response:
        async def chunks():
            yield b"chunk"
            raise error

        body = Streamed(chunks(), length)
        body.trailers = trailers
        return Response(200, [("content-type", "application/grpc")], body)

    return Handler(answer)


async def ask(stack: Stack[Exchange], request: Request) -> Response:
    async with call(stack, request) as response:
        body = Whole(await response.body.read(), response.body.trailers)
        return Response(response.status, response.headers, body)


def counted(code: str) -> float:
    return current_registry().counter("proxy_errors_total", "", error=code).value


def make(kind: type[ProxyError]) -> ProxyError:
    return RequestRefused("problem", 431, remedy="") if kind is RequestRefused else kind("problem")


# Linkerd's table, and what Linkerd has no line for: code, HTTP status, gRPC status, whether the connection ends.
TABLE = [
    ("PE", 500, GrpcStatus.INTERNAL, True),
    ("DPE", 400, GrpcStatus.INTERNAL, True),
    ("DPR", 431, GrpcStatus.INTERNAL, True),
    ("DPL", 413, GrpcStatus.RESOURCE_EXHAUSTED, True),
    ("DT", 408, GrpcStatus.DEADLINE_EXCEEDED, True),
    ("DD", 408, GrpcStatus.DEADLINE_EXCEEDED, True),
    ("UE", 502, GrpcStatus.UNAVAILABLE, True),
    ("UF", 502, GrpcStatus.UNAVAILABLE, True),
    ("UFT", 504, GrpcStatus.DEADLINE_EXCEEDED, True),
    ("URX", 502, GrpcStatus.UNAVAILABLE, True),
    ("UC", 502, GrpcStatus.UNAVAILABLE, True),
    ("UR", 502, GrpcStatus.UNAVAILABLE, True),
    ("UPE", 502, GrpcStatus.UNAVAILABLE, True),
    ("SI", 504, GrpcStatus.DEADLINE_EXCEEDED, False),
    ("UT", 504, GrpcStatus.DEADLINE_EXCEEDED, False),
    ("NR", 404, GrpcStatus.NOT_FOUND, False),
    ("GD", 404, GrpcStatus.NOT_FOUND, False),
    ("NB", 500, GrpcStatus.INTERNAL, False),
    ("NT", 502, GrpcStatus.UNAVAILABLE, True),
    ("UO", 503, GrpcStatus.UNAVAILABLE, True),
    ("LP", 508, GrpcStatus.ABORTED, True),
    ("NA", 502, GrpcStatus.UNAVAILABLE, True),
    ("AA", 500, GrpcStatus.INTERNAL, True),
    ("DTF", 400, GrpcStatus.UNAUTHENTICATED, True),
    ("UTF", 502, GrpcStatus.UNAVAILABLE, True),
    ("UIM", 502, GrpcStatus.UNAVAILABLE, True),
    ("NC", 503, GrpcStatus.UNAVAILABLE, True),
    ("AD", 403, GrpcStatus.PERMISSION_DENIED, False),
    ("RL", 429, GrpcStatus.RESOURCE_EXHAUSTED, False),
    ("FI", 500, GrpcStatus.FAILED_PRECONDITION, False),
    ("FF", 504, GrpcStatus.DEADLINE_EXCEEDED, True),
]


def test_the_table_is_complete() -> None:
    ours = {code for code, kind in CODES.items() if kind.__module__.startswith(errors.__name__)}
    assert {line[0] for line in TABLE} == ours


@pytest.mark.parametrize(("code", "status", "grpc_status", "closes"), TABLE)
async def test_each_failure_has_its_answer(code, status, grpc_status, closes) -> None:
    error = make(CODES[code])
    explained = f"{code} {error}"

    response = await ask(Rescue() | failing(error), H1)
    assert (response.status, response.body.length) == (status, 0)
    assert response.headers.get("connection") == ("close" if closes else None)
    assert response.headers.get("l5d-proxy-error") == explained
    assert response.headers.get("retry-after") == ("1" if code == "UO" else None)

    response = await ask(Rescue() | failing(error), H2)
    assert (response.status, response.headers.get("connection")) == (status, None)

    response = await ask(Rescue() | failing(error), GRPC)
    assert (response.status, response.body.length, response.headers.get("connection")) == (200, 0, None)
    assert response.headers["content-type"] == "application/grpc"
    assert response.headers["grpc-status"] == str(int(grpc_status))
    assert response.headers["grpc-message"] == str(error)
    assert counted(code) == 3


@pytest.mark.parametrize("error", [OSError("disk"), trio.BrokenResourceError("peer")])
async def test_a_broken_connection_is_a_bad_gateway(error) -> None:
    response = await ask(Rescue() | failing(error), H1)
    assert response.status == 502
    assert response.headers["l5d-proxy-error"].startswith("IO the connection to the upstream failed")
    assert counted("IO") == 1


async def test_a_bug_is_logged_and_its_text_kept_from_the_client(caplog) -> None:
    with caplog.at_level(logging.DEBUG, "linkerd_proxy"):
        response = await ask(Rescue() | failing(ValueError("secret\ntext")), H1)
    assert (response.status, response.headers["connection"]) == (500, "close")
    assert response.headers["l5d-proxy-error"] == "BUG the proxy met an unexpected error; look into its log"
    assert counted("BUG") == 1
    assert caplog.records[0].getMessage().startswith("BUG secret\\ntext from ")
    assert "Traceback" in caplog.records[1].getMessage()
    response = await ask(Rescue() | failing(ValueError("secret")), GRPC)
    assert response.headers["grpc-status"] == "13"


async def test_a_group_tells_the_failure_inside(caplog) -> None:
    group = ExceptionGroup("nursery", [ValueError("consequence"), ConnectFailed("cause")])
    assert (await ask(Rescue() | failing(group), H1)).status == 502


async def test_no_answer_at_all_is_a_bad_gateway() -> None:
    class Silent(Stack[Exchange]):
        def open(self):
            return opened_silence()

    response = await ask(Rescue() | Silent(), H1)
    assert response.status == 502
    assert response.headers["l5d-proxy-error"].startswith("NA Rescue: no layer answered the request")


def opened_silence():
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def silence():
        async def service(exchange: Exchange) -> None:
            await exchange.respond(Response(103))

        yield service

    return silence()


async def test_an_answer_passes_unchanged() -> None:
    async def answer(_: Request) -> Response:
        return Response(503, [("x", "y")], b"body")

    for request in (H1, H2, GRPC):
        response = await ask(Rescue() | Handler(answer), request)
        assert (response.status, response.headers, await response.body.read()) == (503, Headers([("x", "y")]), b"body")


async def test_the_header_is_one_bounded_line() -> None:
    error = ConnectFailed("ab\r\nset-cookie: x\0\x7f\xe9\u2028" + "y" * 9000 + " ")
    for request in (H1, GRPC):
        value = (await ask(Rescue() | failing(error), request)).headers["l5d-proxy-error"]
        assert value.startswith("UF ab\\r\\nset-cookie: x\\x00\\x7f\\xe9\\u2028yyy")
        assert len(value) == 515
        assert value.isascii()
        assert value.isprintable()
    assert (
        (await ask(Rescue() | failing(ConnectFailed("100% wrong")), GRPC))
        .headers["grpc-message"]
        .startswith("100%25 wrong; ")
    )


async def test_the_header_can_be_left_out() -> None:
    for request in (H1, GRPC):
        response = await ask(Rescue(headers=False) | failing(NoRoute("x")), request)
        assert "l5d-proxy-error" not in response.headers


@pytest.mark.parametrize("request_", [H2, GRPC])
async def test_a_reset_reaches_an_http2_client_as_one(request_) -> None:
    error = UpstreamReset("reset")
    error.http2_code = 8
    with pytest.raises(UpstreamReset) as caught:
        await ask(Rescue() | failing(error), request_)
    assert caught.value is error
    assert (await ask(Rescue() | failing(error), H1)).status == 502


async def test_a_failure_half_way_passes_through_where_it_can_only_be_aborted() -> None:
    for request in (H1, H2):
        with pytest.raises(UpstreamClosed):
            await ask(Rescue() | breaking(UpstreamClosed("gone")), request)
    assert counted("UC") == 0  # whoever aborts the message counts it


async def test_a_grpc_answer_that_breaks_ends_with_trailers() -> None:
    response = await ask(Rescue() | breaking(UpstreamClosed("gone: 50%")), GRPC)
    assert await response.body.read() == b"chunk"
    assert response.body.trailers is not None
    assert response.body.trailers["grpc-status"] == "14"
    assert response.body.trailers["grpc-message"].startswith("gone: 50%25; look into")
    assert response.body.trailers["l5d-proxy-error"].startswith("UC gone: 50%; ")
    assert counted("UC") == 1
    bare = await ask(Rescue(headers=False) | breaking(ResponseTimeout("late")), GRPC)
    assert bare.body.trailers is not None
    assert "l5d-proxy-error" not in bare.body.trailers
    assert bare.body.trailers["grpc-status"] == "4"


async def test_a_grpc_answer_of_a_declared_length_cannot_end_early() -> None:
    with pytest.raises(UpstreamClosed):
        await ask(Rescue() | breaking(UpstreamClosed("gone"), length=100), GRPC)


async def test_a_reset_in_a_grpc_answer_stays_one() -> None:
    error = UpstreamReset("reset")
    error.http2_code = 8
    with pytest.raises(UpstreamReset):
        await ask(Rescue() | breaking(error), GRPC)


async def test_trailers_of_a_whole_grpc_answer_pass() -> None:
    async def answer(_: Request) -> Response:
        async def chunks():
            yield b"message"
            body.trailers = Headers([("grpc-status", "0")])

        body = Streamed(chunks())
        return Response(200, body=body)

    response = await ask(Rescue() | Handler(answer), GRPC)
    assert await response.body.read() == b"message"
    assert response.body.trailers == Headers([("grpc-status", "0")])


class Codec:
    """What a codec does with answers: refuses bad heads before anything is sent, and a second final answer."""

    def __init__(self, refuse: str | None = None) -> None:
        self.sent: list[int] = []
        self.begun = False
        self.refuse = refuse

    async def respond(self, response: Response) -> None:
        if self.begun:
            raise AlreadyAnswered("second")
        if self.refuse and self.refuse in response.headers:
            raise UpstreamProtocolError("bad head")
        self.begun = response.is_final
        self.sent.append(response.status)
        await response.body.read()

    async def serve(self, service: Service[Exchange], request: Request) -> None:
        _, connection = memory_connection()
        await service(Exchange(request, self.respond, connection))


async def test_an_answer_that_the_codec_refuses_is_replaced() -> None:
    async def answer(_: Request) -> Response:
        return Response(200, [("bad", "x")])

    codec = Codec(refuse="bad")
    async with opened(Rescue() | Handler(answer)) as service:
        await codec.serve(service, H1)
    assert codec.sent == [502]
    assert counted("UPE") == 1


async def test_a_body_that_breaks_the_protocol_half_way_passes_through() -> None:
    codec = Codec()
    async with opened(Rescue() | breaking(UpstreamProtocolError("bad chunk"))) as service:
        with pytest.raises(UpstreamProtocolError, match="bad chunk"):
            await codec.serve(service, H1)
    assert codec.sent == [200]
    assert counted("UPE") == 0


async def test_a_second_answer_is_loud() -> None:
    from contextlib import asynccontextmanager

    class Twice(Stack[Exchange]):
        @asynccontextmanager
        async def open(self):
            async def service(exchange: Exchange) -> None:
                await exchange.respond(Response(200))
                await exchange.respond(Response(200))

            yield service

    codec = Codec()
    async with opened(Rescue() | Twice()) as service:
        with pytest.raises(AlreadyAnswered):
            await codec.serve(service, H1)
    assert codec.sent == [200]


async def test_a_cancellation_is_no_failure(autojump_clock) -> None:
    class Waiting(Body):
        async def pull(self) -> bytes:
            await trio.sleep_forever()
            raise AssertionError

    async def late(_: Request) -> Response:
        await trio.sleep(5)
        return Response(200, body=Waiting())

    for seconds in (1, 10):
        codec = Codec()
        async with opened(Rescue() | Handler(late)) as service:
            with trio.move_on_after(seconds) as scope:
                await codec.serve(service, GRPC)
        assert scope.cancelled_caught
        assert codec.sent == ([] if seconds == 1 else [200])


async def test_overload_is_told_with_when_to_come_back() -> None:
    response = await ask(Rescue() | failing(Overloaded("full")), GRPC)
    assert (response.headers["retry-after"], response.headers["grpc-status"]) == ("1", "14")
