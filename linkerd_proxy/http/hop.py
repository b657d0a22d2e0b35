"""Which header fields belong to one hop only, and which trailers may go on (RFC 9110 sections 6.5 and 7.6)."""

from __future__ import annotations

from linkerd_proxy.http.memo import remember

__all__ = ["HOP_BY_HOP", "is_shadow", "may_trail", "nominated"]

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
"""Fields that are never forwarded as they came: the codecs read them, and write their own."""

# A client that nominates one of these wants a proxy to drop what the upstream relies on; the nomination is ignored.
_NOT_NOMINATED = frozenset({b"host", b"content-length", b"transfer-encoding", b"close"})

_GUARDED = HOP_BY_HOP | {b"host", b"content-length", b"trailer", b"expect", b"authorization", b"proxy-authorization"}

_NOT_IN_TRAILERS = _GUARDED | {
    # routing, request modifiers, authentication, and how to read the content: RFC 9110 section 6.5.1
    b"accept",
    b"accept-encoding",
    b"age",
    b"cache-control",
    b"content-encoding",
    b"content-range",
    b"content-type",
    b"cookie",
    b"date",
    b"expires",
    b"forwarded",
    b"if-match",
    b"if-modified-since",
    b"if-none-match",
    b"if-range",
    b"if-unmodified-since",
    b"location",
    b"max-forwards",
    b"pragma",
    b"proxy-authenticate",
    b"range",
    b"retry-after",
    b"set-cookie",
    b"vary",
    b"warning",
    b"www-authenticate",
}


_nominations: dict[bytes, frozenset[bytes]] = {}
_NOMINATIONS_SIZE = 256
_NOMINATION_LENGTH = 64


def nominated(connection: list[bytes]) -> frozenset[bytes]:
    """Return the lower-case options of all ``Connection`` lines that name fields to drop."""
    line = connection[0] if len(connection) == 1 else b",".join(connection)
    names = _nominations.get(line)
    if names is None:
        options = {option.strip(b" \t").lower() for option in line.split(b",")}
        names = frozenset(o for o in options if o and o not in _NOT_NOMINATED and not o.startswith(b"l5d-"))
        if len(line) <= _NOMINATION_LENGTH:
            remember(_nominations, line, names, _NOMINATIONS_SIZE)
    return names


def is_shadow(name: bytes) -> bool:
    """Whether a name with underscores would pass for a field that matters, to an upstream that takes _ for -."""
    if b"_" not in name:
        return False
    twin = name.replace(b"_", b"-")
    return twin in _GUARDED or twin.startswith((b"l5d-", b"x-forwarded-"))


def may_trail(name: bytes) -> bool:
    """Whether a field may stand in trailers and be forwarded: not framing, routing, authentication nor ours."""
    return name not in _NOT_IN_TRAILERS and not name.startswith((b"l5d-", b"x-forwarded-")) and not is_shadow(name)
