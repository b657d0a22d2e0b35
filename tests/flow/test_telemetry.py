"""What Linkerd's own integration tests ask of telemetry, of a whole proxy over sockets.

===============================================  ==================================================================
Linkerd (linkerd/app/integration)                here
===============================================  ==================================================================
telemetry: request_total, response_total,        ``test_requests_and_responses_are_counted_on_both_sides``
inbound and outbound
telemetry: response classification, status code  the same, and ``tests/metrics/test_layer.py``
telemetry: latency buckets                       ``test_a_latency_is_in_its_bucket_and_in_those_above``
telemetry: tcp open, close, bytes, gauges,       ``test_transport_of_http``, ``test_transport_of_raw_tcp``
src and dst, HTTP and raw
telemetry: labels of addresses, merged and       labels are what a Metrics layer is given: ``tests/metrics/test_layer.py``;
updated                                          those of mutual TLS ``test_the_peers_identity_is_a_label_on_both_sides``
telemetry: no empty label (``,,``)               ``test_the_page_is_well_formed``
telemetry: process_start_time                    ``test_the_page_is_well_formed``
telemetry: gzip                                  ``test_the_page_is_gzipped_for_those_who_ask``
telemetry: the admin listener has its own        none: the admin endpoint counts nothing of itself, so that a scrape
metrics                                          changes no figure; ``test_the_page_is_well_formed``
telemetry/tcp_errors: detect timeout             ``test_a_client_that_says_nothing_is_counted_as_a_detect_timeout``
telemetry/tcp_errors: no TLS where it must be    ``test_a_client_without_tls_where_it_must_be_is_counted``
telemetry/env                                    ``tests/mesh/test_admin.py``
telemetry/log_stream                             ``tests/mesh/test_log_stream.py``
tap: only with identity and for the named one    ``tests/mesh/test_tap_server.py``
tap: http1 events, grpc end                      ``tests/mesh/test_tap_server.py``, ``tests/metrics/test_tap.py``
===============================================  ==================================================================
"""

import gzip
import json
import re
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from linkerd_proxy import Detect, Forward, Http, Metrics, Originate, Rescue, Response, Stack, Terminate, open_listeners
from linkerd_proxy.balance.towards import Towards
from linkerd_proxy.core.drain import Drain
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.serve import serve
from linkerd_proxy.core.work import Connection, Dial
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.handler import handler
from linkerd_proxy.io.dial import dial
from linkerd_proxy.mesh.admin import admin
from linkerd_proxy.metrics.process import process_metrics
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.testing import Authority
from linkerd_proxy.tls.identity import Given
from tests.patience import PATIENCE

WEB, API = "web.mesh.local", "api.mesh.local"
OUT, IN = {"direction": "outbound"}, {"direction": "inbound"}


@handler
async def application(request):
    if request.path == "/slow":
        await trio.sleep(0.04)
    return Response(500 if request.path == "/broken" else 200, body=b"hello")


@dataclass(frozen=True, slots=True)
class Echo(Stack[Connection]):
    """Says everything in capitals."""

    @asynccontextmanager
    async def open(self):
        async def service(connection):
            while data := await connection.stream.receive_some():
                await connection.stream.send_all(data.upper())
            await connection.stream.send_eof()

        yield service


class Mesh:
    """Two proxies with mutual TLS before an application, in one Trio run, and their admin endpoint."""

    def __init__(self, outbound, inbound, looking):
        self.outbound = outbound
        self.inbound = inbound
        self.looking = looking

    async def get(self, path):
        """Ask over a new connection, and return what came until its end."""
        async with await dial(self.outbound) as stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
            return await rest(stream)

    async def series(self, name):
        """Return the series of a family as the admin endpoint tells them."""
        async with await dial(self.looking) as stream:
            await stream.send_all(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n")
            text = (await rest(stream)).decode()
        found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.MULTILINE)
        return [({**dict(re.findall(r'(\w+)="([^"]*)"', labels))}, float(value)) for labels, value in found]

    async def value(self, name, **labels):
        """Return the sum of the series of a family that have these labels."""
        return sum(value for found, value in await self.series(name) if labels.items() <= found.items())

    async def until(self, expected, name, **labels):
        """Wait until a figure is what is expected: a connection's end is counted when both sides have seen it."""
        with trio.fail_after(PATIENCE):
            while await self.value(name, **labels) != expected:
                pass


