"""Our client asks our server: every kind of call, and every way in which one ends."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from linkerd_proxy import Client, ConnectFailed, opened
from linkerd_proxy.errors import InvalidConfiguration, ProxyError
from linkerd_proxy.grpc import Grpc, GrpcClient, GrpcError, GrpcStatus, Method, bidi, client_stream, unary
from linkerd_proxy.testing import MemoryConnect, MemoryListener
from tests.grpc.services import (
    CHAT,
    COUNT,
    COUNT_THEN_FAIL,
    ECHO,
    FAIL,
    FLOOD,
    HANG,
    IDLE,
    PIECE,
    SUM,
    Service,
    client_of,
)


@pytest.fixture
def service():
    return Service()


@pytest.fixture
async def client(service):
    async with client_of(service.stack()) as one:
        yield one


async def test_unary(autojump_clock, client):
    assert await client.unary(ECHO, b"hello") == b"hello"


async def test_an_empty_message(autojump_clock, client):
    assert await client.unary(ECHO, b"") == b""


async def test_server_streaming(autojump_clock, client):
    async with client.server_stream(COUNT, b"500") as replies:
        assert [reply async for reply in replies] == [b"%d" % number for number in range(500)]


async def test_a_stream_without_replies_ends_well(autojump_clock, client):
    async with client.server_stream(COUNT, b"0") as replies:
        assert [reply async for reply in replies] == []


async def test_client_streaming(autojump_clock, client):
    assert await client.client_stream(SUM, (b"%d" % number for number in range(200))) == b"%d" % sum(range(200))


async def test_client_streaming_from_an_async_iterator(autojump_clock, client):
    async def numbers():
        for number in range(20):
            await trio.sleep(1)
            yield b"%d" % number

    assert await client.client_stream(SUM, numbers()) == b"%d" % sum(range(20))


async def test_bidirectional_streaming_answers_while_the_upload_is_open(autojump_clock, client):
    async with client.bidi(CHAT) as call:
        for number in range(50):
            await call.send(b"%d" % number)
            assert await call.receive() == b"you said %d" % number
        call.end()
        with pytest.raises(trio.EndOfChannel):
            await call.receive()
        with pytest.raises(trio.ClosedResourceError):
            await call.send(b"late")


async def test_a_call_that_the_server_has_ended_takes_no_more(autojump_clock):
    async def leave(call):
        await call.receive()

    async def send_on():
        while True:
            await call.send(b"more")

    async with client_of(Grpc(bidi(CHAT, leave))) as client, client.bidi(CHAT) as call:
        await call.send(b"1")
        with pytest.raises(trio.EndOfChannel):
            await call.receive()
        with pytest.raises(trio.BrokenResourceError):
            await send_on()


async def test_nothing_can_be_sent_after_the_end(autojump_clock, client):
    async with client.bidi(IDLE) as call:
        call.end()
        with pytest.raises(trio.ClosedResourceError):
            await call.send(b"late")


async def test_metadata_both_ways(autojump_clock, client):
    sent = [("x-text", "a b"), ("x-text", "c"), ("x-blob-bin", b"\x00\x01\xff")]
    async with client.server_stream(ECHO, b"", metadata=sent) as replies:
        assert [pair for pair in await replies.wait_metadata() if pair[0].startswith("x-")] == sent
        assert replies.trailers == ()
        await replies.receive_only()
        assert replies.trailers == (("x-trailing", "yes"), ("x-data-bin", b"\x00\xfe"))


@pytest.mark.parametrize("status", [status for status in GrpcStatus if status])
async def test_status_message_and_trailers(autojump_clock, client, status):
    with pytest.raises(GrpcError) as caught:
        await client.unary(FAIL, bytes([status]))
    assert (caught.value.status, caught.value.message) == (status, "détails: 100% wörtlich\n")
    assert caught.value.trailers == (("x-why", "asked"),)


async def test_a_stream_that_fails_after_replies(autojump_clock, client):
    async with client.server_stream(COUNT_THEN_FAIL, b"3") as replies:
        assert [await replies.receive() for _ in range(3)] == [b"0", b"1", b"2"]
        with pytest.raises(GrpcError, match="DATA_LOSS: lost"):
            await replies.receive()


async def test_an_unknown_method(autojump_clock, client):
    with pytest.raises(GrpcError, match=r"UNIMPLEMENTED: there is no method /flow\.Test/Nothing"):
        await client.unary(Method("/flow.Test/Nothing", bytes, bytes), b"")


async def test_messages_of_16_mib_pass_where_they_are_allowed(service):
    data = bytes(16 << 20)
    async with client_of(service.stack(max_message=16 << 20), max_message=16 << 20) as client:
        assert await client.unary(ECHO, data) == data


async def test_messages_above_the_limit_are_refused_by_the_side_that_has_it(service, client):
    data = bytes((4 << 20) + 1)
    with pytest.raises(GrpcError, match="RESOURCE_EXHAUSTED: a message has 4194305 bytes; max_message allows 4194304"):
        await client.unary(ECHO, data)
    async with client_of(service.stack(max_message=5 << 20)) as other:
        with pytest.raises(GrpcError, match="RESOURCE_EXHAUSTED"):
            await other.unary(ECHO, data)
        assert await other.unary(ECHO, b"on") == b"on"


async def test_a_stream_that_nobody_reads_holds_its_server_back(autojump_clock, client, service):
    async with client.server_stream(FLOOD, b"256") as replies:
        assert await replies.receive() == bytes(PIECE)
        await trio.testing.wait_all_tasks_blocked()
        held = service.sent
        await trio.sleep(20)
        assert service.sent == held < 40  # the connection's window is 1 MiB
        rest = [reply async for reply in replies]
    assert len(rest) == 255


async def test_a_server_that_does_not_read_holds_the_client_back(autojump_clock, client):
    sent = 0
    async with client.bidi(IDLE) as call:
        with trio.move_on_after(5):
            while True:
                await call.send(bytes(PIECE))
                sent += 1
    assert sent < 40


async def test_leaving_the_block_cancels_the_handler_and_no_other_call(autojump_clock, client, service):
    async with client.bidi(IDLE) as call, client.bidi(CHAT) as other:
        await call.wait_metadata()
        async with client.server_stream(FLOOD, b"1000") as replies:
            await replies.receive()
        await service.cancelled.wait()
        await other.send(b"on")
        assert await other.receive() == b"you said on"


async def test_a_cancelled_call_cancels_the_handler(autojump_clock, client, service):
    with trio.move_on_after(1) as scope:
        await client.unary(HANG, b"")
    assert scope.cancelled_caught
    await service.cancelled.wait()
    assert await client.unary(ECHO, b"on") == b"on"


async def test_a_timeout_ends_the_call_on_both_sides(autojump_clock, client, service):
    started = trio.current_time()
    with pytest.raises(GrpcError, match="DEADLINE_EXCEEDED"):
        await client.unary(HANG, b"", timeout=2)
    assert trio.current_time() - started == pytest.approx(2, abs=1e-3)
    await service.cancelled.wait()
    assert service.deadline == pytest.approx(started + 2, abs=1e-3)


async def test_the_server_is_told_of_the_deadline_of_a_surrounding_scope(autojump_clock, client, service):
    started = trio.current_time()
    with trio.move_on_after(3):
        await client.unary(HANG, b"", timeout=50)
    assert service.deadline == pytest.approx(started + 3, abs=1e-3)


async def test_a_timeout_covers_a_stream_of_which_parts_have_come(autojump_clock, client):
    async with client.bidi(CHAT, timeout=2) as call:
        await call.send(b"1")
        assert await call.receive() == b"you said 1"
        with pytest.raises(GrpcError, match="DEADLINE_EXCEEDED"):
            await call.receive()
        with pytest.raises(GrpcError, match="DEADLINE_EXCEEDED"):
            await call.send(b"2")


async def test_a_cancelled_receive_loses_nothing(autojump_clock, client):
    async with client.bidi(CHAT) as call:
        with trio.move_on_after(1):
            await call.receive()
        await call.send(b"1")
        assert await call.receive() == b"you said 1"


async def test_the_handlers_bug_is_unknown_without_its_text(autojump_clock, caplog):
    async def broken(message, call):
        raise ValueError("secret")

    async def refused(message, call):
        raise ProxyError("no")

    other = Method("/flow.Test/Refused", bytes, bytes)
    async with client_of(Grpc(unary(ECHO, broken), unary(other, refused))) as client:
        with pytest.raises(GrpcError, match="UNKNOWN: the handler failed; look into the server's log"):
            await client.unary(ECHO, b"")
        assert "secret" in caplog.text
        with pytest.raises(GrpcError, match="INTERNAL: no"):
            await client.unary(other, b"")


async def test_a_server_may_answer_before_it_has_read_all(autojump_clock):
    async def first(call):
        return await call.receive()

    async with client_of(Grpc(client_stream(SUM, first))) as client:
        assert await client.client_stream(SUM, (b"%d" % number * 10000 for number in range(1000))) == b"0" * 10000


async def test_a_generator_of_messages_is_closed_where_the_server_wants_no_more(autojump_clock):
    closed = []

    async def endless():
        try:
            while True:
                yield b"1" * 10000
        finally:
            closed.append(True)

    async def first(call):
        return await call.receive()

    async with client_of(Grpc(client_stream(SUM, first))) as client:
        assert await client.client_stream(SUM, endless()) == b"1" * 10000
        assert closed == [True]


async def test_too_many_and_too_few_messages_are_the_wrong_kind(autojump_clock, client):
    with pytest.raises(GrpcError, match="more replies than the one"):
        await client.unary(COUNT, b"2")
    with pytest.raises(GrpcError, match="without the reply"):
        await client.unary(COUNT, b"0")
    with pytest.raises(GrpcError, match="has no message"):
        await client.client_stream(ECHO, [])
    with pytest.raises(GrpcError, match="more messages than the one"):
        await client.client_stream(ECHO, [b"1", b"2"])


async def test_no_server_is_unavailable_and_the_layers_error_is_the_cause(autojump_clock):
    listener = MemoryListener()
    await listener.aclose()
    async with opened(Client() | MemoryConnect(listener)) as service:
        with pytest.raises(GrpcError) as caught:
            await GrpcClient(service).unary(ECHO, b"")
    assert caught.value.status is GrpcStatus.UNAVAILABLE
    assert isinstance(caught.value.__cause__, ConnectFailed)


@pytest.mark.parametrize(
    "metadata", [[("X", "y")], [("grpc-x", "y")], [("x", b"y")], [("x-bin", "y")], [("x", "ä")], [("te", "y")]]
)
async def test_metadata_that_grpc_does_not_allow_is_refused(autojump_clock, client, metadata):
    with pytest.raises(InvalidConfiguration):
        await client.unary(ECHO, b"", metadata=metadata)


def test_reprs_tell():
    async def echo(message, call):
        return message

    assert repr(Grpc(unary(ECHO, echo), max_message=5)) == "Grpc(unary('/flow.Test/Echo', echo), max_message=5)"
    assert repr(ECHO) == "Method('/flow.Test/Echo', bytes, bytes)"
    with pytest.raises(InvalidConfiguration, match="two handlers"):
        Grpc(unary(ECHO, echo), unary(ECHO, echo))
    with pytest.raises(InvalidConfiguration, match="no method"):
        Method("Echo", bytes, bytes)
