"""Our metrics in the registry of an application that has one of prometheus-client's already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.bounds import Bounds
from linkerd_proxy.metrics.histogram import Exemplar, Histogram
from linkerd_proxy.metrics.registry import AnyFamily, Registry, current_registry

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.samples import Exemplar as ClientExemplar

__all__ = ["PrometheusClientBridge"]

_DEFAULT = Bounds()
_NOT_OURS = "process_"  # that library has those of the process itself, and a name that occurs twice spoils a scrape


class PrometheusClientBridge:
    """Shows the metrics of this package through a registry of prometheus-client: a custom collector.

    ::

        async def main() -> None:
            prometheus_client.REGISTRY.register(PrometheusClientBridge())

    Histograms come in classic buckets, for that library writes no others. It asks for everything at once, and while it
    does Trio's thread does nothing else. Where there are thousands of series scrape the
    admin endpoint, which hands out slices. Families that begin with ``process_`` are left to that library.

    Args:
        registry: Whose metrics; by default those of the Trio run in which this is made.
        bounds: The classic buckets.

    Raises:
        InvalidConfiguration: if prometheus-client is not installed, or if no registry is given outside of a Trio run.
    """

    def __init__(self, registry: Registry | None = None, *, bounds: Bounds = _DEFAULT) -> None:
        try:
            import prometheus_client.core  # noqa: F401  # it shall fail here, and not at the first scrape
        except ImportError:
            raise InvalidConfiguration(
                "PrometheusClientBridge needs prometheus-client: pip install prometheus-client"
            ) from None
        if registry is None:
            try:
                registry = current_registry()
            except RuntimeError:
                raise InvalidConfiguration(
                    "PrometheusClientBridge is made outside of a Trio run: give it a registry, or make it in one"
                ) from None
        self._token = trio.lowlevel.current_trio_token() if trio.lowlevel.in_trio_run() else None
        self._registry = registry
        self._bounds = bounds

    def describe(self) -> list[Metric]:
        """Return nothing: families come and go, so the registry is not to look for names that are taken."""
        return []

    def collect(self) -> list[Metric]:
        """Return every family, from whatever thread."""
        token = self._token
        if token is None or (trio.lowlevel.in_trio_run() and trio.lowlevel.current_trio_token() is token):
            return self._collected()
        try:
            # Counters are brought up to date by whoever asks, and two threads at once would count twice.
            return trio.from_thread.run_sync(self._collected, trio_token=token)
        except trio.RunFinishedError:
            return self._collected()

    def _collected(self) -> list[Metric]:
        self._registry.collect()
        return [self._metric(family) for family in self._registry if not family.name.startswith(_NOT_OURS)]

    def _metric(self, family: AnyFamily) -> Metric:
        from prometheus_client.core import Metric

        # That library adds the suffix of counters by itself.
        metric = Metric(family.name.removesuffix("_total"), family.help, family.kind)
        for labels, series in family.items():
            named = {name: value for name, value in labels if value}
            if isinstance(series, Histogram):
                self._add_histogram(metric, family.name, named, series)
            else:
                metric.add_sample(family.name, named, float(series.value))
        return metric

    def _add_histogram(self, metric: Metric, name: str, labels: dict[str, str], histogram: Histogram) -> None:
        bounds = self._bounds.of(name)
        left = sorted(histogram.exemplars.values(), key=lambda one: one.value)
        for bound, count in zip(bounds, histogram.cumulative(bounds), strict=True):
            newest = _newest(left, bound)
            metric.add_sample(f"{name}_bucket", {**labels, "le": str(bound)}, float(count), exemplar=newest)
        newest = _newest(left, float("inf"))
        metric.add_sample(f"{name}_bucket", {**labels, "le": "+Inf"}, float(histogram.count), exemplar=newest)
        metric.add_sample(f"{name}_count", labels, float(histogram.count))
        metric.add_sample(f"{name}_sum", labels, histogram.total)


def _newest(left: list[Exemplar], bound: float) -> ClientExemplar | None:
    """Return the newest example of those up to a bound, and take them all off the list, which ascends."""
    from prometheus_client.samples import Exemplar as Made

    newest = None
    while left and left[0].value <= bound:
        one = left.pop(0)
        if newest is None or one.timestamp >= newest.timestamp:
            newest = one
    return None if newest is None else Made({"trace_id": newest.trace_id}, newest.value, newest.timestamp)
