"""Heads of HTTP: the one validator, behind each codec and behind HTTP/2's fields.

The oracle, besides the declared exceptions: what passes holds no framing or hop-by-hop field, nothing that could split
a message, and passes again when it is sent on.
"""

import pytest
from hypothesis import strategies as st

from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.errors import BadRequest, UpstreamProtocolError
from linkerd_proxy.http.h1.codec import make_codec
from linkerd_proxy.http.h1.heads import Heads
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.validate import check_request, check_response
from linkerd_proxy.http.validate_h2 import request_from_h2, response_from_h2
from tests.fuzz.budget import fuzz
from tests.fuzz.shapes import damaged, pieces

REQUESTS = (
    b"GET / HTTP/1.1\r\nhost: a.example\r\naccept: */*\r\n\r\n",
    b"POST http://a/x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nTE: trailers\r\nconnection: te, x-hop\r\nx-hop: 1\r\n\r\n",
    b"CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
    b"GET /chat HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
    b"HTTP/1.1 200 \r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
    b"HTTP/1.0 304 Not Modified\r\netag: x\r\ncontent-length: 9\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
)
WORDS = (
    b"GET / HTTP/1.1\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"\r\n",
    b"\n",
    b":",
    b" ",
    b"host: a\r\n",
    b"content-length: 1\r\n",
)
HOP = {b"host", b"connection", b"content-length", b"transfer-encoding", b"keep-alive", b"upgrade", b"proxy-connection"}
SPLITTING = frozenset(b"\r\n\0")


def check_fields(message: Request | Response) -> None:
    for name, value in message.headers.raw:
        assert name not in HOP
        assert name
        assert name == name.lower()
        assert value == value.strip(b" \t")
        assert not SPLITTING & {*name, *value}


def check_good_request(request: Request) -> None:
    check_fields(request)
    for part in (request.method, request.path, request.authority):
        assert not set(part) & set("\r\n\0 ")
    check_request(request)


@pytest.mark.parametrize("codec", ["h11", "httptools"])
def test_request_heads(codec) -> None:
    heads = Heads(make_codec(codec), Limits())
    strategy = st.one_of(damaged(*REQUESTS), pieces(*WORDS)).map(lambda b: b.split(b"\r\n\r\n")[0] + b"\r\n\r\n")

    def check(head: bytes) -> None:
        try:
            request, framing = heads.request(head, "http")
        except BadRequest:
            return
        check_good_request(request)
        assert not (framing.chunked and framing.length is not None)
        assert (framing.length or 0) >= 0

    assert fuzz(strategy, check)


def test_both_codecs_agree_on_requests() -> None:
    one, other = Heads(make_codec("h11"), Limits()), Heads(make_codec("httptools"), Limits())

    def read(heads: Heads, head: bytes) -> object:
        try:
            request, framing = heads.request(head, "http")
        except BadRequest:
            return None
        return repr(request), request.headers.raw, repr(framing)

    def check(head: bytes) -> None:
        first, second = read(one, head), read(other, head)
        # A library may be stricter than the other, but they must not understand different things.
        assert first == second or first is None or second is None

    assert fuzz(damaged(*REQUESTS), check)


@pytest.mark.parametrize("codec", ["h11", "httptools"])
def test_response_heads(codec) -> None:
    heads = Heads(make_codec(codec), Limits())
    strategy = st.one_of(damaged(*RESPONSES), pieces(*WORDS)).map(lambda b: b.split(b"\r\n\r\n")[0] + b"\r\n\r\n")

    def check(head: bytes) -> None:
        for method in ("GET", "HEAD", "CONNECT"):
            try:
                response, framing = heads.response(head, method)
            except UpstreamProtocolError:
                continue
            check_fields(response)
            check_response(response)
            assert not (framing.chunked and framing.length is not None)

    assert fuzz(strategy, check)


NAMES = st.one_of(
    st.sampled_from(
        (b":method", b":path", b":scheme", b":authority", b":status", b":protocol", b"host", b"te", b"cookie")
    ),
    st.sampled_from((b"content-length", b"transfer-encoding", b"connection", b"expect", b"x-a", b"X-A", b"", b"a b")),
    st.binary(max_size=4),
)
VALUES = st.one_of(
    st.sampled_from(
        (b"GET", b"CONNECT", b"/", b"*", b"http", b"a.example:80", b"200", b"1", b"trailers", b"websocket")
    ),
    st.binary(max_size=8),
)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)
GOOD = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/x"), (b":authority", b"a")]


def test_http2_requests() -> None:
    strategy = st.tuples(st.sampled_from((GOOD, GOOD[:3], [])), FIELDS)

    def check(example: tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]) -> None:
        try:
            request = request_from_h2([*example[0], *example[1]], Limits())
        except BadRequest:
            return
        check_good_request(request)

    assert fuzz(strategy, check)


def test_http2_responses() -> None:
    strategy = st.tuples(st.booleans(), FIELDS)

    def check(example: tuple[bool, list[tuple[bytes, bytes]]]) -> None:
        good, fields = example
        try:
            response = response_from_h2([*([(b":status", b"200")] if good else []), *fields], "GET", Limits())
        except UpstreamProtocolError:
            return
        check_fields(response)
        check_response(response)

    assert fuzz(strategy, check)
