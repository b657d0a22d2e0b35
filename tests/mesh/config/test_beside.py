"""What runs beside a proxy that serves by a file: metrics for a collector, the tap, the admin endpoint; with reloads."""

import json
import logging
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio

from linkerd_proxy.core.message import Response
from linkerd_proxy.document.load import parse
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.grpc.tap_api import ObserveRequest
from linkerd_proxy.mesh.config.beside import exporting, tapped
from linkerd_proxy.mesh.config.configuration import Configuration
from linkerd_proxy.mesh.config.document import ProxyDocument
from linkerd_proxy.mesh.config.observing import OtlpMetricsEntry, TraceEntry
from linkerd_proxy.mesh.config.read import structure
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.testing import Authority, http_origin
from linkerd_proxy.tls.store import key_pem, to_pem
from tests.mesh.config.serving import document, write_identity
from tests.metrics.test_metric_export import metrics_of, pb

REST = {
    "listeners": {"web": {"address": "127.0.0.1:0", "backend_refs": ["app"]}},
    "backends": {"app": {"endpoints": ["127.0.0.1:1"]}},
}
PATIENCE = 20
VIZ, OTHER = "tap.viz.mesh.local", "other.mesh.local"


def write(path, **more):
    path.write_text(json.dumps(REST | more))


def told(**more):
    """Return what is wrong with a document."""
    _, problems = structure(parse(json.dumps(REST | more), "p.json"), "p.json")
    return [one.text for one in problems]


async def own():
    return current_registry()


# --- metrics -------------------------------------------------------------------------------------


@asynccontextmanager
async def collector():
    """Run a collector; yield its origin, whose requests are there as messages."""

    async def collect(request):
        origin.messages.append(pb.ExportMetricsServiceRequest.FromString(await request.body.read()))
        origin.came.set()
        return Response(200)

    async with http_origin(collect) as origin:
        origin.messages, origin.came = [], trio.Event()
        yield origin


def sent(origin, name):
    return metrics_of(origin.messages)[name].sum.data_points[0].as_int


async def test_metrics_go_where_the_file_says_and_elsewhere_when_it_says_so(tmp_path) -> None:
    path = tmp_path / "proxy.json"
    counter = current_registry().counter("request_total", "Requests")
    async with collector() as one, collector() as two:
        write(path)
        configuration = Configuration(path)
        with trio.fail_after(PATIENCE):
            async with exporting(configuration, own):
                entry = {"endpoint": f"http://{one.address}/base", "interval": "1h", "service": "shop"}
                write(path, otlp_metrics=entry | {"headers": {"x-key": "k"}, "resource": {"zone": "a"}})
                assert await configuration.reload()
                counter.value = 7
                write(path, otlp_metrics={"endpoint": f"http://{two.address}", "interval": "1h"})
                assert await configuration.reload()
                await one.came.wait()  # what was counted until the change
                assert one.requests[0].path == "/base/v1/metrics"
                assert one.requests[0].headers.get("x-key") == "k"
                told_ = {a.key: a.value.string_value for a in one.messages[0].resource_metrics[0].resource.attributes}
                assert told_ == {"service.name": "shop", "zone": "a"}
                assert two.messages == []
                counter.value = 9
    assert sent(one, "request_total") == 7
    assert sent(two, "request_total") == 9  # at the end, whatever the interval


async def test_what_can_not_be_exported_keeps_a_file_from_being_taken(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    path = tmp_path / "proxy.json"
    write(path)
    configuration = Configuration(path)
    write(path, otlp_metrics={})
    assert not await configuration.reload()
    assert "nothing says where metrics go: give endpoint" in configuration.problem
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c.example:4318")
    assert await configuration.reload()


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"endpoint": "c.example:4318"}, "no plain http or https URL"),
        ({"endpoint": "http://c.example", "interval": "0s"}, "give seconds greater than 0"),
        ({"endpoint": "http://c.example", "batch": 0}, "out of range"),
        ({"endpont": "http://c.example"}, "did you mean 'endpoint'?"),
    ],
)
def test_exports_that_can_not_be_are_told(entry, words) -> None:
    for key in ("otlp_metrics", "trace"):
        assert any(words in text for text in told(**{key: entry}))


def test_a_collector_of_the_ordinary_web_is_asked_by_tls(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-env=1,x-both=env")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "5000")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")  # for what else the process is; the file asks for one
    entry = OtlpMetricsEntry(endpoint="https://c.example", roots="ca.pem", headers={"x-both": "file"})
    export = entry.export(tmp_path)
    assert f"Originate(host='', roots='{tmp_path}/ca.pem')" in str(export.stack)
    assert export.headers == {"x-env": "1", "x-both": "file"}
    assert (export.interval, export.timeout, export.batch) == (5, 10, 1000)
    trace = TraceEntry(endpoint="http://c.example", queue=5, interval=2.0, kind="client", attributes={"a": "b"})
    from linkerd_proxy.mesh.config.kept import Kept

    layer = trace.layer(tmp_path, Kept())
    assert (layer.export.queue, layer.export.interval, layer.kind, layer.attributes) == (5, 2, "client", {"a": "b"})


