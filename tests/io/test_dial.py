"""Dialling: directly, by happy eyeballs, in time, and with errors that say what to do."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from linkerd_proxy.address import Address, UnixAddress
from linkerd_proxy.errors import ConnectFailed, ConnectTimeout, LoopDetected
from linkerd_proxy.io import dial as module
from linkerd_proxy.io.dial import dial
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.io.options import TcpOptions
from tests.descriptors import descriptors
from tests.ports import held_port


class Resolver(trio.abc.HostnameResolver):
    """Knows what it was told."""

    def __init__(self, *addresses, delay=0.0):
        self.addresses, self.delay = addresses, delay

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002
        await trio.sleep(self.delay)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, type, 6, "", (ip, port, 0, 0)) if ":" in ip else (socket.AF_INET, type, 6, "", (ip, port))
            for ip in self.addresses
        ]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


class Network:
    """A network in which each address answers when, and as, it was told."""

    def __init__(self, monkeypatch, **plans):
        self.plans = {name.replace("_", "."): plan for name, plan in plans.items()}
        self.tried = []
        self.closed = []
        monkeypatch.setattr(module._Attempts, "_start", lambda attempts, family, sockaddr: Begun(self, sockaddr))


class Begun:
    """A connection begun in that network, and the stream that it becomes."""

    stands = False

    def __init__(self, network, sockaddr):
        self.network, self.sockaddr, self.ip = network, sockaddr, sockaddr[0]
        network.tried.append((self.ip, trio.current_time()))

    async def finish(self):
        delay, outcome = self.network.plans[self.ip]
        await trio.sleep(delay)
        if outcome is not None:
            raise OSError(outcome, os.strerror(outcome))
        return self

    def close(self):
        self.network.closed.append(self.ip)


@pytest.fixture
def network(monkeypatch):
    def make(*addresses, delay=0.0, **plans):
        trio.socket.set_custom_hostname_resolver(Resolver(*addresses, delay=delay))
        net = Network(monkeypatch, **plans)
        net.plans["fd00::1"] = net.plans.pop("six", None)
        return net

    return make


class TestHappyEyeballs:
    async def test_families_take_turns(self, autojump_clock, network):
        refused = (0.0, errno.ECONNREFUSED)
        net = network(
            "fd00::1", "10.0.0.1", "10.0.0.2", "10.0.0.1", six=refused, **{"10_0_0_1": refused, "10_0_0_2": (0.1, None)}
        )
        stream = await dial("name:80")
        assert stream.ip == "10.0.0.2"
        assert [ip for ip, _ in net.tried] == ["fd00::1", "10.0.0.1", "10.0.0.2"]

    async def test_the_next_is_tried_after_250_ms(self, autojump_clock, network):
        started = trio.current_time()
        net = network("fd00::1", "10.0.0.1", six=(5, None), **{"10_0_0_1": (0.1, None)})
        stream = await dial("name:80")
        assert stream.ip == "10.0.0.1"
        assert [round(at - started, 3) for _, at in net.tried] == [0, 0.25]
        assert trio.current_time() - started == pytest.approx(0.35)

    async def test_a_slow_first_may_still_win(self, autojump_clock, network):
        network("fd00::1", "10.0.0.1", six=(0.3, None), **{"10_0_0_1": (0.5, None)})
        assert (await dial("name:80")).ip == "fd00::1"

    async def test_all_but_the_winner_are_closed(self, autojump_clock, network):
        net = network("fd00::1", "10.0.0.1", six=(0.35, None), **{"10_0_0_1": (0.1, None)})  # both at the same moment
        stream = await dial("name:80")
        assert net.closed == [{"fd00::1": "10.0.0.1", "10.0.0.1": "fd00::1"}[stream.ip]]

    async def test_nothing_is_left_of_a_dialler_that_was_cancelled(self, autojump_clock, network):
        for moment in (0.05, 0.1, 0.25, 0.3):
            net = network("fd00::1", "10.0.0.1", six=(1, None), **{"10_0_0_1": (1, None)})
            with trio.move_on_after(moment):
                await dial("name:80", timeout=9)
            assert sorted(net.closed) == sorted(ip for ip, _ in net.tried)  # tasks end in any order

    async def test_all_failing_says_how_each_did(self, autojump_clock, network):
        network("fd00::1", "10.0.0.1", six=(0, errno.ENETUNREACH), **{"10_0_0_1": (0, errno.ECONNREFUSED)})
        with pytest.raises(ConnectFailed) as caught:
            await dial("name:80")
        assert str(caught.value) == (
            "Connect: connecting failed: Connection refused (endpoint name:80) after 0 s; "
            "check that the upstream listens on that address"
        )
        assert caught.value.__notes__ == ["[fd00::1]:80: Network is unreachable", "10.0.0.1:80: Connection refused"]

    async def test_one_deadline_for_everything(self, autojump_clock, network):
        network("fd00::1", "10.0.0.1", delay=0.5, six=(9, None), **{"10_0_0_1": (9, None)})
        started = trio.current_time()
        with pytest.raises(ConnectTimeout) as caught:
            await dial("name:80", timeout=2)
        assert trio.current_time() - started == pytest.approx(2)
        assert "(endpoint name:80) after 2 s" in str(caught.value)

    async def test_an_unknown_name(self, autojump_clock, network):
        network()
        with pytest.raises(ConnectFailed, match=r"Name or service not known \(endpoint name:80\).*check the name"):
            await dial("name:80")

    async def test_a_loop_is_found_behind_a_name(self, autojump_clock, network):
        net = network("10.0.0.1", **{"10_0_0_1": (0, None)})
        refused = LoopDetected("the target is a listener of this proxy")
        with pytest.raises(LoopDetected, match="a listener of this proxy"):
            await dial("name:80", refuse=lambda address: refused if address == Address("10.0.0.1", 80) else None)
        assert not net.tried


async def test_localhost_is_dialled(mode):
    (first, *others) = await open_listeners("localhost:0")
    assert isinstance(first.address, Address)
    stream = await dial(Address("localhost", first.address.port))
    await stream.aclose()
    for listener in (first, *others):
        await listener.aclose()


@pytest.fixture
def exits():
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("target", ["tcp4", "tcp6", "unix"])
async def test_refusal_leaves_nothing_open(mode, target, tmp_path, exits):
    if target == "unix":
        address = UnixAddress(f"{tmp_path}/nobody")
    else:
        host = "127.0.0.1" if target == "tcp4" else "::1"
        address = Address(host, exits.enter_context(held_port(host)))
    before = descriptors()
    with pytest.raises(ConnectFailed) as caught:
        await dial(address)
    assert str(address) in str(caught.value)
    assert ("no such socket" if target == "unix" else "check that the upstream listens") in str(caught.value)
    assert len(descriptors() - before) <= 2


async def test_the_source_address(mode):
    (listener,) = await open_listeners("127.0.0.1:0")
    stream = await dial(listener.address, source="127.0.0.77")
    connection = await listener.accept()
    assert isinstance(connection.peer, Address)
    assert connection.peer.host == "127.0.0.77"
    for one in (stream, connection.stream, listener):
        await one.aclose()
    with pytest.raises(ConnectFailed, match="Cannot assign requested address"):
        await dial(listener.address, source="192.0.2.1")


class TestWaiting:
    """A connection that does not stand at once: the listener's backlog is full, so that SYNs are dropped."""

    @pytest.fixture
    async def full(self):
        server = socket.create_server(("127.0.0.1", 0), backlog=0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
            fillers.append(filler)
        yield Address(*server.getsockname())
        for sock in (server, *fillers):
            sock.close()

    async def test_the_deadline(self, mode, full, autojump_clock):
        before = descriptors()
        started = trio.current_time()
        with pytest.raises(ConnectTimeout, match=r"connecting took too long .* after 1 s; check the upstream's host"):
            await dial(full)
        assert trio.current_time() - started == pytest.approx(1)
        assert len(descriptors() - before) <= 3

    async def test_cancellation(self, mode, full):
        before = descriptors()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: dial(full, timeout=60))
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert len(descriptors() - before) <= 3

    async def test_it_stands_later(self, mode, monkeypatch):
        """Where loopback's shortcut is not taken, the stream's own wait finds the connection standing."""
        (listener,) = await open_listeners("127.0.0.1:0")
        calls = []

        class Slow(socket.socket):
            def connect_ex(self, address):
                calls.append(address)
                return super().connect_ex(address) if len(calls) == 1 else errno.EALREADY

        with monkeypatch.context() as patch:
            patch.setattr(module.socket, "socket", Slow)
            stream = await dial(listener.address)
        connection = await listener.accept()
        await stream.send_all(b"hello")
        assert await connection.stream.receive_some() == b"hello"
        for one in (stream, connection.stream, listener):
            await one.aclose()

    async def test_it_is_refused_later(self, mode, monkeypatch, exits):
        address = Address("127.0.0.1", exits.enter_context(held_port()))

        class Slow(socket.socket):
            def connect_ex(self, address):
                super().connect_ex(address)
                return errno.EALREADY

        before = descriptors()
        with monkeypatch.context() as patch:
            patch.setattr(module.socket, "socket", Slow)
            with pytest.raises(ConnectFailed, match="Connection refused"):
                await dial(address)
        assert len(descriptors() - before) <= 3

    async def test_a_unix_socket_with_a_full_backlog_is_tried_again(self, mode, autojump_clock, tmp_path):
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as filler:
            server.bind(f"{tmp_path}/s")
            server.listen(0)
            filler.connect(f"{tmp_path}/s")
            with pytest.raises(ConnectTimeout):
                await dial(UnixAddress(f"{tmp_path}/s"))
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def succeed():
                    stream = await dial(UnixAddress(f"{tmp_path}/s"), options=TcpOptions(keepalive=5))
                    await stream.aclose()

                await wait_all_tasks_blocked()
                server.accept()[0].close()


