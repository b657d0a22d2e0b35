"""Metrics as text: Prometheus' format 0.0.4 and OpenMetrics 1.0, made slice by slice while they are sent."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

import trio

from linkerd_proxy.core.message import Body
from linkerd_proxy.metrics.histogram import Histogram
from linkerd_proxy.metrics.registry import AnyFamily, Counter, Gauge, Labels, Registry

__all__ = ["LATENCY_BOUNDS_MS", "OPENMETRICS", "TEXT", "Exposition", "accepts_gzip", "content_type", "exposed"]

TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of Prometheus' own text format."""
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
"""The media type of OpenMetrics."""

LATENCY_BOUNDS_MS = tuple(float(step * scale) for scale in (1, 10, 100, 1000, 10_000) for step in range(1, 6))
"""The upper bounds of classic latency buckets, in milliseconds (linkerd2-proxy, linkerd/metrics/src/latency.rs)."""

_BOUNDS = {
    "ms": LATENCY_BOUNDS_MS,
    "seconds": tuple(bound / 1000 for bound in LATENCY_BOUNDS_MS),
    "bytes": tuple(float(1 << power) for power in range(7, 31, 3)),
}
_OTHER_BOUNDS = tuple(10.0**power for power in range(-3, 7))

_SLICE = 64  # series per turn: about a millisecond, so that a scrape delays nobody by more
_ESCAPES = {"\\": r"\\", "\n": r"\n", '"': r"\""}


class Exposition(Body):
    """The body of an answer that lists all metrics, made as it is pulled, with a checkpoint after every slice.

    Args:
        registry: What to list. Each series is consistent; the whole is not one instant.
        openmetrics: Whether in OpenMetrics instead of Prometheus' text format.
        gzip: Whether compressed (RFC 1952).
    """

    __slots__ = ("_gzip", "_slices")

    def __init__(self, registry: Registry, *, openmetrics: bool = False, gzip: bool = False) -> None:
        super().__init__()
        self._slices: Iterator[str] | None = exposed(registry, openmetrics=openmetrics)
        self._gzip = zlib.compressobj(wbits=31) if gzip else None

    async def pull(self) -> bytes:
        """Return the next slice."""
        await trio.lowlevel.checkpoint()
        while self._slices is not None:
            text = next(self._slices, None)
            if text is None:
                self._slices = None
                return self._gzip.flush() if self._gzip is not None else b""
            data = text.encode()
            if self._gzip is None:
                return data
            if data := self._gzip.compress(data):
                return data
            await trio.lowlevel.checkpoint()
        return b""


def exposed(registry: Registry, *, openmetrics: bool = False) -> Iterator[str]:
    """Yield the exposition in slices of whole lines, none of them empty."""
    registry.collect()
    lines: list[str] = []
    for family in registry:
        lines += _head(family, openmetrics=openmetrics)
        all_series: list[tuple[Labels, Counter | Gauge | Histogram]] = list(family.series.items())
        for position, (labels, series) in enumerate(all_series, 1):
            text = _labels(labels)
            if isinstance(series, Histogram):
                lines += _histogram(family.name, text, series)
            else:
                lines.append(f"{family.name}{_braced(text)} {series.value}")
            if not position % _SLICE:
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


def _histogram(name: str, labels: str, histogram: Histogram) -> Iterator[str]:
    bounds = _BOUNDS.get(name.rpartition("_")[2], _OTHER_BOUNDS)
    before = f"{labels}," if labels else ""
    for bound, count in zip(bounds, histogram.cumulative(bounds), strict=True):
        yield f'{name}_bucket{{{before}le="{bound}"}} {count}'
    yield f'{name}_bucket{{{before}le="+Inf"}} {histogram.count}'
    yield f"{name}_sum{_braced(labels)} {histogram.total}"
    yield f"{name}_count{_braced(labels)} {histogram.count}"


# --- content negotiation -----------------------------------------------------------------------


def content_type(accept: str | None) -> str:
    """Return :data:`OPENMETRICS` where an ``Accept`` field prefers it over plain text, else :data:`TEXT`."""
    wishes = _wishes(accept or "")
    wish = wishes.get("application/openmetrics-text", 0.0)
    plain = wishes.get("text/plain", wishes.get("text/*", wishes.get("*/*", 0.0)))
    return OPENMETRICS if wish > 0 and wish >= plain else TEXT


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether an ``Accept-Encoding`` field allows gzip (RFC 9110 section 12.5.3)."""
    wishes = _wishes(accept_encoding or "")
    return wishes.get("gzip", wishes.get("x-gzip", wishes.get("*", 0.0))) > 0


def _wishes(field: str) -> dict[str, float]:
    """Return the weight of each item of a list such as ``gzip;q=0.5, *`` (RFC 9110 section 12.4.2)."""
    wishes: dict[str, float] = {}
    for item in field.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weight = next((part[2:].strip() for part in parameters if part.startswith("q=")), "1")
        try:
            wishes[name] = max(wishes.get(name, 0.0), min(1.0, float(weight)))
        except ValueError:  # a weight that makes no sense is no wish
            wishes.setdefault(name, 0.0)
    return wishes
