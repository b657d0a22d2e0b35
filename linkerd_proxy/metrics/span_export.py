"""Sending spans to a collector: OTLP over HTTP, in batches, from a bounded queue that counts what it drops."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

import trio

from linkerd_proxy.core.background import open_background, unwrapped
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.contain import record_failure
from linkerd_proxy.core.message import Request, Response, Whole
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.core.shared import Resource
from linkerd_proxy.core.stack import Service, Stack, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import BadGateway, InvalidConfiguration, NotAnswered, ResponseTimeout
from linkerd_proxy.headers import Headers
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.metrics.spans import Span, encode_spans

__all__ = ["Otlp", "SpanQueue"]

_NOTHING: Mapping[str, str] = MappingProxyType({})
_BACKOFF = Backoff(1.0, 30.0, 0.5)
_TRIES = 5
_AGAIN = frozenset({429, 502, 503, 504})  # OTLP specification, "Retryable Response Codes"
_ANSWER = 65536  # bytes of a collector's answer that are read; own figure


@dataclass(frozen=True, slots=True, repr=False)
class Otlp(Resource["SpanQueue"]):
    """Where spans go: a collector that speaks OTLP over HTTP, with protocol buffers.

    ``Otlp(Client() | Connect("otel-collector:4318"))`` asks it through layers of ours. One that is *named* in several
    layers is one queue with one task. Spans never make a request wait: what the queue doesn't hold is dropped and
    counted, and so is a batch that the collector does not take.

    Args:
        stack: What asks the collector.
        authority: The host to ask for.
        path: Where the collector takes traces.
        service: What this proxy is called there.
        resource: Further attributes of it.
        headers: Sent along, for example an API key. They are no part of the ``repr``.
        queue: How many spans may wait (Linkerd: 100).
        batch: How many are sent at once, at most (Linkerd: 1000).
        interval: Seconds after which fewer are sent (Linkerd: 10).
        timeout: Seconds that the collector has for its answer.
        dice: For the jitter of retries.

    Source: the OTLP specification, and linkerd2-proxy, linkerd/opentelemetry.
    """

    stack: Stack[Exchange]
    authority: str = "localhost:4318"
    path: str = "/v1/traces"
    service: str = "linkerd-proxy"
    resource: Mapping[str, str] = field(default_factory=lambda: _NOTHING, hash=False)
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING, hash=False, repr=False)
    queue: int = 2048
    batch: int = 1000
    interval: float = 10.0
    timeout: float = 10.0
    dice: random.Random = field(default_factory=random.Random, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.queue < 1 or self.batch < 1:
            raise InvalidConfiguration(f"Otlp(queue={self.queue!r}, batch={self.batch!r}): give at least 1 of each")
        for name in ("interval", "timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise InvalidConfiguration(f"Otlp({name}={getattr(self, name)!r}): give seconds greater than 0")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SpanQueue]:
        """Yield the queue; what is in it at the end is lost, so users wait for :meth:`SpanQueue.flush` before."""
        async with opened(self.stack) as service, open_background() as nursery:
            queue = SpanQueue(self, service)
            nursery.start_soon(queue.run)
            yield queue

    def __repr__(self) -> str:
        return f"Otlp({self.stack!r}, authority={self.authority!r}, service={self.service!r})"


class SpanQueue:
    """An open :class:`Otlp`."""

    __slots__ = (
        "_busy",
        "_dropped",
        "_empty",
        "_errors",
        "_exported",
        "_flushing",
        "_full",
        "_otlp",
        "_resource",
        "_service",
        "_some",
        "_spans",
    )

    def __init__(self, otlp: Otlp, service: Service[Exchange]) -> None:
        self._otlp = otlp
        self._service = service
        self._resource = {"service.name": otlp.service, **otlp.resource}
        self._spans: deque[Span] = deque()
        self._busy = False
        self._flushing = 0
        self._some = trio.Event()
        self._full = trio.Event()
        self._empty = trio.Event()
        registry = current_registry()
        self._exported = registry.counter("opentelemetry_spans_exported_total", "Spans that a collector took")
        self._dropped = registry.counter("opentelemetry_spans_dropped_total", "Spans dropped: queue full, or not taken")
        self._errors = registry.counter("opentelemetry_span_export_errors_total", "Exports of spans that failed")

    def put(self, span: Span) -> None:
        """Queue a span, or drop it. Never waits."""
        if len(self._spans) >= self._otlp.queue:
            self._dropped.value += 1
            return
        self._spans.append(span)
        self._some.set()
        if len(self._spans) >= min(self._otlp.batch, self._otlp.queue):
            self._full.set()

    async def flush(self) -> None:
        """Wait until all that is queued now was sent, or given up."""
        self._flushing += 1
        try:
            while self._spans or self._busy:
                self._full.set()
                await self._empty.wait()
        finally:
            self._flushing -= 1

    async def run(self) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._some.wait()
            if not self._flushing:
                with trio.move_on_after(self._otlp.interval):
                    await self._full.wait()
            batch = [self._spans.popleft() for _ in range(min(len(self._spans), self._otlp.batch))]
            self._full = trio.Event()
            if len(self._spans) >= self._otlp.batch:
                self._full.set()
            if not self._spans:
                self._some = trio.Event()
            self._busy = True
            await self._export(batch)
            self._busy = False
            if not self._spans:
                empty, self._empty = self._empty, trio.Event()
                empty.set()

    async def _export(self, batch: list[Span]) -> None:
        data = encode_spans(batch, self._resource)
        failure: Exception | None = None
        for number in range(1, _TRIES + 1):
            try:
                status, wait = await self._ask(data)
                failure = BadGateway(f"the collector answered with status {status}", layer="Otlp")
            except Exception as error:  # whatever fails there is no affair of those whose spans these are
                status, wait, failure = 0, 0.0, unwrapped(error)
            if 200 <= status < 300:
                self._exported.value += len(batch)
                return
            self._errors.value += 1
            if (status and status not in _AGAIN) or number == _TRIES:
                break
            await trio.sleep(max(wait, _BACKOFF.seconds(number, self._otlp.dice)))
        self._dropped.value += len(batch)
        if failure is not None:
            failure.add_note(f"{len(batch)} spans for {self._otlp.authority} are lost")
            record_failure(failure, own_connection())

    async def _ask(self, data: bytes) -> tuple[int, float]:
        """Send a batch; return the collector's status, and the seconds that it wants to be left alone."""
        otlp = self._otlp
        headers = Headers([("content-type", "application/x-protobuf"), *otlp.headers.items()])
        request = Request("POST", otlp.path, headers, Whole(data), authority=otlp.authority)
        answers: list[Response] = []

        async def respond(response: Response) -> None:
            if response.is_final:
                answers.append(response)
                size = 0
                while size < _ANSWER and (chunk := await response.body.pull()):
                    size += len(chunk)

        with trio.move_on_after(otlp.timeout) as scope:
            await self._service(Exchange(request, respond, own_connection()))
        if scope.cancelled_caught:
            raise ResponseTimeout("the collector did not answer", layer="Otlp", waited=otlp.timeout)
        if not answers:
            raise NotAnswered("the collector's stack did not answer", layer="Otlp")
        text = answers[0].headers.get("retry-after") or ""
        return answers[0].status, min(60.0, float(text)) if text.isascii() and text.isdigit() else 0.0

    def __repr__(self) -> str:
        return f"<SpanQueue with {len(self._spans)} of {self._otlp.queue} spans for {self._otlp.authority}>"
