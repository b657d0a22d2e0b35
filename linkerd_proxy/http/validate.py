"""The one strict validator: heads of every version, in both directions, become messages here or are refused.

Requests raise :exc:`BadRequest`, :exc:`RequestRefused` (with the status to answer); responses raise
:exc:`UpstreamProtocolError`. What is forwarded is what was understood: hop-by-hop and framing fields are taken out,
so that no peer can read a message in another way than the proxy did.
"""

from __future__ import annotations

from linkerd_proxy.core.message import EMPTY, Body, HttpVersion, Request, Response, Whole
from linkerd_proxy.errors import BadRequest, RequestRefused, UpstreamProtocolError
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.http.fields import (
    VERSIONS,
    Fields,
    Framing,
    check_fields,
    expects_continue,
    make_response,
    trailers_from,
)
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.memo import remember
from linkerd_proxy.http.syntax import (
    USUAL_METHODS,
    USUAL_PATH,
    check_authority,
    check_method,
    check_path,
    content_length,
)
from linkerd_proxy.http.validate_h2 import request_from_h2, response_from_h2

__all__ = [
    "Framing",
    "check_request",
    "check_response",
    "check_target",
    "request_from_fields",
    "request_from_h1",
    "request_from_h2",
    "response_from_fields",
    "response_from_h1",
    "response_from_h2",
    "trailers_from",
]

_PLAIN_FIELDS = frozenset({b"host", b"connection", b"keep-alive"})
_PLAIN = Framing()
_PLAIN_LAST = Framing(keep_alive=False)


# --- HTTP/1 requests ---------------------------------------------------------------------------


def request_from_h1(
    method: bytes, target: bytes, version: bytes, raw: RawHeaders, limits: Limits, scheme: str = "http"
) -> tuple[Request, Framing]:
    """Return an HTTP/1 request and its framing; ``body`` is for the codec to put in place.

    Args:
        method: As on the wire.
        target: As on the wire: origin, absolute, authority or asterisk form.
        version: ``b"1.1"``; all but 1.0 and 1.1 are refused with 505.
        raw: The fields as the parser gave them; case does not matter.
        limits: How much is allowed.
        scheme: That of the connection, for a target which names none.
    """
    known = VERSIONS.get(version)
    if known is None:
        raise RequestRefused(f"HTTP version {version[:8]!r} is not served", 505, remedy="use HTTP/1.1 or HTTP/2")
    return request_from_fields(check_method(method), target, known, Fields(raw, limits), limits, scheme)


def request_from_fields(
    verb: str, target: bytes, known: HttpVersion, fields: Fields, limits: Limits, scheme: str
) -> tuple[Request, Framing]:
    """Return an HTTP/1 request as :func:`request_from_h1` does, from a checked method and fields that were read."""
    scheme, authority, path, absolute = _target(verb, target, known, fields.get(b"host"), limits, scheme)
    if fields.special.keys() <= _PLAIN_FIELDS:  # most requests: no content, nothing special
        request = Request(
            verb,
            path,
            Headers.of(fields.end_to_end),
            EMPTY,
            authority=authority,
            scheme=scheme,
            version=known,
            absolute_form=absolute,
        )
        return request, _PLAIN if fields.keep_alive(known) else _PLAIN_LAST
    length, chunked = _request_length(verb, known, fields)
    expects = expects_continue(fields, known)
    upgrade = _upgrade(fields, known, limits)
    trailers = b"trailers" in fields.tokens(b"te")
    if trailers:
        fields.end_to_end.append((b"te", b"trailers"))
    request = Request(
        verb,
        path,
        Headers.of(fields.end_to_end),
        _placeholder(length, chunked),
        authority=authority,
        scheme=scheme,
        version=known,
        upgrade=upgrade,
        absolute_form=absolute,
    )
    return request, Framing(
        0 if length is None and not chunked else length, chunked, fields.keep_alive(known), expects, trailers
    )


def _placeholder(length: int | None, chunked: bool) -> Body:
    """Return EMPTY where nothing is declared, but a body of its own for a declared 0, which is forwarded as such."""
    if length is None and not chunked:
        return EMPTY
    return Whole() if length == 0 else Body(length)


def _target(
    method: str, target: bytes, version: HttpVersion, hosts: list[bytes], limits: Limits, scheme: str
) -> tuple[str, str, str, bool]:
    """Return scheme, authority and path, and whether the target has all three: then Host is not heeded.

    Source: RFC 9112 section 3.2.2.
    """
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise BadRequest(f"an HTTP/{version} request needs exactly one Host, not {len(hosts)}")
    authority = check_authority(hosts[0]) if hosts else ""
    if method == "CONNECT":
        if version == "1.0":
            raise BadRequest("CONNECT needs HTTP/1.1")
        return scheme, check_authority(target, port_needed=True), "", False
    if target.startswith(b"/") or target == b"*":
        return scheme, authority, check_path(target, method, limits.max_target), False
    name, mark, rest = target.partition(b"://")
    name = name.lower()
    if not mark or name not in {b"http", b"https"}:
        raise BadRequest(f"target {target[:64]!r} is neither a path nor an http URL")
    end = min((i for i in (rest.find(b"/"), rest.find(b"?"), rest.find(b"#")) if i >= 0), default=len(rest))
    path = rest[end:]
    if not path:
        path = b"*" if method == "OPTIONS" else b"/"  # RFC 9112 section 3.2.4
    elif path.startswith(b"?"):
        path = b"/" + path
    return name.decode("ascii"), check_authority(rest[:end]), check_path(path, method, limits.max_target), True


