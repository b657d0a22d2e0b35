"""A registry as JSON, for handing the metrics of one process to another without losing a count."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator

from linkerd_proxy.metrics.histogram import Histogram
from linkerd_proxy.metrics.registry import AnyFamily, Counter, Gauge, Labels, Registry

__all__ = ["dumped", "loaded"]


def dumped(registry: Registry) -> Iterator[str]:
    """Yield all metrics, a line of JSON for each family: exponential buckets as they are, so that merging stays exact.

    Whoever sends the lines can let others have a turn between them.
    """
    registry.collect()
    for family in registry:
        yield json.dumps(
            {
                "name": family.name,
                "help": family.help,
                "kind": family.kind,
                "series": [[labels, _state(series)] for labels, series in _series(family)],
            },
            separators=(",", ":"),
        )


def loaded(lines: Iterable[str | bytes]) -> Registry:
    """Return the registry that :func:`dumped` wrote.

    Raises:
        ValueError: if those are no such lines.
    """
    registry = Registry()
    makers = _makers(registry)
    try:
        for line in lines:
            family = json.loads(line)
            for labels, state in family["series"]:
                _restore(makers[family["kind"]](family["name"], family["help"], **dict(labels)), state)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no snapshot of metrics: {error!r}") from error
    return registry


def _makers(registry: Registry) -> dict[str, Callable[..., Counter | Gauge | Histogram]]:
    return {"counter": registry.counter, "gauge": registry.gauge, "histogram": registry.histogram}


def _series(family: AnyFamily) -> list[tuple[Labels, Counter | Gauge | Histogram]]:
    return list(family.items())


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
