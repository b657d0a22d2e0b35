"""The layer that asks upstreams over HTTP: exchanges in, dials out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import trio

from linkerd_proxy.address import AnyAddress
from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.message import Request, Whole
from linkerd_proxy.core.notes import current_notes
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Dial, Exchange, Target
from linkerd_proxy.errors import UpstreamClosed, UpstreamReset
from linkerd_proxy.http.deadlines import Deadlines
from linkerd_proxy.http.h1.codec import CodecName, make_codec
from linkerd_proxy.http.h1.heads import Heads
from linkerd_proxy.http.limits import Limits, described
from linkerd_proxy.http.no_http2 import SpeaksNoHttp2
from linkerd_proxy.http.pool import Pool
from linkerd_proxy.http.pool_h2 import H2Pool

__all__ = ["Client"]

_DEFAULT = Limits()
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})  # RFC 9110 section 9.2.2


@dataclass(frozen=True, slots=True, repr=False)
class Client(Layer[Exchange, Dial]):
    """Sends requests to an upstream and answers with its responses, over connections that it keeps and uses again.

    The target is the connection's original destination; an inner ``Connect("host:port")`` wins over it.

    Args:
        protocol: ``same`` asks in the version in which the client asked, and an upstream that turns out to speak no
            HTTP/2 in HTTP/1 (but for gRPC, which needs HTTP/2); ``http/1.1`` and ``h2`` (with prior knowledge)
            translate. CONNECT and upgrades always go over HTTP/1.1, as with Linkerd.
        codec: The library that parses HTTP/1 heads: ``auto``, ``h11`` or ``httptools``.
        limits: What upstreams may do, and how many connections there may be.
        absolute_form: Whether a request whose client wrote a whole URL as its target, as to a forward proxy, is sent on
            so: for proxies that nobody is to notice (Linkerd). By default an upstream gets origin-form, as a gateway
            sends it to an origin (RFC 9112 section 3.2.1).

    Serving raises:
        ConnectFailed: if there was no connection.
        Overloaded: if too many requests wait for one.
        UpstreamClosed, UpstreamReset, UpstreamProtocolError, IdleTimeout: if the upstream failed.
        UpstreamUnsent: if an HTTP/2 upstream surely did not process the request.
        SpeaksNoHttp2: if it speaks HTTP/1 alone, and the request can't be asked so.

    A request whose *reused* connection died before a byte of the answer came is sent once more, on a fresh connection,
    if its method is idempotent and its body is whole. After anything odd a connection is closed, never kept.
    Cancellation aborts the exchange's HTTP/1 connection (HTTP/2: resets its stream).
    """

    protocol: Literal["same", "http/1.1", "h2"] = "same"
    codec: CodecName = "auto"
    limits: Limits = _DEFAULT
    absolute_form: bool = False

    @asynccontextmanager
    async def open(self, inner: Service[Dial]) -> AsyncIterator[Service[Exchange]]:
        """Yield the service of exchanges; its connections are closed at the end."""
        heads = Heads(make_codec(self.codec), self.limits)
        deadlines = Deadlines()
        async with open_background() as nursery:
            nursery.start_soon(deadlines.run)
            yield _Client(self, inner, nursery, heads, deadlines).serve

    def __repr__(self) -> str:
        return described(
            "Client",
            protocol=(self.protocol, "same"),
            codec=(self.codec, "auto"),
            limits=(self.limits, _DEFAULT),
            absolute_form=(self.absolute_form, False),
        )


class _Client:
    """The live state of one opened ``Client``."""

    __slots__ = ("_absolute_form", "_deadlines", "_h2_pools", "_heads", "_inner", "_nursery", "_pools", "_protocol")

    def __init__(
        self, layer: Client, inner: Service[Dial], nursery: trio.Nursery, heads: Heads, deadlines: Deadlines
    ) -> None:
        self._protocol = layer.protocol
        self._absolute_form = layer.absolute_form
        self._inner = inner
        self._nursery = nursery
        self._heads = heads
        self._deadlines = deadlines
        self._pools: dict[AnyAddress | None, Pool] = {}
        self._h2_pools: dict[AnyAddress | None, H2Pool] = {}

    async def serve(self, exchange: Exchange) -> None:
        """Serve one exchange over a connection of the right kind."""
        request = exchange.request
        if request.absolute_form and not self._absolute_form:
            request = request.replace(absolute_form=False)
            exchange = exchange.asking(request)
        address = exchange.connection.original_dst
        if address is not None and (notes := current_notes()) is not None and not notes.backend:
            notes.backend = str(address)
        h2_pool = self._asks_in_h2(request, address)
        if h2_pool is not None:
            try:
                await h2_pool.serve(exchange)
                return
            except SpeaksNoHttp2:
                if self._needs_h2(request):
                    raise  # or else it was not processed, and nothing of its body was pulled
        pool = self._pools.get(address)
        if pool is None:
            pool = self._make_pool(address)
        authority = request.authority
        # HTTP/1.0, or no host: nothing tells whose connection it would be (as in Linkerd).
        keep = bool(authority) and request.version != "1.0"
        connection = pool.take(authority) if keep else None
        if connection is not None:
            # Written out, and not called: each frame that waits for the upstream costs as often as one waits.
            clean = False
            try:
                await connection.exchange(exchange, keep_alive=True)
                clean = True
                return
            except (UpstreamClosed, UpstreamReset):
                if connection.begun or not _repeatable(request):
                    raise
            finally:
                pool.release(connection, authority, clean=clean)
        await self._use_fresh(pool, exchange, keep)

    def _asks_in_h2(self, request: Request, address: AnyAddress | None) -> H2Pool | None:
        """Return the connections on which to ask in HTTP/2, or None to ask in HTTP/1."""
        if self._protocol == "http/1.1":
            return None
        if request.version != "2" and (self._protocol == "same" or request.wants_tunnel):
            return None
        pool = self._h2_pool(address)
        return None if pool.refused and not self._needs_h2(request) else pool

    def _needs_h2(self, request: Request) -> bool:
        return self._protocol == "h2" or request.is_grpc

    def _h2_pool(self, address: AnyAddress | None) -> H2Pool:
        pool = self._h2_pools.get(address)
        if pool is None:
            for known, other in list(self._h2_pools.items()):
                if other.unused:
                    del self._h2_pools[known]
            target = Target(address, protocol="http/2")
            pool = self._h2_pools[address] = H2Pool(
                target,
                self._inner,
                self._nursery,
                self._heads.limits,
                self._deadlines,
                careful=self._protocol == "same",
            )
        return pool

    async def _use_fresh(self, pool: Pool, exchange: Exchange, keep: bool) -> None:
        authority = exchange.request.authority
        connection = await pool.connect(authority)
        clean = False
        try:
            await connection.exchange(exchange, keep_alive=keep)
            clean = True
        finally:
            pool.release(connection, authority, clean=clean)

    def _make_pool(self, address: AnyAddress | None) -> Pool:
        for known, pool in list(self._pools.items()):
            if pool.unused:
                del self._pools[known]
        target = Target(address, protocol="http/1")
        pool = self._pools[address] = Pool(target, self._inner, self._nursery, self._heads, self._deadlines)
        return pool


def _repeatable(request: Request) -> bool:
    """Whether the request can be sent again: nothing of its body is lost, and twice is as good as once."""
    return request.method in _IDEMPOTENT and isinstance(request.body, Whole)
