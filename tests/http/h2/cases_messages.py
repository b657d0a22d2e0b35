"""Cases by section of RFC 9113: messages, fields, pseudo-fields, CONNECT."""

from tests.http.h2.expect import CALM, PROTOCOL, Answered, Case, ConnectionEnds, StreamError
from tests.http.h2.frames import GET, continuation, data, get, headers, post, raw

CL = "content-length"


def without(name, fields=GET):
    return [field for field in fields if field[0] != name]


def replaced(name, value, fields=GET):
    return [(name, value) if field[0] == name else field for field in fields]


def malformed(section, name, fields, **more):
    return Case(section, name, [headers(1, fields, **more)], StreamError(PROTOCOL))


LENGTHS = [
    Case("8.1.1", "length that agrees", [headers(1, post("/", (CL, "5")), end=False), data(1, b"12345", end=True)], Answered(seen=5)),
    Case("8.1.1", "length over several frames", [headers(1, post("/", (CL, "5")), end=False), data(1, b"123"), data(1, b"45"), data(1, end=True)], Answered(seen=5)),
    Case("8.1.1", "length with HEADERS that end the message", [headers(1, post("/", (CL, "5")))], StreamError(PROTOCOL)),
    Case("8.1.1", "length of 0 with HEADERS that end the message", [headers(1, post("/", (CL, "0")))], Answered(seen=0)),
    Case("8.1.1", "less content than declared", [headers(1, post("/", (CL, "5")), end=False), data(1, b"1234", end=True)], StreamError(PROTOCOL)),
    Case("8.1.1", "more content than declared", [headers(1, post("/", (CL, "5")), end=False), data(1, b"123456", end=True)], StreamError(PROTOCOL)),
    Case("8.1.1", "more content than declared, before any end", [headers(1, post("/", (CL, "5")), end=False), data(1, b"123456")], StreamError(PROTOCOL)),
    Case("8.1.1", "less content than declared, ended by trailers", [headers(1, post("/", (CL, "5")), end=False), data(1, b"12"), headers(1, [("x", "y")])], StreamError(PROTOCOL)),
    Case("8.1.1", "no content at all, ended by trailers", [headers(1, post("/", (CL, "5")), end=False), headers(1, [("x", "y")])], StreamError(PROTOCOL)),
    Case("8.1.1", "padding is no content", [headers(1, post("/", (CL, "5")), end=False), data(1, b"12", pad=3, end=True)], StreamError(PROTOCOL)),
    malformed("8.1.1", "two lengths that differ", post("/", (CL, "5"), (CL, "6")), end=False),
    malformed("8.1.1", "two lengths that agree", post("/", (CL, "5"), (CL, "5")), end=False),
    malformed("8.1.1", "negative length", post("/", (CL, "-1")), end=False),
    malformed("8.1.1", "length with a plus", post("/", (CL, "+1")), end=False),
    malformed("8.1.1", "length in hexadecimal", post("/", (CL, "0x1")), end=False),
    malformed("8.1.1", "list of lengths", post("/", (CL, "1, 1")), end=False),
    malformed("8.1.1", "empty length", post("/", (CL, "")), end=False),
    malformed("8.1.1", "length of 20 digits", post("/", (CL, "9" * 20)), end=False),
]  # fmt: skip

FRAMING = [
    Case("8.1", "trailers", [headers(1, post(), end=False), data(1, b"abc"), headers(1, [("x-sum", "1")])], Answered(seen=3)),
    Case("8.1", "trailers without content", [headers(1, post(), end=False), headers(1, [("x-sum", "1")])], Answered(seen=0)),
    Case("8.1", "trailers that do not end the message", [headers(1, post(), end=False), headers(1, [("x", "y")], end=False)], StreamError(PROTOCOL)),
    Case("8.1", "pseudo-field in trailers", [headers(1, post(), end=False), headers(1, [(":path", "/")])], StreamError(PROTOCOL)),
    Case("8.1", "unknown pseudo-field in trailers", [headers(1, post(), end=False), headers(1, [(":x", "y")])], StreamError(PROTOCOL)),
    Case("8.1", "trailers in two frames", [headers(1, post(), end=False), headers(1, b"\x00\x01x", end_headers=False), continuation(1, b"\x01y")], Answered(seen=0)),
    Case("8.1", "early answer stops the upload without blame", [headers(1, post("/early"), end=False), data(1, bytes(1000))], StreamError(0), limits={"linger": 0}),
    Case("8.1", "answer to HEAD has no content", [headers(1, replaced(":method", "HEAD"))], Answered(content=b"")),
    Case("8.4", "push is nothing that clients do", [raw(5, 4, 3, b"\0\0\0\4")], ConnectionEnds(PROTOCOL)),
]  # fmt: skip

