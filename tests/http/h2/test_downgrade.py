"""What an HTTP/2 client could smuggle into HTTP/1: none of it reaches a service, and no other stream notices.

The oracle is stricter than "the upstream was spared": no exchange begins at all, except for those whose content turns out
wrong after they began; those are cancelled before their message is complete.
"""

import pytest

from tests.http.h2.frames import GET, POST, data, get, headers, post
from tests.http.h2.peer import Application, served

CL = "content-length"


def replaced(name, value, fields=GET):
    return [(name, value) if field[0] == name else field for field in fields]


SMUGGLED = b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"

HEADS = {
    # requests hidden in lines
    "CRLF in a value": get("/", ("x", "a\r\nhost: b")),
    "a whole request in a value": get("/", (b"x", b"a\r\n\r\n" + SMUGGLED)),
    "LF alone in a value": get("/", ("x", "a\nb: c")),
    "CR alone in a value": get("/", ("x", "a\rb: c")),
    "NUL in a value": get("/", ("x", "a\0")),
    "CRLF in a name": get("/", ("x\r\ny", "a")),
    "a line in a name": get("/", ("x: y\r\nhost", "a")),
    "colon in a name": get("/", ("host: b", "a")),
    "space at the end of a name": get("/", ("x ", "a")),
    "tab in a name": get("/", ("x\ty", "a")),
    "upper case in a name": get("/", ("Transfer-Encoding", "chunked")),
    "Kelvin sign in a name": get("/", ("\N{KELVIN SIGN}eep".encode(), b"a")),
    "escape in a value": get("/", ("x", "\x1b[2J")),
    "backspace in a value": get("/", ("x", "\x08")),
    "vertical tab in a value": get("/", ("x", "\x0b")),
    "DEL in a value": get("/", ("x", "\x7f")),
    "fold in a value": get("/", ("x", "a\r\n b")),
    # the request line
    "space in the path": get("/a HTTP/1.1"),
    "a whole request in the path": get("/ HTTP/1.1\r\nHost: a\r\n\r\nGET /admin"),
    "CRLF in the path": get("/\r\nx: y"),
    "tab in the path": get("/a\tb"),
    "NUL in the path": get("/\0"),
    "byte above ASCII in the path": [*GET[:3], (b":path", b"/\xff")],
    "fragment in the path": get("/#a"),
    "path that is no path": get("foo"),
    "empty path": get(""),
    "absolute path": get("http://internal/"),
    "authority as path": get("internal:80"),
    "* for GET": get("*"),
    "space in the method": replaced(":method", "GET /admin"),
    "a request line in the method": replaced(":method", "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET"),
    "empty method": replaced(":method", ""),
    "control character in the method": replaced(":method", "G\x01T"),
    "colon in the method": replaced(":method", "GET:"),
    "junk scheme": replaced(":scheme", "javascript"),
    "a URL in the scheme": replaced(":scheme", "http://internal/?"),
    "CRLF in the scheme": replaced(":scheme", "http\r\n"),
    # the authority
    "CRLF in the authority": replaced(":authority", "a\r\nx: y"),
    "space in the authority": replaced(":authority", "a b"),
    "path in the authority": replaced(":authority", "a/../b"),
    "user in the authority": replaced(":authority", "internal@a"),
    "list in the authority": replaced(":authority", "a, b"),
    "port above 65535": replaced(":authority", "a:99999"),
    "empty authority": replaced(":authority", ""),
    "host that differs": get("/", ("host", "internal")),
    "two hosts": get("/", ("host", "example.com"), ("host", "internal")),
    "two authorities": [GET[2], *GET],
    # framing
    "transfer-encoding": post("/", ("transfer-encoding", "chunked")),
    "transfer-encoding in upper case": post("/", ("transfer-encoding", "CHUNKED")),
    "transfer-encoding: identity": post("/", ("transfer-encoding", "identity")),
    "transfer-encoding and a length": post("/", ("transfer-encoding", "chunked"), (CL, "0")),
    "two lengths": post("/", (CL, "0"), (CL, "5")),
    "list of lengths": post("/", (CL, "0, 5")),
    "length with a sign": post("/", (CL, "+5")),
    "length with white space inside": post("/", (CL, "1 1")),
    "length with an underscore": post("/", (CL, "1_0")),
    "length in other digits": post("/", (b"content-length", "５".encode())),
    "length above 2**63": post("/", (CL, str(2**64))),
    "length on a message that ends with its head": post("/", (CL, "5")),
    # hop by hop
    "connection that names a field": get("/", ("connection", "x-forwarded-for")),
    "connection: upgrade": get("/", ("connection", "upgrade")),
    "upgrade: h2c": get("/", ("upgrade", "h2c")),
    "keep-alive": get("/", ("keep-alive", "timeout=5")),
    "proxy-connection": get("/", ("proxy-connection", "keep-alive")),
    "te: chunked": get("/", ("te", "chunked")),
    "http2-settings": get("/", ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA")),
    # pseudo-fields
    "pseudo-field after a field": [*GET[:3], ("x", "y"), GET[3]],
    "status in a request": [*GET, (":status", "200")],
    "unknown pseudo-field": [*GET, (":host", "internal")],
    "two paths": [*GET, (":path", "/admin")],
    "two methods": [(":method", "POST"), *GET],
    "no method": GET[1:],
    "no path": GET[:3],
    "CONNECT with a path": replaced(":method", "CONNECT"),
    "CONNECT without a port": [(":method", "CONNECT"), (":authority", "internal")],
    "CONNECT with a body's length": [(":method", "CONNECT"), (":authority", "a:1"), (CL, "5")],
    "a tunnel that nobody allowed": [(":method", "CONNECT"), (":protocol", "h2c"), *GET[1:]],
}

BODIES = {
    "more content than declared": [data(1, b"0" + SMUGGLED, end=True)],
    "more content than declared, in two frames": [data(1, b"0"), data(1, SMUGGLED)],
    "less content than declared": [data(1, b"", end=True)],
    "less content than declared, with trailers": [headers(1, [("x", "y")])],
    "pseudo-field in trailers": [data(1, b"0"), headers(1, [(":path", "/admin")])],
    "CRLF in trailers": [data(1, b"0"), headers(1, [("x", "a\r\n\r\n")])],
    "upper case in trailers that are no trailers": [data(1, b"0"), headers(1, [("x", "y")], end=False)],
}

DROPPED = ["host", "content-length", "authorization", "l5d-client-id", "cookie", "x-forwarded-for", "content_length"]


def test_there_are_enough_cases():
    assert len(HEADS) + len(BODIES) + len(DROPPED) >= 60


@pytest.mark.parametrize("fields", HEADS.values(), ids=HEADS)
async def test_no_exchange_begins(fields, autojump_clock):
    async with served() as peer:
        await peer.send(headers(1, get("/hang")), headers(3, fields))
        assert [request.path for request in peer.application.seen] == ["/hang"]
        assert peer.reader.resets() in ([1], []), peer.reader.frames
        assert [status for status in peer.reader.statuses(3) if int(status) < 400] == []
        assert peer.reader.resets(3) == [1] or peer.reader.statuses(3) == ["501"]
        assert peer.application.running == 1
        assert await peer.is_well()


class Careful(Application):
    """Knows whether it ever saw the end of a message."""

    def __init__(self):
        super().__init__()
        self.completed = []

    async def serve(self, exchange):
        content = await exchange.request.body.read()
        if exchange.request.method == "POST":
            self.completed.append((content, exchange.request.body.trailers))
        await super().serve(exchange)


@pytest.mark.parametrize("frames", BODIES.values(), ids=BODIES)
async def test_no_message_is_completed(frames, autojump_clock):
    async with served(Careful()) as peer:
        await peer.send(headers(1, [*POST, (CL, "1")], end=False))
        await peer.send(*frames)
        assert peer.application.completed == []
        assert peer.application.cancelled == 1
        assert [code for code in peer.reader.resets(1) if code] == [1]
        assert await peer.is_well()


@pytest.mark.parametrize("name", DROPPED)
async def test_trailers_that_would_matter_are_dropped(name, autojump_clock):
    async with served(Careful()) as peer:
        await peer.send(headers(1, POST, end=False), headers(1, [(name, "1"), ("x-sum", "2")]))
        ((content, trailers),) = peer.application.completed
        assert content == b""
        assert list(trailers) == [("x-sum", "2")]
