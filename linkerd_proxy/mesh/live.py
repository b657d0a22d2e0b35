"""What goes on in a proxy, second by second: the figures behind ``linkerd-proxy top`` and the admin endpoint's page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import trio

from linkerd_proxy.mesh.observed import Observed, SeenEndpoint
from linkerd_proxy.metrics.histogram import Histogram
from linkerd_proxy.metrics.registry import Labels, Registry

__all__ = ["Edge", "EndpointRow", "FailureRow", "Frame", "Row", "Watch"]

_NOT_OF_THE_ROW = frozenset({"status_code", "classification", "grpc_status", "error", "client_id", "server_id", "tls"})


@dataclass(frozen=True, slots=True)
class Row:
    """The traffic of one place in the stack in one protocol, in the manner of ``linkerd viz stat``.

    Args:
        name: The labels that tell it from others.
        kind: ``http`` or ``tcp``.
        total: Requests or connections since the start.
        rate: The same a second, lately.
        success: The share of those that ended lately without a failure; None if none did.
        p50: Half were faster lately, in milliseconds; so ``p95`` and ``p99``. For connections: how long they lived.
        open: Requests or connections at this moment.
        read: Bytes a second from peers, for connections.
        written: Bytes a second to them.
        meshed: The share of all that had mutual TLS.
    """

    name: str
    kind: str
    total: int
    rate: float
    success: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    open: int
    read: float
    written: float
    meshed: float | None


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """One endpoint of a balancer, as :class:`~linkerd_proxy.balance.statistics.EndpointStatistics` tells."""

    balancer: str
    address: str
    identity: str
    state: str
    in_flight: int
    rtt: float
    rate: float
    failed: int
    share: float


@dataclass(frozen=True, slots=True)
class Edge:
    """Who talks to whom: a client of this proxy's, or an upstream, by identity."""

    source: str
    target: str
    secured: bool
    rate: float
    total: int


@dataclass(frozen=True, slots=True)
class FailureRow:
    """One of the last failures, ``ago`` so many seconds."""

    ago: float
    code: str
    text: str
    peer: str


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything at one moment."""

    name: str
    uptime: float
    rows: list[Row] = field(default_factory=list)
    endpoints: list[EndpointRow] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    failures: list[FailureRow] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as what JSON can say."""
        return asdict(self)


class _Sums:
    """The series of one row at one moment, added up."""

    __slots__ = ("closed", "ended", "failed", "latency", "meshed", "open", "read", "total", "written")

    def __init__(self) -> None:
        self.total = self.open = self.ended = self.failed = self.meshed = self.closed = 0.0
        self.read = self.written = 0.0
        self.latency = Histogram()


_Key = tuple[str, str]
"""Kind and name of a row."""


