"""Spans: which exchanges have one, what it tells, and how it reaches a collector."""

import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from linkerd_proxy.address import Address, UnixAddress
from linkerd_proxy.core.message import Request, Response, Streamed
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Exchange, Tls
from linkerd_proxy.errors import ConnectFailed, InvalidConfiguration, UpstreamReset
from linkerd_proxy.headers import Headers
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.handler import Handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.metrics.accesslog import AccessLog
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.metrics.span_export import Otlp
from linkerd_proxy.metrics.spans import Span, encode_spans
from linkerd_proxy.metrics.tracing import Trace
from linkerd_proxy.retry import Retry
from linkerd_proxy.route import Route
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.testing import call, check_layer, http_origin, memory_connection
from tests.patience import PATIENCE

pb = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
    reason="what a collector reads is OpenTelemetry's own code: pip install 'linkerd-proxy[test]'",
)

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-01")


@dataclass(frozen=True, slots=True)
class Collector(Stack[Exchange]):
    """Takes spans, or answers as a list says."""

    steps: list = field(default_factory=list, repr=False)
    requests: list = field(default_factory=list, repr=False)
    times: list = field(default_factory=list, repr=False)

    @asynccontextmanager
    async def open(self):
        async def service(exchange):
            await trio.lowlevel.checkpoint()
            self.times.append(trio.current_time())
            step = self.steps.pop(0) if self.steps else 200
            if isinstance(step, Exception):
                raise step
            if isinstance(step, float):
                await trio.sleep(step)
                step = 200
            if step == 200:
                self.requests.append(
                    (exchange.request, pb.ExportTraceServiceRequest.FromString(exchange.request.body.data))
                )
            await exchange.respond(step if isinstance(step, Response) else Response(step))

        yield service

    @property
    def spans(self):
        return [
            span
            for _, request in self.requests
            for of_resource in request.resource_spans
            for scope in of_resource.scope_spans
            for span in scope.spans
        ]


def attributes(span):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def counter(name):
    return current_registry().counter(name, "").value


async def fine(_):
    return Response(200, body=b"fine")


async def nobody(_):
    await trio.lowlevel.checkpoint()


async def ask(stack, *headers, request=None, connection=None):
    async with call(stack, request or Request(headers=headers), connection=connection) as response:
        return response.status, await response.body.read()


async def traced(inner, *headers, request=None, connection=None, **settings):
    """Ask a stack inside a Trace, and return its span."""
    collector = Collector()
    trace = Trace(Otlp(collector, interval=0.5), dice=random.Random(1), **settings)
    await ask(trace | inner, *headers, request=request, connection=connection)
    [span] = collector.spans
    return span


async def test_a_layer_as_any_other():
    work = lambda: Exchange(Request(), nobody, memory_connection()[1])  # noqa: E731
    await check_layer(Trace(Otlp(Collector())), work)
    await check_layer(Trace(Otlp(Collector()), 0.5, kind="client", attributes={"a": "b"}), work)


# --- which -------------------------------------------------------------------------------------


async def test_a_sampled_trace_gets_a_span_and_the_next_hop_is_part_of_it(autojump_clock):
    asked = []

    async def upstream(request):
        asked.append(request)
        return Response(200)

    span = await traced(Handler(upstream), SAMPLED, ("tracestate", "vendor=1"))
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, PARENT, "vendor=1")
    assert span.flags == 1
    assert asked[0].headers["traceparent"] == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert asked[0].headers["tracestate"] == "vendor=1"


@pytest.mark.parametrize(
    "headers", [[], [("traceparent", f"00-{TRACE}-{PARENT}-00")], [("b3", "0")], [("traceparent", "rubbish")]]
)
async def test_others_pass_untouched(headers, autojump_clock):
    asked = []

    async def upstream(request):
        asked.append(list(request.headers))
        return Response(200)

    collector = Collector()
    await ask(Trace(Otlp(collector)) | Handler(upstream), *headers)
    assert asked == [headers]
    assert collector.spans == []


