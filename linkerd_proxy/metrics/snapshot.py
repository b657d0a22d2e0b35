"""A registry as JSON, for handing the metrics of one process to another without losing a count."""

from __future__ import annotations

import json
from collections.abc import Callable

from linkerd_proxy.metrics.histogram import Histogram
from linkerd_proxy.metrics.registry import AnyFamily, Counter, Gauge, Labels, Registry

__all__ = ["from_json", "to_json"]


def to_json(registry: Registry) -> str:
    """Return all metrics as one line of JSON: exponential buckets as they are, so that merging stays exact."""
    registry.collect()
    return json.dumps(
        [
            {
                "name": family.name,
                "help": family.help,
                "kind": family.kind,
                "series": [[labels, _state(series)] for labels, series in _series(family)],
            }
            for family in registry
        ],
        separators=(",", ":"),
    )


def from_json(text: str | bytes) -> Registry:
    """Return the registry that :func:`to_json` wrote.

    Raises:
        ValueError: if it is not such a text.
    """
    registry = Registry()
    try:
        for family in json.loads(text):
            make: dict[str, Callable[..., Counter | Gauge | Histogram]] = {
                "counter": registry.counter,
                "gauge": registry.gauge,
                "histogram": registry.histogram,
            }
            for labels, state in family["series"]:
                series = make[family["kind"]](family["name"], family["help"], **dict(labels))
                _restore(series, state)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no snapshot of metrics: {error!r}") from error
    return registry


def _series(family: AnyFamily) -> list[tuple[Labels, Counter | Gauge | Histogram]]:
    return list(family.series.items())


def _state(series: Counter | Gauge | Histogram) -> object:
    if not isinstance(series, Histogram):
        return series.value
    return {
        "schema": series.schema,
        "max_buckets": series.max_buckets,
        "buckets": list(series.buckets.items()),
        "zeros": series.zeros,
        "count": series.count,
        "total": series.total,
    }


def _restore(series: Counter | Gauge | Histogram, state: object) -> None:
    if not isinstance(series, Histogram):
        if not isinstance(state, (int, float)):
            raise TypeError(f"{state!r} is no number")
        series.value += state
        return
    if not isinstance(state, dict):
        raise TypeError(f"{state!r} is no histogram")
    other = Histogram(state["schema"], state["max_buckets"])
    other.buckets = {int(index): int(count) for index, count in state["buckets"]}
    other.zeros, other.count, other.total = state["zeros"], state["count"], state["total"]
    series.merge(other)
