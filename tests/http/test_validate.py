"""The validator of heads, function by function; the wire tests show the same from outside."""

import pytest

from linkerd_proxy.core.message import EMPTY, Request, Response
from linkerd_proxy.errors import BadRequest, RequestRefused, UpstreamProtocolError
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.hop import may_trail, nominated
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.validate import (
    Framing,
    check_request,
    check_response,
    request_from_h1,
    request_from_h2,
    response_from_h1,
    response_from_h2,
    trailers_from,
)

LIMITS = Limits()


def h1(line="GET / 1.1", *fields):
    method, target, version = (part.encode() for part in line.split(" "))
    raw = [tuple(part.encode("latin-1") for part in field.split(":", 1)) for field in fields]
    return request_from_h1(method, target, version, raw, LIMITS)


@pytest.mark.parametrize(
    ("target", "scheme", "authority", "path"),
    [
        ("/", "http", "h", "/"),
        ("/a?b=c|d", "http", "h", "/a?b=c|d"),
        ("http://other", "http", "other", "/"),
        ("HTTPS://other:1/x", "https", "other:1", "/x"),
        ("http://other?q", "http", "other", "/?q"),
        ("http://[::1]:80/x", "http", "[::1]:80", "/x"),
    ],
)
def test_targets(target, scheme, authority, path):
    request, _ = h1(f"GET {target} 1.1", "Host: h")
    assert (request.scheme, request.authority, request.path) == (scheme, authority, path)


def test_options_of_a_whole_server():
    assert h1("OPTIONS * 1.1", "host: h")[0].path == "*"
    assert h1("OPTIONS http://h 1.1", "host: h")[0].path == "*"


@pytest.mark.parametrize(
    "target",
    ["x", "//", "ftp://h/", "http://", "http:///x", "http://u@h/", "http://h:99999/", "/#", "/\x7f", "http:/x"],
)
def test_bad_targets(target):
    if target == "//":
        assert h1("GET // 1.1", "host: h")[0].path == "//"
        return
    with pytest.raises(BadRequest):
        h1(f"GET {target} 1.1", "host: h")


@pytest.mark.parametrize("host", ["", "a b", "a,b", "u@a", "a/b", "a:", "a:b", "a:65536", "[::1", "::1", "a\x7f", "a#"])
def test_bad_hosts(host):
    with pytest.raises(BadRequest):
        h1("GET / 1.1", f"host: {host}")


@pytest.mark.parametrize("host", ["a", "A.b-c_d.", "1.2.3.4:65535", "[fe80::1]:1", "a:0"])
def test_good_hosts(host):
    assert h1("GET / 1.1", f"host: {host}")[0].authority == host


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["transfer-encoding: gzip"], 501),
        (["transfer-encoding: chunked", "transfer-encoding: chunked"], 501),
        (["transfer-encoding: chunked", "content-length: 0"], 400),
        (["content-length: 1", "content-length: 1"], 400),
        ([f"content-length: {2**63}"], 400),
        (["expect: 200-ok"], 417),
        (["x: \x0b"], 400),
        (["x y: z"], 400),
        ([": z"], 400),
        (["\xfc: z"], 400),
        (["x: y"] * 100, 431),
    ],
)
def test_refused_fields(fields, status):
    with pytest.raises(BadRequest) as info:
        h1("POST / 1.1", "host: h", *fields)
    assert info.value.status == status


def test_long_targets_have_a_status_of_their_own():
    with pytest.raises(RequestRefused) as info:
        h1(f"GET /{'x' * 9000} 1.1", "host: h")
    assert info.value.status == 414


