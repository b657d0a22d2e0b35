"""Metrics by OTLP: what a collector is told, how often, and what becomes of what it does not take."""

import logging
import math
import random
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from linkerd_proxy import Client, Connect, Http, Stack, open_listeners
from linkerd_proxy.core.message import Response
from linkerd_proxy.core.work import Exchange
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.http.handler import handler
from linkerd_proxy.metrics.histogram import Exemplar, Histogram
from linkerd_proxy.metrics.metric_export import OtlpMetrics
from linkerd_proxy.metrics.otlp_format import metrics_requests
from linkerd_proxy.metrics.process import process_start
from linkerd_proxy.metrics.registry import Registry, current_registry
from linkerd_proxy.testing import serving

pb = pytest.importorskip("opentelemetry.proto.collector.metrics.v1.metrics_service_pb2")

CUMULATIVE = 2


class Collector(Stack[Exchange]):
    """Takes requests, and answers with what a test tells it: statuses, or seconds to wait."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.requests = []
        self.times = []
        self.heads = []

    @asynccontextmanager
    async def open(self):
        async def service(exchange):
            self.times.append(trio.current_time())
            self.heads.append(exchange.request)
            step = self.steps.pop(0) if self.steps else 200
            if isinstance(step, float):
                await trio.sleep(step)
                step = 200
            data = await exchange.request.body.read()
            if step == 200:
                self.requests.append(pb.ExportMetricsServiceRequest.FromString(data))
            await exchange.respond(Response(step))

        yield service

    @property
    def metrics(self):
        return metrics_of(self.requests)


def metrics_of(requests):
    return {
        one.name: one
        for request in requests
        for of_resource in request.resource_metrics
        for scope in of_resource.scope_metrics
        for one in scope.metrics
    }


def decoded(registry, batch=1000, **resource):
    parts = metrics_requests(registry, resource, start=1000.0, now=1060.25, batch=batch)
    return [pb.ExportMetricsServiceRequest.FromString(part.data) for part in parts if part is not None]


def attributes(pairs):
    return {one.key: one.value.string_value for one in pairs}


def counter(name):
    return current_registry().counter(name, "").value


def restored(point):
    """Return the histogram that a point tells of."""
    made = Histogram(point.scale, 1 << 20)
    made.buckets = {
        point.positive.offset + step: count for step, count in enumerate(point.positive.bucket_counts) if count
    }
    made.zeros, made.count, made.total = point.zero_count, point.count, point.sum
    return made


# --- the format --------------------------------------------------------------------------------


def test_sums_gauges_and_exponential_histograms():
    registry = Registry()
    registry.counter("request_total", "Requests", direction="in", empty="").value = 7
    registry.counter("seen_bytes_total", "Bytes").value = 2.5
    registry.gauge("open", "Open now").value = -3
    latency = registry.histogram("wait_ms", "Waits", direction="in")
    for value in (0, 1.5, 1.5, 300):
        latency.record(value)
    latency.exemplify(Exemplar(300, "0af7651916cd43dd8448eb211c80319c", 1050.5))
    (request,) = decoded(registry, **{"service.name": "shop"})
    (of_resource,) = request.resource_metrics
    assert attributes(of_resource.resource.attributes) == {"service.name": "shop"}
    assert of_resource.scope_metrics[0].scope.name == "linkerd_proxy"
    found = metrics_of([request])

    requests = found["request_total"]
    assert (requests.description, requests.sum.is_monotonic) == ("Requests", True)
    assert requests.sum.aggregation_temporality == CUMULATIVE
    (point,) = requests.sum.data_points
    assert (attributes(point.attributes), point.as_int) == ({"direction": "in"}, 7)
    assert (point.start_time_unix_nano, point.time_unix_nano) == (1000 * 10**9, 1060250 * 10**6)
    assert (found["seen_bytes_total"].sum.data_points[0].as_double, found["seen_bytes_total"].unit) == (2.5, "By")
    assert found["open"].gauge.data_points[0].as_int == -3

    waits = found["wait_ms"]
    assert (waits.unit, waits.exponential_histogram.aggregation_temporality) == ("ms", CUMULATIVE)
    (point,) = waits.exponential_histogram.data_points
    assert (point.count, point.zero_count, point.sum, point.scale) == (4, 1, 303, 3)
    assert restored(point).buckets == latency.buckets
    assert not point.HasField("negative")
    assert point.exemplars[0].trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert point.exemplars[0].as_double == 300


def test_what_is_zero_and_what_is_empty_can_be_told_from_what_is_not_there():
    registry = Registry()
    registry.counter("a_total", "A")
    registry.gauge("b", "B").value = 0.0
    registry.histogram("c_ms", "C")
    found = metrics_of(decoded(registry))
    assert found["a_total"].sum.data_points[0].WhichOneof("value") == "as_int"
    assert found["b"].gauge.data_points[0].WhichOneof("value") == "as_double"
    point = found["c_ms"].exponential_histogram.data_points[0]
    assert (point.count, point.HasField("positive"), point.HasField("sum")) == (0, False, True)


def test_a_bucket_holds_what_opentelemetry_says_it_holds():
    """Bucket i holds what is above base**i and up to base**(i+1)."""
    registry = Registry()
    registry.histogram("a_ms", "A").record(4.0)
    registry.histogram("a_ms", "A").record(4.0001)
    point = metrics_of(decoded(registry))["a_ms"].exponential_histogram.data_points[0]
    base = 2 ** (2**-point.scale)
    for step, count in enumerate(point.positive.bucket_counts):
        low, high = base ** (point.positive.offset + step), base ** (point.positive.offset + step + 1)
        assert count == sum(low < value * (1 - 1e-12) <= high for value in (4.0, 4.0001))


def test_values_far_apart_are_told_in_wider_buckets_and_never_in_millions():
    registry = Registry()
    histogram = registry.histogram("a_ms", "A")
    for value in (5e-324, 1.0, 1e308):
        histogram.record(value)
    point = metrics_of(decoded(registry))["a_ms"].exponential_histogram.data_points[0]
    assert sum(point.positive.bucket_counts) == 3
    assert len(point.positive.bucket_counts) <= 640
    assert point.scale < histogram.schema == 3


def test_requests_are_bounded_and_others_have_their_turn():
    registry = Registry()
    for number in range(500):
        registry.counter("a_total", "A", n=str(number)).value = number
        registry.gauge("b", "B", n=str(number)).value = number
    parts = list(metrics_requests(registry, {}, start=0, now=1, batch=300))
    assert [part.points for part in parts if part is not None] == [300, 300, 300, 100]
    assert parts.count(None) >= 12
    found = decoded(registry, batch=300)
    values = [
        point.as_int
        for request in found
        for metric in metrics_of([request]).values()
        for point in (*metric.sum.data_points, *metric.gauge.data_points)
    ]
    assert sorted(values) == sorted([*range(500), *range(500)])


LATENCIES = st.lists(st.floats(1e-3, 1e6), max_size=30)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(LATENCIES, st.integers(-2, 8)), min_size=100, max_size=100), st.randoms())
def test_a_hundred_proxies_that_a_collector_adds_up_are_one_that_saw_everything(proxies, order):
    together = Histogram(min(schema for _, schema in proxies), 1 << 20)
    points = []
    for values, schema in proxies:
        registry = Registry()
        mine = registry.histogram("wait_ms", "Waits")
        mine.merge(Histogram(schema, 256))
        for value in values:
            mine.record(value)
            together.record(value)
        points.append(metrics_of(decoded(registry))["wait_ms"].exponential_histogram.data_points[0])
    order.shuffle(points)
    added = Histogram(8, 1 << 20)
    for point in points:
        added.merge(restored(point))
    expected = Histogram(8, 1 << 20)
    expected.merge(together)
    if expected.schema > added.schema:
        expected.merge(Histogram(added.schema))
    assert (added.buckets, added.zeros, added.count) == (expected.buckets, expected.zeros, expected.count)
    assert added.total == pytest.approx(expected.total)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(1e-9, 1e12), min_size=1, max_size=200),
    st.integers(-4, 8),
    st.floats(0, 1),
)
def test_a_quantile_is_off_by_less_than_the_schemas_bound(values, schema, q):
    histogram = Histogram(schema, 1 << 20)
    for value in values:
        histogram.record(value)
    exact = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    width = 2 ** (2**-schema)
    assert exact / width * (1 - 1e-9) <= histogram.quantile(q) <= exact * width * (1 + 1e-9)


# --- the export --------------------------------------------------------------------------------


async def test_all_metrics_go_every_interval_and_a_last_time_at_the_end(autojump_clock):
    counted = current_registry().counter("request_total", "Requests", direction="in")
    collector = Collector()
    otlp = OtlpMetrics(collector, service="shop", resource={"zone": "a"}, headers={"x-key": "k"}, interval=10)
    async with otlp.exporting():
        counted.value = 1
        await trio.sleep(25)
        counted.value = 2
    assert collector.times == [10, 20, 25]
    assert metrics_of(collector.requests[:1])["request_total"].sum.data_points[0].as_int == 1
    assert collector.metrics["request_total"].sum.data_points[0].as_int == 2
    head = collector.heads[0]
    assert (head.method, head.path, head.authority) == ("POST", "/v1/metrics", "localhost:4318")
    assert (head.headers.get("x-key"), head.headers.get("content-type")) == ("k", "application/x-protobuf")
    resource = collector.requests[0].resource_metrics[0].resource
    assert attributes(resource.attributes) == {"service.name": "shop", "zone": "a"}
    points = sum(len(m.sum.data_points) + len(m.gauge.data_points) for m in collector.metrics.values())
    assert counter("opentelemetry_points_exported_total") == 3 * points


async def test_other_registries_can_be_sent(autojump_clock):
    other = Registry()
    other.counter("theirs_total", "T").value = 4

    async def fetch():
        return other

    collector = Collector()
    async with OtlpMetrics(collector).exporting(fetch):
        pass
    assert set(collector.metrics) == {"theirs_total"}


async def test_what_is_not_taken_is_dropped_counted_and_told_and_the_next_tells_it_all(autojump_clock, caplog):
    registry = current_registry()
    for number in range(250):
        registry.counter("a_total", "A", n=str(number)).value = 1
    collector = Collector(400)
    with caplog.at_level(logging.WARNING, "linkerd_proxy"):
        async with OtlpMetrics(collector, batch=100, interval=10).exporting():
            await trio.sleep(15)
            assert collector.requests == []
            assert len(collector.times) == 1  # the rest of them was not even tried
            assert counter("opentelemetry_points_dropped_total") > 250
            assert counter("opentelemetry_metric_export_errors_total") == 1
    assert len(collector.metrics["a_total"].sum.data_points) + 200 >= 250
    assert "points for localhost:4318 are lost until the next interval" in caplog.text


async def test_one_that_is_away_for_a_moment_is_asked_again(autojump_clock):
    collector = Collector(503)
    async with OtlpMetrics(collector, interval=10, dice=random.Random(1)).exporting():
        await trio.sleep(15)
        assert len(collector.requests) == 1
    assert counter("opentelemetry_points_dropped_total") == 0


async def test_a_collector_that_hangs_holds_nothing_up(autojump_clock):
    collector = Collector(*[1000.0] * 9)
    async with OtlpMetrics(collector, interval=10, timeout=4).exporting():
        await trio.sleep(35)
    assert trio.current_time() <= 35 + 4
    assert collector.times[0] == 10
    assert counter("opentelemetry_points_dropped_total") > 0


async def test_a_real_collector_is_asked_over_our_own_client():
    taken = []

    @handler
    async def collect(request):
        taken.append(pb.ExportMetricsServiceRequest.FromString(await request.body.read()))
        return Response(200)

    (listener,) = await open_listeners("127.0.0.1:0")
    async with serving(Http() | collect, listener):
        current_registry().counter("request_total", "Requests").value = 3
        way = Client() | Connect(str(listener.address))
        async with OtlpMetrics(way, authority=str(listener.address)).exporting():
            pass
    assert metrics_of(taken)["request_total"].sum.data_points[0].as_int == 3


def test_the_process_began_before_now():
    from datetime import UTC, datetime

    assert 0 <= datetime.now(UTC).timestamp() - process_start() < 86400


def test_the_repr_tells_no_secret():
    assert repr(OtlpMetrics(Collector(), headers={"authorization": "Bearer x"})).endswith(
        "authority='localhost:4318', service='linkerd-proxy')"
    )


@pytest.mark.parametrize("settings_", [{"interval": 0}, {"timeout": math.inf}, {"batch": 0}])
def test_settings_that_can_not_be_meant_are_refused(settings_):
    with pytest.raises(InvalidConfiguration, match="give"):
        OtlpMetrics(Collector(), **settings_)
