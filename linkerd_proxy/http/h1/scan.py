"""Scanning a raw head before any library sees it, so that all codecs are held to the same rules."""

from __future__ import annotations

import re

from linkerd_proxy.errors import BadRequest, RequestRefused
from linkerd_proxy.http.limits import Limits

__all__ = ["FIELD_LINE", "FIELD_LINES", "USUAL_REQUEST_LINE", "find_end", "plausible", "scan_request", "scan_response"]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*"

FIELD_LINE = re.compile(rb"(" + _TOKEN + rb"):(" + _VALUE + rb")")
"""A field line without its end: name and value."""

FIELD_LINES = re.compile(rb"(?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*\r\n")
"""Field lines up to the empty one. No white space before the colon, no folding, no control character."""

USUAL_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/(1\.[01])")
"""A request line without its end, of the versions that are served."""

_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/([0-9]\.[0-9]) ([0-9]{3})(?: " + _VALUE + rb")?\r\n")
_END = re.compile(rb"\n\r?\n")
_NEVER = re.compile(rb"\r[^\n]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def find_end(buffer: bytes, start: int) -> int:
    """Return where a head ends, or -1; what is before ``start`` is known not to hold the end."""
    end = buffer.find(b"\r\n\r\n", start)
    # The usual case, and faster than the expression; a bare LF before it may end the head earlier.
    if end >= 0 and buffer.count(b"\n", 0, end) == buffer.count(b"\r\n", 0, end):
        return end + 4
    match = _END.search(buffer, start)
    return -1 if match is None else match.end()


def plausible(buffer: bytes, start: int) -> None:
    """Refuse an incomplete head that can't become a good one, instead of waiting for its end.

    Raises:
        BadRequest: for control characters, a bare CR among them.
    """
    if _NEVER.search(buffer, max(0, start - 1)):
        raise BadRequest("a control character in the head")


def _with_crlf(head: bytes, limits: Limits) -> bytes:
    """Return the head with CRLF at all line ends (RFC 9112 section 2.2 lets a recipient take a bare LF for one)."""
    if head.count(b"\n") == head.count(b"\r\n"):
        return head
    if limits.strict_line_ends:
        raise BadRequest("a line of the head ends without CR")
    return head.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _check_size(head: bytes, limits: Limits) -> None:
    if len(head) > limits.max_head:
        raise RequestRefused(f"the head is larger than the {limits.max_head} bytes of Limits(max_head=...)", 431)
    if head.count(b"\n") - 2 > limits.max_fields:
        raise RequestRefused(f"more than the {limits.max_fields} fields that Limits(max_fields=...) allows", 431)


def scan_request(head: bytes, limits: Limits) -> tuple[bytes, re.Match[bytes]]:
    """Return the head, perhaps with its line ends made good, and its request line: method, target, version.

    Raises:
        BadRequest: if it is none.
        RequestRefused: if it is too large.
    """
    _check_size(head, limits)
    head = _with_crlf(head, limits)
    line = _REQUEST_LINE.match(head)
    if line is None:
        raise BadRequest(f"{head[:64]!r} does not begin with a request line")
    if FIELD_LINES.fullmatch(head, line.end()) is None:
        raise BadRequest("a malformed header line")
    return head, line


def scan_response(head: bytes, limits: Limits) -> tuple[bytes, re.Match[bytes]]:
    """Return the head, perhaps with its line ends made good, and its status line: version, status.

    Raises:
        BadRequest: if it is none, or too large.
    """
    _check_size(head, limits)
    head = _with_crlf(head, limits)
    line = _STATUS_LINE.match(head)
    if line is None:
        raise BadRequest(f"{head[:64]!r} does not begin with a status line")
    if FIELD_LINES.fullmatch(head, line.end()) is None:
        raise BadRequest("a malformed header line")
    return head, line
