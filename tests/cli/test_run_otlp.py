"""``--otlp-metrics``: the command sends its metrics to a collector, those of all workers together."""

import pytest
import trio

from linkerd_proxy import Http, Response, open_listeners
from linkerd_proxy.http.handler import handler
from linkerd_proxy.testing import serving
from tests.metrics.test_metric_export import metrics_of, pb
from tests.patience import PATIENCE


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_metrics_are_sent_while_it_runs_and_when_it_ends(workers, command, fetch, origin):
    requests = []
    first = trio.Event()

    @handler
    async def collect(request):
        requests.append(pb.ExportMetricsServiceRequest.FromString(await request.body.read()))
        first.set()
        return Response(200)

    (listener,) = await open_listeners("127.0.0.1:0")
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{listener.address}",
        "OTEL_METRIC_EXPORT_INTERVAL": "50",
        "OTEL_SERVICE_NAME": "shop",
    }
    arguments = ("run", "--listen", "127.0.0.1:0", "--to", origin.address, "--workers", workers, "--otlp-metrics")
    async with serving(Http() | collect, listener), command(*arguments, environment=environment) as proxy:
        address = await proxy.address()
        for _ in range(5):
            assert await fetch(address) == (200, b"hello")
        with trio.fail_after(PATIENCE):
            await first.wait()
        proxy.signal()
        assert await proxy.ended() == 0
        assert proxy.errors == ""
    found = metrics_of(requests)
    assert sum(point.as_int for point in found["request_total"].sum.data_points) == 5
    latency = found["response_latency_ms"].exponential_histogram
    assert sum(point.count for point in latency.data_points) == 5
    assert requests[-1].resource_metrics[0].resource.attributes[0].value.string_value == "shop"


async def test_without_an_endpoint_it_says_so(command, origin):
    async with command("run", "--listen", "127.0.0.1:0", "--to", origin.address, "--otlp-metrics") as proxy:
        assert await proxy.ended() == 2
        assert "set OTEL_EXPORTER_OTLP_ENDPOINT" in proxy.errors