def _request_length(method: str, version: HttpVersion, fields: Fields) -> tuple[int | None, bool]:
    codings = fields.get(b"transfer-encoding")
    lengths = fields.get(b"content-length")
    if codings:
        if lengths:
            raise BadRequest("both content-length and transfer-encoding: one of them hides a second request")
        if version == "1.0":
            raise BadRequest("transfer-encoding in an HTTP/1.0 request")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise RequestRefused("a transfer-encoding other than chunked", 501)
    length = content_length(lengths)
    if method == "CONNECT" and (codings or length):
        raise BadRequest("CONNECT with a body")
    return length, bool(codings)


def _upgrade(fields: Fields, version: HttpVersion, limits: Limits) -> str | None:
    """Return the protocol to change to, if it is one that we let through (RFC 9110 section 7.8)."""
    if version == "1.0" or b"upgrade" not in fields.connection:
        return None
    offers = fields.tokens(b"upgrade")
    if len(offers) != 1:
        return None
    offer = offers[0].decode("latin-1")
    return offer if offer in limits.upgrades else None


# --- HTTP/1 responses --------------------------------------------------------------------------


def response_from_h1(
    status: int, version: bytes, raw: RawHeaders, request_method: str, limits: Limits
) -> tuple[Response, Framing]:
    """Return an HTTP/1 response and its framing; ``body`` is for the codec to put in place.

    Args:
        status: 100 to 599; 101 must have been asked for, which the caller checks.
        version: ``b"1.1"`` or ``b"1.0"``.
        raw: The fields as the parser gave them.
        request_method: Of the request that it answers: HEAD and CONNECT have no content.
        limits: How much is allowed.
    """
    known = VERSIONS.get(version)
    if known is None:
        raise UpstreamProtocolError(f"the upstream answers in HTTP version {version[:8]!r}")
    try:
        return response_from_fields(status, known, Fields(raw, limits), request_method)
    except (BadRequest, RequestRefused) as error:
        raise UpstreamProtocolError(f"the upstream's head is malformed: {error.problem}") from None


def response_from_fields(
    status: int, known: HttpVersion, fields: Fields, request_method: str
) -> tuple[Response, Framing]:
    """Return an HTTP/1 response as :func:`response_from_h1` does, from fields that were read.

    Raises:
        BadRequest: for a content-length that is none.
        UpstreamProtocolError: for anything else.
    """
    length = content_length(fields.get(b"content-length"))
    codings = fields.get(b"transfer-encoding")
    if codings and (length is not None or known == "1.0" or len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise UpstreamProtocolError("the upstream's transfer-encoding is not chunked alone")
    headers = Headers.of(fields.end_to_end)
    keep_alive = fields.keep_alive(known)
    response = make_response(status, headers, length, known, request_method)
    if response.body is EMPTY:
        return response, Framing(0, False, keep_alive)
    if codings:
        return response, Framing(None, True, keep_alive)
    return response, Framing(length, False, keep_alive and length is not None)


# --- outbound ---


_passed_authorities: dict[str, None] = {}
_AUTHORITIES_SIZE = 2048
_ANY_TARGET = 1 << 16  # what a layer makes of a path may be longer than what clients may ask for


def check_request(request: Request) -> None:
    """Check a request before any byte of it is sent, whoever made it.

    Raises:
        BadRequest: for what would not be read as it was meant.
    """
    check_fields(request.headers.raw)
    check_target(request)


def check_target(request: Request) -> None:
    """Check a request's method, authority and path, without its fields.

    Raises:
        BadRequest: for what would not be read as it was meant.
    """
    # Most of what is sent was read by a codec a moment ago: it takes three look-ups to see that nobody spoilt it.
    if (
        request.method in USUAL_METHODS
        and request.authority in _passed_authorities
        and len(request.path) <= _ANY_TARGET
        and USUAL_PATH.fullmatch(request.path)
        and not request.absolute_form
    ):
        return
    check_method(request.method.encode("latin-1", "replace"))
    if request.authority or request.method == "CONNECT":
        check_authority(request.authority.encode("latin-1", "replace"), port_needed=request.method == "CONNECT")
    if request.method != "CONNECT":
        check_path(request.path.encode("latin-1", "replace"), request.method, _ANY_TARGET)
    if request.absolute_form and request.scheme not in {"http", "https"}:
        raise BadRequest(f"scheme {request.scheme[:16]!r} is neither http nor https")
    remember(_passed_authorities, request.authority, None, _AUTHORITIES_SIZE)


def check_response(response: Response) -> None:
    """Check a response before any byte of it is sent, whoever made it.

    Raises:
        UpstreamProtocolError: for what would not be read as it was meant.
    """
    if not 100 <= response.status <= 599:
        raise UpstreamProtocolError(f"status {response.status} is not between 100 and 599")
    try:
        check_fields(response.headers.raw)
    except BadRequest as error:
        raise UpstreamProtocolError(error.problem) from None