async def rest(stream):
    data = b""
    while chunk := await stream.receive_some():
        data += chunk
    return data


@asynccontextmanager
async def mesh(application_stack=None, *, detects_for=PATIENCE):
    authority = Authority()
    web, api = Given(authority.issue(WEB)), Given(authority.issue(API))
    listeners = [(await open_listeners("127.0.0.1:0"))[0] for _ in range(4)]
    app, middle, entrance, looking = (one.address for one in listeners)
    known = Detect(
        http=Http() | Metrics(IN) | Rescue() | Client() | Metrics[Dial](IN) | Connect(app),
        otherwise=Forward() | Metrics[Dial](IN) | Connect(app),
        timeout=detects_for,
    )
    inbound = Terminate(api, require_identity=True) | Metrics[Connection](IN) | known
    link = Towards(Endpoint(middle, identity=API)) | Metrics[Dial](OUT) | Originate(web) | Connect()
    outbound = Metrics[Connection](OUT) | Detect(
        http=Http() | Metrics(OUT) | Rescue() | Client() | link, otherwise=Forward() | link, timeout=detects_for
    )
    stacks = (application_stack or Http() | application, inbound, outbound, admin(Drain()))
    with trio.fail_after(PATIENCE), process_metrics(current_registry()):
        async with trio.open_nursery() as nursery:
            for stack, listener in zip(stacks, listeners, strict=True):
                await nursery.start(serve, stack, [listener])
            yield Mesh(entrance, middle, looking)
            nursery.cancel_scope.cancel()


@pytest.fixture
async def running():
    async with mesh() as made:
        yield made


async def test_requests_and_responses_are_counted_on_both_sides(running):
    for path in ("/", "/", "/broken"):
        await running.get(path)
    for side in ("inbound", "outbound"):
        await running.until(3, "request_total", direction=side)
        await running.until(2, "response_total", direction=side, status_code="200", classification="success")
        await running.until(1, "response_total", direction=side, status_code="500", classification="failure")
        assert await running.value("request_in_flight", direction=side) == 0


async def test_a_latency_is_in_its_bucket_and_in_those_above(running):
    await running.get("/slow")
    await running.until(1, "response_latency_ms_count", direction="outbound")
    buckets = {
        float(labels["le"]): count
        for labels, count in await running.series("response_latency_ms_bucket")
        if labels["direction"] == "outbound"
    }
    assert [buckets[bound] for bound in (1.0, 10.0, 30.0)] == [0, 0, 0]
    assert buckets[float("inf")] == 1
    assert len(buckets) == 26
    assert await running.value("response_latency_ms_sum", direction="outbound") >= 40


