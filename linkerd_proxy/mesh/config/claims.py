"""Layers for requests that leave the mesh's ways: what they claim of it is taken off or held against it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.mesh_headers import CLIENT_ID, OutboundHeaders

__all__ = ["NoClientId", "Unmeshed"]

_LEAVING = OutboundHeaders()


@dataclass(frozen=True, slots=True)
class NoClientId(Layer[Exchange, Exchange]):
    """Takes ``l5d-client-id`` off, and what a server may take for it: here comes nobody who proved an identity.

    ``OutboundHeaders`` would do so too late for a rule that looks at the field.
    """

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        """Serve the request without the claim."""
        await inner(_without(work, CLIENT_ID))


@dataclass(frozen=True, slots=True)
class Unmeshed(Layer[Exchange, Exchange]):
    """Stands before the ``Client`` of an endpoint that proves no identity, in a proxy that has one.

    What ``InboundHeaders`` told of a client who proved an identity is for the application there. Everybody else's
    requests leave the mesh, as by ``OutboundHeaders``.

    Raises:
        BadGateway: if such a request requires an identity (``l5d-require-id``).
    """

    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        """Yield the live service."""
        async with _LEAVING.open(inner) as leaving:

            def service(work: Exchange) -> Awaitable[None]:
                tls = work.connection.tls
                return leaving(work) if tls is None or tls.peer_identity is None else inner(work)

            yield service


def _without(exchange: Exchange, name: bytes) -> Exchange:
    raw = exchange.request.headers.raw
    kept = [field for field in raw if field[0].replace(b"_", b"-") != name]
    if len(kept) == len(raw):
        return exchange
    return exchange.asking(exchange.request.replace(headers=Headers.of(kept)))
