"""Layers for requests that leave the mesh's ways: what they claim of it is taken off or held against it."""

from __future__ import annotations

from dataclasses import dataclass

from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import Denied
from linkerd_proxy.headers import Headers

__all__ = ["NoClientId", "NoPeerId"]

_CLIENT_ID = b"l5d-client-id"


@dataclass(frozen=True, slots=True)
class NoClientId(Layer[Exchange, Exchange]):
    """Takes ``l5d-client-id`` off, and what a server may take for it: here comes nobody who proved an identity."""

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        """Serve the request without the claim."""
        await inner(_without(work, _CLIENT_ID))


@dataclass(frozen=True, slots=True)
class NoPeerId(Layer[Exchange, Exchange]):
    """Stands before the ``Client`` of an endpoint that proves no identity.

    Raises:
        Denied: if the request requires one (``l5d-require-id``).
    """

    async def serve(self, work: Exchange, inner: Service[Exchange]) -> None:
        """Serve the request if it requires nothing."""
        required = work.request.headers.get("l5d-require-id")
        if required is not None:
            # Not IdentityMismatch, which is an endpoint's failure: a client's wish must not put the endpoint out.
            raise Denied(
                f"the request requires the identity {required!r}, the endpoint has none",
                layer="NoPeerId",
                remedy="correct l5d-require-id, or give the backend's endpoints their identity",
            )
        await inner(work)


def _without(exchange: Exchange, name: bytes) -> Exchange:
    raw = exchange.request.headers.raw
    kept = [field for field in raw if field[0].replace(b"_", b"-") != name]
    if len(kept) == len(raw):
        return exchange
    return exchange.asking(exchange.request.replace(headers=Headers.of(kept)))
