"""Our client asks grpcio's server over loopback: every kind of call, and every way in which one ends."""

from __future__ import annotations

import os
from concurrent import futures

import pytest
import trio
import trio.testing

from linkerd_proxy import Client, Connect, opened
from linkerd_proxy.grpc import GrpcClient, GrpcError, GrpcStatus, Method
from tests.grpc.services import CHAT, COUNT, COUNT_THEN_FAIL, ECHO, FAIL, HANG, SUM
from tests.patience import PATIENCE

grpc = pytest.importorskip("grpc")

from tests.flow.test_grpc import ANY_SIZE, CODES, Service  # noqa: E402  # after the skip

PIECE = 1 << 16
NOISE = os.urandom(PIECE)  # which does not compress
FLOOD = Method("/flow.Test/Flood", bytes, bytes)
SIP = Method("/flow.Test/Sip", bytes, bytes)
TRAILERS_ONLY = Method("/flow.Test/TrailersOnly", bytes, bytes)


class Server(Service):
    """As behind the proxy, and with calls that move much."""

    def __init__(self):
        super().__init__()
        self.sent = 0
        self.taken = 0

    def service(self, call):
        name = call.method.rpartition("/")[2]
        kinds = {
            "Flood": grpc.unary_stream_rpc_method_handler(self.flood),
            "Sip": grpc.stream_unary_rpc_method_handler(self.sip),
            "TrailersOnly": grpc.unary_unary_rpc_method_handler(self.trailers_only),
        }
        return kinds.get(name) or super().service(call)

    def flood(self, request, context):
        for _ in range(int(request)):
            self.sent += 1
            yield NOISE

    def sip(self, requests, context):
        """Take a message each time a test lets it."""
        self.started.set()
        assert self.cancelled.wait(PATIENCE)  # the test's sign to go on
        for request in requests:
            self.taken += len(request)
        return b"%d" % self.taken

    def trailers_only(self, request, context):
        context.abort(grpc.StatusCode.NOT_FOUND, "nothing before the trailers")


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def port(server):
    # "gzip" makes grpcio compress what it sends, if the client accepts that.
    running = grpc.server(
        futures.ThreadPoolExecutor(32),
        handlers=[server],
        options=[*ANY_SIZE, ("grpc.http2.bdp_probe", 0)],
        compression=grpc.Compression.Gzip,
    )
    yield running.add_insecure_port("127.0.0.1:0"), running.start()
    running.stop(0).wait(PATIENCE)


@pytest.fixture
async def client(port):
    with trio.fail_after(PATIENCE):
        async with opened(Client() | Connect(f"127.0.0.1:{port[0]}")) as service:
            yield GrpcClient(service, max_message=16 << 20)


def wait(event):
    return trio.to_thread.run_sync(event.wait, PATIENCE)


async def test_unary(client):
    assert await client.unary(ECHO, b"hello") == b"hello"
    assert await client.unary(ECHO, b"") == b""


async def test_metadata_both_ways(client):
    sent = [("x-text", "a b"), ("x-text", "c"), ("x-blob-bin", b"\x00\x01\xff")]
    async with client.server_stream(ECHO, b"", metadata=sent) as replies:
        assert [pair for pair in await replies.wait_metadata() if pair[0].startswith("x-")] == sent
        await replies.receive_only()
        assert {("x-trailing", "yes"), ("x-data-bin", b"\x00\xfe")} <= set(replies.trailers)


@pytest.mark.parametrize("code", CODES, ids=[code.name for code in CODES])
async def test_status_and_details(client, code):
    with pytest.raises(GrpcError) as caught:
        await client.unary(FAIL, bytes([CODES.index(code)]))
    assert (caught.value.status.value, caught.value.status.name) == (code.value[0], code.name)
    assert caught.value.message == "détails: 100% wörtlich\n"
    assert ("x-why", "asked") in caught.value.trailers


async def test_trailers_only(client):
    with pytest.raises(GrpcError, match="NOT_FOUND: nothing before the trailers"):
        await client.unary(TRAILERS_ONLY, b"")
    with pytest.raises(GrpcError, match="UNIMPLEMENTED"):
        await client.unary(Method("/flow.Test/Nothing", bytes, bytes), b"")


async def test_server_streaming(client):
    async with client.server_stream(COUNT, b"500") as replies:
        assert [reply async for reply in replies] == [b"%d" % number for number in range(500)]


async def test_a_stream_that_fails_after_messages(client):
    async with client.server_stream(COUNT_THEN_FAIL, b"3") as replies:
        assert [await replies.receive() for _ in range(3)] == [b"0", b"1", b"2"]
        with pytest.raises(GrpcError, match="DATA_LOSS: lost"):
            await replies.receive()


async def test_client_streaming(client):
    assert await client.client_stream(SUM, (b"%d" % number for number in range(200))) == b"%d" % sum(range(200))


async def test_bidirectional_streaming_answers_while_the_upload_is_open(client):
    async with client.bidi(CHAT) as call:
        for number in range(50):
            await call.send(b"%d" % number)
            assert await call.receive() == b"you said %d" % number
        call.end()
        with pytest.raises(trio.EndOfChannel):
            await call.receive()


async def test_ten_megabyte_messages(client):
    data = os.urandom(10_000_000)
    assert await client.unary(ECHO, data) == data


async def test_16_mib_come_through_and_wait_while_nobody_reads(client, server):
    async with client.server_stream(FLOOD, b"256") as replies:
        assert await replies.receive() == NOISE
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert server.sent < 200
        assert sum([len(reply) async for reply in replies]) == 255 * PIECE


async def test_16_mib_go_up_no_faster_than_the_server_reads(client, server):
    sent = 0

    async def pieces():
        nonlocal sent
        for _ in range(256):
            yield bytes(PIECE)
            sent += 1

    async def look():
        await wait(server.started)
        await trio.testing.wait_all_tasks_blocked(0.05)  # it goes up until grpcio's windows are full
        assert (server.taken, sent < 200) == (0, True)
        server.cancelled.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        assert await client.client_stream(SIP, pieces()) == b"%d" % (256 * PIECE)


async def test_leaving_the_block_cancels_at_the_server_and_nothing_else(client, server):
    async with trio.open_nursery() as nursery:

        async def hang():
            await client.unary(HANG, b"")

        nursery.start_soon(hang)
        await wait(server.started)
        nursery.cancel_scope.cancel()
    assert await wait(server.cancelled)
    assert await client.unary(ECHO, b"on") == b"on"


async def test_a_timeout_ends_the_call_on_both_sides(mock_clock, client, server):
    async def wait_until_it_has_begun():
        assert await wait(server.started)
        mock_clock.jump(PATIENCE / 2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_until_it_has_begun)
        with pytest.raises(GrpcError) as caught:
            await client.unary(HANG, b"", timeout=PATIENCE / 2)
    assert caught.value.status is GrpcStatus.DEADLINE_EXCEEDED
    assert await wait(server.cancelled)


async def test_calls_at_once_share_a_connection(client):
    replies = {}

    async def call(number):
        replies[number] = await client.unary(ECHO, b"%d" % number)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(call, number)
    assert replies == {number: b"%d" % number for number in range(100)}