@pytest.mark.parametrize(
    ("line", "fields", "framing"),
    [
        ("GET / 1.1", [], Framing()),
        ("GET / 1.0", [], Framing(keep_alive=False)),
        ("GET / 1.0", ["connection: Keep-Alive"], Framing()),
        ("GET / 1.0", ["connection: keep-alive, close"], Framing(keep_alive=False)),
        ("GET / 1.1", ["connection: x", "connection: y , CLOSE"], Framing(keep_alive=False)),
        ("POST / 1.1", ["content-length: 007"], Framing(7)),
        ("POST / 1.1", ["content-length: 0"], Framing(0)),
        ("POST / 1.1", ["transfer-encoding: Chunked"], Framing(None, True)),
        ("POST / 1.1", ["content-length: 1", "expect: 100-Continue"], Framing(1, expects_continue=True)),
        ("POST / 1.0", ["content-length: 1", "expect: 100-continue"], Framing(1, keep_alive=False)),
        ("GET / 1.1", ["te: gzip, Trailers"], Framing(wants_trailers=True)),
    ],
)
def test_framing(line, fields, framing):
    assert h1(line, "host: h", *fields)[1] == framing


def test_only_a_declared_0_is_a_body_of_its_own():
    assert h1("GET / 1.1", "host: h")[0].body is EMPTY
    body = h1("GET / 1.1", "host: h", "content-length: 0")[0].body
    assert body is not EMPTY
    assert body.length == 0


@pytest.mark.parametrize(
    ("line", "fields", "upgrade"),
    [
        ("GET / 1.1", ["connection: upgrade", "upgrade: WebSocket"], "websocket"),
        ("GET / 1.1", ["upgrade: websocket"], None),
        ("GET / 1.1", ["connection: upgrade", "upgrade: h2c"], None),
        ("GET / 1.1", ["connection: upgrade", "upgrade: websocket, h2c"], None),
        ("GET / 1.0", ["connection: upgrade", "upgrade: websocket"], None),
    ],
)
def test_upgrades(line, fields, upgrade):
    request, _ = h1(line, "host: h", *fields)
    assert request.upgrade == upgrade
    assert request.headers == Headers()


def test_shadows_of_fields_that_matter_are_dropped():
    request, _ = h1(
        "GET / 1.1", "host: h", "content_length: 1", "l5d_client_id: x", "x_forwarded_for: y", "my_own: z", "_: w"
    )
    assert request.headers == Headers([("my_own", "z"), ("_", "w")])


def test_nominations():
    assert nominated([b"X-A, close", b"keep-alive,,host , L5D-x"]) == {b"x-a", b"keep-alive"}


# --- responses ---


def test_h1_responses():
    def read(status, *fields, method="GET", version=b"1.1"):
        raw = [tuple(part.encode() for part in field.split(":", 1)) for field in fields]
        return response_from_h1(status, version, raw, method, LIMITS)

    assert read(200)[1] == Framing(None, keep_alive=False)
    assert read(200, "content-length: 5")[1] == Framing(5)
    assert read(200, "transfer-encoding: chunked")[1] == Framing(None, True)
    response, framing = read(200, "content-length: 5", method="HEAD")
    assert (response.declared_length, framing) == (5, Framing())
    assert read(200, "transfer-encoding: chunked", method="CONNECT")[1] == Framing()
    assert read(404, "content-length: 5", method="CONNECT")[1] == Framing(5)
    assert read(204, "content-length: 5")[1] == Framing()
    for bad in (["content-length: 5", "transfer-encoding: chunked"], ["content-length: x"], ["a b: c"]):
        with pytest.raises(UpstreamProtocolError):
            read(200, *bad)
    with pytest.raises(UpstreamProtocolError):
        read(200, version=b"2.0")
    with pytest.raises(UpstreamProtocolError):
        read(600)


# --- HTTP/2 ---

PSEUDO = {":method": "GET", ":scheme": "http", ":authority": "a", ":path": "/"}


def h2(fields=(), **pseudo):
    values = PSEUDO | {f":{name}": value for name, value in pseudo.items()}
    raw = [(n.encode(), v.encode("latin-1")) for n, v in values.items() if v is not None]
    return request_from_h2([*raw, *((n.encode("latin-1"), v.encode("latin-1")) for n, v in fields)], LIMITS)


