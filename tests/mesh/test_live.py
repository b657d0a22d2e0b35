"""The frames of the live view."""

import pytest
import trio

from linkerd_proxy.address import Address
from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.core.contain import record_failure
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.own import own_connection
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Connection, Exchange, Tls
from linkerd_proxy.discover.static import Static
from linkerd_proxy.errors import UpstreamReset
from linkerd_proxy.http.handler import handler
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.mesh.live import Watch
from linkerd_proxy.mesh.observed import observed_here
from linkerd_proxy.metrics.layer import Metrics
from linkerd_proxy.metrics.registry import current_registry


@handler
async def answer(request):
    if request.path == "/slow":
        await trio.sleep(0.2)
    if request.path == "/fail":
        raise UpstreamReset("gone")
    return Response(200)


async def ask(service, path="/", identity=None):
    async def respond(response):
        await response.body.read()

    connection = own_connection()
    if identity:
        here = Address("127.0.0.1", 1)
        connection = Connection(connection.stream, here, here, tls=Tls(peer_identity=identity))
    await service(Exchange(Request("GET", path), respond, connection))


async def test_a_row_tells_what_happened_since_the_frame_before(autojump_clock):
    watch = Watch("web.mesh")
    async with opened(Metrics({"direction": "inbound"}) | Rescue() | answer) as service:
        for _ in range(3):
            await ask(service)
        (row,) = watch.frame(current_registry(), observed_here()).rows
        assert (row.name, row.kind, row.total, row.success) == ("inbound http/1", "http", 3, 1.0)
        await trio.sleep(2)
        for path in ("/slow", "/slow", "/slow", "/fail"):
            await ask(service, path)
        await trio.sleep(2 - 0.6)
        frame = watch.frame(current_registry(), observed_here())
    (row,) = frame.rows
    assert row.total == 7
    assert row.rate == pytest.approx(1)
    assert row.success == pytest.approx(0.75)
    assert row.p50 == pytest.approx(200, rel=0.1)  # the fast ones of before are not in it
    assert frame.uptime == pytest.approx(4)
    assert [(one.code, "gone" in one.text) for one in frame.failures] == [("UR", True)]


async def test_nothing_lately_is_none(autojump_clock):
    watch = Watch("web")
    async with opened(Metrics() | answer) as service:
        await ask(service)
        watch.frame(current_registry(), observed_here())
        await trio.sleep(1)
        (row,) = watch.frame(current_registry(), observed_here()).rows
    assert (row.rate, row.success, row.p50) == (0, None, None)


async def test_edges_tell_who_talks_to_whom(autojump_clock):
    watch = Watch("web.mesh")
    async with opened(Metrics() | answer) as service:
        await ask(service, identity="client.mesh")
        await ask(service)
        frame = watch.frame(current_registry(), observed_here())
    (edge,) = frame.edges
    assert (edge.source, edge.target, edge.secured, edge.total) == ("client.mesh", "web.mesh", True, 1)
    assert sorted(row.meshed for row in frame.rows) == [0.5]


async def test_endpoints_show_their_state_and_share(autojump_clock):
    watch = Watch("web")
    endpoints = Static(Endpoint(Address("10.0.0.1", 80)), Endpoint(Address("10.0.0.2", 80), identity="b.mesh"))
    async with opened(Balance(endpoints, lambda endpoint: answer, name="api")) as service:
        await ask(service)
        watch.frame(current_registry(), observed_here())
        for _ in range(10):
            await ask(service)
        await trio.sleep(1)
        frame = watch.frame(current_registry(), observed_here())
    assert {one.address for one in frame.endpoints} == {"10.0.0.1:80", "10.0.0.2:80"}
    assert {one.state for one in frame.endpoints} == {"ready"}
    assert sum(one.share for one in frame.endpoints) == pytest.approx(1)
    assert sum(one.rate for one in frame.endpoints) == pytest.approx(10)
    assert {one.identity for one in frame.endpoints} == {"", "b.mesh"}


async def test_only_the_last_failures_are_kept(autojump_clock):
    for number in range(50):
        record_failure(UpstreamReset(f"number {number}"), own_connection())
    failures = Watch("web").frame(current_registry(), observed_here()).failures
    assert len(failures) == 20
    assert "number 49" in failures[-1].text