async def test_new_traces_begin_only_if_told(autojump_clock):
    span = await traced(Handler(fine), start=1.0)
    assert (span.parent_span_id, len(span.trace_id)) == (b"", 16)
    collector = Collector()
    async with opened(Trace(Otlp(collector), start=0.3, dice=random.Random(1)) | Handler(fine)) as service:
        for _ in range(200):
            await ask(service)
    assert 40 <= len(collector.spans) <= 80
    assert len({span.trace_id for span in collector.spans}) == len(collector.spans)


async def test_a_trace_that_b3_wants_begins(autojump_clock):
    span = await traced(Handler(fine), ("b3", "1"))
    assert span.parent_span_id == b""


async def test_one_that_says_not_to_is_not_begun_anew(autojump_clock):
    collector = Collector()
    await ask(Trace(Otlp(collector), start=1.0) | Handler(fine), ("traceparent", f"00-{TRACE}-{PARENT}-00"))
    await ask(Trace(Otlp(collector), start=1.0) | Handler(fine), ("x-b3-sampled", "0"))
    assert collector.spans == []


# --- what it tells -----------------------------------------------------------------------------


async def test_a_span_tells_what_is_known(autojump_clock):
    async def slow(request):
        async def chunks():
            yield b"a"
            await trio.sleep(0.5)
            yield b"b"

        await trio.sleep(0.25)
        return Response(201, body=Streamed(chunks()))

    request = Request("POST", "/api/x?token=s3cret&b=1", [SAMPLED, ("user-agent", "test/1")], authority="shop.test")
    _, connection = memory_connection(peer=Address("192.0.2.1", 999), tls=Tls(peer_identity="web.prod"))
    stack = Route({"/api": Handler(slow)})
    span = await traced(stack, request=request, connection=connection, attributes={"zone": "a"})
    assert (span.name, span.kind) == ("POST /api", 2)
    assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(750_000_000, abs=2000)
    assert span.start_time_unix_nano > 1_700_000_000_000_000_000
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.response.status_code": 201,
        "http.route": "/api",
        "url.scheme": "http",
        "url.path": "/api/x",
        "url.query": "token=(redacted)&b=1",
        "server.address": "shop.test",
        "client.address": "192.0.2.1",
        "client.port": 999,
        "network.protocol.version": "1.1",
        "user_agent.original": "test/1",
        "linkerd.client.id": "web.prod",
        "zone": "a",
    }
    assert span.status.code == 0


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [
        ("shop.test:8080", "shop.test", 8080),
        ("[2001:db8::1]:80", "2001:db8::1", 80),
        ("[::1]", "::1", None),
        ("shop.test:", "shop.test", None),
        ("", "", None),
        (f"shop.test:{'9' * 30}", f"shop.test:{'9' * 30}", None),
    ],
)
async def test_a_host_and_its_port_are_told_apart(authority, host, port, autojump_clock):
    _, connection = memory_connection(peer=UnixAddress("/run/app.sock"))
    request = Request("GET", "/", [SAMPLED], authority=authority)
    span = await traced(Handler(fine), request=request, connection=connection)
    told = attributes(span)
    assert (told["server.address"], told.get("server.port")) == (host, port)
    assert (told["client.address"], told.get("client.port")) == ("unix:/run/app.sock", None)


@pytest.mark.parametrize(
    ("kind", "status", "failed", "number"),
    [("server", 404, False, 2), ("server", 500, True, 2), ("client", 404, True, 3), ("internal", 200, False, 1)],
)
async def test_whose_fault_an_answer_is_depends_on_the_side(kind, status, failed, number, autojump_clock):
    async def answer(_):
        return Response(status)

    span = await traced(Handler(answer), SAMPLED, kind=kind)
    assert (span.status.code == 2, span.kind) == (failed, number)
    assert attributes(span).get("error.type") == (str(status) if failed else None)


async def test_failures_have_their_code_and_retries_their_number(autojump_clock):
    async def fails(_):
        raise ConnectFailed("refused")

    span = await traced(Rescue() | Retry(limit=2) | Handler(fails), SAMPLED)
    seen = attributes(span)
    assert (seen["error.type"], seen["http.request.resend_count"], seen["http.response.status_code"]) == ("UF", 2, 502)
    collector = Collector()
    with pytest.raises(UpstreamReset):
        await ask(Trace(Otlp(collector)) | Handler(resets), SAMPLED)
    assert attributes(collector.spans[0])["error.type"] == "UR"
    assert collector.spans[0].status.code == 2


