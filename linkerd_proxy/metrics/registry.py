"""The store of all metrics of one Trio run: counters, gauges and histograms, without locks.

One thread runs everything, so a value is a plain attribute: code on a hot path binds the series once, when its
layer opens, and then says ``series.value += 1``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Literal, TypeAlias

import trio
from typing_extensions import TypeVar

from linkerd_proxy.metrics.histogram import Histogram

__all__ = ["MAX_SERIES", "Counter", "Family", "Gauge", "Labels", "Registry", "current_registry"]

MAX_SERIES = 1000
"""Series per family (CVE-2025-43915: labels that peers choose must not fill the memory); more share one series
whose every label says ``overflow``."""

Labels: TypeAlias = tuple[tuple[str, str], ...]
Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


class Counter:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: int | float = 0


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: int | float = 0


S = TypeVar("S", Counter, Gauge, Histogram)


class Family(Generic[S]):
    """All series of one name."""

    __slots__ = ("_make", "help", "kind", "name", "series")

    def __init__(self, name: str, help: str, kind: Kind, make: type[S]) -> None:  # noqa: A002  # the exposition's word
        self.name = name
        self.help = help
        self.kind = kind
        self.series: dict[Labels, S] = {}
        self._make: type[S] = make

    def labels(self, labels: Labels) -> S:
        """Return the series with these labels, made now if there was none."""
        series = self.series.get(labels)
        if series is None:
            if len(self.series) >= MAX_SERIES:
                labels = tuple((name, "overflow") for name, _ in labels)
                series = self.series.get(labels)
            if series is None:
                series = self.series[labels] = self._make()
        return series


class Registry:
    """Metric families by name."""

    __slots__ = ("_families",)

    def __init__(self) -> None:
        self._families: dict[str, Family[Counter] | Family[Gauge] | Family[Histogram]] = {}

    def counter(self, name: str, help: str, **labels: str) -> Counter:  # noqa: A002
        """Return a counter of the family ``name``, which ends in ``_total``."""
        return self._family(name, help, "counter", Counter).labels(tuple(labels.items()))

    def gauge(self, name: str, help: str, **labels: str) -> Gauge:  # noqa: A002
        """Return a gauge."""
        return self._family(name, help, "gauge", Gauge).labels(tuple(labels.items()))

    def histogram(self, name: str, help: str, **labels: str) -> Histogram:  # noqa: A002
        """Return a histogram; its unit ends its name (``_seconds``, ``_bytes``, ``_ms``)."""
        return self._family(name, help, "histogram", Histogram).labels(tuple(labels.items()))

    def _family(self, name: str, text: str, kind: Kind, make: type[S]) -> Family[S]:
        family = self._families.get(name)
        if family is None:
            created = Family(name, text, kind, make)
            self._families[name] = created
            return created
        if family.kind != kind:
            raise ValueError(f"metric {name} is a {family.kind} already, so it can't be a {kind}")
        return family  # type: ignore[return-value]  # the kind says which

    def __iter__(self) -> Iterator[Family[Counter] | Family[Gauge] | Family[Histogram]]:
        return iter(list(self._families.values()))


_registry: trio.lowlevel.RunVar[Registry] = trio.lowlevel.RunVar("linkerd_proxy.registry")


def current_registry() -> Registry:
    """Return the registry of this Trio run, made at the first call."""
    try:
        return _registry.get()
    except LookupError:
        registry = Registry()
        _registry.set(registry)
        return registry
