"""The layer that takes part in distributed traces: a span for each exchange of a trace that is sampled."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

import trio

from linkerd_proxy.address import Address, AnyAddress, split_authority
from linkerd_proxy.core.classify import classify, grpc_status_of
from linkerd_proxy.core.codes import CANCEL, code_in, code_of
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.notes import Notes, close_notes, open_notes
from linkerd_proxy.core.shared import shared
from linkerd_proxy.core.stack import Layer, Service
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.log_record import REDACTED, redacted
from linkerd_proxy.metrics.span_export import Otlp, SpanQueue
from linkerd_proxy.metrics.spans import Attribute, Span, SpanKind
from linkerd_proxy.metrics.trace_context import TraceContext, continue_trace, find_trace

__all__ = ["Trace"]

_NO_LABELS: Mapping[str, str] = MappingProxyType({})
_FLUSH = 1.0  # seconds that closing waits for the last spans; own figure
_SECRETS = frozenset(REDACTED)
_PORT = re.compile(r"[0-9]{0,5}")


@dataclass(frozen=True, slots=True, repr=False)
class Trace(Layer[Exchange, Exchange]):
    """Records a span for each exchange of a sampled trace, and makes the next hop a part of it.

    The trace is what ``traceparent`` and ``tracestate`` (W3C), ``grpc-trace-bin``, ``b3`` or ``x-b3-*`` say, and the
    next hop is told in the same form. A trace that is not sampled passes untouched. New traces are begun only if
    ``start`` says so.

    The id of the sampled trace is there for layers inside (as exemplars of their metrics) and for an ``AccessLog``
    outside.

    Args:
        export: Where spans go.
        start: The share of requests without a trace, from 0 to 1, for which one is begun.
        kind: What this proxy is in the trace: ``server`` before the application, ``client`` after it.
        attributes: Further attributes of each span. Never take their values from a peer.
        dice: For ids and ``start``.

    A span lasts until the last byte of its answer has left. Its name is the method with the route that matched, or the
    gRPC method. Query parameters that look like secrets are redacted. Cancellation records the span with the error
    ``CANCEL`` and passes. Source: W3C Trace Context; B3; OpenTelemetry's semantic conventions for HTTP.
    """

    export: Otlp
    start: float = 0.0
    kind: SpanKind = "server"
    attributes: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS, hash=False)
    dice: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1:
            raise InvalidConfiguration(f"Trace(start={self.start!r}): give a share from 0 (none) to 1 (all)")
        if self.kind not in {"server", "client", "internal"}:
            raise InvalidConfiguration(f"Trace(kind={self.kind!r}): give server, client or internal")

    @asynccontextmanager
    async def open(self, inner: Service[Exchange]) -> AsyncIterator[Service[Exchange]]:
        """Yield the live service; at the end the last spans are sent, if that takes less than a second."""
        start, dice = self.start, self.dice
        async with shared(self.export) as spans:

            def service(exchange: Exchange) -> Awaitable[None]:
                context = find_trace(exchange.request.headers.raw)
                sampled = None if context is None else context.sampled
                if sampled is None:
                    sampled = start > 0 and dice.random() < start
                if not sampled:
                    return inner(exchange)
                if context is None or not context.trace_id:
                    context = TraceContext(dice.getrandbits(128) or 1, 0, sampled=True)
                return _Recording(self, exchange, context).run(inner, spans)

            try:
                yield service
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _FLUSH):
                    await spans.flush()


class _Recording:
    """One exchange that is recorded."""

    __slots__ = ("_began", "_context", "_exchange", "_layer", "_response", "_span_id", "_started")

    def __init__(self, layer: Trace, exchange: Exchange, context: TraceContext) -> None:
        self._layer = layer
        self._exchange = exchange
        self._context = context
        self._span_id = layer.dice.getrandbits(64) or 1
        self._started = datetime.now(UTC).timestamp()
        self._began = trio.current_time()
        self._response: Response | None = None

    async def run(self, inner: Service[Exchange], spans: SpanQueue) -> None:
        """Serve the exchange, and record its span."""
        exchange = self._exchange
        request = exchange.request
        onward = request.replace(headers=continue_trace(request.headers, self._context, self._span_id))
        notes, token = open_notes()
        notes.trace_id = f"{self._context.trace_id:032x}"
        error = CANCEL  # what stands if nothing below says otherwise
        try:
            await inner(Exchange(onward, self._respond, exchange.connection))
            error = notes.failure or code_in(self._response)
        except Exception as failure:
            error = code_of(failure)
            raise
        finally:
            close_notes(notes, token)
            spans.put(self._span(notes, error))

    async def _respond(self, response: Response) -> None:
        if response.is_final and self._response is None:
            self._response = response
        await self._exchange.respond(response)

    def _span(self, notes: Notes, error: str) -> Span:
        layer, context = self._layer, self._context
        request = self._exchange.request
        response = self._response
        grpc = request.is_grpc
        status = 0 if response is None else response.status
        attributes = _request_attributes(self._exchange)
        if status:
            attributes["http.response.status_code"] = status
        code = grpc_status_of(response) if grpc and response is not None else ""
        failed = classify(status, code, error) == "failure" or (layer.kind == "client" and status >= 400)
        if code:
            attributes["rpc.grpc.status_code"] = int(code)
        if failed:
            attributes["error.type"] = error or (str(status) if status >= 400 else code)
        for name, value in (("http.route", notes.route), ("network.peer.address", notes.backend)):
            if value:
                attributes[name] = value
        if notes.retries:
            attributes["http.request.resend_count"] = notes.retries
        attributes |= layer.attributes
        return Span(
            trace_id=context.trace_id,
            span_id=self._span_id,
            parent_id=context.span_id,
            name=_name(request, notes.route, grpc=grpc),
            kind=layer.kind,
            start=self._started,
            end=self._started + trio.current_time() - self._began,
            attributes=attributes,
            failed=failed,
            state=context.state,
        )


def _name(request: Request, route: str, *, grpc: bool) -> str:
    if grpc:
        return request.path.partition("?")[0].lstrip("/")[:200]
    return f"{request.method[:20]} {route}" if route else request.method[:20]


def _request_attributes(exchange: Exchange) -> dict[str, Attribute]:
    request, connection = exchange.request, exchange.connection
    path, _, query = redacted(request.path, _SECRETS).partition("?")
    attributes: dict[str, Attribute] = {
        "http.request.method": request.method,
        "url.scheme": request.scheme,
        "url.path": path,
        **_place("server", *_host_and_port(request.authority)),
        **_of_peer(connection.peer),
        "network.protocol.version": request.version,
    }
    if query:
        attributes["url.query"] = query
    if request.is_grpc:
        attributes["rpc.system"] = "grpc"
    if agent := request.headers.get("user-agent"):
        attributes["user_agent.original"] = agent
    if connection.tls is not None and connection.tls.peer_identity:
        attributes["linkerd.client.id"] = connection.tls.peer_identity
    return attributes


def _host_and_port(authority: str) -> tuple[str, str]:
    host, port = split_authority(authority)
    return (host, port) if host and _PORT.fullmatch(port) else (authority, "")


def _of_peer(peer: AnyAddress) -> dict[str, Attribute]:
    return _place("client", peer.host, str(peer.port)) if isinstance(peer, Address) else _place("client", str(peer), "")


def _place(of: str, host: str, port: str) -> dict[str, Attribute]:
    # Apart, as OpenTelemetry's conventions want them: a port in the address would make a new place of each connection.
    found: dict[str, Attribute] = {f"{of}.address": host.strip("[]")}
    if port:
        found[f"{of}.port"] = int(port)
    return found
