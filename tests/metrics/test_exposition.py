import gzip
import math
import re

import pytest
import trio

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.bounds import LATENCY_BOUNDS_MS, Bounds
from linkerd_proxy.metrics.exposition import Exposition
from linkerd_proxy.metrics.negotiation import accepts_gzip, chosen_format
from linkerd_proxy.metrics.process import process_metrics
from linkerd_proxy.metrics.registry import Registry
from linkerd_proxy.metrics.text_format import exposed

NASTY = 'a"b\\c\nd,e}f{g=h # i é'

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
NUMBER = r"[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf|NaN)"
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? ({NUMBER})")
META = re.compile(rf"# (HELP|TYPE) ({NAME}) (.*)")
SUFFIXES = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


def parse(text, *, openmetrics=False):
    """Read an exposition strictly: grammar, grouping, one series once, and what histograms must be."""
    assert text.endswith("\n")
    lines = text[:-1].split("\n")
    if openmetrics:
        assert lines.pop() == "# EOF"
    families, samples, current = {}, {}, None
    for line in lines:
        if meta := META.fullmatch(line):
            word, name, rest = meta.groups()
            if word == "HELP":
                assert name not in families, "a family's lines must stand together"
                current = name
                families[name] = None
                assert re.fullmatch(r"(?:[^\\]|\\\\|\\n|\\\")*", rest)
            else:
                assert name == current
                families[name] = rest
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        name, labels, value = sample.groups()
        kind = families[current]
        assert kind in SUFFIXES
        suffixes = ["_total"] if openmetrics and kind == "counter" else SUFFIXES[kind]
        assert name in [current + suffix for suffix in suffixes], line
        pairs = tuple(re.findall(r'([a-zA-Z_0-9]+)="((?:[^"\\]|\\.)*)"', labels or ""))
        assert len({key for key, _ in pairs}) == len(pairs)
        assert (name, pairs) not in samples, "one series must come once"
        samples[name, pairs] = float(value.replace("Inf", "inf"))
    for name, kind in families.items():
        if kind == "histogram":
            check_histogram(name, samples)
    return families, samples


def check_histogram(name, samples):
    buckets = {}
    for (sample, pairs), value in samples.items():
        if sample == f"{name}_bucket":
            rest = tuple(pair for pair in pairs if pair[0] != "le")
            (bound,) = [float(text.replace("Inf", "inf")) for key, text in pairs if key == "le"]
            buckets.setdefault(rest, []).append((bound, value))
    for rest, counts in buckets.items():
        assert [bound for bound, _ in counts] == sorted({bound for bound, _ in counts})
        assert [count for _, count in counts] == sorted(count for _, count in counts)
        assert counts[-1] == (math.inf, samples[f"{name}_count", rest])
        assert (f"{name}_sum", rest) in samples


def filled():
    registry = Registry()
    registry.counter("request_total", 'Requests, "all"\nof them \\', path=NASTY).value = 3
    registry.counter("request_total", "", path="/", empty="").value = 4
    registry.gauge("temperature", "Degrees").value = -1.5
    for value in (0.5, 3, 30, 3000, 1e9):
        registry.histogram("latency_ms", "Time", route="a").record(value)
    registry.histogram("wait_seconds", "Time").record(0.02)
    registry.histogram("size_bytes", "Bytes").record(200)
    registry.histogram("share", "Of something").record(0.5)
    registry.histogram("untouched_ms", "Nothing yet")
    return registry


@pytest.mark.parametrize("openmetrics", [False, True])
def test_it_is_grammatical_and_tells_all(openmetrics):
    families, samples = parse("".join(exposed(filled(), openmetrics=openmetrics)), openmetrics=openmetrics)
    counter = "request" if openmetrics else "request_total"
    assert families[counter] == "counter"
    assert families["latency_ms"] == "histogram"
    escaped = NASTY.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    assert samples["request_total", (("path", escaped),)] == 3
    assert samples["request_total", (("path", "/"),)] == 4  # an empty label is none
    assert samples["temperature", ()] == -1.5


