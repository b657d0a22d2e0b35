"""Metrics as text: Prometheus' format 0.0.4, and OpenMetrics 1.0."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from linkerd_proxy.metrics.bounds import Bounds
from linkerd_proxy.metrics.histogram import Exemplar, Histogram
from linkerd_proxy.metrics.registry import AnyFamily, Counter, Gauge, Labels, Registry

__all__ = ["SLICE", "exposed"]

SLICE = 64  # series per turn: about a millisecond, so that a scrape delays nobody by more
_DEFAULT = Bounds()
_ESCAPES = {"\\": r"\\", "\n": r"\n", '"': r"\""}


def exposed(registry: Registry, *, openmetrics: bool = False, bounds: Bounds = _DEFAULT) -> Iterator[str]:
    """Yield the exposition in slices of whole lines, none of them empty."""
    registry.collect()
    lines: list[str] = []
    for family in registry:
        lines += _head(family, openmetrics=openmetrics)
        buckets = bounds.of(family.name)
        all_series: Sequence[tuple[Labels, Counter | Gauge | Histogram]] = family.items()
        for position, (labels, series) in enumerate(all_series, 1):
            text = _labels(labels)
            if isinstance(series, Histogram):
                lines += _histogram(family.name, text, series, buckets, openmetrics=openmetrics)
            else:
                lines.append(f"{family.name}{_braced(text)} {series.value}")
            if not position % SLICE:
                yield _joined(lines)
                lines = []
    if openmetrics:
        lines.append("# EOF")
    if lines:
        yield _joined(lines)


def _joined(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def _head(family: AnyFamily, *, openmetrics: bool) -> Iterator[str]:
    # In OpenMetrics a counter's family goes without the suffix that its samples have.
    name = family.name.removesuffix("_total") if openmetrics and family.kind == "counter" else family.name
    text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {name} {text.replace(chr(34), _ESCAPES[chr(34)]) if openmetrics else text}"
    yield f"# TYPE {name} {family.kind}"


def _labels(labels: Labels) -> str:
    # An empty value and no label mean the same, so it is left out.
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels if value)


def _escaped(value: str) -> str:
    return re.sub(r'[\\\n"]', lambda match: _ESCAPES[match[0]], value)


def _braced(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _histogram(
    name: str, labels: str, histogram: Histogram, bounds: Sequence[float], *, openmetrics: bool
) -> Iterator[str]:
    before = f"{labels}," if labels else ""
    exemplars = sorted(histogram.exemplars.values(), key=lambda one: one.value) if openmetrics else []
    for bound, count in zip(bounds, histogram.cumulative(bounds), strict=True):
        yield f'{name}_bucket{{{before}le="{bound}"}} {count}{_exemplar(exemplars, bound)}'
    yield f'{name}_bucket{{{before}le="+Inf"}} {histogram.count}{_exemplar(exemplars, math.inf)}'
    yield f"{name}_sum{_braced(labels)} {histogram.total}"
    yield f"{name}_count{_braced(labels)} {histogram.count}"


def _exemplar(exemplars: list[Exemplar], bound: float) -> str:
    """Return the newest example of those up to a bound, and take them all off the list, which ascends."""
    newest = None
    while exemplars and exemplars[0].value <= bound:
        one = exemplars.pop(0)
        if newest is None or one.timestamp >= newest.timestamp:
            newest = one
    if newest is None:
        return ""
    return f' # {{trace_id="{_escaped(newest.trace_id)}"}} {newest.value} {newest.timestamp}'
