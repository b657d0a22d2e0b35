"""Heads by h11: the reference, always there."""

from __future__ import annotations

import re

import h11

from linkerd_proxy.headers import RawHeaders
from linkerd_proxy.http.h1.codec import Malformed

__all__ = ["H11Codec"]

_SIZE = 1 << 30  # our own limits are checked before: h11 looks at its one only while a head is incomplete
_ASK = h11.Request(
    method="GET", target="/", headers=[("host", "a"), ("connection", "upgrade"), ("upgrade", "websocket")]
)  # so that h11 takes a 101 as well; whether it was asked for is the client's to check


# h11 makes one content-length of several equal ones, or of a list; the validator wants to see what was sent.
_LENGTHS = re.compile(rb"\ncontent-length:([^\r]*)\r", re.IGNORECASE)


def _fields(event: h11.Request | h11.Response | h11.InformationalResponse, head: bytes) -> RawHeaders:
    fields = [field for field in event.headers if field[0] != b"content-length"]
    return fields + [(b"content-length", value) for value in _LENGTHS.findall(head)]


class H11Codec:
    """Parses heads with ``h11.Connection``, one per head."""

    __slots__ = ()
    name = "h11"

    def request_fields(self, head: bytes, line_end: int) -> RawHeaders:
        """Return a request's fields. Raises Malformed."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_SIZE)
        try:
            connection.receive_data(head)
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise Malformed(str(error)) from None
        if not isinstance(event, h11.Request):
            raise Malformed("h11 finds no request")
        return _fields(event, head)

    def line_fields(self, lines: bytes) -> RawHeaders:
        """Return the fields of some lines, in order. Raises Malformed."""
        head = b"GET / HTTP/1.0\r\n" + lines  # 1.0, for there may be no Host among them
        if _LENGTHS.search(head):
            raise Malformed("content-length is put last, see above")
        return self.request_fields(head, 0)

    def response_fields(self, head: bytes, line_end: int) -> RawHeaders:
        """Return a response's fields. Raises Malformed."""
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_SIZE)
        connection.send(_ASK)
        try:
            connection.receive_data(head)
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise Malformed(str(error)) from None
        if not isinstance(event, h11.Response | h11.InformationalResponse):
            raise Malformed("h11 finds no response")
        return _fields(event, head)

    def __repr__(self) -> str:
        return "<H11Codec>"
