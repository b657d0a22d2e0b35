"""The bars that the project sets itself, and whether a run reached them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Bar:
    """One figure to reach.

    ``value`` is the run's; ``most`` says whether ``limit`` is an upper or a lower bound.
    """

    what: str
    value: float
    limit: float
    most: bool
    unit: str = "x"

    @property
    def reached(self) -> bool:
        """Whether the run's figure keeps to the limit."""
        return self.value <= self.limit if self.most else self.value >= self.limit

    def as_dict(self) -> dict[str, Any]:
        """What goes into the JSON file."""
        return {**asdict(self), "reached": self.reached}


def median(document: Document, case: str, proxy: str, connections: int) -> float | None:
    """CPU seconds per request or byte, the median of a series' rounds."""
    for one in document["series"]:
        if (one["case"], one["proxy"], one["connections"]) == (case, proxy, connections) and one["cost"]:
            return float(statistics.median(one["cost"]))
    return None


def bars(document: Document) -> list[Bar]:
    """Compare a run with every bar that it has figures for."""
    return [*_ratios(document), *_differences(document), *_memory(document["memory"])]


# case, ours, the other, how much of its CPU time (at most)
_RATIOS = (
    ("tcp", "ours", "envoy", 1.15, "TCP small messages: CPU against Envoy"),
    ("http1", "ours", "envoy", 1.3, "HTTP/1.1, httptools: CPU against Envoy"),
    ("http1", "ours-h11", "envoy", 4.0, "HTTP/1.1, h11: CPU against Envoy"),
    ("varied", "ours", "envoy", 1.3, "HTTP/1.1, httptools, no two heads alike: CPU against Envoy"),
    ("varied", "ours-h11", "envoy", 4.0, "HTTP/1.1, h11, no two heads alike: CPU against Envoy"),
    ("http2", "ours", "envoy", 4.0, "HTTP/2: CPU against Envoy"),
    ("h2-varied", "ours", "envoy", 4.0, "HTTP/2, 20,000 paths in turn: CPU against Envoy"),
    ("mtls", "ours", "envoy", 1.5, "HTTP/1.1 over mutual TLS: CPU against Envoy"),
    ("layers", "ours", "envoy", 1.5, "Routes, deadlines, retries, balancing: CPU against Envoy"),
    ("observed", "ours-watched", "ours-unwatched", 1.1, "Metrics on: CPU against metrics off"),
)


def _ratios(document: Document) -> Iterator[Bar]:
    for case, ours, other, limit, what in _RATIOS:
        for connections in document["settings"]["connections"]:
            ratio = _ratio(document, case, ours, other, connections)
            if ratio is not None:
                yield Bar(f"{what}, {_count(connections)}", ratio, limit, most=True)
    for case, other, limit, what in (
        ("mtls-bulk", "haproxy", 0.7, "Mutual TLS bulk: bytes per CPU second against HAProxy"),
        ("handshakes", "envoy", 0.5, "Mutual TLS: handshakes per CPU second against Envoy"),
    ):
        ratio = _ratio(document, case, other, "ours", 1)
        if ratio is not None:
            yield Bar(what, ratio, limit, most=False)
    bulk = _ratio(document, "bulk", "haproxy", "ours", 1)
    if bulk is not None:
        yield Bar("TCP bulk: bytes per CPU second against HAProxy", bulk, 1.3, most=False)
    for connections in document["settings"]["connections"]:
        less = _ratio(document, "http1", "mitmproxy", "ours", connections)
        if less is not None:
            yield Bar(f"HTTP/1.1: CPU of mitmproxy against ours, {_count(connections)}", less, 10, most=False)


def _differences(document: Document) -> Iterator[Bar]:
    for connections in document["settings"]["connections"]:
        costs = [median(document, "layers", name, connections) for name in ("ours", "ours-bare")]
        if costs[0] and costs[1]:
            what = f"Routes, deadlines, retries, balancing: CPU beyond the bare proxy's, {_count(connections)}"
            yield Bar(what, (costs[0] - costs[1]) * 1e6, 25, most=True, unit=" µs")


def _ratio(document: Document, case: str, one: str, other: str, connections: int) -> float | None:
    first, second = (median(document, case, name, connections) for name in (one, other))
    return first / second if first and second else None


def _memory(memory: Iterable[Mapping[str, Any]]) -> Iterator[Bar]:
    for one in memory:
        if one["proxy"] == "ours":
            yield Bar("Memory at rest", one["idle"] / 2**20, 48, most=True, unit=" MiB")
            what = f"Memory of an idle connection, {one['connections']:,} open"
            yield Bar(what, one["per_connection"] / 2**10, 12, most=True, unit=" KiB")


def _count(connections: int) -> str:
    return "1 connection" if connections == 1 else f"{connections} connections"
