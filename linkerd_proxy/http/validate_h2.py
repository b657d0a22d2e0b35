"""HTTP/2 heads: pseudo-fields, crumbs, and what must not be in one (RFC 9113 section 8)."""

from __future__ import annotations

from linkerd_proxy.core.message import EMPTY, Body, Request, Response
from linkerd_proxy.errors import BadRequest, ProxyError, RequestRefused, UpstreamProtocolError
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.http.fields import Fields, expects_continue, make_response
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.syntax import check_authority, check_method, check_path, check_value, content_length, field_name

__all__ = ["request_from_h2", "response_from_h2"]

_REQUEST_PSEUDO = frozenset({b":method", b":scheme", b":authority", b":path", b":protocol"})
_NOT_IN_H2 = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings"
})  # fmt: skip


def _split_pseudo(raw: RawHeaders, allowed: frozenset[bytes]) -> tuple[dict[bytes, bytes], RawHeaders]:
    """Take the pseudo-fields off: known ones, once each, before all others (RFC 9113 section 8.3)."""
    pseudo: dict[bytes, bytes] = {}
    for name, value in raw:
        if not name.startswith(b":"):
            break
        if name not in allowed or name in pseudo:
            raise BadRequest(f"pseudo-header {name[:32]!r} is unknown or repeated")
        check_value(name, value)
        pseudo[name] = value
    return pseudo, raw[len(pseudo) :]


def _h2_fields(raw: RawHeaders, limits: Limits) -> Fields:
    for name, value in raw:
        if name in _NOT_IN_H2 or name != field_name(name):
            raise BadRequest(f"header {name[:64]!r} must not be in an HTTP/2 message")
        if value and (value[0] in b" \t" or value[-1] in b" \t"):
            raise BadRequest(f"header {name[:64]!r} has white space at an end of its value")
        if name == b"te" and value != b"trailers":
            raise BadRequest("te is not 'trailers'")
    fields = Fields(raw, limits)
    crumbs = [value for name, value in fields.end_to_end if name == b"cookie"]
    if len(crumbs) > 1:  # RFC 9113 section 8.2.3: joined before anybody else sees them
        fields.end_to_end = [field for field in fields.end_to_end if field[0] != b"cookie"]
        fields.end_to_end.append((b"cookie", b"; ".join(filter(None, crumbs))))
    return fields


def request_from_h2(raw: RawHeaders, limits: Limits) -> Request:
    """Return an HTTP/2 request of fields that include the pseudo ones.

    Its ``body`` only carries the declared length (``EMPTY`` for none declared); the codec puts its own in place.
    Extended CONNECT (RFC 8441) becomes a GET with ``upgrade``, as the same wish is in HTTP/1.
    """
    pseudo, rest = _split_pseudo(raw, _REQUEST_PSEUDO)
    fields = _h2_fields(rest, limits)
    method = check_method(pseudo.get(b":method", b""))
    upgrade = _h2_upgrade(pseudo, method, limits)
    if upgrade is not None:
        method = "GET"  # what the same wish is in HTTP/1, so that layers see one form
    authority = _h2_authority(pseudo.get(b":authority"), fields.get(b"host"))
    if method == "CONNECT":
        if b":path" in pseudo or b":scheme" in pseudo or b":authority" not in pseudo:
            raise BadRequest("CONNECT has an :authority only")
        check_authority(pseudo[b":authority"], port_needed=True)
        scheme, path = "http", ""
    else:
        scheme = pseudo.get(b":scheme", b"").decode("latin-1")
        if scheme not in {"http", "https"}:
            raise BadRequest(f":scheme {scheme[:16]!r} is neither http nor https")
        path = check_path(pseudo.get(b":path", b""), method, limits.max_target)
    length = content_length(fields.get(b"content-length"))
    expects_continue(fields, "2")
    if b"te" in fields.special:
        fields.end_to_end.append((b"te", b"trailers"))
    body = EMPTY if length is None else Body(length)
    return Request(
        method,
        path,
        Headers.of(fields.end_to_end),
        body,
        authority=authority,
        scheme=scheme,
        version="2",
        upgrade=upgrade,
    )


def _h2_upgrade(pseudo: dict[bytes, bytes], method: str, limits: Limits) -> str | None:
    """Return the protocol that an extended CONNECT asks for (RFC 8441 section 4)."""
    protocol = pseudo.get(b":protocol")
    if protocol is None:
        return None
    if method != "CONNECT" or b":authority" not in pseudo:
        raise BadRequest(":protocol without CONNECT and an :authority")
    name = protocol.decode("latin-1").lower()
    if name not in limits.upgrades:
        raise RequestRefused(f"protocol {name[:32]!r} is not one that Limits(upgrades=...) allows", 501)
    return name


def _h2_authority(authority: bytes | None, hosts: list[bytes]) -> str:
    if len(hosts) > 1 or (hosts and authority is not None and hosts[0].lower() != authority.lower()):
        raise BadRequest("host and :authority differ")
    given = authority if authority is not None else hosts[0] if hosts else None
    return "" if given is None else check_authority(given)


def response_from_h2(raw: RawHeaders, request_method: str, limits: Limits) -> Response:
    """Return an HTTP/2 response of fields that include ``:status``.

    Its ``body`` only carries the declared length, and is ``EMPTY`` where there can't be content.
    """
    try:
        pseudo, rest = _split_pseudo(raw, frozenset({b":status"}))
        fields = _h2_fields(rest, limits)
        length = content_length(fields.get(b"content-length"))
    except ProxyError as error:
        raise UpstreamProtocolError(f"the upstream's head is malformed: {error.problem}") from None
    status = pseudo.get(b":status", b"")
    if len(status) != 3 or not status.isdigit() or status == b"101":
        raise UpstreamProtocolError(f"the upstream's :status is {status[:8]!r}")
    return make_response(int(status), Headers.of(fields.end_to_end), length, "2", request_method)
