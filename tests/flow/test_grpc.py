"""grpcio, client and server, through the command: every kind of call, and every way in which one ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent import futures

import pytest

from tests.flow.command import Proxy, proxy
from tests.patience import PATIENCE
from tests.ports import held_port

grpc = pytest.importorskip("grpc")

ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
Context = grpc.ServicerContext


class Service(grpc.GenericRpcHandler):
    """Messages are bytes. ``cancelled`` tells of a call that the client gave up."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.started = threading.Event()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        name = call.method.rpartition("/")[2]
        kinds = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "Hang": grpc.unary_unary_rpc_method_handler(self.hang),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "CountThenFail": grpc.unary_stream_rpc_method_handler(self.count_then_fail),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
        }
        return kinds.get(name)

    def echo(self, request: bytes, context: Context) -> bytes:
        sent = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-")]
        context.send_initial_metadata(sent)
        context.set_trailing_metadata([("x-trailing", "yes"), ("x-data-bin", b"\x00\xfe")])
        return request

    def fail(self, request: bytes, context: Context) -> bytes:
        context.set_trailing_metadata([("x-why", "asked")])
        context.abort(CODES[request[0]], "détails: 100% wörtlich\n")

    def hang(self, request: bytes, context: Context) -> bytes:
        over = threading.Event()
        context.add_callback(over.set)
        self.started.set()
        assert over.wait(PATIENCE)
        self.cancelled.set()
        return b""

    def count(self, request: bytes, context: Context) -> Iterator[bytes]:
        for number in range(int(request)):
            yield b"%d" % number

    def count_then_fail(self, request: bytes, context: Context) -> Iterator[bytes]:
        yield from self.count(request, context)
        context.abort(grpc.StatusCode.DATA_LOSS, "lost")

    def sum(self, requests: Iterator[bytes], context: Context) -> bytes:
        return b"%d" % sum(map(int, requests))

    def chat(self, requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        for request in requests:
            yield b"you said " + request


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


@pytest.fixture(scope="module")
def through(service: Service) -> Iterator[Proxy]:
    server = grpc.server(futures.ThreadPoolExecutor(32), handlers=[service], options=ANY_SIZE)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with proxy("--to", f"127.0.0.1:{port}") as running:
        yield running
    server.stop(0).wait(PATIENCE)


@pytest.fixture
def channel(through: Proxy) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{through.port}", options=[*ANY_SIZE, ("grpc.enable_http_proxy", 0)]) as one:
        yield one


def test_unary(channel: grpc.Channel):
    assert channel.unary_unary("/flow.Test/Echo")(b"hello", timeout=PATIENCE) == b"hello"


def test_an_empty_message(channel: grpc.Channel):
    assert channel.unary_unary("/flow.Test/Echo")(b"", timeout=PATIENCE) == b""


def test_metadata_both_ways(channel: grpc.Channel):
    sent = [("x-text", "a b"), ("x-text", "c"), ("x-blob-bin", b"\x00\x01\xff")]
    _, call = channel.unary_unary("/flow.Test/Echo").with_call(b"", metadata=sent, timeout=PATIENCE)
    assert [tuple(pair) for pair in call.initial_metadata() if pair[0].startswith("x-")] == sent
    assert {("x-trailing", "yes"), ("x-data-bin", b"\x00\xfe")} <= {tuple(pair) for pair in call.trailing_metadata()}


@pytest.mark.parametrize("code", CODES, ids=[code.name for code in CODES])
def test_status_and_details(channel: grpc.Channel, code: grpc.StatusCode):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/flow.Test/Fail")(bytes([CODES.index(code)]), timeout=PATIENCE)
    assert (caught.value.code(), caught.value.details()) == (code, "détails: 100% wörtlich\n")
    assert ("x-why", "asked") in [tuple(pair) for pair in caught.value.trailing_metadata()]


def test_an_unknown_method(channel: grpc.Channel):
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/flow.Test/Nothing")(b"", timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_server_streaming(channel: grpc.Channel):
    replies = channel.unary_stream("/flow.Test/Count")(b"500", timeout=PATIENCE)
    assert list(replies) == [b"%d" % number for number in range(500)]


def test_a_stream_that_fails_after_messages(channel: grpc.Channel):
    replies = channel.unary_stream("/flow.Test/CountThenFail")(b"3", timeout=PATIENCE)
    received = []
    with pytest.raises(grpc.RpcError) as caught:
        received.extend(replies)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "lost")


def test_client_streaming(channel: grpc.Channel):
    numbers = (b"%d" % number for number in range(200))
    assert channel.stream_unary("/flow.Test/Sum")(numbers, timeout=PATIENCE) == b"%d" % sum(range(200))


def test_bidirectional_streaming_answers_while_the_upload_is_open(channel: grpc.Channel):
    heard = threading.Semaphore(1)

    def questions() -> Iterator[bytes]:
        for number in range(50):
            assert heard.acquire(timeout=PATIENCE)  # the reply to the one before must have come
            yield b"%d" % number

    replies = []
    for reply in channel.stream_stream("/flow.Test/Chat")(questions(), timeout=PATIENCE):
        replies.append(reply)
        heard.release()
    assert replies == [b"you said %d" % number for number in range(50)]


def test_ten_megabyte_messages(channel: grpc.Channel):
    data = os.urandom(10_000_000)
    assert channel.unary_unary("/flow.Test/Echo")(data, timeout=PATIENCE) == data


def test_a_cancel_reaches_the_server(channel: grpc.Channel, service: Service):
    service.started.clear()
    service.cancelled.clear()
    call = channel.unary_unary("/flow.Test/Hang").future(b"", timeout=PATIENCE)
    assert service.started.wait(PATIENCE)
    call.cancel()
    assert service.cancelled.wait(PATIENCE)
    assert call.code() is grpc.StatusCode.CANCELLED


def test_a_deadline_ends_the_call_on_both_sides(channel: grpc.Channel, service: Service):
    service.cancelled.clear()
    assert channel.unary_unary("/flow.Test/Echo")(b"", timeout=PATIENCE) == b""  # all connections stand
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/flow.Test/Hang")(b"", timeout=2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert service.cancelled.wait(PATIENCE)


def test_a_cancelled_stream_stops(channel: grpc.Channel):
    replies = channel.unary_stream("/flow.Test/Count")(b"1000000", timeout=PATIENCE)
    assert next(replies) == b"0"
    replies.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        list(replies)
    assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert channel.unary_unary("/flow.Test/Echo")(b"on", timeout=PATIENCE) == b"on"


def test_calls_at_once(channel: grpc.Channel):
    echo = channel.unary_unary("/flow.Test/Echo")
    calls = [echo.future(b"%d" % number, timeout=PATIENCE) for number in range(200)]
    assert [call.result(PATIENCE) for call in calls] == [b"%d" % number for number in range(200)]


def test_no_server_is_unavailable():
    with (
        held_port() as port,
        proxy("--to", f"127.0.0.1:{port}") as running,
        grpc.insecure_channel(f"127.0.0.1:{running.port}", options=[("grpc.enable_http_proxy", 0)]) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary("/flow.Test/Echo")(b"", timeout=PATIENCE)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
