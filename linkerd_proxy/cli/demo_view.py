"""What the demonstration shows: a live table on a terminal, plain lines elsewhere, and JSON for scripts."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click

from linkerd_proxy.cli.demo_traffic import Watched
from linkerd_proxy.metrics.histogram import Histogram
from linkerd_proxy.metrics.registry import Registry

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Lines", "Row", "Silence", "TableView", "View", "rich_is_installed", "rows"]

_COLUMNS = ("PROTOCOL", "RPS", "SUCCESS", "P50 ms", "P95 ms", "P99 ms", "OPEN", "IN", "OUT", "REQS")


@dataclass(frozen=True, slots=True)
class Row:
    """One protocol's figures: requests as the clients saw them, connections and bytes as the proxy counted them."""

    protocol: str
    title: str
    requests: int
    failed: int
    rps: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    open_connections: int
    connections: int
    bytes_in: int
    bytes_out: int

    @property
    def success(self) -> float:
        """The share of requests that succeeded, in percent."""
        return 100 * (self.requests - self.failed) / self.requests if self.requests else 100.0

    def cells(self) -> tuple[str, ...]:
        """Return the figures as text, in the order of the columns."""
        return (
            self.title,
            f"{self.rps:.1f}",
            f"{self.success:.2f}%",
            *(("-" if value is None else f"{value:.1f}") for value in (self.p50_ms, self.p95_ms, self.p99_ms)),
            str(self.open_connections),
            _size(self.bytes_in),
            _size(self.bytes_out),
            str(self.requests),
        )


def rows(watched: Sequence[Watched], registry: Registry, now: float, *, whole: float | None = None) -> list[Row]:
    """Return the figures of this moment, or those of all ``whole`` seconds."""
    registry.collect()
    return [
        Row(
            one.protocol,
            one.title,
            one.total,
            one.failed,
            one.rate(now) if whole is None else one.total / whole,
            _quantile(one.latency, 0.5),
            _quantile(one.latency, 0.95),
            _quantile(one.latency, 0.99),
            _sum(registry, "tcp_open_connections", one.protocol),
            _sum(registry, "tcp_open_total", one.protocol),
            _sum(registry, "tcp_read_bytes_total", one.protocol),
            _sum(registry, "tcp_write_bytes_total", one.protocol),
        )
        for one in watched
    ]


def _quantile(histogram: Histogram, q: float) -> float | None:
    value = histogram.quantile(q)
    return None if math.isnan(value) else round(value, 3)


def _sum(registry: Registry, name: str, protocol: str) -> int:
    total = 0.0
    for family in registry:
        if family.name == name and family.kind != "histogram":
            for labels, series in family.items():
                if ("protocol", protocol) in labels and not isinstance(series, Histogram):
                    total += series.value
    return int(total)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f}{unit}" if unit == "B" else f"{count:.1f}{unit}"
        count /= 1000
    return f"{count:.1f}GB"


class View(Protocol):
    """Shows the figures as they change."""

    interval: float
    """Seconds between two showings."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, figures: Sequence[Row], seconds: float, failures: Sequence[str]) -> None:
        """Show these figures."""


class Silence:
    """Shows nothing: for ``--json``."""

    interval: float = 1.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, figures: Sequence[Row], seconds: float, failures: Sequence[str]) -> None:
        """Do nothing."""


class Lines(Silence):
    """Prints a line for each protocol every second: for pipes, logs, and terminals without rich."""

    interval: float = 1.0
    _FORMAT = "{:>5} {:<11} {:>5} {:>7} {:>6} {:>6} {:>6} {:>4} {:>7} {:>7} {:>6}"

    def __enter__(self) -> Self:
        click.echo(self._FORMAT.format("TIME", *_COLUMNS))
        return self

    def show(self, figures: Sequence[Row], seconds: float, failures: Sequence[str]) -> None:
        """Print these figures, a line each."""
        for row in figures:
            click.echo(self._FORMAT.format(f"{seconds:.0f}s", *row.cells()))


class TableView:
    """Draws the table in place, twice a second, with rich."""

    interval: float = 0.5

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, figures: Sequence[Row], seconds: float, failures: Sequence[str]) -> None:
        """Draw these figures, with the last failures below."""
        self._live.update(_table(figures, seconds, failures), refresh=True)


def rich_is_installed() -> bool:
    """Whether the table can be drawn (extra ``tui``)."""
    return importlib.util.find_spec("rich") is not None


def _table(figures: Sequence[Row], seconds: float, failures: Sequence[str]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    caption = "\n".join(escape(failure) for failure in failures) or "no failures"
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=f"through the proxy, for {seconds:.0f} s",
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "PROTOCOL" else "right", no_wrap=True)
    for row in figures:
        name, rps, success, *rest = row.cells()
        table.add_row(f"[bold]{name}[/]", rps, f"[{'red' if row.failed else 'green'}]{success}[/]", *rest)
    return table
