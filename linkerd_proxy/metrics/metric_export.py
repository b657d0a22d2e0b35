"""Sending metrics to a collector: OTLP over HTTP, all of them every minute, with exact exponential histograms."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import trio

from linkerd_proxy.core.background import open_background
from linkerd_proxy.core.contain import record_failure
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.core.stack import Service, opened
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import ResponseTimeout
from linkerd_proxy.metrics.collector import Collecting, Collector
from linkerd_proxy.metrics.otlp_format import metrics_requests
from linkerd_proxy.metrics.process import process_start
from linkerd_proxy.metrics.registry import Registry, current_registry

__all__ = ["MetricExport", "OtlpMetrics"]

_TRIES = 2  # the next interval sends it all again, so there is little to win


async def _this_run() -> Registry:
    return current_registry()


@dataclass(frozen=True, slots=True, repr=False)
class OtlpMetrics(Collecting):
    """Where metrics go: a collector that speaks OTLP over HTTP, with protocol buffers.

    ::

        async with OtlpMetrics(Client() | Connect("otel-collector:4318")).exporting():
            await serve(proxy, listeners)

    Counters are cumulative sums, and histograms are exponential ones: the buckets that were recorded, of which a
    collector can add up those of any number of proxies without error. What it does not take is counted as dropped, and
    the next interval tells the whole sum again, so nothing is lost but a point on a line.

    Args:
        stack: What asks the collector.
        authority: The host to ask for.
        path: Where the collector takes metrics.
        service: What this proxy is called there.
        resource: Further attributes of it.
        headers: Sent along, for example an API key. They are no part of the ``repr``.
        interval: Seconds between exports (OpenTelemetry: 60).
        timeout: Seconds that the collector has for its answer, and one export has in all at most the interval.
        batch: Points in a request, at most.
        dice: For the jitter of retries.

    Source: the OTLP specification, and OpenTelemetry's metrics data model.
    """

    path: str = "/v1/metrics"
    interval: float = field(default=60.0, kw_only=True)

    @asynccontextmanager
    async def exporting(self, registry: Callable[[], Awaitable[Registry]] = _this_run) -> AsyncIterator[MetricExport]:
        """Send the metrics every interval inside the block, and a last time at its end if it ends well.

        Args:
            registry: Fetches what to send; by default those of this Trio run.
        """
        async with opened(self.stack) as service:
            export = MetricExport(self, service, registry)
            async with open_background() as nursery:
                nursery.start_soon(export.run)
                yield export
            await export.send(self.timeout)


class MetricExport:
    """Exports that go on. Made by :meth:`OtlpMetrics.exporting`."""

    __slots__ = ("_collector", "_dropped", "_errors", "_exported", "_fetch", "_otlp", "_resource", "_start", "_turn")

    def __init__(self, otlp: OtlpMetrics, service: Service[Exchange], fetch: Callable[[], Awaitable[Registry]]) -> None:
        self._otlp = otlp
        self._fetch = fetch
        self._resource = otlp.attributes()
        self._start = process_start()
        self._turn = trio.Lock()
        registry = current_registry()
        self._exported = registry.counter("opentelemetry_points_exported_total", "Points that a collector took")
        self._dropped = registry.counter("opentelemetry_points_dropped_total", "Points that no collector took")
        self._errors = registry.counter("opentelemetry_metric_export_errors_total", "Exports of metrics that failed")
        self._collector = Collector(service, otlp, tries=_TRIES, on_error=self._failed)

    async def run(self) -> None:
        """Send every interval, for ever; an export that lasts longer leaves one out."""
        due = trio.current_time()
        while True:
            due = max(due + self._otlp.interval, trio.current_time())
            await trio.sleep_until(due)
            await self.send()

    async def send(self, within: float | None = None) -> None:
        """Send all metrics now. It raises nothing.

        Args:
            within: Seconds after which it gives up, an interval by default; what was not sent is dropped and counted.
        """
        waits = self._otlp.interval if within is None else within
        deadline = trio.current_time() + waits
        async with self._turn:
            registry = await self._fetch()
            now = datetime.now(UTC).timestamp()
            failure: Exception | None = None
            dropped = 0
            for request in metrics_requests(
                registry, self._resource, start=self._start, now=now, batch=self._otlp.batch
            ):
                if request is None:
                    await trio.lowlevel.checkpoint()
                    continue
                taken = False
                if failure is None:  # one that fails tells how the others would fare
                    with trio.move_on_at(deadline) as scope:
                        failure = await self._collector.send(request.data)
                        taken = failure is None
                    if scope.cancelled_caught:
                        failure = ResponseTimeout("the collector did not take all metrics", layer="Otlp", waited=waits)
                if taken:
                    self._exported.value += request.points
                else:
                    dropped += request.points
            self._tell(dropped, failure)

    def _tell(self, dropped: int, failure: Exception | None) -> None:
        self._dropped.value += dropped
        if failure is not None:
            failure.add_note(f"{dropped} points for {self._otlp.authority} are lost until the next interval")
            record_failure(failure, own_connection())

    def _failed(self) -> None:
        self._errors.value += 1

    def __repr__(self) -> str:
        return f"<MetricExport to {self._otlp.authority} every {self._otlp.interval:g} s>"
