"""Metrics as OpenTelemetry writes them: sums, gauges and exponential histograms in the protocol buffers of OTLP.

Source: opentelemetry-proto, metrics/v1/metrics.proto; OpenTelemetry specification, metrics data model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from linkerd_proxy._version import __version__
from linkerd_proxy.metrics.histogram import MIN_SCHEMA, Exemplar, Histogram
from linkerd_proxy.metrics.registry import AnyFamily, Counter, Gauge, Labels, Registry
from linkerd_proxy.metrics.text_format import SLICE
from linkerd_proxy.protobuf import (
    boolean,
    double_always,
    fixed64,
    message,
    packed_uint,
    sfixed64_always,
    sint,
    text,
    uint,
)

__all__ = ["MetricsRequest", "metrics_requests"]

_CUMULATIVE = 2  # AggregationTemporality
# Buckets from the first to the last, for OTLP has no gaps; own figure: 80 octaves at the schema of latencies.
_MAX_SPAN = 640
_UNITS = {"ms": "ms", "seconds": "s", "bytes": "By", "fds": "{file}"}


class MetricsRequest:
    """One ``ExportMetricsServiceRequest`` and how many points are in it."""

    __slots__ = ("data", "points")

    def __init__(self, data: bytes, points: int) -> None:
        self.data: bytes = data
        self.points: int = points


def metrics_requests(
    registry: Registry, resource: Mapping[str, str], *, start: float, now: float, batch: int
) -> Iterator[MetricsRequest | None]:
    """Yield all metrics in requests of at most ``batch`` points.

    Args:
        registry: What to write, brought up to date first. Counters and histograms are cumulative.
        resource: Attributes of this proxy.
        start: Since when is counted, in seconds since the epoch.
        now: The time, the same way.
        batch: Points in a request, at most.

    None comes between: a moment to let others have a turn.
    """
    registry.collect()
    times = fixed64(2, _nanoseconds(min(start, now))) + fixed64(3, _nanoseconds(now))
    whose = message(1, _attributes(1, tuple(resource.items())))
    scope = message(1, text(1, "linkerd_proxy") + text(2, __version__))
    metrics: list[bytes] = []
    total = 0
    for family in registry:
        points: list[bytes] = []
        all_series: Sequence[tuple[Labels, Counter | Gauge | Histogram]] = family.items()
        for labels, series in all_series:
            points.append(message(1, _point(labels, series, times)))
            total += 1
            if total == batch:
                metrics.append(message(2, _metric(family, points)))
                yield MetricsRequest(message(1, whose + message(2, scope + b"".join(metrics))), total)
                metrics, points, total = [], [], 0
            elif not total % SLICE:
                yield None
        if points:
            metrics.append(message(2, _metric(family, points)))
    if metrics:
        yield MetricsRequest(message(1, whose + message(2, scope + b"".join(metrics))), total)


def _metric(family: AnyFamily, points: list[bytes]) -> bytes:
    unit = _UNITS.get(family.name.removesuffix("_total").rpartition("_")[2], "")
    head = text(1, family.name) + text(2, family.help) + text(3, unit)
    data = b"".join(points)
    if family.kind == "gauge":
        return head + message(5, data)
    if family.kind == "counter":
        return head + message(7, data + uint(2, _CUMULATIVE) + boolean(3, True))
    return head + message(10, data + uint(2, _CUMULATIVE))


def _point(labels: Labels, series: Counter | Gauge | Histogram, times: bytes) -> bytes:
    if isinstance(series, Histogram):
        return _attributes(1, labels) + times + _exponential(series)
    value = sfixed64_always(6, series.value) if isinstance(series.value, int) else double_always(4, series.value)
    return _attributes(7, labels) + times + value


def _exponential(histogram: Histogram) -> bytes:
    schema, buckets = _within_span(histogram)
    first = min(buckets, default=0)
    counts = [buckets.get(index, 0) for index in range(first, max(buckets, default=first - 1) + 1)]
    return b"".join(
        (
            fixed64(4, histogram.count),
            double_always(5, histogram.total),
            sint(6, schema),
            fixed64(7, histogram.zeros),
            message(8, sint(1, first) + packed_uint(2, counts)) if counts else b"",
            *(message(11, _exemplar(one)) for one in histogram.exemplars.values()),
        )
    )


def _within_span(histogram: Histogram) -> tuple[int, Mapping[int, int]]:
    """Return the schema and the buckets, coarser where they lie too far apart to be written without gaps."""
    schema, buckets = histogram.schema, histogram.buckets
    while buckets and schema > MIN_SCHEMA and max(buckets) - min(buckets) >= _MAX_SPAN:
        schema -= 1
        joined: dict[int, int] = {}
        for index, count in buckets.items():
            joined[index >> 1] = joined.get(index >> 1, 0) + count
        buckets = joined
    return schema, buckets


def _exemplar(exemplar: Exemplar) -> bytes:
    trace = bytes.fromhex(exemplar.trace_id)
    return fixed64(2, _nanoseconds(exemplar.timestamp)) + double_always(3, exemplar.value) + message(5, trace)


def _attributes(number: int, pairs: Sequence[tuple[str, str]]) -> bytes:
    # An empty value and no label mean the same to those who know Prometheus, so it is left out here too.
    return b"".join(message(number, text(1, name) + message(2, text(1, value))) for name, value in pairs if value)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e6) * 1000
