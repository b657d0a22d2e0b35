"""The layers that take and send PROXY headers."""

from __future__ import annotations

import pytest
import trio
from trio.testing import memory_stream_pair

from linkerd_proxy.address import Address, UnixAddress
from linkerd_proxy.core.work import Connection, Dial, Target
from linkerd_proxy.errors import BadRequest, DetectTimeout, InvalidConfiguration
from linkerd_proxy.io.proxy_protocol import encode_v1, encode_v2
from linkerd_proxy.tcp.proxy_protocol import ProxyProtocol, SendProxyProtocol
from tests.tcp.taking import take as through

CLIENT, WANTED = Address("192.0.2.7", 4711), Address("192.0.2.1", 443)
LOCAL = Address("10.0.0.9", 8443)


async def take(layer, data, *, peer=Address("127.0.0.1", 5), chunk=10_000, end=True):  # noqa: B008
    """Send bytes through the layer. Returns the connection that came out, and what was left to read."""
    return await through(layer, data, lambda stream: Connection(stream, peer, LOCAL), chunk=chunk, end=end)


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
@pytest.mark.parametrize("version", [1, 2])
async def test_the_client_becomes_the_peer(version, chunk):
    header = (encode_v1 if version == 1 else encode_v2)(CLIENT, WANTED)
    connection, rest = await take(ProxyProtocol(), header + b"GET / HTTP/1.1", chunk=chunk)
    assert (connection.peer, connection.original_dst, connection.local) == (CLIENT, WANTED, LOCAL)
    assert rest == b"GET / HTTP/1.1"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", encode_v2(None, None)])
async def test_a_connection_of_the_proxy_itself_keeps_its_peer(header):
    connection, rest = await take(ProxyProtocol(), header + b"x")
    assert (connection.peer, connection.original_dst, rest) == (Address("127.0.0.1", 5), None, b"x")


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1", b"P", b"PROXY TC", b""])
async def test_without_a_header(data):
    connection, rest = await take(ProxyProtocol(required=False), data)
    assert (connection.peer, rest) == (Address("127.0.0.1", 5), data)
    with pytest.raises(BadRequest, match="PROXY header"):
        await take(ProxyProtocol(), data)


@pytest.mark.parametrize("required", [True, False])
async def test_a_malformed_header_is_refused_either_way(required):
    with pytest.raises(BadRequest, match="malformed"):
        await take(ProxyProtocol(required=required), b"PROXY TCP4 nonsense\r\n")


async def test_who_is_not_trusted_is_not_believed():
    header = encode_v1(CLIENT, WANTED)
    stranger = Address("10.0.0.1", 1)
    connection, rest = await take(ProxyProtocol(required=False), header, peer=stranger)
    assert (connection.peer, rest) == (stranger, header)
    with pytest.raises(BadRequest, match=r"10.0.0.1:1 may not send a PROXY header; connect through the proxy"):
        await take(ProxyProtocol(), header, peer=stranger)
    for peer in (stranger, Address("fe80::1%eth0", 1), UnixAddress("")):
        connection, _ = await take(ProxyProtocol(trusted=("10.0.0.0/8", "fe80::/10")), header, peer=peer)
        assert connection.peer == CLIENT


@pytest.mark.parametrize("data", [b"", b"PROXY "])
async def test_silence(autojump_clock, data):
    with pytest.raises(DetectTimeout, match=r"did not arrive after 3 s; send it first"):
        await take(ProxyProtocol(timeout=3), data, end=False)
    assert trio.current_time() == pytest.approx(3, abs=0.1)

    near, far = memory_stream_pair()
    await near.send_all(data or b"\r")
    seen = []

    async def inner(connection):
        seen.append(await connection.stream.receive_some())

    await ProxyProtocol(timeout=3, required=False).serve(Connection(far, UnixAddress(""), LOCAL), inner)
    assert seen == [data or b"\r"]


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (SendProxyProtocol(), encode_v2(CLIENT, WANTED)),
        (SendProxyProtocol(1), encode_v1(CLIENT, WANTED)),
        (
            SendProxyProtocol(tlvs=((0xE0, b"x"),), checksum=True),
            encode_v2(CLIENT, WANTED, tlvs=((0xE0, b"x"),), checksum=True),
        ),
    ],
)
async def test_a_header_is_sent_first(layer, expected):
    near, far = memory_stream_pair()

    async def use(stream):
        await stream.send_all(b"hello")

    async def inner(dial):
        await dial.use(near)

    await layer.serve(Dial(Target(), use, client=CLIENT, destination=WANTED), inner)
    await near.send_eof()
    assert await far.receive_some() == expected + b"hello"


def test_bad_values_are_refused_where_they_are_written():
    with pytest.raises(InvalidConfiguration, match=r"write networks as 10.0.0.0/8"):
        ProxyProtocol(trusted=("10.0.0.1/8",))
    with pytest.raises(InvalidConfiguration, match="give 1 or 2"):
        SendProxyProtocol(3)
    with pytest.raises(InvalidConfiguration, match="has no extensions"):
        SendProxyProtocol(1, checksum=True)
