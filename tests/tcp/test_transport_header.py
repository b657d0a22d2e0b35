"""The layers that take and send transport headers."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from trio.testing import memory_stream_pair

from linkerd_proxy.address import Address, UnixAddress
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Connection, Dial, Target, Tls
from linkerd_proxy.errors import (
    BadRequest,
    Denied,
    DetectTimeout,
    InvalidConfiguration,
    LoopDetected,
    NoTarget,
    UpstreamHandshakeFailed,
)
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.io.loops import hops, passed_on
from linkerd_proxy.io.transport_header import ALPN, PREFACE, Header, encode_header
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.tcp.transport_header import SendTransportHeader, Tagged, TransportHeader
from linkerd_proxy.testing import check_layer, memory_connection
from tests.tcp.taking import take as through

PEER, LOCAL = Address("10.0.0.7", 4711), Address("10.0.0.9", 4143)
MESHED = Tls("web.ns", "server", ALPN)


async def take(layer, data, *, tls=MESHED, chunk=10_000, end=True, local=LOCAL, original_dst=None):
    """Send bytes through the layer. Returns the connection that came out, and what was left to read."""
    connection = lambda stream: Connection(stream, PEER, local, original_dst, tls)  # noqa: E731
    return await through(layer, data, connection, chunk=chunk, end=end)


def counted(family, **labels):
    values = {series.name: series for series in current_registry()}
    if family not in values:
        return 0
    return values[family].series.get(tuple(sorted(labels.items())), type("None", (), {"value": 0})).value


def refused(reason):
    return counted("inbound_tcp_transport_header_refused_total", reason=reason)


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
@pytest.mark.parametrize("protocol", [None, "http/1", "http/2"])
async def test_the_header_says_where_to_and_what(chunk, protocol):
    header = encode_header(Header(8080, None, protocol))
    connection, rest = await take(TransportHeader(), header + b"GET / HTTP/1.1", chunk=chunk)
    assert connection.original_dst == Address("10.0.0.9", 8080)
    assert connection.protocol == (protocol or "opaque")
    assert (connection.target_name, connection.peer, connection.local, connection.tls) == (None, PEER, LOCAL, MESHED)
    assert rest == b"GET / HTTP/1.1"
    family = "inbound_tcp_transport_header_connections_total"
    labels = {"session_protocol": protocol or "opaque", "target": "local", "client_id": "web.ns"}
    assert counted(family, **labels) == 1


async def test_a_gateways_target_is_told_from_a_local_one():
    connection, rest = await take(TransportHeader(), encode_header(Header(80, "Other.ns.svc", "http/2")) + b"x")
    assert connection.original_dst == Address("other.ns.svc", 80)
    assert (connection.target_name, connection.protocol, rest) == ("other.ns.svc", "http/2", b"x")
    family = "inbound_tcp_transport_header_connections_total"
    assert counted(family, session_protocol="http/2", target="gateway", client_id="web.ns") == 1


async def test_peers_choose_no_label():
    for port in range(1000, 1020):
        await take(TransportHeader(), encode_header(Header(port, f"name-{port}")))
    (family,) = (f for f in current_registry() if f.name == "inbound_tcp_transport_header_connections_total")
    assert len(family.series) == 1


async def test_the_address_is_where_the_client_meant_to_go():
    header = encode_header(Header(8080))
    for local, original, host in (
        (LOCAL, Address("10.0.0.1", 4143), "10.0.0.1"),
        (LOCAL, Address("a.name", 4143), "10.0.0.9"),
        (UnixAddress("/x"), None, "127.0.0.1"),
    ):
        connection, _ = await take(TransportHeader(), header, local=local, original_dst=original)
        assert connection.original_dst == Address(host, 8080)


async def test_a_peer_is_believed_that_a_port_is_opaque_or_not():
    layer = TransportHeader(opaque_ports=frozenset({25}))
    for port, name, protocol, expected in (
        (25, None, None, "opaque"),
        (80, None, None, None),
        (80, None, "http/1", "http/1"),
        (80, "elsewhere", None, "opaque"),
    ):
        connection, _ = await take(layer, encode_header(Header(port, name, protocol)))
        assert connection.protocol == expected


@pytest.mark.parametrize("tls", [None, Tls(), Tls("web.ns"), Tls("web.ns", alpn="h2"), Tls(alpn="h2")])
async def test_other_connections_pass_untouched_unless_a_header_is_required(tls):
    header = encode_header(Header(8080))
    connection, rest = await take(TransportHeader(), header, tls=tls)
    assert (connection.original_dst, connection.protocol, rest) == (None, None, header)
    reason = "plaintext" if tls is None else "no_identity" if tls.peer_identity is None else "no_alpn"
    with pytest.raises(Denied, match="application's own port"):
        await take(TransportHeader(required=True), header, tls=tls)
    assert (refused(reason), refused("timeout"), refused("malformed")) == (1, 0, 0)


async def test_a_client_without_an_identity():
    anonymous = Tls(alpn=ALPN)
    connection, _ = await take(TransportHeader(), encode_header(Header(80)), tls=anonymous)
    assert connection.original_dst == Address("10.0.0.9", 80)
    with pytest.raises(Denied, match="asks for a gateway"):
        await take(TransportHeader(), encode_header(Header(80, "name")), tls=anonymous)
    with pytest.raises(Denied, match="no identity"):
        await take(TransportHeader(required=True), encode_header(Header(80)), tls=anonymous)
    assert refused("no_identity") == 2


@pytest.mark.parametrize("data", [b"", PREFACE, b"GET / HTTP/1.1", PREFACE + bytes(4), encode_header(Header(80))[:-1]])
async def test_a_malformed_header_is_refused(data):
    with pytest.raises(BadRequest, match="transport header"):
        await take(TransportHeader(), data)
    assert (refused("malformed"), refused("timeout")) == (1, 0)


@pytest.mark.parametrize("data", [b"", b"t", PREFACE, encode_header(Header(80))[:-1]])
async def test_a_header_that_does_not_come_in_time(autojump_clock, data):
    with pytest.raises(DetectTimeout, match=r"did not arrive after 3 s"):
        await take(TransportHeader(timeout=3), data, end=False)
    assert trio.current_time() == pytest.approx(3, abs=0.1)
    assert (refused("timeout"), refused("malformed"), refused("plaintext")) == (1, 0, 0)


async def test_no_byte_moves_the_deadline(autojump_clock):
    near, far = memory_stream_pair()

    async def trickle():
        for byte in encode_header(Header(80)):
            await near.send_all(bytes([byte]))
            await trio.sleep(0.5)

    async def inner(connection):
        raise AssertionError

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        with pytest.raises(DetectTimeout):
            await TransportHeader(timeout=5).serve(Connection(far, PEER, LOCAL, tls=MESHED), inner)
        nursery.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(5, abs=0.1)


async def test_proxies_that_pass_a_connection_round_and_round_are_stopped():
    connection, _ = await take(TransportHeader(), encode_header(Header(80, hops=9)))
    assert connection.original_dst == Address("10.0.0.9", 80)
    assert hops() == 10
    with pytest.raises(LoopDetected, match="more than 10 proxies"):
        await take(TransportHeader(), encode_header(Header(80, hops=10)))
    assert refused("loop") == 1


async def test_a_header_that_names_our_own_listener_is_refused_where_it_is_dialled(loopback):
    with pytest.raises(LoopDetected):
        await loopback(TransportHeader() | Forward() | Connect())


@pytest.fixture
async def loopback():
    async def run(stack):
        (listener,) = await open_listeners("127.0.0.1:0")
        client = await trio.open_tcp_stream("127.0.0.1", listener.address.port)
        connection = await listener.accept()
        connection.tls = MESHED
        await client.send_all(encode_header(Header(listener.address.port)))
        try:
            async with opened(stack) as service:
                await service(connection)
        finally:
            await client.aclose()
            await connection.stream.aclose()
            await listener.aclose()

    return run


# --- sending -----------------------------------------------------------------------------------


async def send(layer, target, tls=MESHED):
    """Serve a dial whose stream has been through that handshake. Returns the target dialled, and what was sent."""
    near, far = memory_stream_pair()
    dialled = []

    async def use(stream):
        await stream.send_all(b"hello")

    async def inner(dial):
        dialled.append(dial.target)
        if tls is not None:
            near.tls = tls
        await dial.use(near)

    await layer.serve(Dial(target, use), inner)
    await near.send_eof()
    return dialled[0], await far.receive_some()


TAGGED = Endpoint(Address("10.0.0.9", 8080), identity="app.ns", tagged_port=4143)


@pytest.mark.parametrize("protocol", ["http/1", "http/2", "opaque", None])
async def test_a_header_is_sent_first_on_the_tagged_port(protocol):
    target, sent = await send(SendTransportHeader(), TAGGED.target(protocol))
    assert target.address == Address("10.0.0.9", 4143)
    assert (target.identity, target.protocol) == ("app.ns", protocol)
    known = protocol if protocol in {"http/1", "http/2"} else None
    assert sent == encode_header(Header(8080, None, known)) + b"hello"


async def test_a_gateway_is_told_the_name():
    beyond = Address("web.ns.svc", 80)
    target, sent = await send(SendTransportHeader(), TAGGED.target("http/2", beyond=beyond))
    assert target.address == Address("10.0.0.9", 4143)
    assert sent == encode_header(Header(80, "web.ns.svc", "http/2")) + b"hello"


async def test_without_an_agreement_no_header_is_sent():
    plain = Target(Address("10.0.0.9", 8080), identity="app.ns")
    for tls in (None, Tls("app.ns"), Tls("app.ns", alpn="h2")):
        assert await send(SendTransportHeader(), plain, tls) == (plain, b"hello")
    _, sent = await send(SendTransportHeader(), plain)
    assert sent == encode_header(Header(8080)) + b"hello"


async def test_bytes_for_another_port_are_never_sent_without_their_header():
    for target in (TAGGED.target(), Target(Address("10.0.0.9", 8080), "gw", beyond=Address("web", 80))):
        for tls in (None, Tls("app.ns"), Tls("app.ns", alpn="h2")):
            with pytest.raises(UpstreamHandshakeFailed, match="can't be told"):
                await send(SendTransportHeader(), target, tls)


async def test_an_endpoint_without_an_identity_is_dialled_where_it_is():
    target = Endpoint(Address("10.0.0.9", 8080), tagged_port=4143).target()
    assert await send(SendTransportHeader(), target, None) == (target, b"hello")


@pytest.mark.parametrize("address", [None, UnixAddress("/x")])
async def test_a_target_without_a_port(address):
    assert await send(SendTransportHeader(), Target(address), None) == (Target(address), b"hello")
    with pytest.raises(NoTarget, match="which port or name"):
        await send(SendTransportHeader(), Target(address))
    _, sent = await send(SendTransportHeader(port=9000), Target(address))
    assert sent == encode_header(Header(9000)) + b"hello"


async def test_a_gateway_is_not_asked_for_an_address():
    with pytest.raises(NoTarget):
        await send(SendTransportHeader(), TAGGED.target(beyond=Address("10.0.0.1", 80)))


async def test_what_another_proxy_passed_on_is_counted():
    passed_on(3)
    _, sent = await send(SendTransportHeader(), TAGGED.target())
    assert sent == encode_header(Header(8080, hops=3)) + b"hello"


async def test_what_is_sent_is_what_is_taken():
    for protocol in ("http/1", "http/2", "opaque"):
        _, sent = await send(SendTransportHeader(), TAGGED.target(protocol))
        connection, rest = await take(TransportHeader(required=True), sent)
        assert (connection.original_dst, connection.protocol) == (TAGGED.address, protocol)
        assert rest == b"hello"


@dataclass(frozen=True, slots=True)
class Leaf(Stack[Connection]):
    name: str
    seen: list

    @asynccontextmanager
    async def open(self):
        async def service(connection):
            self.seen.append(self.name)

        yield service


# --- both --------------------------------------------------------------------------------------


def tagged_connection():
    _, connection = memory_connection(tls=MESHED)
    connection.stream.receive_stream.put_data(encode_header(Header(80)))
    return connection


async def test_the_layers_keep_every_layers_rules():
    await check_layer(TransportHeader(timeout=3, required=True, opaque_ports=frozenset({25})), tagged_connection)
    await check_layer(TransportHeader(), lambda: memory_connection()[1])

    async def use(stream):
        await stream.receive_some(1)

    await check_layer(SendTransportHeader(port=80), lambda: Dial(Target(Address("10.0.0.9", 80)), use))


async def test_tagged_sends_each_to_its_branch():
    stack = Tagged(local=Forward() | Connect("127.0.0.1:1"), gateway=Forward() | Connect())
    assert str(stack).splitlines()[0] == "Tagged()"
    assert [name for name, _ in stack.branches()] == ["local", "gateway"]
    seen = []

    async with opened(Tagged(local=Leaf("local", seen), gateway=Leaf("gateway", seen))) as service:
        for name in (None, "web.ns"):
            _, connection = memory_connection()
            connection.target_name = name
            await service(connection)
    assert seen == ["local", "gateway"]


def test_bad_values_are_refused_where_they_are_written():
    with pytest.raises(InvalidConfiguration, match="more than 0 seconds"):
        TransportHeader(timeout=0)
    with pytest.raises(InvalidConfiguration, match="give 1 to 65535"):
        SendTransportHeader(port=0)
