"""How ``linkerd-proxy top`` draws frames: tables with rich, or plain columns."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

__all__ = ["Screen", "fitting", "plain", "sparkline"]

_KEPT = 40  # seconds of a sparkline
_BARS = "▁▂▃▄▅▆▇█"

_ROWS = ("TRAFFIC", "RPS", "SUCCESS", "P50 ms", "P95 ms", "P99 ms", "OPEN", "MESHED", "TOTAL")
_ENDPOINTS = ("ENDPOINT", "BALANCER", "IDENTITY", "STATE", "LOAD", "LATENCY ms", "RPS", "SHARE", "FAILED")
_EDGES = ("FROM", "TO", "SECURED", "RPS", "TOTAL")
_FAILURES = ("AGO", "CODE", "WHAT HAPPENED, AND WHAT TO DO", "FROM")
_LEFT = frozenset(
    {"NAME", "PEER", "TRAFFIC", "ENDPOINT", "BALANCER", "IDENTITY", "STATE", "FROM", "TO", "CODE", _FAILURES[2]}
)
_DISPENSABLE = (
    "P95, LATELY", "CONN", "TOTAL", "FAILED", "MESHED", "SHARE", "P50 ms", "OPEN", "BALANCER", "P99 ms", "IDENTITY",
)  # fmt: skip
"""Columns that go first where there is little room."""
_NAME = 28  # columns of a name before others are left out for it
_SHORTEST = 4
_GAP = 2  # columns between two


def _rows(frame: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            f"{one['kind']} {one['name']}",
            _number(one["rate"]),
            _percent(one["success"]),
            *(_number(one[name]) for name in ("p50", "p95", "p99")),
            str(one["open"]),
            _percent(one["meshed"]),
            str(one["total"]),
        )
        for one in frame["rows"]
    ]


def _endpoints(frame: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            one["address"],
            one["balancer"] or "-",
            one["identity"] or "-",
            one["state"],
            str(one["in_flight"]),
            _number(one["rtt"]),
            _number(one["rate"]),
            _percent(one["share"]),
            str(one["failed"]),
        )
        for one in frame["endpoints"]
    ]


def _edges(frame: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            one["source"],
            one["target"],
            "mutual TLS" if one["secured"] else "no",
            _number(one["rate"]),
            str(one["total"]),
        )
        for one in frame["edges"]
    ]


def _failures(frame: dict[str, Any]) -> list[tuple[str, ...]]:
    return [(f"{one['ago']:.0f}s", one["code"], one["text"], one["peer"]) for one in reversed(frame["failures"])]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else "100%" if value == 1 else f"{value:.2%}"


def sparkline(values: Sequence[float | None]) -> str:
    """Return values as bars as high as they are beside the highest; a space where there is none."""
    top = max((value for value in values if value is not None), default=0.0)
    return "".join(
        " " if value is None else _BARS[min(len(_BARS) - 1, int(value / top * len(_BARS)) if top else 0)]
        for value in values
    )


def plain(frame: dict[str, Any]) -> str:
    """Return a frame as columns of text."""
    parts = [f"{frame['name']}, up {frame['uptime']:.0f} s"]
    for heads, rows in (
        (_ROWS, _rows(frame)),
        (_ENDPOINTS, _endpoints(frame)),
        (_EDGES, _edges(frame)),
        (_FAILURES, _failures(frame)),
    ):
        if rows:
            widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
            for row in (heads, *rows):
                cells = zip(heads, row, widths, strict=True)
                padded = (cell.ljust(width) if head in _LEFT else cell.rjust(width) for head, cell, width in cells)
                parts.append("  ".join(padded).rstrip())
            parts.append("")
    return "\n".join(parts)


class Screen:
    """Draws the newest frame of each proxy in place, with rich (extra ``tui``)."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.live import Live

        self._live = Live(console=console, auto_refresh=False, screen=console is None, vertical_overflow="crop")
        self._frames: dict[str, dict[str, Any]] = {}
        self._latencies: dict[tuple[str, str], deque[float | None]] = {}
        self._paused = False
        self._first = 0  # line that is shown
        self._page = 1

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def pause(self) -> None:
        """Stop drawing, or go on; frames are taken meanwhile."""
        self._paused = not self._paused
        self._draw()

    def scroll(self, *, lines: int = 0, pages: int = 0) -> None:
        """Show lines further below, or above with negative numbers; never beyond the ends."""
        self._first += lines + pages * self._page
        self._draw()

    def update(self, address: str, frame: dict[str, Any]) -> None:
        """Take a proxy's newest frame."""
        self._frames[address] = frame
        for one in frame["rows"]:
            kept = self._latencies.setdefault((address, one["kind"] + one["name"]), deque(maxlen=_KEPT))
            kept.append(one["p95"])
        if not self._paused:
            self._draw()

    def _draw(self) -> None:
        self._live.update(self, refresh=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield as many lines as the terminal has now, the last of which tells the keys."""
        from rich.console import Group
        from rich.segment import Segment, Segments
        from rich.text import Text

        plain_options = options.update(height=None)
        lines = console.render_lines(Group(*self._parts(options.max_width)), plain_options, pad=False)
        self._page = max(1, options.size.height - 2)
        self._first = max(0, min(self._first, len(lines) - self._page))
        shown = lines[self._first : self._first + self._page]
        for line in shown:
            yield Segments([*line, Segment.line()])
        keys = "q ends, p pauses"
        if len(shown) < len(lines):
            keys += f", ↑ ↓ scroll ({self._first + len(shown)} of {len(lines)} lines)"
        yield Text(keys, style="dim", no_wrap=True, overflow="ellipsis")

    def _parts(self, width: int) -> list[RenderableType]:
        from rich.text import Text

        parts: list[RenderableType] = []
        for address, frame in self._frames.items():
            title = f"{frame['name']}  up {frame['uptime']:.0f} s  ({address})"
            parts.append(Text(title + ("  paused" if self._paused else ""), style="bold"))
            sparks = [sparkline(self._latencies[address, one["kind"] + one["name"]]) for one in frame["rows"]]
            rows = [(*row, spark) for row, spark in zip(_rows(frame), sparks, strict=True)]
            for heads, more in (
                ((*_ROWS, "P95, LATELY"), rows),
                (_ENDPOINTS, _endpoints(frame)),
                (_EDGES, _edges(frame)),
                (_FAILURES, _failures(frame)[:5]),
            ):
                if more:
                    parts.append(_table(*fitting(heads, more, width - _GAP)))  # less its margins
        return parts


def fitting(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """Return what fits side by side: columns are left out and names cut short, for half a number is a wrong one."""
    kept = list(range(len(heads)))
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in kept]

    def needed() -> int:
        cells = (min(widths[column], _NAME) if heads[column] in _LEFT else widths[column] for column in kept)
        return sum(cells) + _GAP * (len(kept) - 1)

    for head in _DISPENSABLE:
        if head in heads and needed() > width:
            kept.remove(heads.index(head))
    names = sorted((column for column in kept if heads[column] in _LEFT), key=lambda column: widths[column])
    room = width - _GAP * (len(kept) - 1) - sum(widths[column] for column in kept if column not in names)
    for position, column in enumerate(names):  # the shortest first, for what they leave is the others'
        widths[column] = max(_SHORTEST, min(widths[column], room // (len(names) - position)))
        room -= widths[column]
    cut = [[_cut(heads[one], row[one], widths[one]) for one in kept] for row in rows]
    return [heads[one] for one in kept], cut


def _cut(head: str, cell: str, width: int) -> str:
    if len(cell) <= width or head == _FAILURES[2]:
        return cell  # a sentence goes on in the next line
    tail = width // 2  # the ends tell names apart more often than the middle
    return f"{cell[: width - tail - 1]}…{cell[len(cell) - tail :]}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for head in heads:
        left = head in _LEFT
        table.add_column(head, justify="left" if left else "right", no_wrap=head != _FAILURES[2], overflow="ellipsis")
    for row in rows:
        table.add_row(*(_styled(head, escape(cell)) for head, cell in zip(heads, row, strict=True)))
    return table


def _styled(head: str, cell: str) -> str:
    if head == "SUCCESS" and cell != "-":
        return f"[{'green' if cell == '100%' or float(cell.rstrip('%')) >= 99 else 'red'}]{cell}[/]"
    if head == "STATE":
        return f"[{'green' if cell == 'ready' else 'red'}]{cell}[/]"
    return f"[red]{cell}[/]" if head == "CODE" else cell
