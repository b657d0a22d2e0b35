"""The figures of the demonstration: as the clients saw them, and as each sidecar counted them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from linkerd_proxy.cli.demo_apps import REPLICAS
from linkerd_proxy.cli.demo_traffic import WINDOW, Watched
from linkerd_proxy.metrics.histogram import Histogram
from linkerd_proxy.metrics.registry import Counter, Gauge, Labels, Registry

__all__ = ["Figures", "Row"]

_BETWEEN = {"http/1": "http/2"}  # what is spoken between two proxies, where that is something else


@dataclass(frozen=True, slots=True)
class Row:
    """One protocol's figures as web's clients and sidecar saw them, or one replica's as its sidecar counted them."""

    name: str
    requests: int
    failed: int
    rps: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    open_connections: int
    connections: int
    meshed: float | None
    """The share of the connections to the peers, or from them, that have mutual TLS, in percent."""
    peer: str
    """The identity that the other end proved."""
    bytes_in: int
    bytes_out: int
    of_replica: bool = False

    @property
    def success(self) -> float:
        """The share of requests that succeeded, in percent."""
        return 100 * (self.requests - self.failed) / self.requests if self.requests else 100.0

    def cells(self) -> tuple[str, ...]:
        """Return the figures as text, in the order of the columns."""
        return (
            self.name,
            "-" if self.meshed is None else f"{self.meshed:.0f}%",
            f"{self.success:.2f}%",
            f"{self.rps:.1f}",
            *(("-" if value is None else f"{value:.1f}") for value in (self.p50_ms, self.p95_ms, self.p99_ms)),
            str(self.open_connections),
            self.peer or "-",
        )


class Figures:
    """Makes rows of what was seen and counted so far."""

    def __init__(self, watched: Sequence[Watched], registry: Registry) -> None:
        self._watched = watched
        self._registry = registry
        self._recent: dict[str, deque[tuple[float, int]]] = {replica.name: deque() for replica in REPLICAS}

    def protocols(self, now: float, *, whole: float | None = None) -> list[Row]:
        """Return a row for each protocol, at this moment or over all ``whole`` seconds."""
        self._registry.collect()
        return [self._protocol(one, one.rate(now) if whole is None else one.total / whole) for one in self._watched]

    def replicas(self, now: float, *, whole: float | None = None) -> list[Row]:
        """Return a row for each replica, at this moment or over all ``whole`` seconds."""
        self._registry.collect()
        return [self._replica(one.name, one.title, now, whole) for one in REPLICAS]

    def _protocol(self, one: Watched, rps: float) -> Row:
        between = _BETWEEN.get(one.protocol, one.protocol)
        theirs = {"direction": "outbound", "peer": "src", "protocol": one.protocol}
        meshed, peer = self._mesh({"direction": "outbound", "peer": "dst", "protocol": between}, "server_id")
        return Row(
            one.title,
            one.total,
            one.failed,
            rps,
            *_quantiles(one.latency),
            self._sum("tcp_open_connections", theirs),
            self._sum("tcp_open_total", theirs),
            meshed,
            peer,
            self._sum("tcp_read_bytes_total", theirs),
            self._sum("tcp_write_bytes_total", theirs),
        )

    def _replica(self, pod: str, title: str, now: float, whole: float | None) -> Row:
        mine = {"direction": "inbound", "pod": pod}
        theirs = {**mine, "peer": "src"}
        latency = Histogram()
        for _, series in self._found("response_latency_ms", mine):
            if isinstance(series, Histogram):
                latency.merge(series)
        total = self._sum("response_total", mine)
        recent = self._recent[pod]
        recent.append((now, total))
        while len(recent) > 2 and now - recent[0][0] > WINDOW:
            recent.popleft()
        (since, before), seconds = recent[0], now - recent[0][0]
        meshed, peer = self._mesh(theirs, "client_id")
        return Row(
            title,
            total,
            self._sum("response_total", {**mine, "classification": "failure"}),
            total / whole if whole is not None else (total - before) / seconds if now > since else 0.0,
            *_quantiles(latency),
            self._sum("tcp_open_connections", theirs),
            self._sum("tcp_open_total", theirs),
            meshed,
            peer,
            self._sum("tcp_read_bytes_total", theirs),
            self._sum("tcp_write_bytes_total", theirs),
            of_replica=True,
        )

    def _mesh(self, labels: dict[str, str], identity: str) -> tuple[float | None, str]:
        everything = self._sum("tcp_open_total", labels)
        proved = [(dict(found).get(identity, ""), series) for found, series in self._found("tcp_open_total", labels)]
        meshed = sum(int(series.value) for name, series in proved if name and not isinstance(series, Histogram))
        names = sorted({name for name, _ in proved if name})
        return (100 * meshed / everything if everything else None), ", ".join(names)

    def _sum(self, name: str, labels: dict[str, str]) -> int:
        values = (series.value for _, series in self._found(name, labels) if not isinstance(series, Histogram))
        return int(sum(values))

    def _found(self, name: str, labels: dict[str, str]) -> Iterator[tuple[Labels, Counter | Gauge | Histogram]]:
        for family in self._registry:
            if family.name == name:
                for found, series in family.items():
                    if set(labels.items()) <= set(found):
                        yield found, series


def _quantiles(histogram: Histogram) -> tuple[float | None, float | None, float | None]:
    p50, p95, p99 = (histogram.quantile(q) for q in (0.5, 0.95, 0.99))
    return _rounded(p50), _rounded(p95), _rounded(p99)


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 3)
