"""Heads by httptools, which is llhttp, the parser of Node.js: the fast one (extra ``fast``)."""

from __future__ import annotations

import httptools

from linkerd_proxy.headers import RawHeaders
from linkerd_proxy.http.h1.codec import Malformed

__all__ = ["HttptoolsCodec"]

# llhttp knows a fixed list of methods and forms of targets; ours are scanned before, so it gets a line that it knows.
_REQUEST_LINE = b"GET / HTTP/1.1\r\n"


class _Collector:
    """Takes llhttp's callbacks for one head."""

    __slots__ = ("complete", "fields")

    def __init__(self) -> None:
        self.fields: RawHeaders = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


class HttptoolsCodec:
    """Parses heads with ``httptools``, one parser per head."""

    __slots__ = ()
    name = "httptools"

    def request_fields(self, head: bytes, line_end: int) -> RawHeaders:
        """Return a request's fields. Raises Malformed."""
        collector = _Collector()
        return _feed(collector, httptools.HttpRequestParser(collector), _REQUEST_LINE + head[line_end:])

    def line_fields(self, lines: bytes) -> RawHeaders:
        """Return the fields of some lines, in order. Raises Malformed."""
        return self.request_fields(lines, 0)

    def response_fields(self, head: bytes, line_end: int) -> RawHeaders:
        """Return a response's fields. Raises Malformed."""
        collector = _Collector()
        return _feed(collector, httptools.HttpResponseParser(collector), head)

    def __repr__(self) -> str:
        return "<HttptoolsCodec>"


def _feed(
    collector: _Collector, parser: httptools.HttpRequestParser | httptools.HttpResponseParser, head: bytes
) -> RawHeaders:
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # how llhttp says that what follows is no HTTP
    except httptools.HttpParserError as error:
        raise Malformed(str(error)) from None
    if not collector.complete:
        raise Malformed("llhttp finds no end of the head")
    return collector.fields
