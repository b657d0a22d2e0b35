"""HTTP/1 carried as HTTP/2 from one proxy to the next, so that many clients share one connection.

Both ends know from ``l5d-orig-proto`` what it was, and neither an application nor a client ever sees that field.
Source: linkerd2-proxy, linkerd/proxy/http/src/orig_proto.rs.
"""

from __future__ import annotations

from dataclasses import dataclass

from linkerd_proxy.core.message import HttpVersion, Response
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange, Respond
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.http.limits import Limits, named

__all__ = ["BETWEEN_PROXIES", "ORIG_PROTO", "PROXY_CONNECTION", "Downgrade", "Upgrade"]

ORIG_PROTO = b"l5d-orig-proto"
"""The version that a message had before it was carried as HTTP/2."""
PROXY_CONNECTION = b"l5d-proxy-connection"
"""``close``, on an answer: the client's HTTP/1 connection shall end with it."""

_STREAMS = 1000
_DEFAULT = Limits()
BETWEEN_PROXIES = named(
    "BETWEEN_PROXIES",
    Limits(
        max_head=_DEFAULT.max_head + 32 * _DEFAULT.max_fields + 1024,
        max_fields=_DEFAULT.max_fields + 16,
        h2_max_streams=_STREAMS,
        h2_connection_window=_STREAMS * 65_535,
        h2_resets_per_second=10_000.0,
        h2_early_resets=100_000,
        h2_own_resets=100_000,
        h2_max_glitches=100_000,
        h2_max_streams_total=1_000_000,
    ),
)
"""Limits for connections that carry the requests of many clients: what one of them does is no fault of the peer's.

A head that the first proxy took is taken by the next, although HTTP/2 counts 32 bytes more for each field and proxies
add some. The connection's window has room for the windows of all streams, so that clients which don't read their
answers can't stop those of others; and clients which cancel a lot can't have the connection ended that all share.
"""


@dataclass(frozen=True, slots=True)
class Upgrade(Layer[Exchange, Exchange]):
    """Marks HTTP/1 requests for the next proxy, which is asked in HTTP/2: stands before ``Client(protocol="h2")``.

    CONNECT and upgrades are left as they are; they go over HTTP/1. The answer gets its version back. One that says
    ``l5d-proxy-connection: close`` ends the client's HTTP/1 connection.

    Args:
        close: Whether to heed that: not where the next request may go to another endpoint (Linkerd).
    """

    close: bool = True

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        """Serve the exchange with a marked request."""
        request = work.request
        old = request.version in _VERSIONS and not request.wants_tunnel
        raw = _without(request.headers.raw, ORIG_PROTO)
        if old:
            told = _VERSIONS[request.version]
            raw.append((ORIG_PROTO, told + _ABSOLUTE if request.absolute_form else told))
        await inner(
            work.asking(request.replace(headers=Headers.of(raw))).answering(
                _restoring(work.respond, old, self.close and request.version in _VERSIONS)
            )
        )


def _restoring(respond: Respond, old: bool, close: bool) -> Respond:
    async def restore(response: Response) -> None:
        raw = response.headers.raw
        version: HttpVersion = response.version
        if any(name in _OURS for name, _ in raw):
            told = response.headers.get("l5d-orig-proto") or ""
            ends = (PROXY_CONNECTION, b"close") in raw
            raw = [field for field in raw if field[0] not in _OURS]
            if ends and close and response.is_final:
                raw.append((b"connection", b"close"))
            if old:
                version = "1.0" if told.startswith("HTTP/1.0") else "1.1"
        await respond(_with(response, raw, version))

    return restore


@dataclass(frozen=True, slots=True)
class Downgrade(Layer[Exchange, Exchange]):
    """Gives requests that a peer's ``Upgrade`` marked their version back. Stands right behind ``Http``.

    Only an authenticated peer is believed; the field is taken off every request. The answer says which version it had,
    and ``connection: close`` on it becomes ``l5d-proxy-connection: close``, since the connection is not the client's.
    Whether the target was a whole URL is in ``Request.absolute_form`` again; what it named is what HTTP/2 said.
    """

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        """Serve the exchange with a request as the client sent it."""
        request = work.request
        told = [value.decode("latin-1") for name, value in request.headers.raw if name == ORIG_PROTO]
        if not told:
            return await inner(work)
        plain = request.replace(headers=Headers.of(_without(request.headers.raw, ORIG_PROTO)))
        tls = work.connection.tls
        version, absolute = _told(told) if tls is not None and tls.peer_identity is not None else (None, False)
        if version is None or request.version != "2" or request.wants_tunnel:
            return await inner(work.asking(plain))
        if version == "1.0" and request.body.length is None:
            version = "1.1"  # HTTP/1.0 can't frame such content: what follows the head would pass for a next request
        plain.version = version
        plain.absolute_form = absolute and bool(request.authority)
        return await inner(work.asking(plain).answering(_marking(work.respond, version)))


def _marking(respond: Respond, version: HttpVersion) -> Respond:
    async def mark(response: Response) -> None:
        raw = response.headers.raw
        marked: RawHeaders = [field for field in raw if field[0] not in _OURS and field[0] != b"connection"]
        marked.append((ORIG_PROTO, _VERSIONS.get(response.version) or _VERSIONS[version]))
        if (b"connection", b"close") in raw:
            marked.append((PROXY_CONNECTION, b"close"))
        await respond(_with(response, marked, "2"))

    return mark


_OURS = frozenset({ORIG_PROTO, PROXY_CONNECTION})
_VERSIONS: dict[str, bytes] = {"1.0": b"HTTP/1.0", "1.1": b"HTTP/1.1"}
_ABSOLUTE = b"; absolute-form"


def _told(values: list[str]) -> tuple[HttpVersion | None, bool]:
    """Return the version that the field names, and whether ``; absolute-form`` follows it."""
    name, _, form = values[0].partition(";")
    name = name.strip()
    if len(values) > 1 or name not in {"HTTP/1.0", "HTTP/1.1"}:
        return None, False
    return "1.0" if name == "HTTP/1.0" else "1.1", form.strip() == "absolute-form"


def _without(raw: RawHeaders, name: bytes) -> RawHeaders:
    return [field for field in raw if field[0] != name]


def _with(response: Response, raw: RawHeaders, version: HttpVersion) -> Response:
    return response.replace(headers=Headers.of(raw), version=version)
