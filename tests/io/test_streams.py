"""Socket streams: Trio's conformance kit, then what it does not ask."""

from __future__ import annotations

import errno
import select
import socket

import pytest
import trio
from trio.testing import assert_checkpoints, assert_no_checkpoints, check_half_closeable_stream, wait_all_tasks_blocked

from linkerd_proxy.io import reactor
from linkerd_proxy.io.streams import SocketStream, abort, watch_hangup
from tests.descriptors import descriptors
from tests.io.conftest import tcp_sockets
from tests.patience import PATIENCE


def clog(sock: socket.socket) -> None:
    """Fill a socket until it takes not one byte more, now and after a delayed acknowledgement made room."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    sent = 1
    while sent:
        sent = fill(sock)
        if sock.family == socket.AF_INET:
            select.select((), (), (), 0.05)


def fill(sock: socket.socket) -> int:
    sent = 0
    for size in (65536, 1024, 1):  # a small piece may still fit into the last segment
        try:
            while True:
                sent += sock.send(b"x" * size)
        except BlockingIOError:
            continue
    return sent


@pytest.mark.parametrize("family", ["tcp", "unix"])
async def test_passes_trios_conformance_kit(mode, family):
    async def make():
        first, second = tcp_sockets() if family == "tcp" else socket.socketpair()
        return SocketStream(first, budget=0), SocketStream(second, budget=0)

    async def make_clogged():
        # A TCP socket's buffers are slow to fill up: the clogged ones are always Unix sockets.
        first, second = (SocketStream(sock, budget=0) for sock in socket.socketpair())
        clog(first.socket)
        clog(second.socket)
        return first, second

    before = descriptors()
    await check_half_closeable_stream(make, make_clogged)
    assert len(descriptors() - before) <= 5  # epoll and the like


async def test_calls_that_need_not_wait_are_no_checkpoints_until_the_budget_is_spent(mode, sockets):
    first, second = sockets()
    stream, peer = SocketStream(first, budget=4), second
    peer.sendall(b"abcdefgh")
    with assert_no_checkpoints():
        for expected in (b"a", b"b", b"c", b"d"):
            assert await stream.receive_some(1) == expected
    with assert_checkpoints():
        assert await stream.receive_some(1) == b"e"
    with assert_no_checkpoints():
        assert await stream.receive_some(1) == b"f"
    await stream.aclose()


async def test_a_busy_stream_starves_nobody(streams):
    reader, writer = streams()
    ran = 0

    async def other():
        nonlocal ran
        while True:
            ran += 1
            await trio.lowlevel.checkpoint()

    writer.socket.send(b"x" * 1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(1000):
            await reader.receive_some(1)
        nursery.cancel_scope.cancel()
    assert ran >= 1000 // 64
    await reader.aclose()
    await writer.aclose()


async def test_a_short_read_saves_the_call_that_would_find_nothing(sockets):
    first, second = sockets()
    stream = SocketStream(first)
    calls = []
    receive = stream._recv
    stream._recv = lambda count: calls.append(count) or receive(count)
    second.sendall(b"one")
    assert await stream.receive_some() == b"one"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)
        await wait_all_tasks_blocked()
        assert len(calls) == 1  # parked at once
        second.sendall(b"two")
    assert len(calls) == 2
    await stream.aclose()


async def test_who_thinks_that_something_came_may_look_again_before_the_next_poll(sockets):
    first, second = sockets()
    stream = SocketStream(first)
    second.sendall(b"one")
    assert await stream.receive_some() == b"one"
    second.sendall(b"two")
    stream.look_again()
    with assert_no_checkpoints():
        assert await stream.receive_some() == b"two"
    stream.look_again()  # in vain: then it waits as always
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.receive_some)
        await wait_all_tasks_blocked()
        second.sendall(b"three")
    await stream.aclose()


async def test_it_tells_whether_the_peer_has_said_anything(mode, sockets):
    first, second = sockets()
    stream = SocketStream(first)
    assert stream.is_quiet()
    second.sendall(b"unasked")
    await trio.lowlevel.wait_readable(first)
    assert not stream.is_quiet()
    assert await stream.receive_some() == b"unasked"
    assert stream.is_quiet()
    second.shutdown(socket.SHUT_WR)
    await trio.lowlevel.wait_readable(first)
    assert not stream.is_quiet()
    await stream.aclose()
    assert not stream.is_quiet()


async def test_what_need_not_wait_is_sent_without_a_coroutine(mode):
    first, second = (SocketStream(sock) for sock in socket.socketpair())
    assert first.send_now(b"at once") is None
    assert await second.receive_some() == b"at once"
    clog(first.socket)
    rest = first.send_now(b"z")
    assert rest is not None
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send():
            await rest

        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await first.send_all(b"between")
        while (await second.receive_some())[-1:] != b"z":
            pass
    await first.aclose()
    await second.aclose()


async def test_the_end_after_a_short_read_is_seen(streams):
    reader, writer = streams()
    for _ in range(3):
        await wait_all_tasks_blocked()
    writer.socket.send(b"last words")
    await writer.send_eof()
    await wait_all_tasks_blocked()
    assert await reader.receive_some() == b"last words"
    with trio.fail_after(PATIENCE):
        assert await reader.receive_some() == b""
        assert await reader.receive_some() == b""
    await reader.aclose()
    await writer.aclose()


async def test_urgent_data_does_not_hide_what_follows(streams):
    reader, writer = streams()
    await wait_all_tasks_blocked()
    got = b""
    writer.socket.send(b"abc")
    writer.socket.send(b"!", socket.MSG_OOB)
    writer.socket.send(b"def")
    await wait_all_tasks_blocked()
    with trio.fail_after(PATIENCE):
        while len(got) < 6:
            got += await reader.receive_some()
    assert got == b"abcdef"
    await reader.aclose()
    await writer.aclose()


async def test_a_unix_socket_that_stops_short_at_a_descriptor_does_not_stall(mode):
    first, second = socket.socketpair()
    reader = SocketStream(first)
    second.send(b"one")
    socket.send_fds(second, [b"two"], [second.fileno()])
    second.send(b"three")
    got = b""
    with trio.fail_after(PATIENCE):
        while len(got) < 11:
            got += await reader.receive_some()
    assert got == b"onetwothree"
    second.close()
    await reader.aclose()


@pytest.mark.parametrize("operation", ["receive", "send"])
async def test_a_reset_breaks_the_stream(streams, operation):
    stream, peer = streams()
    call = stream.receive_some if operation == "receive" else lambda: stream.send_all(b"x")
    peer.abort()
    await wait_all_tasks_blocked()
    with pytest.raises(trio.BrokenResourceError, match=r"connection broken: (Connection reset by peer|Broken pipe)"):
        await call()
    await stream.aclose()


async def test_cancellation_at_each_wait_leaves_the_stream_usable(streams):
    stream, peer = streams()
    with trio.move_on_after(0.01) as scope:
        await stream.receive_some()
    assert scope.cancelled_caught
    await peer.send_all(b"still here")
    assert await stream.receive_some() == b"still here"
    clog(stream.socket)
    for wait in (lambda: stream.send_all(b"x"), stream.wait_send_all_might_not_block):
        with trio.move_on_after(0.01) as scope:
            await wait()
        assert scope.cancelled_caught
    await stream.aclose()
    await peer.aclose()


async def test_closing_wakes_a_blocked_sender_and_receiver(streams):
    stream, peer = streams()
    clog(stream.socket)
    seen = []

    async def expect_closed(operation):
        try:
            await operation()
        except trio.ClosedResourceError:
            seen.append(operation)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, stream.receive_some)
        nursery.start_soon(expect_closed, lambda: stream.send_all(b"x" * 100))
        await wait_all_tasks_blocked()
        await stream.aclose()
    assert len(seen) == 2
    await stream.aclose()
    await peer.aclose()


async def test_abort_shows_as_a_reset(streams):
    stream, peer = streams()
    await abort(stream)
    assert stream.closed
    with pytest.raises(trio.BrokenResourceError):
        await peer.receive_some()
    await abort(stream)
    await peer.aclose()


async def test_abort_closes_any_stream():
    first, second = trio.testing.memory_stream_pair()
    await abort(first)
    assert await second.receive_some() == b""


class TestHangup:
    async def test_a_reset_is_told_once(self, sockets):
        first, second = sockets()
        stream, peer = SocketStream(first), SocketStream(second)
        calls = []
        watch_hangup(stream, lambda: calls.append(1))
        await wait_all_tasks_blocked()
        assert not calls
        peer.abort()
        await wait_all_tasks_blocked()
        assert calls == [1]
        watch_hangup(stream, lambda: calls.append(2))  # it has happened: at once
        assert calls == [1, 2]
        await stream.aclose()

    async def test_a_half_close_is_no_hangup_but_both_directions_are(self, sockets):
        first, second = sockets()
        stream, peer = SocketStream(first), SocketStream(second)
        calls = []
        stream.watch_hangup(lambda: calls.append(1))
        await peer.send_eof()
        await wait_all_tasks_blocked()
        assert not calls
        await stream.send_eof()
        await wait_all_tasks_blocked()
        assert calls == [1]
        await stream.aclose()
        await peer.aclose()

    async def test_it_can_be_called_off(self, sockets):
        first, second = sockets()
        stream, peer = SocketStream(first), SocketStream(second)
        calls = []
        stream.watch_hangup(lambda: calls.append(1))
        stream.watch_hangup(None)
        peer.abort()
        await wait_all_tasks_blocked()
        assert not calls
        await stream.aclose()

    async def test_other_streams_ignore_it(self):
        first, second = trio.testing.memory_stream_pair()
        watch_hangup(first, lambda: pytest.fail("called"))
        await second.aclose()


async def test_the_repr_tells_the_state(streams):
    stream, peer = streams()
    assert repr(stream).startswith("<SocketStream open, from ('127.0.0.1',")
    await stream.send_eof()
    assert "sent its end" in repr(stream)
    await peer.aclose()
    await stream.aclose()
    assert repr(stream) == "<SocketStream closed>"


class TestReactor:
    async def test_a_failing_handler_harms_no_other(self, sockets, caplog):
        first, second = sockets()
        stream, peer = SocketStream(first), SocketStream(second)
        running = reactor.current_reactor()
        assert running is not None

        def broken(mask):
            raise RuntimeError("a bug")

        running.handlers[peer.fileno()] = broken
        await stream.send_all(b"provoke it")
        await wait_all_tasks_blocked()
        assert "an event handler failed" in caplog.text
        running.call_again(lambda: broken(0))  # from a task, while the reactor sleeps
        await wait_all_tasks_blocked()
        await peer.send_all(b"fine")
        assert await stream.receive_some() == b"fine"
        assert "a deferred handler failed" in caplog.text
        await stream.aclose()
        await peer.aclose()

    async def test_a_socket_closed_behind_its_back_is_forgotten(self, sockets):
        first, second = sockets()
        stream = SocketStream(first)
        first.close()
        await stream.aclose()
        second.close()
        running = reactor.current_reactor()
        assert running is not None
        assert running.statistics().registered == 0
        assert repr(running) == "<Reactor of 0 sockets>"

    async def test_no_room_for_one_more_is_an_os_error(self, sockets, monkeypatch):
        first, _ = sockets()
        running = reactor.current_reactor()

        class Full:
            closed = False

            def register(self, fd, interest):
                raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(running, "_epoll", Full())
            with pytest.raises(OSError, match="No space left"):
                SocketStream(first)

    def test_streams_left_over_after_the_run_can_be_closed(self):
        async def main():
            first, second = tcp_sockets()
            second.close()
            return SocketStream(first)

        stream = trio.run(main)
        stream.socket.close()