async def resets(_):
    raise UpstreamReset("reset")


async def test_a_client_that_went_away_is_told(autojump_clock):
    async def slow(_):
        await trio.sleep_forever()

    collector = Collector()
    async with opened(Trace(Otlp(collector)) | Handler(slow)) as service:
        with trio.move_on_after(2):
            await service(Exchange(Request(headers=[SAMPLED]), nobody, memory_connection()[1]))
    assert attributes(collector.spans[0])["error.type"] == "CANCEL"


async def test_calls_have_their_method_and_status(autojump_clock):
    async def answer(_):
        async def chunks():
            yield b"x"
            body.trailers = Headers([("grpc-status", "14")])

        body = Streamed(chunks())
        return Response(200, [("content-type", "application/grpc")], body, version="2")

    request = Request("POST", "/shop.Cart/Add", [("content-type", "application/grpc"), SAMPLED], version="2")
    span = await traced(Handler(answer), request=request)
    seen = attributes(span)
    assert span.name == "shop.Cart/Add"
    assert (seen["rpc.system"], seen["rpc.grpc.status_code"], seen["error.type"]) == ("grpc", 14, "14")


# --- for others --------------------------------------------------------------------------------


async def test_metrics_inside_have_exemplars_and_access_logs_outside_the_traces_id(tmp_path, autojump_clock):
    path = tmp_path / "log"
    log = AccessLog("{trace_id}", to=str(path))
    await ask(log | Trace(Otlp(Collector())) | Metrics() | Handler(fine), SAMPLED)
    assert path.read_text() == f"{TRACE}\n"
    found = [
        exemplar.trace_id
        for family in current_registry()
        if family.name == "response_latency_ms"
        for _, series in family.items()
        for exemplar in series.exemplars.values()
    ]
    assert found == [TRACE]


async def test_metrics_of_what_is_not_sampled_have_none(autojump_clock):
    await ask(Trace(Otlp(Collector())) | Metrics() | Handler(fine))
    [family] = [family for family in current_registry() if family.name == "response_latency_ms"]
    assert [series.exemplars for _, series in family.items()] == [{}]


# --- export ------------------------------------------------------------------------------------


async def test_spans_go_in_batches_or_after_a_while(autojump_clock):
    collector = Collector()
    otlp = Otlp(collector, service="shop", resource={"zone": "a"}, headers={"x-key": "k"}, batch=3, interval=10)
    async with opened(Trace(otlp) | Handler(fine)) as service:
        for _ in range(4):
            await ask(service, SAMPLED)
        await trio.sleep(1)
        assert len(collector.spans) == 3
        await trio.sleep(10)
        assert len(collector.spans) == 4
    request, sent = collector.requests[0]
    assert (request.method, request.path, request.authority) == ("POST", "/v1/traces", "localhost:4318")
    assert list(request.headers) == [("content-type", "application/x-protobuf"), ("x-key", "k")]
    [resource] = [of_resource.resource for of_resource in sent.resource_spans]
    assert attributes(resource) == {"service.name": "shop", "zone": "a"}
    assert sent.resource_spans[0].scope_spans[0].scope.name == "linkerd_proxy"
    assert counter("opentelemetry_spans_exported_total") == 4


async def test_the_last_spans_are_sent_at_the_end(autojump_clock):
    collector = Collector()
    await ask(Trace(Otlp(collector)) | Handler(fine), SAMPLED)
    assert len(collector.spans) == 1


async def test_an_end_does_not_wait_for_a_collector_that_hangs(autojump_clock):
    await ask(Trace(Otlp(Collector([60.0]))) | Handler(fine), SAMPLED)
    assert trio.current_time() == pytest.approx(1)


