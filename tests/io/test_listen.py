"""Listeners: every kind of address, every way to fail, nothing left behind."""

from __future__ import annotations

import errno
import os
import socket
import stat

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from linkerd_proxy.address import Address, UnixAddress
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.io import listen
from linkerd_proxy.io.dial import dial
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.io.loops import would_loop
from linkerd_proxy.io.options import TcpOptions
from linkerd_proxy.io.original_dst import original_destination
from tests.descriptors import descriptors


@pytest.mark.parametrize(
    "text", ["127.0.0.1:0", "[::1]:0", "unix:{tmp}/s", "unix:@linkerd-proxy-test-{pid}", "localhost:0"]
)
async def test_accepts_on(mode, text, tmp_path):
    text = text.format(tmp=tmp_path, pid=os.getpid())
    before = descriptors()
    listeners = await open_listeners(text)
    for listener in listeners:
        stream = await dial(listener.address)
        connection = await listener.accept()
        assert connection.local == listener.address
        assert connection.original_dst is None
        await stream.send_all(b"hello")
        assert await connection.stream.receive_some() == b"hello"
        await stream.aclose()
        await connection.stream.aclose()
        await listener.aclose()
        assert repr(listener).startswith("<SocketListener closed, was on ")
    assert len(descriptors() - before) <= 3  # epoll, its alarm
    assert not list(tmp_path.iterdir())


async def test_a_bare_port_means_every_interface_of_both_families():
    (listener,) = await open_listeners(0)
    assert isinstance(listener.address, Address)
    port = listener.address.port
    for host, peer in (("127.0.0.1", "127.0.0.1"), ("::1", "::1")):
        stream = await dial(Address(host, port))
        connection = await listener.accept()
        assert isinstance(connection.peer, Address)
        assert (connection.peer.host, connection.local) == (peer, Address(host, port))
        await stream.aclose()
        await connection.stream.aclose()
    await listener.aclose()


async def test_without_ipv6_every_interface_is_every_ipv4_one(monkeypatch):
    real = socket.socket

    def only_ipv4(family=-1, *args, **kwargs):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", only_ipv4)
        (listener,) = await open_listeners(0)
    assert isinstance(listener.address, Address)
    assert listener.address.host == "0.0.0.0"
    await listener.aclose()


async def test_options_reach_the_accepted_sockets():
    (listener,) = await open_listeners("127.0.0.1:0", options=TcpOptions(keepalive=7, user_timeout=30))
    stream = await dial(listener.address, options=TcpOptions(keepalive=9))
    connection = await listener.accept()
    for sock, seconds in ((connection.stream.socket, 7), (stream.socket, 9)):
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == seconds
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == seconds
    assert connection.stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
    for one in (stream, connection.stream, listener):
        await one.aclose()


async def test_keepalive_is_off_by_default():
    (listener,) = await open_listeners("127.0.0.1:0")
    stream = await dial(listener.address)
    connection = await listener.accept()
    assert not connection.stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert not stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    for one in (stream, connection.stream, listener):
        await one.aclose()


@pytest.mark.parametrize("value", [0, -1, 1e9])
def test_options_that_are_no_time_span_are_refused(value):
    with pytest.raises(InvalidConfiguration, match="keepalive"):
        TcpOptions(keepalive=value)


class TestErrors:
    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("192.0.2.1:80", "cannot listen on 192.0.2.1:80: Cannot assign requested address; give an address of this"),
            (
                "unix:/nowhere/at/all",
                "cannot listen on unix:/nowhere/at/all: No such file or directory; create the dir",
            ),
            ("nonsense", "'nonsense' has no port"),
        ],
    )
    async def test_they_name_the_address_and_the_remedy(self, address, message):
        with pytest.raises(InvalidConfiguration) as caught:
            await open_listeners(address)
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)

    async def test_an_address_in_use_closes_the_others(self):
        (first,) = await open_listeners("127.0.0.1:0")
        before = descriptors()
        with pytest.raises(InvalidConfiguration, match="Address already in use; stop what listens there"):
            await open_listeners("127.0.0.1:0", str(first.address))
        assert descriptors() - before == set()
        await first.aclose()

    async def test_reuse_port_shares_one(self):
        (first,) = await open_listeners("127.0.0.1:0", reuse_port=True)
        (second,) = await open_listeners(first.address, reuse_port=True)
        assert first.address == second.address
        await first.aclose()
        await second.aclose()


