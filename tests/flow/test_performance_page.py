"""The performance page says what the run found: its tables are made from the figures, and its bars are judged rightly."""

from __future__ import annotations

import json

from tests.bench.bars import bars
from tests.bench.report import PAGE, reST

FOUND = json.loads((PAGE / "performance.json").read_text())


def test_the_page_includes_what_the_figures_say():
    assert (PAGE / "performance-figures.inc").read_text() == reST(FOUND)
    assert [bar.as_dict() for bar in bars(FOUND)] == FOUND["bars"]


def test_the_page_names_no_machine():
    text = (PAGE / "performance.json").read_text()
    assert not any(place in text for place in ("/work", "/root", "/home", "/tmp"))


def test_bars_compare_medians_of_the_same_run():
    series = [
        {"case": "http1", "connections": 32, "proxy": proxy, "cost": cost}
        for proxy, cost in (("ours", [6e-5, 9e-5, 7e-5]), ("envoy", [5e-5, 5e-5, 9e-5]), ("mitmproxy", [6e-4]))
    ]
    memory = [{"proxy": "ours", "idle": 50 << 20, "connections": 10, "per_connection": 12288.0}]
    document = {"settings": {"connections": [1, 32]}, "series": series, "memory": memory}
    judged = {bar.what: (round(bar.value, 3), bar.reached) for bar in bars(document)}
    assert judged == {
        "HTTP/1.1, httptools: CPU against Envoy, 32 connections": (1.4, False),
        "HTTP/1.1: CPU of mitmproxy against ours, 32 connections": (8.571, False),
        "Memory at rest": (50.0, False),
        "Memory of an idle connection, 10 open": (12.0, True),
    }
