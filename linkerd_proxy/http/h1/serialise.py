"""Writing HTTP/1 heads: one function for requests, one for responses, for all codecs."""

from __future__ import annotations

from http import HTTPStatus

from linkerd_proxy.core.message import EMPTY, Request, Response
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.http.fields import SENDABLE, check_field
from linkerd_proxy.http.hop import may_trail
from linkerd_proxy.http.memo import Doorkeeper, remember
from linkerd_proxy.http.validate import check_target

__all__ = ["chunk", "last_chunk", "old_response_head", "refusal_head", "request_head", "response_head"]

_lines: dict[tuple[bytes, bytes], bytes] = {}
_door = Doorkeeper()
_names: dict[bytes, None] = {}  # of fields that may be sent, if their value is good
_NAMES_SIZE = 1024
_NAME_LENGTH = 64
_LINES_SIZE = 4096
_LINE_LENGTH = 256

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_SAYS_LENGTH = frozenset({"POST", "PUT", "PATCH"})  # RFC 9110 section 8.6: these say so when they have no content


def _field_lines(raw: RawHeaders, parts: list[bytes]) -> None:
    """Append a line for every field; each is checked when it is seen for the first time.

    Raises:
        BadRequest: for a field that a layer must not send.
    """
    for field in raw:
        line = _lines.get(field)
        parts.append(_make_line(field) if line is None else line)


def _make_line(field: tuple[bytes, bytes]) -> bytes:
    name, value = field
    if name not in _names or not SENDABLE.fullmatch(value):
        check_field(field)
        if len(name) <= _NAME_LENGTH:
            remember(_names, name, None, _NAMES_SIZE)
    line = b"%b: %b\r\n" % field
    if len(line) <= _LINE_LENGTH and _door.admits(hash(field)):
        remember(_lines, field, line, _LINES_SIZE)
    return line


def request_head(request: Request, *, keep_alive: bool) -> tuple[bytes, bool]:
    """Return a request's head, and whether its content must be chunked.

    The version is 1.0 for a client that spoke 1.0, and 1.1 for all others.

    Raises:
        BadRequest: for what would not be read as it was meant.
    """
    old = request.version == "1.0"
    parts = [_request_lines(request, old)]
    _field_lines(request.headers.raw, parts)
    chunked = False
    body = request.body
    if not request.wants_tunnel:
        length = body.length
        if length is None:
            chunked = not old
            if chunked:
                parts.append(b"transfer-encoding: chunked\r\n")
        elif body.trailers and not old:
            chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        elif body is not EMPTY or request.method in _SAYS_LENGTH:
            parts.append(b"content-length: %d\r\n" % length)
    parts.append(_request_connection(request, keep_alive))
    return b"".join(parts), chunked


def _request_lines(request: Request, old: bool) -> bytes:
    """Return the request line and Host, after checking what is in them."""
    check_target(request)
    target = request.authority if request.method == "CONNECT" else request.path
    if request.absolute_form and request.authority and request.method != "CONNECT":
        # Host says the same below: nobody can read this request as one for another host.
        target = f"{request.scheme}://{request.authority}{'' if target == '*' else target}"
    if old and not request.authority:
        return f"{request.method} {target} HTTP/1.0\r\n".encode("ascii")
    version = "1.0" if old else "1.1"
    return f"{request.method} {target} HTTP/{version}\r\nhost: {request.authority}\r\n".encode("ascii")


def _request_connection(request: Request, keep_alive: bool) -> bytes:
    if request.upgrade is not None:
        return b"connection: upgrade\r\nupgrade: %b\r\n\r\n" % request.upgrade.encode("ascii")
    if keep_alive or request.version == "1.0":
        return b"\r\n"
    return b"connection: close\r\n\r\n"


def response_head(response: Response, framing: bytes) -> bytes:
    """Return a response's head in HTTP/1.1, or in 1.0 if ``framing`` was made for that (see ``answer.py``).

    Args:
        response: With its end-to-end fields.
        framing: The lines that frame the content and the connection, with the empty line that ends the head.

    Raises:
        BadRequest: for a field that would not be read as it was meant.
    """
    parts = [_STATUS_LINES.get(response.status) or b"HTTP/1.1 %d \r\n" % response.status]
    _field_lines(response.headers.raw, parts)
    parts.append(framing)
    return b"".join(parts)


def old_response_head(head: bytes) -> bytes:
    """Return the same head for a client of HTTP/1.0."""
    return b"HTTP/1.0" + head[8:]


def refusal_head(status: int, explanation: bytes = b"") -> bytes:
    """Return an empty answer that ends the connection, for when no service could answer."""
    line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    told = b"l5d-proxy-error: %b\r\n" % explanation if explanation else b""
    return b"%b%bcontent-length: 0\r\nconnection: close\r\n\r\n" % (line, told)


def chunk(data: bytes) -> bytes:
    """Return data that is not empty as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Headers | None) -> bytes:
    """Return the last chunk, with those trailers that may be sent.

    Raises:
        BadRequest: for a malformed field.
    """
    if not trailers:
        return b"0\r\n\r\n"
    parts = [b"0\r\n"]
    _field_lines([field for field in trailers.raw if may_trail(field[0])], parts)
    parts.append(b"\r\n")
    return b"".join(parts)
