"""The relay: every byte, each end, every reset, whichever way it moves them."""

from __future__ import annotations

import random
import socket

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from linkerd_proxy.errors import IdleTimeout
from linkerd_proxy.io import reactor, splice
from linkerd_proxy.io.relay import Relayed, relay
from linkerd_proxy.io.rewind import Rewound
from linkerd_proxy.io.streams import SocketStream
from tests.descriptors import descriptors, idle_pipes
from tests.io.conftest import tcp_sockets
from tests.patience import PATIENCE


class Rig:
    """A client and a server with a relay between them."""

    def __init__(self, nursery, *, family="tcp", put_back=(b"", b""), **options):
        make = tcp_sockets if family == "tcp" else socket.socketpair
        (client, first), (second, server) = make(), make()
        self.client, self.server = SocketStream(client), SocketStream(server)
        self.first, self.second = SocketStream(first), SocketStream(second)
        self.progress = Relayed()
        self.error = None
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        outer = Rewound(self.first, put_back[0]) if put_back[0] else self.first
        inner = Rewound(self.second, put_back[1]) if put_back[1] else self.second

        async def run():
            with self.scope:
                try:
                    assert await relay(outer, inner, progress=self.progress, **options) is self.progress
                except Exception as error:
                    self.error = error
            self.done.set()

        nursery.start_soon(run)

    async def close(self):
        for stream in (self.client, self.server, self.first, self.second):
            await stream.aclose()


async def send(stream, data, rng):
    sent = 0
    while sent < len(data):
        size = rng.choice([1, 100, 5000, 65536, 300_000])
        await stream.send_all(data[sent : sent + size])
        sent += size
        if rng.random() < 0.1:
            await trio.lowlevel.checkpoint()
    await stream.send_eof()