# --- the tap -------------------------------------------------------------------------------------


@contextmanager
def channel(authority, address, name):
    grpc = pytest.importorskip("grpc")
    made = authority.issue(name)
    credentials = grpc.ssl_channel_credentials(authority.roots, key_pem(made.key), to_pem(made.chain))
    with grpc.secure_channel(
        str(address), credentials, [("grpc.ssl_target_name_override", "web.mesh.local")]
    ) as opened:
        yield opened


async def verdict(authority, address, name):
    """Return how an identity that asks for nothing is answered: those who may are told that they ask for nothing."""
    grpc = pytest.importorskip("grpc")

    def ask():
        with channel(authority, address, name) as opened:
            stub = opened.unary_stream("/io.linkerd.proxy.tap.Tap/Observe")
            try:
                list(stub(ObserveRequest(limit=0).SerializeToString(), timeout=PATIENCE))
            except grpc.RpcError as error:
                return error.code().name
            return "OK"

    return await trio.to_thread.run_sync(ask)


async def test_the_tap_answers_whom_the_file_allows_and_follows_it(tmp_path, caplog) -> None:
    authority = Authority()
    write_identity(tmp_path / "id", authority, "web.mesh.local")
    (tmp_path / "id" / "key.pem").chmod(0o600)
    path = tmp_path / "proxy.json"
    tap = {"address": "127.0.0.1:0", "allowed": [VIZ]}
    write(path, identity={"directory": "id"}, tap_server=tap)
    configuration = Configuration(path)
    async with tapped(configuration) as (address,):
        assert await verdict(authority, address, VIZ) == "INVALID_ARGUMENT"
        assert await verdict(authority, address, OTHER) == "PERMISSION_DENIED"
        tap = {"address": str(address), "allowed": [OTHER]}
        write(path, identity={"directory": "id"}, tap_server=tap)
        assert await configuration.reload()
        with trio.fail_after(PATIENCE):
            while await verdict(authority, address, OTHER) != "INVALID_ARGUMENT":
                pass
        assert await verdict(authority, address, VIZ) == "PERMISSION_DENIED"
        async with http_origin() as taken:  # a port that is taken is one line, and the proxy serves on
            write(path, identity={"directory": "id"}, tap_server=tap | {"address": str(taken.address)})
            with caplog.at_level(logging.ERROR, "linkerd_proxy"):
                assert await configuration.reload()
                await trio.testing.wait_all_tasks_blocked(0.01)
            assert any("tap_server: cannot listen on" in record.message for record in caplog.records)
            write(path, identity={"directory": "id"}, tap_server=tap)
            assert await configuration.reload()
        with trio.fail_after(PATIENCE):
            while await verdict(authority, address, OTHER) != "INVALID_ARGUMENT":
                pass


async def test_a_tap_that_can_not_listen_keeps_the_proxy_from_starting(tmp_path) -> None:
    authority = Authority()
    write_identity(tmp_path / "id", authority, "web.mesh.local")
    path = tmp_path / "proxy.json"
    async with http_origin() as taken:
        write(path, identity={"directory": "id"}, tap_server={"address": str(taken.address), "allowed": [VIZ]})
        with pytest.raises(InvalidConfiguration, match="cannot listen on"):
            async with tapped(Configuration(path)):
                pass


def test_taps_that_can_not_be_are_told() -> None:
    assert "the tap takes mutual TLS, and the proxy has no identity" in told(tap_server={"allowed": [VIZ]})[0]
    identity = {"directory": "id"}
    assert "lets nobody look" in told(identity=identity, tap_server={"allowed": []})[0]
    assert "a wildcard names nobody" in told(identity=identity, tap_server={"allowed": ["*"]})[0]


# --- the admin endpoint --------------------------------------------------------------------------


def test_an_admin_endpoint_is_an_address_or_says_more() -> None:
    short = document(REST | {"admin": "127.0.0.1:4191"})
    long = document(REST | {"admin": {"address": "127.0.0.1:4191"}})
    assert isinstance(short, ProxyDocument)
    assert short.looked_at == long.looked_at
    assert document(REST).looked_at is None
    for admin, words in [
        ({"shutdown": True}, "the key 'address' is missing"),
        ({"address": ":1", "bounds": {"x_ms": [2, 1]}}, "give ascending numbers"),
        ({"address": ":1", "shutdwon": True}, "did you mean 'shutdown'?"),
    ]:
        assert any(words in text for text in told(admin=admin))
