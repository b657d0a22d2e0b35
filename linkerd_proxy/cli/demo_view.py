"""What the demonstration shows: a live table on a terminal, plain lines elsewhere, and JSON for scripts."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

import click

if TYPE_CHECKING:
    from rich.table import Table

    from linkerd_proxy.cli.demo_figures import Row

__all__ = ["COLUMNS", "Lines", "Silence", "TableView", "View", "can_draw"]

COLUMNS = ("NAME", "MESHED", "SUCCESS", "RPS", "P50 ms", "P95 ms", "P99 ms", "CONN", "PEER")
"""Those of ``linkerd viz stat``, and who is at the other end."""


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
    """Prints a line for each protocol and each replica every second: for pipes, logs, and terminals without rich."""

    interval: float = 1.0
    _FORMAT = "{:>5} {:<12} {:>6} {:>7} {:>5} {:>6} {:>6} {:>6} {:>4} {}"

    def __enter__(self) -> Self:
        click.echo(self._FORMAT.format("TIME", *COLUMNS))
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
        width = self._live.console.width
        self._live.update(_table(figures, seconds, failures, width), refresh=True)


def can_draw() -> bool:
    """Whether tables can be drawn in place: on a terminal that knows how to, with rich (extra ``tui``)."""
    return (
        sys.stdout.isatty()
        and os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}
        and importlib.util.find_spec("rich") is not None
    )


def _table(figures: Sequence[Row], seconds: float, failures: Sequence[str], width: int) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from linkerd_proxy.cli.top_view import fitting

    caption = "\n".join(escape(failure) for failure in failures) or "no failures"
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=f"what web sees of api, and what api's replicas see of web, for {seconds:.0f} s",
        title_justify="left",
        caption=caption,
        caption_justify="left",
    )
    heads, rows = fitting(COLUMNS, [row.cells() for row in figures], width - 2)
    for head in heads:
        table.add_column(head, justify="left" if head in ("NAME", "PEER") else "right", no_wrap=True)
    for index, (row, cells) in enumerate(zip(figures, rows, strict=True)):
        styles = {
            "NAME": "bold",
            "MESHED": "green" if row.meshed == 100 else "red",
            "SUCCESS": "red" if row.failed else "green",
        }
        if index and row.of_replica and not figures[index - 1].of_replica:
            table.add_section()
        table.add_row(*(Text(cell, style=styles.get(head, "")) for head, cell in zip(heads, cells, strict=True)))
    return table
