"""Heads in, messages out: scan, parse and validate, with a memory for heads that come again."""

from __future__ import annotations

from linkerd_proxy.core.message import HttpVersion, Request, Response
from linkerd_proxy.errors import BadRequest, UpstreamProtocolError
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.http.fields import VERSIONS, Fields
from linkerd_proxy.http.h1.codec import Codec, Malformed
from linkerd_proxy.http.h1.lines import Lines
from linkerd_proxy.http.h1.scan import USUAL_REQUEST_LINE, scan_request, scan_response
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.memo import Doorkeeper
from linkerd_proxy.http.syntax import check_method
from linkerd_proxy.http.validate import (
    Framing,
    request_from_fields,
    request_from_h1,
    response_from_fields,
    response_from_h1,
)

__all__ = ["Heads"]

_MEMO_SIZE = 256
_MEMO_LENGTH = 2048  # so that a memo holds at most half a megabyte of heads
_STATUS_LENGTH = 64


class Heads:
    """Reads heads with one codec and one set of limits; one for each opened layer.

    Clients and upstreams say the same again and again: a head that is equal byte for byte to one that passed needs
    neither scan nor parser; of a head that is new, only the lines that are new do. What is remembered is small and
    bounded, and forgotten as a whole when full.
    """

    __slots__ = ("_door", "_lines", "_requests", "_responses", "_statuses", "codec", "limits")

    def __init__(self, codec: Codec, limits: Limits) -> None:
        self.codec: Codec = codec
        self.limits: Limits = limits
        self._door = Doorkeeper()
        self._lines = Lines(codec)
        self._statuses: dict[bytes, tuple[int, HttpVersion]] = {}
        self._requests: dict[tuple[bytes, str], tuple[Request, Framing]] = {}
        self._responses: dict[tuple[bytes, str], tuple[Response, Framing]] = {}

    def request(self, head: bytes, scheme: str) -> tuple[Request, Framing]:
        """Return the request that a whole head says, without its body, and how its content is framed.

        Raises:
            BadRequest: or RequestRefused, with the status to answer.
        """
        key = head, scheme
        known = self._requests.get(key)
        if known is None:
            known = self._request_by_lines(head, scheme) or self._read_request(head, scheme)
            if not self._comes_again(head):
                return known
            if len(self._requests) >= _MEMO_SIZE:
                self._requests.clear()
            self._requests[key] = known
        kept, framing = known
        request = Request.__new__(Request)  # a copy, for layers may change what they are given
        request.method = kept.method
        request.path = kept.path
        request.headers = Headers.of(kept.headers.raw.copy())
        request.body = kept.body
        request.authority = kept.authority
        request.scheme = kept.scheme
        request.version = kept.version
        request.upgrade = kept.upgrade
        request.absolute_form = kept.absolute_form
        return request, framing

    def _split(self, head: bytes) -> list[bytes] | None:
        """Return the lines of a head that is not too large, or None where that takes a closer look."""
        lines = head.split(b"\r\n")
        if len(head) > self.limits.max_head or len(lines) - 3 > self.limits.max_fields or lines.pop():
            return None
        return None if lines.pop() else lines

    def _request_by_lines(self, head: bytes, scheme: str) -> tuple[Request, Framing] | None:
        lines = self._split(head)
        line = USUAL_REQUEST_LINE.fullmatch(lines[0]) if lines else None
        if not lines or line is None:
            return None
        del lines[0]
        known = self._lines
        try:
            fields = Fields.sorted([known[line] for line in lines])
        except (Malformed, BadRequest):
            return None  # the way for whole heads says better what is wrong
        method, target, version = line.groups()
        return request_from_fields(check_method(method), target, VERSIONS[version], fields, self.limits, scheme)

    def _read_request(self, head: bytes, scheme: str) -> tuple[Request, Framing]:
        head, line = scan_request(head, self.limits)
        method, target, version = line.groups()
        try:
            fields = self.codec.request_fields(head, line.end())
        except Malformed as error:
            # The validator knows better which status such a head gets; the library's word is final if it does not.
            request_from_h1(method, target, version, _plain_fields(head, line.end()), self.limits, scheme)
            raise BadRequest(f"{self.codec.name} does not take the head: {error}") from None
        return request_from_h1(method, target, version, fields, self.limits, scheme)

    def _comes_again(self, head: bytes) -> bool:
        """Whether an equal head was seen of late: heads that come once are not worth remembering."""
        return len(head) <= _MEMO_LENGTH and self._door.admits(hash(head))

    def response(self, head: bytes, request_method: str) -> tuple[Response, Framing]:
        """Return the response that a whole head says, without its body, and how its content is framed.

        Raises:
            UpstreamProtocolError: if it is none.
        """
        key = head, request_method
        known = self._responses.get(key)
        if known is None:
            known = self._response_by_lines(head, request_method) or self._read_response(head, request_method)
            if not self._comes_again(head):
                return known
            if len(self._responses) >= _MEMO_SIZE:
                self._responses.clear()
            self._responses[key] = known
        kept, framing = known
        response = Response.__new__(Response)
        response.status = kept.status
        response.headers = Headers.of(kept.headers.raw.copy())
        response.body = kept.body
        response.version = kept.version
        response.declared_length = kept.declared_length
        return response, framing

    def _response_by_lines(self, head: bytes, request_method: str) -> tuple[Response, Framing] | None:
        lines = self._split(head)
        status = self._statuses.get(lines[0]) if lines else None
        if not lines or status is None:
            return None
        del lines[0]
        known = self._lines
        try:
            fields = Fields.sorted([known[line] for line in lines])
            return response_from_fields(*status, fields, request_method)
        except (Malformed, BadRequest):
            return None  # the way for whole heads says better what is wrong

    def _read_response(self, head: bytes, request_method: str) -> tuple[Response, Framing]:
        try:
            head, line = scan_response(head, self.limits)
            version, status = line.groups()
            fields = self.codec.response_fields(head, line.end())
        except (BadRequest, Malformed) as error:
            raise UpstreamProtocolError(f"the upstream's head is malformed: {error}") from None
        answer = response_from_h1(int(status), version, fields, request_method, self.limits)
        if line.end() <= _STATUS_LENGTH:
            if len(self._statuses) >= _MEMO_SIZE:
                self._statuses.clear()
            self._statuses[head[: line.end() - 2]] = int(status), answer[0].version
        return answer

    def __repr__(self) -> str:
        return f"<Heads by {self.codec.name}>"


def _plain_fields(head: bytes, line_end: int) -> RawHeaders:
    lines = head[line_end:-4].split(b"\r\n") if len(head) - 2 > line_end else []
    return [(name, value) for name, _, value in (line.partition(b":") for line in lines)]
