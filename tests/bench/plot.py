"""The picture on the performance page: CPU time by proxy, one panel a case."""

from __future__ import annotations

from pathlib import Path

from tests.bench.bars import Document, median
from tests.bench.cases import CASES

# 32 connections: neither idle nor saturated. The table has the others.
CONNECTIONS = 32
# mitmproxy stands in the table: beside it, all others would be dots.
SHOWN = ("ours", "ours-h11", "envoy", "haproxy", "nginx")


def plot(found: Document, path: Path) -> None:
    """Draw the run into an SVG file, the same one for the same figures."""
    import matplotlib as mpl

    mpl.use("svg")
    # A file that only changes with the figures: no random ids, no date, text as text.
    mpl.rcParams.update({"svg.hashsalt": "linkerd-proxy", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt

    from tests.bench.report import NAMES

    panels = [name for name in ("tcp", "bulk", "http1", "varied", "http2") if _bars(found, name)]
    if not panels:
        return
    figure, axes = plt.subplots(1, len(panels), figsize=(2.6 * len(panels), 2.6), squeeze=False)
    for axis, case in zip(axes[0], panels, strict=True):
        values = _bars(found, case)
        names = list(values)
        costs = [values[name] * (2**30 * 1e3 if case == "bulk" else 1e6) for name in names]
        colours = ["#2b6cb0" if name.startswith("ours") else "#a0aec0" for name in names]
        drawn = axis.barh([NAMES[name] for name in names], costs, color=colours)
        axis.bar_label(drawn, fmt="%.0f", padding=2, fontsize=8)
        axis.invert_yaxis()
        axis.set_title(CASES[case].title.replace(", 10 streams a connection", "").replace(", ", ",\n"), fontsize=9)
        axis.set_xlabel("CPU ms a GiB" if case == "bulk" else "CPU µs a request")
        axis.margins(x=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None}, transparent=True)
    plt.close(figure)


def _bars(found: Document, case: str) -> dict[str, float]:
    connections = CONNECTIONS if CASES[case].connections else 1
    costs = {name: median(found, case, name, connections) for name in SHOWN}
    return {name: cost for name, cost in costs.items() if cost is not None}