class TestUnix:
    async def test_a_stale_file_is_replaced_and_a_live_one_is_not(self, tmp_path):
        path = tmp_path / "socket"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        (listener,) = await open_listeners(f"unix:{path}")
        with pytest.raises(InvalidConfiguration, match="Address already in use"):
            await open_listeners(f"unix:{path}")
        await listener.aclose()
        assert not path.exists()

    async def test_another_kind_of_file_is_left_alone(self, tmp_path):
        path = tmp_path / "precious"
        path.write_text("data")
        with pytest.raises(InvalidConfiguration, match="a file is there that is no socket; remove it"):
            await open_listeners(f"unix:{path}")
        assert path.read_text() == "data"

    async def test_a_successors_file_is_left_alone(self, tmp_path):
        path = tmp_path / "socket"
        (first,) = await open_listeners(f"unix:{path}")
        path.unlink()
        (second,) = await open_listeners(f"unix:{path}")
        await first.aclose()
        assert path.exists()
        await second.aclose()
        assert not path.exists()

    async def test_the_mode_is_set(self, tmp_path):
        (listener,) = await open_listeners(f"unix:{tmp_path}/s", unix_mode=0o600)
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o600
        await listener.aclose()


async def test_many_are_accepted_in_a_row_and_others_get_their_turn():
    (listener,) = await open_listeners("127.0.0.1:0", backlog=200)
    clients = [await dial(listener.address) for _ in range(100)]
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        accepted = [await listener.accept() for _ in range(100)]
        nursery.cancel_scope.cancel()
    assert 2 <= turns <= 20
    for one in (*clients, *(connection.stream for connection in accepted), listener):
        await one.aclose()


async def test_closing_wakes_who_accepts():
    (listener,) = await open_listeners("127.0.0.1:0")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def accept():
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()

        await wait_all_tasks_blocked()
        await listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()
    await listener.aclose()


class Failing:
    """A listening socket whose next accepts fail."""

    def __init__(self, sock, *codes):
        self.sock, self.codes, self.calls = sock, list(codes), 0

    def accept(self):
        self.calls += 1
        if self.codes:
            code = self.codes.pop(0)
            raise OSError(code, os.strerror(code))
        return self.sock.accept()

    def __getattr__(self, name):
        return getattr(self.sock, name)


async def test_want_of_descriptors_pauses_and_transient_errors_do_not(autojump_clock, caplog):
    (listener,) = await open_listeners("127.0.0.1:0")
    failing = Failing(listener.socket, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED, errno.EPROTO)
    listener.socket = failing
    client = await dial(listener.address)
    started = trio.current_time()
    connection = await listener.accept()
    assert trio.current_time() - started == pytest.approx(0.3)
    assert failing.calls == 6
    assert "trying again in 0.1 s: Too many open files" in caplog.text
    for one in (client, connection.stream, listener):
        await one.aclose()


def all_descriptors():
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        return taken


async def test_real_want_of_descriptors_is_survived(mode):
    import resource

    (listener,) = await open_listeners("127.0.0.1:0")
    clients = [socket.create_connection(listener.socket.getsockname()) for _ in range(3)]
    await trio.lowlevel.checkpoint()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = descriptors()
    got = []

    async def accept():
        while len(got) < len(clients):
            got.append(await listener.accept())

    async with trio.open_nursery() as nursery:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
        hoard = all_descriptors()
        try:
            nursery.start_soon(accept)
            await wait_all_tasks_blocked()
            assert not got
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in hoard:
                os.close(fd)
    assert len(got) == 3
    for connection in got:
        await connection.stream.aclose()
    for client in clients:
        client.close()
    assert len(descriptors() - before) <= 2
    await listener.aclose()


