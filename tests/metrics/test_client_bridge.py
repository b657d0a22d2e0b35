"""Our metrics through prometheus-client's registry, read back by its own parser."""

import sys

import pytest
import trio

from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.metrics.bounds import Bounds
from linkerd_proxy.metrics.client_bridge import PrometheusClientBridge
from linkerd_proxy.metrics.histogram import Exemplar
from linkerd_proxy.metrics.process import process_metrics
from linkerd_proxy.metrics.registry import Registry, current_registry

client = pytest.importorskip("prometheus_client")

from prometheus_client.openmetrics.exposition import generate_latest as openmetrics  # noqa: E402  # after the skip
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed_openmetrics  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families as parsed  # noqa: E402


def filled(registry):
    registry.counter("request_total", 'Requests, "all"', direction="in", empty="").value = 7
    registry.gauge("open", "Open\nnow").value = 3
    latency = registry.histogram("wait_ms", "Waits", direction="in")
    for value in (0.5, 1.5, 30, 7000):
        latency.record(value)
    latency.exemplify(Exemplar(30, "0af7651916cd43dd8448eb211c80319c", 1700000000.5))
    return registry


def samples(families):
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def application(registry):
    theirs = client.CollectorRegistry()
    client.Counter("shop_orders", "Orders", registry=theirs).inc(2)
    theirs.register(PrometheusClientBridge(registry, bounds=Bounds({"wait_ms": (1.0, 10.0, 100.0)})))
    return theirs


def test_both_are_in_one_exposition():
    text = client.generate_latest(application(filled(Registry()))).decode()
    found = samples(parsed(text))
    assert found["shop_orders_total", ()] == 2
    assert found["request_total", (("direction", "in"),)] == 7
    assert found["open", ()] == 3
    assert [found["wait_ms_bucket", (("direction", "in"), ("le", le))] for le in ("1.0", "10.0", "100.0", "+Inf")] == [
        1,
        2,
        3,
        4,
    ]
    assert found["wait_ms_count", (("direction", "in"),)] == 4
    assert found["wait_ms_sum", (("direction", "in"),)] == 7032
    assert "# TYPE request_total counter" in text


def test_openmetrics_has_the_exemplars():
    families = parsed_openmetrics(openmetrics(application(filled(Registry()))).decode())
    (bucket,) = [one for family in families for one in family.samples if one.exemplar]
    assert bucket.labels["le"] == "100.0"
    assert bucket.exemplar.labels == {"trace_id": "0af7651916cd43dd8448eb211c80319c"}
    assert (bucket.exemplar.value, float(bucket.exemplar.timestamp)) == (30, 1700000000.5)


async def test_the_default_is_this_runs_registry_and_metrics_are_brought_up_to_date():
    registry = filled(current_registry())
    counted = registry.counter("moved_total", "Moved")

    def collect():
        counted.value += 1

    theirs = client.CollectorRegistry()
    theirs.register(PrometheusClientBridge())
    with registry.collecting(collect):
        assert theirs.get_sample_value("moved_total") == 1


async def test_a_scrape_from_another_thread_reads_in_trios():
    registry = current_registry()
    threads = []
    registry.counter("a_total", "A").value = 1

    def collect():
        threads.append(trio.lowlevel.in_trio_run())

    bridge = PrometheusClientBridge()
    with registry.collecting(collect):
        families = await trio.to_thread.run_sync(lambda: list(bridge.collect()))
    assert threads == [True]
    assert any(family.name == "a" for family in families)


def test_what_was_counted_can_be_read_when_the_run_is_over():
    async def main():
        current_registry().counter("a_total", "A").value = 5
        return PrometheusClientBridge()

    theirs = client.CollectorRegistry()
    theirs.register(trio.run(main))
    assert theirs.get_sample_value("a_total") == 5


async def test_metrics_of_the_process_are_left_to_the_library():
    theirs = client.CollectorRegistry()
    client.ProcessCollector(registry=theirs)
    theirs.register(PrometheusClientBridge())
    with process_metrics(current_registry()):
        text = client.generate_latest(theirs).decode()
    assert text.count("# TYPE process_cpu_seconds_total") == 1
    assert "proxy_build_info" in text


def test_outside_of_trio_it_needs_a_registry():
    with pytest.raises(InvalidConfiguration, match="outside of a Trio run: give it a registry"):
        PrometheusClientBridge()


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(InvalidConfiguration, match="pip install prometheus-client"):
        PrometheusClientBridge(Registry())