class Watch:
    """Makes frames; what happened *lately* is what happened since the frame before.

    Args:
        name: How the proxy is called.
        since: Since when it is up, by Trio's clock; now if None.
    """

    __slots__ = ("_at", "_name", "_picked", "_rows", "_started", "_totals")

    def __init__(self, name: str, since: float | None = None) -> None:
        self._name = name
        self._at = trio.current_time()
        self._started = self._at if since is None else since
        self._rows: dict[_Key, _Sums] = {}
        self._totals: dict[tuple[str, str], float] = {}
        self._picked: dict[tuple[str, str], int] = {}

    def frame(self, registry: Registry, observed: Observed) -> Frame:
        """Return the next frame of these metrics, and of what was observed beside them."""
        registry.collect()
        now = trio.current_time()
        seconds = now - self._at or math.inf
        self._at = now
        families: dict[str, list[tuple[Labels, Any]]] = {family.name: list(family.items()) for family in registry}
        rows = _sums(families)
        frame = Frame(
            self._name,
            now - self._started,
            [_row(key, sums, self._rows.get(key), seconds) for key, sums in sorted(rows.items())],
            self._endpoints(observed.endpoints, seconds),
            self._edges(families, seconds),
            [FailureRow(one.ago, one.code, one.text, one.peer) for one in observed.failures],
        )
        self._rows = rows
        return frame

    def _endpoints(self, seen: Sequence[SeenEndpoint], seconds: float) -> list[EndpointRow]:
        picked = {(one.balancer, one.address): one.picked for one in seen}
        # A worker that was replaced has taken its counts with it.
        lately = {key: max(count - self._picked.get(key, count), 0) for key, count in picked.items()}
        self._picked = picked
        whole: dict[str, int] = {}
        for (balancer, _), count in lately.items():
            whole[balancer] = whole.get(balancer, 0) + count
        return [
            EndpointRow(
                one.balancer,
                one.address,
                one.identity,
                one.state,
                one.in_flight,
                one.rtt * 1000,
                lately[one.balancer, one.address] / seconds,
                one.failed,
                lately[one.balancer, one.address] / (whole[one.balancer] or 1),
            )
            for one in seen
        ]

    def _edges(self, families: Mapping[str, Iterable[tuple[Labels, Any]]], seconds: float) -> list[Edge]:
        totals: dict[tuple[str, str], float] = {}
        for name in ("request_total", "tcp_open_total"):
            for labels, series in families.get(name, ()):
                known = dict(labels)
                if known.get("tls") != "true" or (name == "tcp_open_total" and known.get("protocol") != "opaque"):
                    continue
                if "server_id" in known:
                    edge = (self._name, known["server_id"])
                else:
                    edge = (known.get("client_id") or "(no certificate)", self._name)
                totals[edge] = totals.get(edge, 0) + series.value
        edges = [
            Edge(*edge, True, (total - self._totals.get(edge, total)) / seconds, int(total))
            for edge, total in sorted(totals.items())
        ]
        self._totals = totals
        return edges


def _sums(families: Mapping[str, Iterable[tuple[Labels, Any]]]) -> dict[_Key, _Sums]:
    rows: dict[_Key, _Sums] = {}

    def of(kind: str, labels: Labels) -> _Sums:
        key = (kind, " ".join(value for name, value in labels if value and name not in _NOT_OF_THE_ROW))
        return rows.setdefault(key, _Sums())

    for kind, name, attribute in (
        ("http", "request_total", "total"),
        ("http", "request_in_flight", "open"),
        ("tcp", "tcp_open_total", "total"),
        ("tcp", "tcp_open_connections", "open"),
        ("tcp", "tcp_read_bytes_total", "read"),
        ("tcp", "tcp_write_bytes_total", "written"),
    ):
        for labels, series in families.get(name, ()):
            sums = of(kind, labels)
            setattr(sums, attribute, getattr(sums, attribute) + series.value)
            if attribute == "total" and ("tls", "true") in labels:
                sums.meshed += series.value
    for kind, name in (("http", "response_total"), ("tcp", "tcp_close_total")):
        for labels, series in families.get(name, ()):
            sums = of(kind, labels)
            sums.ended += series.value
            known = dict(labels)
            if known.get("classification") == "failure" or (kind == "tcp" and known.get("error")):
                sums.failed += series.value
    for kind, name in (("http", "response_latency_ms"), ("tcp", "tcp_connection_duration_ms")):
        for labels, series in families.get(name, ()):
            of(kind, labels).latency.merge(series)
    return rows


def _row(key: _Key, sums: _Sums, before: _Sums | None, seconds: float) -> Row:
    kind, name = key
    ended = sums.ended - (before.ended if before else 0)
    failed = sums.failed - (before.failed if before else 0)
    latency = sums.latency.since(before.latency) if before else sums.latency
    quantiles = (latency.quantile(q) for q in (0.5, 0.95, 0.99))
    p50, p95, p99 = (None if math.isnan(value) else round(value, 3) for value in quantiles)
    return Row(
        name,
        kind,
        int(sums.total),
        (sums.total - before.total) / seconds if before else 0.0,
        1 - failed / ended if ended else None,
        p50,
        p95,
        p99,
        int(sums.open),
        (sums.read - before.read) / seconds if before else 0.0,
        (sums.written - before.written) / seconds if before else 0.0,
        sums.meshed / sums.total if sums.total else None,
    )