async def send_until_stuck(stream):
    """Send to somebody who reads nothing, until everything between is full."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"x" * 100_000_000)
        for _ in range(10):
            await wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()


async def receive(stream, into):
    while data := await stream.receive_some(random.Random(len(into)).choice([1000, 65536])):
        into += data


@pytest.fixture
async def rig(mode, nursery):
    made = Rig(nursery)
    yield made
    await made.close()


@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize("seed", range(4))
async def test_every_byte_arrives_both_ways_at_once(mode, nursery, family, seed):
    rng = random.Random(seed)
    rig = Rig(nursery, family=family)
    there, back = rng.randbytes(rng.randrange(1, 6_000_000)), rng.randbytes(rng.randrange(1, 6_000_000))
    got_there, got_back = bytearray(), bytearray()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as both:
            both.start_soon(send, rig.client, there, rng)
            both.start_soon(send, rig.server, back, rng)
            both.start_soon(receive, rig.client, got_back)
            both.start_soon(receive, rig.server, got_there)
        await rig.done.wait()
    assert got_there == there
    assert got_back == back
    assert rig.error is None
    assert (rig.progress.sent, rig.progress.received) == (len(there), len(back))
    assert repr(rig.progress) == f"<Relayed {len(there)} bytes there, {len(back)} back>"
    await rig.close()


@pytest.mark.parametrize("first", ["client", "server"])
async def test_half_close_in_either_order(rig, first):
    speaker, listener = (rig.client, rig.server) if first == "client" else (rig.server, rig.client)
    await speaker.send_all(b"request")
    await speaker.send_eof()
    got = bytearray()
    await receive(listener, got)
    assert got == b"request"
    assert not rig.done.is_set()
    await listener.send_all(b"answer")
    assert await speaker.receive_some() == b"answer"
    await listener.send_eof()
    assert await speaker.receive_some() == b""
    await rig.done.wait()
    assert rig.error is None
    assert not rig.first.closed  # their owner closes them


async def test_nothing_at_all_is_relayed_too(rig):
    await rig.client.send_eof()
    await rig.server.send_eof()
    await rig.done.wait()
    assert (rig.progress.sent, rig.progress.received, rig.error) == (0, 0, None)


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_is_passed_on_as_a_reset(rig, who):
    breaker, other = (rig.client, rig.server) if who == "client" else (rig.server, rig.client)
    await breaker.send_all(b"half of")
    assert await other.receive_some() == b"half of"
    breaker.abort()
    await rig.done.wait()
    assert isinstance(rig.error, trio.BrokenResourceError)
    assert rig.progress.broken == ("first" if who == "client" else "second")
    with pytest.raises(trio.BrokenResourceError):
        await other.receive_some()
    assert rig.first.closed
    assert rig.second.closed


async def test_a_reset_is_noticed_while_the_other_side_is_stuck(sockets, nursery):
    rig = Rig(nursery)
    await send_until_stuck(rig.client)
    rig.client.abort()
    with trio.fail_after(PATIENCE):
        await rig.done.wait()
    assert rig.progress.broken == "first"
    await rig.close()


async def test_a_reader_that_is_slow_slows_the_writer(mode, nursery):
    rig = Rig(nursery)
    await send_until_stuck(rig.client)
    assert 0 < rig.progress.sent < 20_000_000  # what kernel buffers take, and no more
    await rig.close()
    await rig.done.wait()


async def test_cancellation_aborts_both(rig):
    await rig.client.send_all(b"half of")
    assert await rig.server.receive_some() == b"half of"
    rig.scope.cancel()
    await rig.done.wait()
    for stream in (rig.client, rig.server):
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()


async def test_closing_a_stream_under_the_relay_ends_it(rig):
    await wait_all_tasks_blocked()
    await rig.second.aclose()
    with trio.fail_after(PATIENCE):
        await rig.done.wait()
    assert isinstance(rig.error, trio.ClosedResourceError)


async def test_the_streams_are_busy_meanwhile(sockets, nursery):
    rig = Rig(nursery)
    await wait_all_tasks_blocked()
    with pytest.raises(trio.BusyResourceError):
        await rig.first.receive_some()
    with pytest.raises(trio.BusyResourceError):
        await rig.first.send_all(b"x")
    await rig.close()


async def test_a_half_open_connection_has_an_idle_limit(mode, nursery, autojump_clock):
    rig = Rig(nursery, half_open=600)
    await trio.sleep(10_000)  # both directions open: no limit
    assert not rig.done.is_set()
    started = trio.current_time()
    await rig.client.send_eof()
    assert await rig.server.receive_some() == b""
    for _ in range(3):
        await trio.sleep(500)
        await rig.server.send_all(b"still here")
        assert await rig.client.receive_some() == b"still here"
    await rig.done.wait()
    assert isinstance(rig.error, IdleTimeout)
    assert 1500 + 600 <= trio.current_time() - started <= 1500 + 1200
    with pytest.raises(trio.BrokenResourceError):
        await rig.client.receive_some()
    await rig.close()


class TestSplice:
    async def test_bulk_is_spliced_and_small_messages_are_not(self, sockets, nursery):
        rig = Rig(nursery)
        running = reactor.current_reactor()
        assert running is not None
        before = running.counts.spliced_bytes
        for _ in range(20):
            await rig.client.send_all(b"small")
            assert await rig.server.receive_some() == b"small"
        assert running.counts.spliced_bytes == before
        got = bytearray()
        async with trio.open_nursery() as both:
            both.start_soon(receive, rig.server, got)
            await rig.client.send_all(b"b" * 10_000_000)
            await rig.client.send_eof()
        assert len(got) == 10_000_000
        assert running.counts.spliced_bytes - before > 5_000_000
        await rig.server.send_eof()
        await rig.done.wait()
        assert splice.current_pipes().in_use == 0
        assert repr(splice.current_pipes()) == "<Pipes 0 in use, 1 idle>"
        await rig.close()

    async def test_a_flow_goes_back_to_copying(self, sockets, nursery):
        rig = Rig(nursery)
        running = reactor.current_reactor()
        assert running is not None
        left = 5_000_000
        nursery.start_soon(rig.client.send_all, b"b" * left)
        while left:
            left -= len(await rig.server.receive_some())
        spliced = []
        for _ in range(10):
            before = running.counts.spliced_bytes
            await rig.client.send_all(b"small")
            assert await rig.server.receive_some() == b"small"
            spliced.append(running.counts.spliced_bytes - before)
        assert spliced[0] == 5
        assert spliced[-1] == 0
        await rig.close()

    async def test_without_pipes_bulk_is_copied(self, sockets, nursery, monkeypatch):
        monkeypatch.setattr(splice, "_MAX_PIPES", 0)
        rig = Rig(nursery)
        got = bytearray()
        async with trio.open_nursery() as both:
            both.start_soon(receive, rig.server, got)
            await rig.client.send_all(b"b" * 3_000_000)
            await rig.client.send_eof()
        assert len(got) == 3_000_000
        running = reactor.current_reactor()
        assert running is not None
        assert running.counts.spliced_bytes == 0
        await rig.close()

    async def test_a_pipe_with_bytes_of_an_aborted_transfer_is_not_used_again(self, sockets, nursery):
        rig = Rig(nursery)
        await send_until_stuck(rig.client)
        pipes = splice.current_pipes()
        assert pipes.in_use == 1
        rig.client.abort()
        await rig.done.wait()
        assert pipes.in_use == 0
        assert not pipes.idle
        await rig.close()


class TestRewound:
    async def test_bytes_put_back_come_first_on_the_fast_path(self, mode, nursery):
        rig = Rig(nursery, put_back=(b"GET ", b"banner "))
        await rig.client.send_all(b"/ HTTP/1.1")
        await rig.server.send_all(b"hello")
        await wait_all_tasks_blocked()
        got, back = b"", b""
        while len(got) < 14:
            got += await rig.server.receive_some()
        while len(back) < 12:
            back += await rig.client.receive_some()
        assert (got, back) == (b"GET / HTTP/1.1", b"banner hello")
        assert rig.progress.sent == 14
        await rig.close()

    async def test_more_is_put_back_than_the_socket_takes(self, mode, nursery):
        data = random.Random(1).randbytes(9_000_000)
        rig = Rig(nursery, put_back=(data, b""))
        await rig.client.send_eof()
        got = bytearray()
        await receive(rig.server, got)
        assert got == data
        await rig.close()

    async def test_reads_first_what_was_put_back(self):
        one, two = memory_stream_pair()
        stream = Rewound(Rewound(one, b"world"), b"hello ")
        await two.send_all(b"!")
        assert repr(stream).startswith("<Rewound by 6 bytes: <Rewound by 5 bytes: ")
        assert [await stream.receive_some(n) for n in (4, 10, 3, None, None)] == [b"hell", b"o ", b"wor", b"ld", b"!"]
        await stream.send_all(b"x")
        await stream.wait_send_all_might_not_block()
        assert await two.receive_some() == b"x"
        await stream.send_eof()
        assert await two.receive_some() == b""
        with pytest.raises(ValueError, match="at least 1"):
            await Rewound(one, b"x").receive_some(0)
        await stream.aclose()


class TestPumps:
    async def test_memory_streams_are_relayed_too(self):
        (client, first), (second, server) = memory_stream_pair(), memory_stream_pair()
        progress = Relayed()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: relay(first, Rewound(second, b"greeting "), progress=progress))
            await server.send_all(b"hello")
            await server.send_eof()
            got = bytearray()
            await receive(client, got)
            assert got == b"greeting hello"
            await client.send_all(b"bye")
            await client.send_eof()
            assert await server.receive_some() == b"bye"
        assert (progress.sent, progress.received) == (3, 14)

    async def test_a_socket_and_a_memory_stream(self, streams):
        outer, first = streams()
        second, server = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, first, second)
            await outer.send_all(b"ping")
            assert await server.receive_some() == b"ping"
            await server.send_all(b"pong")
            assert await outer.receive_some() == b"pong"
            await server.aclose()
            await outer.send_eof()
        await outer.aclose()
        await first.aclose()

    @pytest.mark.parametrize("side", ["first", "second"])
    async def test_a_broken_stream_is_named(self, side):
        async def gone():
            raise trio.BrokenResourceError("gone")

        good, other = memory_stream_pair()
        bad, _ = memory_stream_pair()
        bad.receive_stream.receive_some_hook = gone
        progress = Relayed()
        with pytest.raises(trio.BrokenResourceError, match="gone"):
            await (relay(bad, good, progress=progress) if side == "first" else relay(good, bad, progress=progress))
        assert progress.broken == side
        assert side in repr(progress)
        assert await other.receive_some() == b""


async def test_no_descriptor_is_left(mode):
    async def once():
        async with trio.open_nursery() as nursery:
            rig = Rig(nursery)
            got = bytearray()
            nursery.start_soon(receive, rig.server, got)
            await rig.client.send_all(b"x" * 1_000_000)
            await rig.client.send_eof()
            rig.scope.cancel() if len(got) % 2 else await rig.server.send_eof()
        await rig.close()

    await once()
    before = descriptors()
    for _ in range(5):
        await once()
    assert descriptors() - before - idle_pipes() == set()
