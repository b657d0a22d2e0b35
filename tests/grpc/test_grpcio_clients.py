"""grpcio's client asks our server over loopback: every kind of call, and every way in which one ends."""

from __future__ import annotations

import os
import threading
from functools import partial

import pytest
import trio
import trio.testing

from linkerd_proxy import Http, Rescue
from linkerd_proxy.testing import serving
from tests.grpc.services import PIECE, Service
from tests.patience import PATIENCE

grpc = pytest.importorskip("grpc")

from tests.flow.test_grpc import ANY_SIZE  # noqa: E402  # after the skip

TIMEOUT = 2.0  # seconds of a call that must reach our server in them
CODES = {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}


@pytest.fixture
def service():
    return Service()


@pytest.fixture
async def port(service):
    with trio.fail_after(PATIENCE):
        async with serving(Http() | Rescue() | service.stack(max_message=16 << 20)) as address:
            yield address.port


async def in_thread(port, use, **settings):
    """Run blocking code with a channel, and raise what it raises."""

    def run():
        # Without the probe its window stays as it is, and grows not to all that loopback could carry.
        options = [*ANY_SIZE, ("grpc.enable_http_proxy", 0), ("grpc.http2.bdp_probe", 0)]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=options, **settings) as channel:
            return use(channel)

    return await trio.to_thread.run_sync(run)


def unary(name, message, channel, **settings):
    return channel.unary_unary(f"/flow.Test/{name}")(message, timeout=PATIENCE, **settings)


async def test_unary(port):
    assert await in_thread(port, partial(unary, "Echo", b"hello")) == b"hello"
    assert await in_thread(port, partial(unary, "Echo", b"")) == b""


async def test_compressed_messages_are_understood(port):
    data = b"again " * 10000
    assert await in_thread(port, partial(unary, "Echo", data), compression=grpc.Compression.Gzip) == data


async def test_an_encoding_that_nobody_offered_is_refused(port):
    with pytest.raises(grpc.RpcError) as caught:
        await in_thread(port, partial(unary, "Echo", b"x" * 10000), compression=grpc.Compression.Deflate)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_metadata_both_ways(port):
    sent = [("x-text", "a b"), ("x-text", "c"), ("x-blob-bin", b"\x00\x01\xff")]

    def use(channel):
        _, call = channel.unary_unary("/flow.Test/Echo").with_call(b"", metadata=sent, timeout=PATIENCE)
        return [tuple(pair) for pair in call.initial_metadata()], {tuple(pair) for pair in call.trailing_metadata()}

    first, last = await in_thread(port, use)
    assert [pair for pair in first if pair[0].startswith("x-")] == sent
    assert {("x-trailing", "yes"), ("x-data-bin", b"\x00\xfe")} <= last


@pytest.mark.parametrize("number", CODES)
async def test_status_and_details(port, number):
    with pytest.raises(grpc.RpcError) as caught:
        await in_thread(port, partial(unary, "Fail", bytes([number])))
    assert (caught.value.code(), caught.value.details()) == (CODES[number], "détails: 100% wörtlich\n")
    assert ("x-why", "asked") in [tuple(pair) for pair in caught.value.trailing_metadata()]


async def test_an_unknown_method(port):
    with pytest.raises(grpc.RpcError) as caught:
        await in_thread(port, partial(unary, "Nothing", b""))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_server_streaming(port):
    replies = await in_thread(port, lambda channel: list(channel.unary_stream("/flow.Test/Count")(b"500")))
    assert replies == [b"%d" % number for number in range(500)]


async def test_a_stream_that_fails_after_messages(port):
    received = []

    def use(channel):
        received.extend(channel.unary_stream("/flow.Test/CountThenFail")(b"3", timeout=PATIENCE))

    with pytest.raises(grpc.RpcError) as caught:
        await in_thread(port, use)
    assert received == [b"0", b"1", b"2"]
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "lost")


async def test_client_streaming(port):
    numbers = (b"%d" % number for number in range(200))
    total = await in_thread(port, lambda channel: channel.stream_unary("/flow.Test/Sum")(numbers, timeout=PATIENCE))
    assert total == b"%d" % sum(range(200))


async def test_bidirectional_streaming_answers_while_the_upload_is_open(port):
    heard = threading.Semaphore(1)

    def questions():
        for number in range(50):
            assert heard.acquire(timeout=PATIENCE)  # the reply to the one before must have come
            yield b"%d" % number

    def use(channel):
        replies = []
        for reply in channel.stream_stream("/flow.Test/Chat")(questions(), timeout=PATIENCE):
            replies.append(reply)
            heard.release()
        return replies

    assert await in_thread(port, use) == [b"you said %d" % number for number in range(50)]


async def test_ten_megabyte_messages(port):
    data = os.urandom(10_000_000)
    assert await in_thread(port, partial(unary, "Echo", data)) == data


async def test_messages_above_the_limit(port):
    with pytest.raises(grpc.RpcError) as caught:
        await in_thread(port, partial(unary, "Echo", bytes((16 << 20) + 1)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_16_mib_wait_while_the_client_does_not_read(port, service):
    go_on = threading.Event()

    def use(channel):
        replies = channel.unary_stream("/flow.Test/Flood")(b"256", timeout=PATIENCE)
        size = len(next(replies))
        assert go_on.wait(PATIENCE)
        return size + sum(len(reply) for reply in replies)

    async def look():
        # grpcio reads ahead, as far as its window goes: the handler stops well before the end.
        try:
            while not service.sent:
                await trio.testing.wait_all_tasks_blocked(0.05)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert service.sent < 200
        finally:
            go_on.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        assert await in_thread(port, use) == 256 * PIECE


async def test_a_cancel_reaches_the_handler(port, service):
    cancelled = threading.Event()

    def use(channel):
        call = channel.unary_unary("/flow.Test/Hang").future(b"", timeout=PATIENCE)
        assert cancelled.wait(PATIENCE)
        call.cancel()
        return call.code()

    async def look():
        await service.started.wait()
        cancelled.set()
        await service.cancelled.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        assert await in_thread(port, use) is grpc.StatusCode.CANCELLED


async def test_a_deadline_ends_the_call_on_both_sides(port, service):
    def use(channel):
        unary("Echo", b"", channel)  # the connection stands
        channel.unary_unary("/flow.Test/Hang")(b"", timeout=TIMEOUT)

    with pytest.raises(grpc.RpcError) as caught:
        await in_thread(port, use)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await service.cancelled.wait()
    assert service.deadline - trio.current_time() <= TIMEOUT


async def test_a_cancelled_stream_stops_its_handler(port, service):
    def use(channel):
        replies = channel.unary_stream("/flow.Test/Flood")(b"100000", timeout=PATIENCE)
        next(replies)
        replies.cancel()

    await in_thread(port, use)
    await service.cancelled.wait()
    assert service.sent < 100000
    assert await in_thread(port, partial(unary, "Echo", b"on")) == b"on"


async def test_calls_at_once(port):
    def use(channel):
        echo = channel.unary_unary("/flow.Test/Echo")
        calls = [echo.future(b"%d" % number, timeout=PATIENCE) for number in range(200)]
        return [call.result(PATIENCE) for call in calls]

    assert await in_thread(port, use) == [b"%d" % number for number in range(200)]