def test_classic_buckets_are_linkerds():
    assert len(LATENCY_BOUNDS_MS) == 25
    assert LATENCY_BOUNDS_MS[:7] == (1, 2, 3, 4, 5, 10, 20)
    assert LATENCY_BOUNDS_MS[-2:] == (40_000, 50_000)
    _, samples = parse("".join(exposed(filled())))
    assert samples["latency_ms_bucket", (("route", "a"), ("le", "1.0"))] == 1
    assert samples["latency_ms_bucket", (("route", "a"), ("le", "4.0"))] == 2
    assert samples["latency_ms_bucket", (("route", "a"), ("le", "50000.0"))] == 4
    assert samples["latency_ms_bucket", (("route", "a"), ("le", "+Inf"))] == 5
    assert samples["wait_seconds_bucket", (("le", "0.03"),)] == 1


def test_the_metrics_are_brought_up_to_date_first():
    registry = Registry()
    with process_metrics(registry):
        _, samples = parse("".join(exposed(registry)))
    assert samples["process_cpu_seconds_total", ()] > 0
    assert samples["process_resident_memory_bytes", ()] > 1e6
    assert samples["process_open_fds", ()] >= 3


def many():
    registry = Registry()
    for number in range(300):
        registry.histogram("latency_ms", "Time", number=str(number)).record(number)
    return registry


async def test_a_large_one_comes_in_slices_with_checkpoints_between():
    body = Exposition(many())
    others = 0

    async def run_beside():
        nonlocal others
        while True:
            await trio.lowlevel.checkpoint()
            others += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_beside)
        slices = [chunk async for chunk in body]
        nursery.cancel_scope.cancel()
    assert len(slices) == 5
    assert others >= len(slices) - 1
    parse(b"".join(slices).decode())
    assert await body.pull() == b""


async def test_gzip_says_the_same():
    compressed = await Exposition(many(), gzip=True).read()
    plain = await Exposition(many()).read()
    assert gzip.decompress(compressed) == plain
    assert len(compressed) < len(plain) / 10


async def test_an_empty_registry_is_an_empty_body():
    assert await Exposition(Registry()).read() == b""
    assert await Exposition(Registry(), "openmetrics").read() == b"# EOF\n"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "text"),
        ("*/*", "text"),
        ("text/plain", "text"),
        ("application/openmetrics-text", "openmetrics"),
        # What Prometheus 2.x sends.
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", "openmetrics"),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.9", "text"),
        ("application/openmetrics-text;q=0", "text"),
        ("application/openmetrics-text;q=rubbish", "text"),
    ],
)
def test_content_negotiation(accept, expected):
    assert chosen_format(accept) == expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("deflate, GZip;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("identity", False),
    ],
)
def test_gzip_where_it_is_accepted(accept, expected):
    assert accepts_gzip(accept) is expected


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        # What Prometheus sends where native histograms are on.
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
            "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "protobuf",
        ),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text", "text"),
        ("application/vnd.google.protobuf;proto=other.Message;encoding=delimited", "text"),
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.3,text/plain",
            "text",
        ),
    ],
)
def test_protobuf_where_it_is_asked_for(accept, expected):
    assert chosen_format(accept) == expected


def test_classic_buckets_can_be_chosen_by_family():
    bounds = Bounds({"latency_ms": (5.0, 100.0)})
    _, samples = parse("".join(exposed(filled(), bounds=bounds)))
    assert [dict(pairs)["le"] for name, pairs in samples if name == "latency_ms_bucket"] == ["5.0", "100.0", "+Inf"]
    assert len([1 for name, _ in samples if name == "wait_seconds_bucket"]) == 26


@pytest.mark.parametrize("bad", [(), (1.0, 1.0), (2.0, 1.0)])
def test_bounds_that_do_not_ascend_are_refused(bad):
    with pytest.raises(InvalidConfiguration, match="the bounds of a_ms"):
        Bounds({"a_ms": bad})