async def test_want_of_descriptors_is_told(monkeypatch):
    def exhausted(*args):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(module.socket, "socket", exhausted)
    with pytest.raises(ConnectFailed, match=r"Too many open files .*; raise the limit on open files \(ulimit -n\)"):
        await dial("127.0.0.1:1")


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("fe80::1%nope", "'nope' is no interface for fe80::1"),
        ("fe80::1%", "'' is no interface for fe80::1"),
        ("fe80::1%a\0", "'a\\x00' is no interface for fe80::1"),
        ("127.0.0.1%lo", "'lo' is no interface for 127.0.0.1"),
    ],
)
async def test_an_interface_that_is_not_there_is_a_failed_dial(host, told):
    with pytest.raises(ConnectFailed) as caught:
        await dial(Address(host, 80))
    assert f"connecting failed: {told} (endpoint " in str(caught.value)
    assert "after the % goes an interface of this host, by name or number" in str(caught.value)
    assert caught.value.status == 502


@pytest.mark.parametrize("host", ["a..b", ".", "x" * 64, "a\0b", "xn--\u00fc", "\ud800"], ids=ascii)
async def test_what_is_no_name_is_a_failed_dial(host):
    """Neither an UnicodeError of the codec nor a ValueError of the socket module."""
    with pytest.raises(ConnectFailed, match=r"check the name") as caught:
        await dial(Address(host, 80))
    assert caught.value.status == 502