async def test_a_full_queue_drops_and_counts_and_holds_nobody_up(autojump_clock):
    collector = Collector([5.0])
    async with opened(Trace(Otlp(collector, queue=10, batch=10, interval=0.1)) | Handler(fine)) as service:
        await ask(service, SAMPLED)
        await trio.sleep(1)  # the first is under way, and hangs
        for _ in range(25):
            await ask(service, SAMPLED)
        assert trio.current_time() == pytest.approx(1)
        await trio.sleep(10)
        assert len(collector.spans) == 11
    assert counter("opentelemetry_spans_dropped_total") == 15


@pytest.mark.parametrize("step", [503, ConnectFailed("refused"), 30.0])
async def test_a_collector_that_is_away_for_a_moment_loses_nothing(step, autojump_clock):
    collector = Collector([step, step])
    async with opened(Trace(Otlp(collector, interval=1)) | Handler(fine)) as service:
        await ask(service, SAMPLED)
        await trio.sleep(60)
        assert len(collector.spans) == 1
    assert counter("opentelemetry_span_export_errors_total") == 2


async def test_the_collectors_retry_after_is_waited_for(autojump_clock):
    collector = Collector([Response(429, [("retry-after", "20")])])
    async with opened(Trace(Otlp(collector, interval=1)) | Handler(fine)) as service:
        await ask(service, SAMPLED)
        await trio.sleep(60)
    assert collector.times == pytest.approx([1, 21])


async def test_what_a_collector_refuses_is_dropped_and_told(autojump_clock, caplog):
    collector = Collector([400])
    async with opened(Trace(Otlp(collector, interval=1)) | Handler(fine)) as service:
        await ask(service, SAMPLED)
        await trio.sleep(60)
    assert len(collector.times) == 1
    assert counter("opentelemetry_spans_dropped_total") == 1
    assert "the collector answered with status 400, 1 spans for localhost:4318 are lost" in caplog.text


async def test_layers_that_name_one_export_share_its_queue(autojump_clock):
    collector = Collector()
    otlp = Otlp(collector, interval=1)
    async with opened(Trace(otlp) | Trace(otlp, kind="client") | Handler(fine)) as service:
        await ask(service, SAMPLED)
        await trio.sleep(5)
    assert len(collector.requests) == 1
    inner, outer = collector.spans
    assert inner.parent_span_id == outer.span_id


async def test_a_real_collector_is_asked_over_our_own_client():
    got = []

    async def answer(request):
        got.append(pb.ExportTraceServiceRequest.FromString(await request.body.read()))
        return Response(200, [("content-type", "application/x-protobuf")])

    async with http_origin(answer) as origin:
        otlp = Otlp(Client() | Connect(str(origin.address)), authority=str(origin.address))
        with trio.fail_after(PATIENCE):
            await ask(Trace(otlp) | Handler(fine), SAMPLED)
    assert len(got[0].resource_spans[0].scope_spans[0].spans) == 1


def test_long_and_strange_values_are_cut_and_kept_harmless():
    span = Span(1, 2, 0, "n", "server", 1.5, 1.0, {"a": "x" * 5000, "b": "\ud800", "c": 0, "d": -1})
    [decoded] = pb.ExportTraceServiceRequest.FromString(encode_spans([span], {})).resource_spans[0].scope_spans[0].spans
    seen = attributes(decoded)
    assert (len(seen["a"]), seen["b"], seen["c"], seen["d"]) == (1024, "\\ud800", 0, -1)
    assert decoded.end_time_unix_nano == decoded.start_time_unix_nano == 1_500_000_000


# --- settings ----------------------------------------------------------------------------------


def test_the_repr_tells_no_secret():
    otlp = Otlp(Handler(fine), headers={"authorization": "Bearer x"})
    assert "Bearer" not in repr(Trace(otlp))


@pytest.mark.parametrize("settings", [{"start": 2}, {"start": -1}, {"kind": "proxy"}])
def test_settings_of_a_trace_that_can_not_be_meant_are_refused(settings):
    with pytest.raises(InvalidConfiguration):
        Trace(Otlp(Handler(fine)), **settings)


@pytest.mark.parametrize("settings", [{"queue": 0}, {"batch": 0}, {"interval": 0}, {"timeout": float("inf")}])
def test_settings_of_an_export_that_can_not_be_meant_are_refused(settings):
    with pytest.raises(InvalidConfiguration):
        Otlp(Handler(fine), **settings)
