"""What is remembered of heads changes nothing about them, and stays small."""

import random

import pytest

from linkerd_proxy.errors import BadRequest, ProxyError
from linkerd_proxy.http.h1.codec import make_codec
from linkerd_proxy.http.h1.heads import Heads
from linkerd_proxy.http.limits import Limits

LINES = (
    *(b"Host: a", b"host: b:80", b"Host: a b", b"Host:"),
    *(b"Content-Length: 5", b"content-length: 5, 5", b"Content-Length: x", b"Content-Length : 5"),
    *(b"Transfer-Encoding: chunked", b"transfer-encoding: gzip", b"Transfer_Encoding: chunked", b"TE: trailers"),
    *(b"Connection: close", b"connection: keep-alive, X-Hop", b"Connection: upgrade", b"Upgrade: websocket"),
    *(
        b"X-Hop: 1",
        b"x-hop:  2\t",
        b"X-Hop: a\x00b",
        b"X-Hop: a\nb",
        b"X-Hop: a\rb",
        b" folded",
        b"X Y: 1",
        b":x",
        b"x",
    ),
    *(b"Accept: */*", b"accept:", b"Expect: 100-continue", b"Expect: tea", b"X-Any: \xff\x80", b"l5d_x: 1", b""),
)
REQUEST_LINES = (
    *(b"GET / HTTP/1.1", b"POST /x?y HTTP/1.1", b"GET / HTTP/1.0", b"CONNECT a:1 HTTP/1.1", b"OPTIONS * HTTP/1.1"),
    *(b"GET http://c/x HTTP/1.1", b"GET /\x7f HTTP/1.1", b"GET / HTTP/2.0", b"GET  / HTTP/1.1", b"GET /#x HTTP/1.1"),
)
STATUS_LINES = (b"HTTP/1.1 200 OK", b"HTTP/1.0 204 ", b"HTTP/1.1 999 X", b"HTTP/1.1 304", b"HTTP/2.0 200 OK", b"X")


def drawn(chance: random.Random, first: tuple[bytes, ...]) -> bytes:
    lines = [chance.choice(first), *chance.sample(LINES, chance.randint(0, 5))]
    if chance.random() < 0.7:
        lines.append(b"Host: a")
    end = b"\r\n" if chance.random() < 0.95 else b"\n"
    return end.join(lines) + end * 2


def outcome(read, head: bytes, *more: str) -> object:
    try:
        message, framing = read(head, *more)
    except ProxyError as error:
        return type(error), error.status
    return repr(message), message.headers.raw, framing, type(message.body), message.body.length


@pytest.mark.parametrize("codec", ["h11", "httptools"])
@pytest.mark.parametrize("limits", [Limits(), Limits(max_fields=3), Limits(max_head=60)])
def test_lines_that_are_known_change_nothing(codec, limits) -> None:
    heads = Heads(make_codec(codec), limits)
    chance = random.Random(codec)
    passed = 0
    for number in range(3000):
        head = drawn(chance, REQUEST_LINES)
        # The way for whole heads, which remembers nothing of requests, is the oracle.
        expected = outcome(heads._read_request, head, "http")
        assert outcome(heads.request, head, "http") == expected, head
        passed += not isinstance(expected[0], type)
        fresh = Heads(make_codec(codec), limits)
        head = drawn(chance, STATUS_LINES)
        method = ("GET", "HEAD", "CONNECT")[number % 3]
        assert outcome(heads.response, head, method) == outcome(fresh._read_response, head, method), head
    assert passed > 100


@pytest.mark.parametrize("codec", ["h11", "httptools"])
def test_a_line_that_is_known_does_not_hide_a_second_length(codec) -> None:
    heads = Heads(make_codec(codec), Limits())
    for number in range(10):
        heads.request(b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n" % number, "http")
        heads.request(b"POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % number, "http")
    for fields in (
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Host: a\r\n",
    ):
        with pytest.raises(BadRequest):
            heads.request(b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n", "http")


def test_what_comes_once_is_not_remembered() -> None:
    heads = Heads(make_codec("httptools"), Limits())
    for number in range(5000):
        heads.request(b"GET /%d HTTP/1.1\r\nHost: a\r\nX-Request-Id: %d\r\n\r\n" % (number, number), "http")
    assert b"Host: a" in heads._lines
    assert len(heads._lines) < 500  # one in 256 passes the doorkeeper at once; more would be the memory's bound
    assert len(heads._requests) <= 256


def test_the_memory_of_lines_is_bounded() -> None:
    heads = Heads(make_codec("httptools"), Limits())
    for number in range(3000):
        for _ in range(2):
            heads.request(b"GET /%d HTTP/1.1\r\nHost: a\r\nX-%d: 1\r\n\r\n" % (number, number), "http")
    assert len(heads._lines) <= 1024
    assert len(heads._lines._names) <= 256


@pytest.mark.parametrize("codec", ["h11", "httptools"])
def test_special_fields_that_are_known_decide_nothing_about_the_others(codec) -> None:
    heads = Heads(make_codec(codec), Limits())
    special = b"Host: a\r\nConnection: close, x-hop\r\n"
    for number in range(5):
        heads.request(b"GET /%d HTTP/1.1\r\n%b\r\n" % (number, special), "http")
        heads.response(b"HTTP/1.1 200 OK\r\n%bx-id: %d\r\n\r\n" % (special, number), "GET")
    request, _ = heads.request(b"GET / HTTP/1.1\r\n%bx-hop: 1\r\nx-any: 2\r\n\r\n" % special, "http")
    response, _ = heads.response(b"HTTP/1.1 200 OK\r\n%bx-hop: 1\r\nx-any: 2\r\n\r\n" % special, "GET")
    assert request.headers.raw == [(b"x-any", b"2")]
    assert (b"x-hop", b"1") not in response.headers.raw
    assert (b"x-any", b"2") in response.headers.raw


def test_each_path_method_and_scheme_is_the_heads_own_where_the_rest_is_known() -> None:
    heads = Heads(make_codec("httptools"), Limits())
    for number in range(5):
        heads.request(b"GET /%d HTTP/1.1\r\nHost: a:80\r\nX: %d\r\n\r\n" % (number, number), "http")
    assert len(heads._usual_requests) == 1
    request, framing = heads.request(b"DELETE /x?y HTTP/1.1\r\nHost: a:80\r\nY: 1\r\n\r\n", "https")
    assert repr(request) == "<Request DELETE https://a:80/x?y HTTP/1.1>"
    assert request.headers.raw == [(b"y", b"1")]
    assert framing.keep_alive
    other, _ = heads.request(b"GET http://b/ HTTP/1.1\r\nHost: a:80\r\n\r\n", "https")
    assert repr(other) == "<Request GET http://b/ HTTP/1.1>"
    with pytest.raises(BadRequest):
        heads.request(b"CONNECT /x HTTP/1.1\r\nHost: a:80\r\n\r\n", "http")
    with pytest.raises(BadRequest):
        heads.request(b"GET /#x HTTP/1.1\r\nHost: a:80\r\n\r\n", "http")


def test_the_memory_of_special_fields_is_bounded() -> None:
    heads = Heads(make_codec("httptools"), Limits())
    for number in range(1000):
        for again in range(3):
            heads.request(b"GET /%d HTTP/1.1\r\nHost: a%d\r\nX: %d\r\n\r\n" % (again, number, again), "http")
            heads.response(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX: %d\r\n\r\n" % (number, again), "GET")
    assert 0 < len(heads._usual_requests) <= 256
    assert 0 < len(heads._usual_responses) <= 256
