"""The header fields that proxies add and believe: nobody else's are let through, in either direction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from linkerd_proxy.core.message import Response
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange, Respond
from linkerd_proxy.errors import BadGateway, LoopDetected
from linkerd_proxy.headers import Headers, RawHeaders
from linkerd_proxy.io.loops import MAX_HOPS, hops, passed_on

__all__ = ["InboundHeaders", "OutboundHeaders", "is_reserved", "without_reserved"]

CLIENT_ID = b"l5d-client-id"
HOPS = b"l5d-hops"
REQUIRE_ID = "l5d-require-id"
_MAX_DIGITS = 2
_NO_HEADERS = Headers()


def is_reserved(name: bytes) -> bool:
    """Whether a field's name is the mesh's: ``l5d-`` and all that some server or other takes for a dash."""
    return name[:3] == b"l5d" and len(name) > 3 and not name[3:4].isalnum()


def without_reserved(raw: RawHeaders) -> RawHeaders:
    """Return the fields without those of the mesh; the same list if there are none."""
    for name, _ in raw:
        if name[:3] == b"l5d":
            return [field for field in raw if not is_reserved(field[0])]
    return raw


@dataclass(frozen=True, slots=True)
class InboundHeaders(Layer[Exchange, Exchange]):
    """Tells the application who its client is, and lets no client claim to be somebody else.

    ``l5d-client-id`` is set to the identity that the client proved, on every request, or taken off if it proved none;
    every other ``l5d-*`` field is taken off too. So are those of the application's answer, which are not its own to
    set. What the proxy itself needs of an authenticated peer's fields is read first (see ``Downgrade``); ``l5d-hops``
    is read here.

    Raises:
        LoopDetected: if more than ten proxies have passed the request on without an application between them.
    """

    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        """Yield the live service, which is no coroutine of its own: nothing is to do when the inner one is done."""
        yield lambda work: inner(self._told(work))

    @staticmethod
    def _told(work: Exchange) -> Exchange:
        """Return the exchange with the client's true name."""
        request = work.request
        raw = request.headers.raw
        tls = work.connection.tls
        identity = None if tls is None else tls.peer_identity
        clean = without_reserved(raw)
        if identity is not None:
            _count_hops(request.headers if clean is not raw else _NO_HEADERS)
            clean = [*clean, (CLIENT_ID, identity.encode("latin-1"))]
        if clean is not raw:
            request = request.replace(headers=Headers.of(clean))
        return Exchange(request, _stripping(work.respond), work.connection)


def _count_hops(headers: Headers) -> None:
    told = headers.get("l5d-hops") or "0"
    count = int(told) if told.isascii() and told.isdigit() and len(told) <= _MAX_DIGITS else MAX_HOPS
    if passed_on(count + 1):
        raise LoopDetected(f"more than {MAX_HOPS} proxies have passed this request on", layer="InboundHeaders")


@dataclass(frozen=True, slots=True)
class OutboundHeaders(Layer[Exchange, Exchange]):
    """Lets none of the mesh's fields pass between the application and an endpoint; stands before that one's ``Client``.

    ``l5d-require-id`` on a request is taken for what it says: the endpoint must have that identity.

    Args:
        identity: The one that the endpoint proves, or None where it proves none.

    Raises:
        BadGateway: if the request requires another identity. That is no failure of the endpoint: no balancer takes it
            out for what a client wishes.
    """

    identity: str | None = None

    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        """Yield the live service, which is no coroutine of its own, either."""
        yield lambda work: inner(self._cleaned(work))

    def _cleaned(self, work: Exchange) -> Exchange:
        """Return the exchange without what belongs to the mesh."""
        request = work.request
        raw = request.headers.raw
        clean = without_reserved(raw)
        if clean is not raw:
            self._check(request.headers.get_all(REQUIRE_ID))
        if self.identity is not None and hops():
            clean = [*clean, (HOPS, b"%d" % hops())]
        if clean is not raw:
            request = request.replace(headers=Headers.of(clean))
        return Exchange(request, _stripping(work.respond), work.connection)

    def _check(self, required: list[str]) -> None:
        if any(one != self.identity for one in required):
            known = self.identity or "none"
            raise BadGateway(
                f"the request requires the identity {required[0]!r}, the endpoint has {known}",
                layer="OutboundHeaders",
                remedy="correct l5d-require-id, or what the endpoint's name leads to",
            )


def _stripping(respond: Respond) -> Respond:
    def strip(response: Response) -> Awaitable[None]:
        raw = response.headers.raw
        clean = without_reserved(raw)
        if clean is not raw:
            response = response.replace(headers=Headers.of(clean))
        return respond(response)

    return strip
