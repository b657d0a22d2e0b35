"""The store of all metrics of one Trio run: counters, gauges and histograms, without locks.

One thread runs everything, so a value is a plain attribute: code on a hot path binds the series once, when its
layer opens, and then says ``series.value += 1``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, Literal, TypeAlias
from weakref import WeakValueDictionary

import trio
from typing_extensions import TypeVar

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.histogram import Histogram

__all__ = [
    "MAX_SERIES",
    "RETAIN_IDLE",
    "AnyFamily",
    "Counter",
    "Family",
    "Gauge",
    "Labels",
    "Registry",
    "check_labels",
    "current_registry",
]

MAX_SERIES = 1000
"""Series per family (CVE-2025-43915: labels that peers choose must not fill the memory); more share one series
whose every label says ``overflow``."""

RETAIN_IDLE = 600.0
"""Seconds for which a series is kept in which nothing is counted, and which no layer holds (Linkerd: 10 minutes)."""

Labels: TypeAlias = tuple[tuple[str, str], ...]
"""Names and values of a series, sorted by name."""
Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

# Prometheus data model: metric names and label names; colons are for recording rules, "__" is reserved.
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_RESERVED = {"le", "quantile"}


def check_labels(labels: Mapping[str, str], taken: Collection[str] = ()) -> None:
    """Check names of labels before anything is counted under them.

    Args:
        labels: Labels of somebody's own.
        taken: Names that stand for something else already.

    Raises:
        InvalidConfiguration: for a name that none can be.
    """
    for name in labels:
        if not _is_label(name):
            raise InvalidConfiguration(f"{name!r} can't be the name of a label: use letters, digits and _")
        if name in taken:
            raise InvalidConfiguration(f"the label {name!r} is set by the proxy itself: give it another name")


def _is_label(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and not name.startswith("__") and name not in _RESERVED


class Counter:
    """A number that only grows."""

    __slots__ = ("__weakref__", "value")

    def __init__(self) -> None:
        self.value: int | float = 0

    def merge(self, other: Counter) -> None:
        """Add what another one counted."""
        self.value += other.value

    def __repr__(self) -> str:
        return f"<Counter {self.value}>"


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("__weakref__", "value")

    def __init__(self) -> None:
        self.value: int | float = 0

    def merge(self, other: Gauge) -> None:
        """Add what another one counted."""
        self.value += other.value

    def __repr__(self) -> str:
        return f"<Gauge {self.value}>"


S = TypeVar("S", Counter, Gauge, Histogram)


class Family(Generic[S]):
    """All series of one name.

    A series in which nothing was counted for :data:`RETAIN_IDLE` seconds is kept only as long as some layer still holds
    it: those of endpoints and clients that have gone make room.
    """

    __slots__ = ("_idle", "_seen", "help", "kind", "make", "name", "series")

    def __init__(self, name: str, help: str, kind: Kind, make: type[S]) -> None:  # noqa: A002  # the exposition's word
        self.name: str = name
        self.help: str = help
        self.kind: Kind = kind
        self.series: dict[Labels, S] = {}
        self.make: type[S] = make
        self._idle: WeakValueDictionary[Labels, S] = WeakValueDictionary()
        self._seen: dict[Labels, tuple[float, float]] = {}

    def labels(self, labels: Labels) -> S:
        """Return the series with these labels, made now if there was none."""
        series = self._found(labels)
        if series is None:
            for name, _ in labels:
                if not _is_label(name):
                    raise ValueError(f"{name!r} can't be a label of {self.name}: use letters, digits and _")
            if len(self) >= MAX_SERIES:
                labels = tuple((name, "overflow") for name, _ in labels)
                series = self._found(labels)
            if series is None:
                series = self.series[labels] = self.make()
        return series

    def _found(self, labels: Labels) -> S | None:
        series = self.series.get(labels)
        if series is None:
            series = self._idle.pop(labels, None)
            if series is not None:
                self.series[labels] = series
        return series

    def items(self) -> list[tuple[Labels, S]]:
        """Return every series with its labels."""
        everything = list(self.series.items())
        if self._idle:
            everything += list(self._idle.items())
        return everything

    def retire(self, now: float) -> None:
        """Look which series are idle at ``now``, a time in seconds that only grows."""
        for labels, series in list(self._idle.items()):
            if _state(series) != self._seen.get(labels, (0.0,))[0]:
                self.series[labels] = series
                del self._idle[labels]
        for labels, series in list(self.series.items()):
            state = _state(series)
            seen = self._seen.get(labels)
            if seen is None or seen[0] != state:
                self._seen[labels] = (state, now)
            elif now - seen[1] >= RETAIN_IDLE and (self.kind != "gauge" or not state):
                self._idle[labels] = series
                del self.series[labels]
        if len(self._seen) > len(self):
            known = {*self.series, *self._idle}
            self._seen = {labels: seen for labels, seen in self._seen.items() if labels in known}

    def __len__(self) -> int:
        return len(self.series) + len(self._idle)

    def __repr__(self) -> str:
        return f"<Family {self.name}, a {self.kind} of {len(self)} series>"


def _state(series: Counter | Gauge | Histogram) -> float:
    return series.count if isinstance(series, Histogram) else series.value


AnyFamily: TypeAlias = Family[Counter] | Family[Gauge] | Family[Histogram]
"""A family of whatever kind."""


class Registry:
    """Metric families by name."""

    __slots__ = ("_collectors", "_families")

    def __init__(self) -> None:
        self._families: dict[str, Family[Any]] = {}
        self._collectors: dict[object, Callable[[], None]] = {}

    def counter(self, name: str, help: str, /, **labels: str) -> Counter:  # noqa: A002
        """Return a counter of the family ``name``, which ends in ``_total``.

        Raises:
            ValueError: if the name is not one of a counter, or belongs to a metric of another kind already.
        """
        if not name.endswith("_total"):
            raise ValueError(f"metric {name} is a counter, so its name must end in _total")
        return self._family(name, help, "counter", Counter).labels(_sorted(labels))

    def gauge(self, name: str, help: str, /, **labels: str) -> Gauge:  # noqa: A002
        """Return a gauge."""
        return self._family(name, help, "gauge", Gauge).labels(_sorted(labels))

    def histogram(self, name: str, help: str, /, **labels: str) -> Histogram:  # noqa: A002
        """Return a histogram; its unit ends its name (``_seconds``, ``_bytes``, ``_ms``)."""
        return self._family(name, help, "histogram", Histogram).labels(_sorted(labels))

    def _family(self, name: str, text: str, kind: Kind, make: type[S]) -> Family[S]:
        family = self._families.get(name)
        if family is None:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} can't be a metric's name: use letters, digits and _")
            created = Family(name, text, kind, make)
            self._families[name] = created
            return created
        if family.kind != kind:
            raise ValueError(f"metric {name} is a {family.kind} already, so it can't be a {kind}")
        return family

    @contextmanager
    def collecting(self, collector: Callable[[], None]) -> Iterator[None]:
        """Call ``collector`` inside the block whenever somebody is about to read the metrics.

        For figures that are kept elsewhere, as the bytes that a stream has moved: counting them twice would cost more
        than bringing them up to date when they are asked for. The collector must neither block nor raise.
        """
        key = object()
        self._collectors[key] = collector
        try:
            yield
        finally:
            del self._collectors[key]

    def collect(self) -> None:
        """Bring every metric up to date, and drop what is idle. Whoever reads them calls this first."""
        for collector in list(self._collectors.values()):
            collector()
        if trio.lowlevel.in_trio_run():
            now = trio.current_time()
            for family in self._families.values():
                family.retire(now)

    def merge(self, other: Registry, *, gauges: bool = True) -> None:
        """Add what another registry counted: counters and gauges are summed, histograms merged exactly.

        Args:
            other: What to add. A family that is of another kind here is an error, as in :meth:`counter`.
            gauges: Whether with its gauges, which mean nothing any more once its process has ended.
        """
        theirs: Family[Any]
        for theirs in other:
            if theirs.kind == "gauge" and not gauges:
                continue
            mine: Family[Any] = self._family(theirs.name, theirs.help, theirs.kind, theirs.make)
            for labels, series in theirs.items():
                mine.labels(labels).merge(series)

    def __iter__(self) -> Iterator[AnyFamily]:
        return iter(list(self._families.values()))

    def __repr__(self) -> str:
        return f"<Registry of {len(self._families)} families>"


def _sorted(labels: dict[str, str]) -> Labels:
    # One set of labels is one series, in whatever order the code names them.
    return tuple(sorted(labels.items()))


_registry: trio.lowlevel.RunVar[Registry] = trio.lowlevel.RunVar("linkerd_proxy.registry")


def current_registry() -> Registry:
    """Return the registry of this Trio run, made at the first call."""
    try:
        return _registry.get()
    except LookupError:
        registry = Registry()
        _registry.set(registry)
        return registry