async def test_a_listener_that_is_broken_says_so():
    (listener,) = await open_listeners("127.0.0.1:0")
    real = listener.socket
    listener.socket = Failing(real, errno.EBADF)
    with pytest.raises(OSError, match="Bad file descriptor"):
        await listener.accept()
    await listener.aclose()


class TestOriginalDestination:
    async def test_it_is_told_when_it_differs(self, monkeypatch):
        (listener,) = await open_listeners("127.0.0.1:0", original_dst=True)
        for told, expected in (
            (Address("10.1.2.3", 80), Address("10.1.2.3", 80)),
            (listener.address, None),
            (None, None),
        ):
            monkeypatch.setattr(listen, "original_destination", lambda sock, told=told: told)
            client = await dial(listener.address)
            connection = await listener.accept()
            assert connection.original_dst == expected
            await client.aclose()
            await connection.stream.aclose()
        await listener.aclose()

    @pytest.mark.parametrize(
        ("family", "raw", "peer", "expected"),
        [
            (socket.AF_INET, b"\x02\0\x1f\x90\x0a\x01\x02\x03" + bytes(8), "1.2.3.4", Address("10.1.2.3", 8080)),
            (
                socket.AF_INET6,
                b"\x02\0\x1f\x90\x0a\x01\x02\x03" + bytes(8),
                "::ffff:1.2.3.4",
                Address("10.1.2.3", 8080),
            ),
            (
                socket.AF_INET6,
                b"\x0a\0\0\x50" + bytes(4) + bytes(15) + b"\x07" + bytes(4),
                "fd00::1",
                Address("::7", 80),
            ),
            (socket.AF_UNIX, b"", "", None),
        ],
    )
    def test_the_systems_answer_is_read(self, family, raw, peer, expected):
        class Fake:
            def __init__(self):
                self.family = family

            def getpeername(self):
                return (peer, 1)

            def getsockopt(self, level, option, size):
                assert (level, option, size) == ((0, 80, 16) if len(raw) == 16 else (41, 80, 28))
                return raw

        assert original_destination(Fake()) == expected

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    async def test_not_redirected_is_none_or_the_same(self, host):
        (listener,) = await open_listeners(Address(host, 0))
        client = await dial(listener.address)
        connection = await listener.accept()
        assert original_destination(connection.stream.socket) in (None, listener.address)
        for one in (client, connection.stream, listener):
            await one.aclose()


class TestLoops:
    async def through(self, listener, **dialled):
        stream = await dial(dialled.get("at", listener.address))
        connection = await listener.accept()
        await stream.aclose()
        await connection.stream.aclose()

    async def test_a_listener_on_every_interface_is_met_at_each_address(self):
        (listener,) = await open_listeners(0)
        assert isinstance(listener.address, Address)
        port = listener.address.port
        assert not would_loop(Address("127.0.0.1", port))
        await self.through(listener, at=Address("127.0.0.1", port))
        for host in ("127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::"):
            assert would_loop(Address(host, port))
        for other in (
            Address("192.0.2.1", port),
            Address("127.0.0.1", port - 1),
            Address("name", port),
            UnixAddress("/x"),
        ):
            assert not would_loop(other)
        await listener.aclose()

    async def test_a_listener_on_one_address_is_met_there_only(self):
        first, second = await open_listeners("127.0.0.1:0", "127.0.0.1:0")
        await self.through(first)
        assert would_loop(first.address)
        assert not would_loop(second.address)
        assert not would_loop(Address("127.0.0.2", first.address.port))
        await first.aclose()
        await second.aclose()
