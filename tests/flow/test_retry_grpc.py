"""Retries and deadlines of gRPC calls, with grpcio on both ends."""

from __future__ import annotations

import threading
from concurrent import futures

import pytest
import trio

from linkerd_proxy import Backoff, Budget, Client, Connect, Hedge, Http, Rescue, Retry, Timeouts
from linkerd_proxy.testing import serving
from tests.patience import PATIENCE

grpc = pytest.importorskip("grpc")


class Flaky(grpc.GenericRpcHandler):
    """Fails the first call of each kind, and notes what it was told."""

    def __init__(self):
        self.calls = []

    def service(self, call):
        name = call.method.rpartition("/")[2]
        self.calls.append((name, dict(call.invocation_metadata)))
        first = [one for one, _ in self.calls].count(name) == 1
        if name == "Late":
            return grpc.unary_stream_rpc_method_handler(self.late if first else self.stream)
        if name == "Stream":
            return grpc.unary_stream_rpc_method_handler(self.stream)
        if name == "Upload":
            return grpc.stream_unary_rpc_method_handler(self.fail_upload if first else self.upload)
        if name == "Slow":
            return grpc.unary_unary_rpc_method_handler(self.slow if first else self.echo)
        return grpc.unary_unary_rpc_method_handler(self.fail if first else self.echo)

    def fail(self, request, context):
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

    def echo(self, request, context):
        return request + b" %.1f" % context.time_remaining() if request == b"left" else request

    def slow(self, request, context):
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(PATIENCE)  # until it is called off: the other one has answered
        return b"slow"

    def late(self, request, context):
        yield b"one"
        context.abort(grpc.StatusCode.UNAVAILABLE, "after content")

    def stream(self, request, context):
        for number in range(5):
            yield b"%d" % number

    def fail_upload(self, requests, context):
        next(requests)
        context.abort(grpc.StatusCode.UNAVAILABLE, "in the middle")

    def upload(self, requests, context):
        return b"".join(requests)


@pytest.fixture
def origin():
    server = grpc.server(futures.ThreadPoolExecutor(8))
    flaky = Flaky()
    server.add_generic_rpc_handlers((flaky,))
    flaky.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield flaky
    server.stop(None).wait(PATIENCE)


async def talk(layers, origin, converse):
    """Let a grpcio client converse through layers."""
    async with serving(Http() | Rescue() | layers | Client("h2") | Connect(f"127.0.0.1:{origin.port}")) as address:

        def client():
            with grpc.insecure_channel(str(address), options=[("grpc.enable_retries", 0)]) as channel:
                return converse(channel)

        with trio.fail_after(PATIENCE):
            return await trio.to_thread.run_sync(client)


RETRY = Retry(Budget(1, 100), grpc="unavailable", backoff=Backoff(0.01, 0.05), peek=5.0)


async def test_a_call_that_failed_at_its_end_is_answered_at_the_second_try(origin):
    answer = await talk(RETRY, origin, lambda channel: channel.unary_unary("/a.B/Call")(b"hello", timeout=PATIENCE))
    assert answer == b"hello"
    (_, first), (_, second) = origin.calls
    assert "grpc-previous-rpc-attempts" not in first
    assert second["grpc-previous-rpc-attempts"] == "1"


async def test_a_stream_that_failed_after_little_content_is_repeated_unseen(origin):
    answer = await talk(RETRY, origin, lambda channel: list(channel.unary_stream("/a.B/Late")(b"", timeout=PATIENCE)))
    assert answer == [b"0", b"1", b"2", b"3", b"4"]
    assert len(origin.calls) == 2


async def test_an_upload_that_was_refused_half_way_is_sent_again_whole(origin):
    def converse(channel):
        return channel.stream_unary("/a.B/Upload")(iter([b"one ", b"two ", b"three"]), timeout=PATIENCE)

    assert await talk(RETRY, origin, converse) == b"one two three"
    assert len(origin.calls) == 2


async def test_a_deadline_of_the_proxys_ends_a_call_that_has_none_of_its_own(origin):
    def converse(channel):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/a.B/Slow")(b"")
        return caught.value.code()

    assert await talk(Timeouts(request=0.3), origin, converse) is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_an_origin_is_told_the_sooner_deadline(origin):
    origin.calls.append(("Call", {}))  # not the first: it is answered
    answer = await talk(
        Timeouts(request=950), origin, lambda channel: channel.unary_unary("/a.B/Call")(b"left", timeout=2500)
    )
    assert 850 <= float(answer.split()[1]) <= 950


async def test_a_slow_call_is_hedged(origin):
    hedge = Hedge(Budget(1, 100), delay=0.1, grpc="unavailable")
    answer = await talk(hedge, origin, lambda channel: channel.unary_unary("/a.B/Slow")(b"quick", timeout=PATIENCE))
    assert answer == b"quick"
    assert len(origin.calls) == 2
