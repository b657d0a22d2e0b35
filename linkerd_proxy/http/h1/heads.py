"""Heads in, messages out: scan, parse and validate, with a memory for heads that come again."""

from __future__ import annotations

from typing import TypeAlias

from linkerd_proxy.core.message import EMPTY, HttpVersion, Request, Response
from linkerd_proxy.errors import BadRequest, UpstreamProtocolError
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.http.fields import VERSIONS, Fields, part
from linkerd_proxy.http.h1.codec import Codec, Malformed
from linkerd_proxy.http.h1.lines import Lines
from linkerd_proxy.http.h1.scan import USUAL_REQUEST_LINE, scan_request, scan_response
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.memo import Doorkeeper, remember
from linkerd_proxy.http.syntax import check_method, check_path
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

_Status: TypeAlias = tuple[int, HttpVersion]
_Special: TypeAlias = tuple[tuple[bytes, bytes], ...]


class Heads:
    """Reads heads with one codec and one set of limits; one for each opened layer.

    Clients and upstreams say the same again and again: a head that is equal byte for byte to one that passed needs
    neither scan nor parser; of a head that is new, only the lines that are new do. What its special fields (Host,
    Connection and so on) mean together depends on nothing but them and the first line, and is remembered as well. All
    of that is small and bounded, and forgotten as a whole when full.
    """

    __slots__ = (
        "_door",
        "_lines",
        "_requests",
        "_responses",
        "_statuses",
        "_usual_requests",
        "_usual_responses",
        "codec",
        "limits",
    )

    def __init__(self, codec: Codec, limits: Limits) -> None:
        self.codec: Codec = codec
        self.limits: Limits = limits
        self._door = Doorkeeper()
        self._lines = Lines(codec)
        self._statuses: dict[bytes, _Status] = {}
        self._requests: dict[tuple[bytes, str], tuple[Request, Framing]] = {}
        self._responses: dict[tuple[bytes, str], tuple[Response, Framing]] = {}
        self._usual_requests: dict[tuple[bytes, _Special], tuple[Request, Framing]] = {}
        self._usual_responses: dict[tuple[_Status, _Special, str], tuple[Response, Framing]] = {}

    def request(self, head: bytes, scheme: str) -> tuple[Request, Framing]:
        """Return the request that a whole head says, without its body, and how its content is framed.

        Raises:
            BadRequest: or RequestRefused, with the status to answer.
        """
        key = head, scheme
        known = self._requests.get(key)
        if known is None:
            known = self._request_by_lines(head, scheme) or self._read_request(head, scheme)
            if not self._comes_again(head, head):
                return known
            remember(self._requests, key, known, _MEMO_SIZE)
        kept, framing = known
        return _like_request(kept, kept.headers.raw.copy()), framing  # a copy: layers may change what they are given

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
        lines_read = self._lines
        try:
            read = [lines_read[line] for line in lines]
        except (Malformed, BadRequest):
            return None  # the way for whole heads says better what is wrong
        verb, target, version = check_method(line[1]), line[2], line[3]
        end_to_end, special = part(read)
        key = version, special
        known = self._usual_requests.get(key)
        # Of a path, and no other target, nothing but the path itself is in what the head says.
        is_path = target[:1] == b"/" and verb != "CONNECT"
        if known is not None and is_path:
            kept, framing = known
            request = _like_request(kept, end_to_end)
            request.method, request.scheme = verb, scheme
            request.path = check_path(target, verb, self.limits.max_target)
            return request, framing
        fields = Fields.sorted(read)
        request, framing = request_from_fields(verb, target, VERSIONS[version], fields, self.limits, scheme)
        usual = is_path and request.body is EMPTY and not request.wants_tunnel and fields.are_only(end_to_end)
        if usual and self._comes_again(head, key):
            remember(self._usual_requests, key, (request, framing), _MEMO_SIZE)
        return request, framing

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

    def _comes_again(self, head: bytes, key: object) -> bool:
        """Whether this of a head was seen of late: what comes once is not worth remembering."""
        return len(head) <= _MEMO_LENGTH and self._door.admits(hash(key))

    def response(self, head: bytes, request_method: str) -> tuple[Response, Framing]:
        """Return the response that a whole head says, without its body, and how its content is framed.

        Raises:
            UpstreamProtocolError: if it is none.
        """
        key = head, request_method
        known = self._responses.get(key)
        if known is None:
            known = self._response_by_lines(head, request_method) or self._read_response(head, request_method)
            if not self._comes_again(head, head):
                return known
            remember(self._responses, key, known, _MEMO_SIZE)
        kept, framing = known
        return _like_response(kept, kept.headers.raw.copy()), framing

    def _response_by_lines(self, head: bytes, request_method: str) -> tuple[Response, Framing] | None:
        lines = self._split(head)
        status = self._statuses.get(lines[0]) if lines else None
        if not lines or status is None:
            return None
        del lines[0]
        lines_read = self._lines
        try:
            read = [lines_read[line] for line in lines]
            end_to_end, special = part(read)
            key = status, special, request_method
            known = self._usual_responses.get(key)
            if known is not None:
                return _like_response(known[0], end_to_end), known[1]
            fields = Fields.sorted(read)
            known = response_from_fields(*status, fields, request_method)
        except (Malformed, BadRequest):
            return None  # the way for whole heads says better what is wrong
        if fields.are_only(end_to_end) and self._comes_again(head, key):
            remember(self._usual_responses, key, known, _MEMO_SIZE)
        return known

    def _read_response(self, head: bytes, request_method: str) -> tuple[Response, Framing]:
        try:
            head, line = scan_response(head, self.limits)
            version, status = line.groups()
            fields = self.codec.response_fields(head, line.end())
        except (BadRequest, Malformed) as error:
            raise UpstreamProtocolError(f"the upstream's head is malformed: {error}") from None
        answer = response_from_h1(int(status), version, fields, request_method, self.limits)
        if line.end() <= _STATUS_LENGTH:
            remember(self._statuses, head[: line.end() - 2], (int(status), answer[0].version), _MEMO_SIZE)
        return answer

    def __repr__(self) -> str:
        return f"<Heads by {self.codec.name}>"


def _like_request(kept: Request, raw: RawHeaders) -> Request:
    request = Request.__new__(Request)
    request.method = kept.method
    request.path = kept.path
    request.headers = Headers.of(raw)
    request.body = kept.body
    request.authority = kept.authority
    request.scheme = kept.scheme
    request.version = kept.version
    request.upgrade = kept.upgrade
    request.absolute_form = kept.absolute_form
    return request


def _like_response(kept: Response, raw: RawHeaders) -> Response:
    response = Response.__new__(Response)
    response.status = kept.status
    response.headers = Headers.of(raw)
    response.body = kept.body
    response.version = kept.version
    response.declared_length = kept.declared_length
    return response


def _plain_fields(head: bytes, line_end: int) -> RawHeaders:
    lines = head[line_end:-4].split(b"\r\n") if len(head) - 2 > line_end else []
    return [(name, value) for name, _, value in (line.partition(b":") for line in lines)]