def test_h2_requests():
    request = h2([("cookie", "a=b"), ("x", "y"), ("cookie", "c=d"), ("te", "trailers")])
    assert request.headers == Headers([("x", "y"), ("cookie", "a=b; c=d"), ("te", "trailers")])
    assert (request.version, request.authority) == ("2", "a")
    assert h2(authority=None).authority == ""
    assert h2([("host", "b")], authority=None).authority == "b"
    assert h2([("host", "A")]).authority == "a"
    assert h2([("content-length", "5")]).body.length == 5
    tunnel = h2(method="CONNECT", authority="a:1", scheme=None, path=None)
    assert (tunnel.method, tunnel.authority, tunnel.path) == ("CONNECT", "a:1", "")


@pytest.mark.parametrize(
    "pseudo",
    [
        {"path": "/a b"},
        {"path": "/\xff"},
        {"path": "foo"},
        {"path": ""},
        {"path": None},
        {"path": "http://a/"},
        {"path": "/\x01"},
        {"method": "G T"},
        {"method": ""},
        {"method": None},
        {"scheme": "ftp"},
        {"scheme": None},
        {"authority": ""},
        {"authority": "u@a"},
        {"authority": "a b"},
        {"status": "200"},
        {"method": "CONNECT"},
        {"method": "CONNECT", "scheme": None, "path": None},
    ],
)
def test_bad_h2_pseudo_fields(pseudo):
    with pytest.raises(BadRequest):
        h2(**pseudo)


@pytest.mark.parametrize(
    "field",
    [
        ("X", "y"),
        ("x/y", ""),
        ("(x", ""),
        ("x", "\x01"),
        ("x", " y"),
        ("x", "y\t"),
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("keep-alive", "5"),
        ("te", "gzip"),
        ("host", "b"),
        (":path", "/"),
        ("content-length", "5x"),
        ("expect", "200-ok"),
    ],
)
def test_bad_h2_fields(field):
    with pytest.raises(BadRequest):
        h2([field])


def test_cookie_crumbs_count_as_fields():
    with pytest.raises(RequestRefused) as info:
        h2([("cookie", f"a{i}=b") for i in range(101)])
    assert info.value.status == 431


def test_h2_responses():
    response = response_from_h2([(b":status", b"200"), (b"content-length", b"3"), (b"x", b"y")], "GET", LIMITS)
    assert (response.status, response.body.length, response.headers) == (200, 3, Headers([("x", "y")]))
    for bad in (b"101", b"20", b"2000", b"2x0", b"600", b"\xb2\xb2\xb2"):
        with pytest.raises(UpstreamProtocolError):
            response_from_h2([(b":status", bad)], "GET", LIMITS)
    with pytest.raises(UpstreamProtocolError):
        response_from_h2([(b"x", b"y")], "GET", LIMITS)


# --- trailers, outbound ---


def test_trailers():
    raw = [(b"X-Sum", b" 1 "), (b"Host", b"h"), (b"TE", b"x"), (b"grpc-status-details-bin", b"x")]
    assert trailers_from(raw) == Headers([("x-sum", "1"), ("grpc-status-details-bin", "x")])
    with pytest.raises(BadRequest):
        trailers_from([(b"x", b"\x00")])
    assert not may_trail(b"l5d-client-id")
    assert not may_trail(b"content_length")


@pytest.mark.parametrize("again", [1, 2])
def test_outbound_checks(again):
    del again  # the second time, memos answer
    check_request(Request("PURGE", "/x", [("a", "b"), ("te", "trailers")], authority="h"))
    check_response(Response(599, [("a", "b")]))
    for raw in ([(b"A", b"b")], [(b"a", b"b ")], [(b"host", b"x")], [(b"a", b"\n")]):
        with pytest.raises(BadRequest):
            check_request(Request(headers=Headers.of(raw)))
        with pytest.raises(UpstreamProtocolError):
            check_response(Response(headers=Headers.of(raw)))
    with pytest.raises(UpstreamProtocolError):
        check_response(Response(600))
    with pytest.raises(BadRequest):
        check_request(Request(path="/ü"))
    with pytest.raises(BadRequest):
        check_request(Request("CONNECT", "", authority=""))