FIELDS = [
    malformed("8.2.1", "upper case in a name", get("/", ("X-Up", "1"))),
    malformed("8.2.1", "space in a name", get("/", ("x y", "1"))),
    malformed("8.2.1", "colon in a name", get("/", ("x:y", "1"))),
    malformed("8.2.1", "control character in a name", get("/", ("x\x01", "1"))),
    malformed("8.2.1", "DEL in a name", get("/", ("x\x7f", "1"))),
    malformed("8.2.1", "byte above ASCII in a name", get("/", (b"x\xff", b"1"))),
    malformed("8.2.1", "slash in a name", get("/", ("x/y", "1"))),
    malformed("8.2.1", "parenthesis in a name", get("/", ("(x", "1"))),
    malformed("8.2.1", "empty name", get("/", ("", "1"))),
    malformed("8.2.1", "NUL in a value", get("/", ("x", "a\0b"))),
    malformed("8.2.1", "CR in a value", get("/", ("x", "a\rb"))),
    malformed("8.2.1", "LF in a value", get("/", ("x", "a\nb"))),
    malformed("8.2.1", "vertical tab in a value", get("/", ("x", "a\vb"))),
    malformed("8.2.1", "space before a value", get("/", ("x", " a"))),
    malformed("8.2.1", "tab after a value", get("/", ("x", "a\t"))),
    Case("8.2.1", "bytes above ASCII in a value", [headers(1, get("/", (b"x", b"\xe4\xff")))], Answered()),
    Case("8.2.1", "empty value", [headers(1, get("/", ("x", "")))], Answered()),
    malformed("8.2.2", "connection", get("/", ("connection", "close"))),
    malformed("8.2.2", "keep-alive", get("/", ("keep-alive", "1"))),
    malformed("8.2.2", "proxy-connection", get("/", ("proxy-connection", "close"))),
    malformed("8.2.2", "transfer-encoding", post("/", ("transfer-encoding", "chunked")), end=False),
    malformed("8.2.2", "upgrade", get("/", ("upgrade", "websocket"))),
    malformed("8.2.2", "te other than trailers", get("/", ("te", "gzip"))),
    Case("8.2.2", "te: trailers", [headers(1, get("/", ("te", "trailers")))], Answered()),
    Case("8.2.3", "cookie in crumbs", [headers(1, get("/", ("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")))], Answered()),
    Case("10.5.1", "too many fields", [headers(1, get("/", *[("x", "y")] * 100))], Answered(status="431")),
    Case("10.5.1", "fields that are too large", [headers(1, get("/", ("x", "y" * 9000), ("y", "z" * 7500))[:4], end_headers=False), continuation(1, b"\x00\x01x\x7f\xa9\x45" + b"y" * 9000, end_headers=False), continuation(1, b"\x00\x01y\x7f\xcd\x39" + b"y" * 7500)], Answered(status="431")),
    Case("10.5.1", "fields that are far too large", [headers(1, GET, end_headers=False), *[continuation(1, b"\x00\x01x\x7f\xa9\x45" + b"y" * 9000, end_headers=False)] * 4, continuation(1, b"")], ConnectionEnds(CALM)),
]  # fmt: skip

PSEUDO = [
    malformed("8.3", "pseudo-field after a field", [*without(":path"), ("x", "y"), (":path", "/")]),
    malformed("8.3", "unknown pseudo-field", [*GET, (":x", "y")]),
    malformed("8.3", "a response's pseudo-field", [*GET, (":status", "200")]),
    malformed("8.3.1", "no :method", without(":method")),
    malformed("8.3.1", "no :scheme", without(":scheme")),
    malformed("8.3.1", "no :path", without(":path")),
    malformed("8.3.1", "empty :path", replaced(":path", "")),
    malformed("8.3.1", "empty :method", replaced(":method", "")),
    malformed("8.3.1", "empty :scheme", replaced(":scheme", "")),
    malformed("8.3.1", "two :method", [GET[0], *GET]),
    malformed("8.3.1", "two :scheme", [GET[1], *GET]),
    malformed("8.3.1", "two :path", [GET[3], *GET]),
    malformed("8.3.1", "two :authority", [GET[2], *GET]),
    malformed("8.3.1", "nothing at all", []),
    malformed("8.3.1", ":path that is no path", replaced(":path", "foo")),
    malformed("8.3.1", "absolute :path", replaced(":path", "http://a/b")),
    malformed("8.3.1", "* for another method than OPTIONS", replaced(":path", "*")),
    Case("8.3.1", "* for OPTIONS", [headers(1, replaced(":method", "OPTIONS", replaced(":path", "*")))], Answered()),
    malformed("8.3.1", "space in :method", replaced(":method", "GET X")),
    malformed("8.3.1", "user in :authority", replaced(":authority", "me@a")),
    malformed("8.3.1", "host that differs from :authority", get("/", ("host", "b"))),
    Case("8.3.1", "host that agrees with :authority", [headers(1, get("/", ("host", "example.com")))], Answered()),
    Case("8.3.1", "host without :authority", [headers(1, [*without(":authority"), ("host", "a")])], Answered()),
    Case("8.3.1", "neither host nor :authority", [headers(1, without(":authority"))], Answered()),
    malformed("8.5", "CONNECT with :path", replaced(":method", "CONNECT")),
    malformed("8.5", "CONNECT without :authority", [(":method", "CONNECT")]),
    malformed("8.5", "CONNECT without a port", [(":method", "CONNECT"), (":authority", "a")]),
    malformed("RFC 8441 4", ":protocol without CONNECT", [*GET, (":protocol", "websocket")]),
    malformed("RFC 8441 4", "extended CONNECT without :path", [(":method", "CONNECT"), (":authority", "a"), (":scheme", "http"), (":protocol", "websocket")]),
    Case("RFC 8441 4", "a protocol that nobody allowed", [headers(1, [*replaced(":method", "CONNECT"), (":protocol", "h2c")])], Answered(status="501")),
]  # fmt: skip

CASES = LENGTHS + FRAMING + FIELDS + PSEUDO
