"""The layer that lets somebody look: what passes it is shown to the taps that are open."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, cast

import trio
from typing_extensions import TypeVar

from linkerd_proxy.core.classify import grpc_status_of
from linkerd_proxy.core.codes import CANCEL, code_in, code_of
from linkerd_proxy.core.message import EMPTY, Body, Response
from linkerd_proxy.core.passing import counted, size_of
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Connection, Exchange
from linkerd_proxy.headers import Headers
from linkerd_proxy.metrics.log_record import REDACTED, redacted
from linkerd_proxy.metrics.tally import tallied
from linkerd_proxy.metrics.tap_events import (
    ConnectionClosed,
    ConnectionOpened,
    RequestBegun,
    ResponseBegun,
    ResponseEnded,
    TapEvent,
)
from linkerd_proxy.metrics.taps import OpenTap, Taps, current_taps

__all__ = ["Tap"]

W = TypeVar("W", bound=Connection | Exchange, default=Exchange)

_NO_LABELS: Mapping[str, str] = MappingProxyType({})
_SECRETS = frozenset(REDACTED)  # in queries
# Names of header fields that carry credentials: the standard's own, and what vendors call theirs.
_SECRET = re.compile(
    r"authorization|cookie|token|secret|passw|credential|signature|session|jwt|api-?key|auth-key|access-key"
)


@dataclass(frozen=True, slots=True, repr=False)
class Tap(Layer[W, W], Generic[W]):
    """Shows live requests, or with ``Tap[Connection]()`` live connections, to whoever looks: ``linkerd-proxy tap``.

    Without an open tap it costs one look at an empty list. With one, events go into a bounded buffer that its reader
    empties; a reader that is too slow loses events, which are counted, and no request ever waits for it.

    Args:
        labels: What the events say of the place where this layer stands, for example ``{"direction": "inbound"}``.

    Cancellation ends the exchange's events with the error ``CANCEL``, and passes.
    """

    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, hash=False)

    @asynccontextmanager
    async def open(self, inner: Service[W]) -> AsyncIterator[Service[W]]:
        """Yield the service."""
        taps = current_taps()
        shown = _Shown(taps, self.labels)

        def service(work: W) -> Awaitable[None]:
            if not taps.active:
                return inner(work)
            if isinstance(work, Exchange):
                return shown.exchange(work, cast("Service[Exchange]", inner))
            return shown.connection(work, cast("Service[Connection]", inner))

        yield service

    def __repr__(self) -> str:
        return f"Tap({dict(self.labels)})" if self.labels else "Tap()"


class _Shown:
    """Shows the work of one opened Tap."""

    __slots__ = ("_labels", "_pairs", "_taps")

    def __init__(self, taps: Taps, labels: Mapping[str, str]) -> None:
        self._taps = taps
        self._labels = labels
        self._pairs = tuple(labels.items())

    async def exchange(self, exchange: Exchange, inner: Service[Exchange]) -> None:
        watching = [tap for tap in self._taps.active if tap.match.exchange(exchange, self._labels) and tap.takes()]
        if not watching:
            await inner(exchange)
            return
        watched = _Watched(watching, self._taps.next_id(), exchange)
        watched.begin(self._pairs)
        error = CANCEL
        try:
            await inner(watched.exchange)
            error = code_in(watched.response)
        except Exception as failure:
            error = code_of(failure)
            raise
        finally:
            watched.end(error)

    async def connection(self, connection: Connection, inner: Service[Connection]) -> None:
        watching = [tap for tap in self._taps.active if tap.match.connection(connection, self._labels) and tap.takes()]
        if not watching:
            await inner(connection)
            return
        number = self._taps.next_id()
        started = trio.current_time()
        stream, tally = tallied(connection.stream)
        opened = ConnectionOpened(number, self._pairs, *_where(connection), connection.protocol or "")
        _show(watching, opened)
        error = CANCEL
        try:
            await inner(connection if stream is connection.stream else connection.with_stream(stream))
            error = ""
        except Exception as failure:
            error = code_of(failure)
            raise
        finally:
            after = trio.current_time() - started
            _show(watching, ConnectionClosed(number, after, tally.bytes_received, tally.bytes_sent, error))


class _Watched:
    """One exchange that some taps look at."""

    __slots__ = ("_id", "_original", "_request", "_sent", "_started", "_taps", "exchange", "response")

    def __init__(self, taps: list[OpenTap], number: int, exchange: Exchange) -> None:
        self._taps = taps
        self._id = number
        self._started = trio.current_time()
        self._original = exchange
        self.response: Response | None = None
        self._sent: Body = EMPTY
        request = exchange.request
        self._request = request = request.replace(body=counted(request.body))
        self.exchange: Exchange = Exchange(request, self._respond, exchange.connection)

    def begin(self, labels: tuple[tuple[str, str], ...]) -> None:
        request = self._request
        where = _where(self._original.connection)
        head = (request.method, request.scheme, request.authority, redacted(request.path, _SECRETS), request.version)
        for tap in self._taps:
            fields = _fields(request.headers) if tap.headers else ()
            tap.push(RequestBegun(self._id, labels, *where, *head, fields))

    async def _respond(self, response: Response) -> None:
        if response.is_final and self.response is None:
            self.response = response
            after = trio.current_time() - self._started
            for tap in self._taps:
                fields = _fields(response.headers) if tap.headers else ()
                tap.push(ResponseBegun(self._id, response.status, after, fields))
            self._sent = counted(response.body)
            response = response.replace(body=self._sent)
        await self._original.respond(response)

    def end(self, error: str) -> None:
        response = self.response
        grpc_status = grpc_status_of(response) if response is not None and self._request.is_grpc else ""
        sent = response.body.trailers if response is not None else None
        how = (
            self._id,
            response.status if response is not None else 0,
            trio.current_time() - self._started,
            size_of(self._request.body),
            size_of(self._sent),
            grpc_status,
            error,
        )
        for tap in self._taps:
            tap.push(ResponseEnded(*how, _fields(sent) if tap.headers and sent is not None else ()))


def _where(connection: Connection) -> tuple[str, str, str, str]:
    tls = connection.tls
    identity = tls.peer_identity if tls is not None else None
    name = tls.server_name if tls is not None else None
    return (str(connection.peer), str(connection.original_dst or connection.local), identity or "", name or "")


def _fields(headers: Headers) -> tuple[tuple[str, str], ...]:
    pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers.raw)
    return tuple((name, "redacted" if _SECRET.search(name) else value) for name, value in pairs)


def _show(taps: list[OpenTap], event: TapEvent) -> None:
    for tap in taps:
        tap.push(event)
