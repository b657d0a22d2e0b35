"""Metrics as Prometheus' protobuf: the format that holds native histograms.

Source: prometheus/client_model, io/prometheus/client/metrics.proto; Prometheus specs, native histograms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from linkerd_proxy.metrics.bounds import Bounds
from linkerd_proxy.metrics.histogram import Exemplar, Histogram
from linkerd_proxy.metrics.registry import Counter, Gauge, Labels, Registry
from linkerd_proxy.metrics.text_format import SLICE
from linkerd_proxy.protobuf import delimited, double, message, packed_sint, sint, text, uint

__all__ = ["exposed"]

_DEFAULT = Bounds()
_KINDS = {"counter": 0, "gauge": 1, "histogram": 4}  # MetricType
_GAP = 3  # empty buckets that cost less as zeros than as the start of another span


def exposed(registry: Registry, *, bounds: Bounds = _DEFAULT) -> Iterator[bytes]:
    """Yield every family as a delimited ``MetricFamily``; one with many series is yielded in parts.

    Histograms come in both kinds of buckets: exponential ones, which Prometheus takes where native histograms are on,
    and classic ones for those that want them (``scrape_classic_histograms``).
    """
    registry.collect()
    for family in registry:
        buckets = bounds.of(family.name)
        head = text(1, family.name) + text(2, family.help) + uint(3, _KINDS[family.kind])
        metrics: list[bytes] = []
        for labels, series in family.items():
            metrics.append(message(4, _metric(labels, series, buckets)))
            if len(metrics) == SLICE:
                # Equal families one after the other are one to a scraper, as with any protobuf that is merged.
                yield delimited(head + b"".join(metrics))
                metrics = []
        if metrics:
            yield delimited(head + b"".join(metrics))


def _metric(labels: Labels, series: Counter | Gauge | Histogram, bounds: Sequence[float]) -> bytes:
    pairs = b"".join(message(1, text(1, name) + text(2, value)) for name, value in labels if value)
    if isinstance(series, Histogram):
        return pairs + message(7, _classic(series, bounds) + _native(series))
    return pairs + message(2 if isinstance(series, Gauge) else 3, double(1, float(series.value)))


def _classic(histogram: Histogram, bounds: Sequence[float]) -> bytes:
    counts = zip(bounds, histogram.cumulative(bounds), strict=True)
    buckets = b"".join(message(3, uint(1, count) + double(2, bound)) for bound, count in counts)
    last = message(3, uint(1, histogram.count) + double(2, float("inf")))
    return uint(1, histogram.count) + double(2, histogram.total) + buckets + last


def _native(histogram: Histogram) -> bytes:
    spans: list[bytes] = []
    deltas: list[int] = []
    before = position = 0
    for start, counts in _runs(histogram.buckets):
        # An offset counts from the end of the span before; Prometheus names a bucket by its upper bound, we by its
        # lower one.
        spans.append(message(12, sint(1, start + 1 - position) + uint(2, len(counts))))
        position = start + 1 + len(counts)
        for count in counts:
            deltas.append(count - before)
            before = count
    if not spans:
        spans.append(message(12, b""))  # what tells a native histogram that holds nothing from a classic one
    zeros = uint(7, histogram.zeros)
    exemplars = b"".join(message(16, _exemplar(one)) for one in histogram.exemplars.values())
    return sint(5, histogram.schema) + zeros + b"".join(spans) + packed_sint(13, deltas) + exemplars


def _runs(buckets: dict[int, int]) -> Iterator[tuple[int, list[int]]]:
    """Yield the buckets in runs: where each starts, and its counts."""
    start, counts = 0, list[int]()
    for index in sorted(buckets):
        gap = index - start - len(counts)
        if counts and gap > _GAP:
            yield start, counts
            counts = []
        if not counts:
            start, gap = index, 0
        counts += [0] * gap
        counts.append(buckets[index])
    if counts:
        yield start, counts


def _exemplar(exemplar: Exemplar) -> bytes:
    whole, part = divmod(exemplar.timestamp, 1)
    stamp = uint(1, int(whole)) + uint(2, int(part * 1e9))
    return message(1, text(1, "trace_id") + text(2, exemplar.trace_id)) + double(2, exemplar.value) + message(3, stamp)
