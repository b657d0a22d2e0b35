"""Sending spans to a collector: OTLP over HTTP, in batches, from a bounded queue that counts what it drops."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.contain import record_failure
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.core.shared import Resource
from linkerd_proxy.core.stack import Service, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.collector import Collecting, Collector
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.metrics.spans import Span, encode_spans

__all__ = ["Otlp", "SpanQueue"]

_TRIES = 5


@dataclass(frozen=True, slots=True, repr=False)
class Otlp(Collecting, Resource["SpanQueue"]):
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

    path: str = "/v1/traces"
    queue: int = field(default=2048, kw_only=True)

    def __post_init__(self) -> None:
        Collecting.__post_init__(self)
        if self.queue < 1:
            raise InvalidConfiguration(f"Otlp(queue={self.queue!r}): give at least 1")

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SpanQueue]:
        """Yield the queue; what is in it at the end is lost, so users wait for :meth:`SpanQueue.flush` before."""
        async with opened(self.stack) as service, open_background() as nursery:
            queue = SpanQueue(self, service)
            nursery.start_soon(queue.run)
            yield queue


class SpanQueue:
    """An open :class:`Otlp`."""

    __slots__ = (
        "_busy",
        "_collector",
        "_dropped",
        "_empty",
        "_errors",
        "_exported",
        "_flushing",
        "_full",
        "_otlp",
        "_resource",
        "_some",
        "_spans",
    )

    def __init__(self, otlp: Otlp, service: Service[Exchange]) -> None:
        self._otlp = otlp
        self._collector = Collector(service, otlp, tries=_TRIES, on_error=self._failed)
        self._resource = otlp.attributes()
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
        failure = await self._collector.send(encode_spans(batch, self._resource))
        if failure is None:
            self._exported.value += len(batch)
            return
        self._dropped.value += len(batch)
        failure.add_note(f"{len(batch)} spans for {self._otlp.authority} are lost")
        record_failure(failure, own_connection())

    def _failed(self) -> None:
        self._errors.value += 1

    def __repr__(self) -> str:
        return f"<SpanQueue with {len(self._spans)} of {self._otlp.queue} spans for {self._otlp.authority}>"