async def test_transport_of_http(running):
    answer = await running.get("/")
    asked = len(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    await running.until(1, "tcp_close_total", direction="outbound", peer="src")
    assert await running.value("tcp_open_total", direction="outbound", peer="src") == 1
    assert await running.value("tcp_open_connections", direction="outbound", peer="src") == 0
    assert await running.value("tcp_read_bytes_total", direction="outbound", peer="src") == asked
    assert await running.value("tcp_write_bytes_total", direction="outbound", peer="src") == len(answer)
    for side in ("outbound", "inbound"):
        # Connections to upstreams are kept for the next request, so they are open.
        assert await running.value("tcp_open_total", direction=side, peer="dst") == 1
        assert await running.value("tcp_open_connections", direction=side, peer="dst") == 1
        assert await running.value("tcp_read_bytes_total", direction=side, peer="dst") > 0


async def test_transport_of_raw_tcp():
    async with mesh(Echo()) as running:
        async with await dial(running.outbound) as stream:
            await stream.send_all(b"\x00some bytes\n" * 3)
            assert await stream.receive_some()
            for side, peer in (("outbound", "src"), ("outbound", "dst"), ("inbound", "src"), ("inbound", "dst")):
                await running.until(1, "tcp_open_connections", direction=side, peer=peer)
            await stream.send_eof()
            await rest(stream)
        for side, peer in (("outbound", "src"), ("outbound", "dst"), ("inbound", "src"), ("inbound", "dst")):
            await running.until(0, "tcp_open_connections", direction=side, peer=peer)
            assert await running.value("tcp_open_total", direction=side, peer=peer) == 1
            assert await running.value("tcp_close_total", direction=side, peer=peer) == 1
            for family in ("tcp_read_bytes_total", "tcp_write_bytes_total"):
                assert await running.value(family, direction=side, peer=peer) >= 36


async def test_the_peers_identity_is_a_label_on_both_sides(running):
    await running.get("/")
    await running.until(1, "request_total", direction="inbound", tls="true", client_id=WEB)
    assert await running.value("tcp_open_total", direction="outbound", peer="dst", tls="true", server_id=API) == 1
    assert all("client_id" not in labels for labels, _ in await running.series("request_total") if labels == OUT)


async def test_the_page_is_well_formed(running):
    await running.get("/")
    first = await running.value("request_total")
    assert await running.value("request_total") == first  # scrapes are not counted
    async with await dial(running.looking) as stream:
        await stream.send_all(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\n\r\n")
        page = (await rest(stream)).partition(b"\r\n\r\n")[2].decode()
    assert ",," not in page
    assert '=""' not in page
    for line in page.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .*|\w+(\{(\w+="[^"]*",?)+\})? [-+0-9.e]+(inf|nan)?', line), line
    (started,) = re.findall(r"^process_start_time_seconds (\S+)$", page, re.MULTILINE)
    assert float(started) > 1.6e9
    assert re.search(r'^proxy_build_info\{version="', page, re.MULTILINE)


async def test_the_page_is_gzipped_for_those_who_ask(running):
    await running.get("/")
    async with await dial(running.looking) as stream:
        await stream.send_all(b"GET /metrics HTTP/1.0\r\nhost: localhost\r\naccept-encoding: gzip\r\n\r\n")
        head, _, body = (await rest(stream)).partition(b"\r\n\r\n")
    assert b"content-encoding: gzip" in head.lower()
    assert b"# TYPE request_total counter" in gzip.decompress(body)


@pytest.mark.parametrize(("said", "result"), [(b"", "timeout"), (b"GE", "partial")])
async def test_a_client_that_says_nothing_is_counted_as_a_detect_timeout(said, result, mock_clock):
    async with mesh(detects_for=5) as running:
        await running.get("/")
        assert await running.value("tcp_detect_results_total", result=result) == 0
        async with await dial(running.outbound) as stream:
            await stream.send_all(said)  # too little to tell, and no more comes
            await running.until(2, "tcp_open_total", direction="outbound", peer="src")
            await trio.testing.wait_all_tasks_blocked(0.01)  # what was said has been read
            mock_clock.jump(5)
            await running.until(1, "tcp_detect_results_total", result=result)


async def test_a_client_without_tls_where_it_must_be_is_counted(running):
    async with await dial(running.inbound) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        with suppress(trio.BrokenResourceError):
            await rest(stream)
    await running.until(1, "proxy_errors_total", error="DTF")
    await running.get("/")
    assert await running.value("proxy_errors_total", error="DTF") == 1


async def test_the_environment_can_be_filtered(running, monkeypatch):
    monkeypatch.setenv("LINKERD2_PROXY_LOG", "warn")
    async with await dial(running.looking) as stream:
        await stream.send_all(b"GET /env.json?LINKERD2_PROXY_LOG&LINKERD2_NONE HTTP/1.0\r\nhost: localhost\r\n\r\n")
        body = (await rest(stream)).partition(b"\r\n\r\n")[2]
    assert json.loads(body) == {"LINKERD2_PROXY_LOG": "warn", "LINKERD2_NONE": None}
