"""The TLS stream: Trio's conformance kits, its ends, its failures, and every wait cancelled."""

from __future__ import annotations

import importlib.util
import ssl

import pytest
import trio
from trio.testing import (
    check_half_closeable_stream,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from linkerd_proxy.core.work import Tls
from linkerd_proxy.io.streams import SocketStream, abort, watch_hangup
from linkerd_proxy.tls import direct
from linkerd_proxy.tls.context import mesh_context
from linkerd_proxy.tls.engine import OVERGROWN
from linkerd_proxy.tls.handshake import shake
from linkerd_proxy.tls.openssl import OpenSSLEngine
from linkerd_proxy.tls.public import Public
from linkerd_proxy.tls.stdlib import StdlibEngine
from linkerd_proxy.tls.stream import TlsStream
from linkerd_proxy.tls.verify import Verification
from tests.io.conftest import tcp_sockets
from tests.patience import PATIENCE
from tests.tls.conftest import API, WEB, both, issuer_pem

ENGINES = ["openssl", "public", "stdlib"]


def public_engine():
    """Return the engine as it is where pyOpenSSL is other inside than this package knows it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "is_possible", lambda: False)
        spec = importlib.util.find_spec("linkerd_proxy.tls.openssl")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    assert issubclass(module.OpenSSLEngine, Public)
    return module.OpenSSLEngine


@pytest.fixture(scope="module", params=ENGINES)
def engines(request, issuer, tmp_path_factory):
    """Make the two engines of a connection."""
    if request.param != "stdlib":
        engine = OpenSSLEngine if request.param == "openssl" else public_engine()
        client = mesh_context(issuer.credentials(API), "client")
        server = mesh_context(issuer.credentials(WEB), "server")

        def make():
            return (
                engine(client, server=False, server_name=WEB, verification=Verification(WEB)),
                engine(server, server=True, verification=Verification()),
            )

        return make
    return stdlib_engines(issuer, tmp_path_factory.mktemp("stdlib"))


def stdlib_engines(issuer, directory):
    chain, key = issuer.issue(WEB).pem
    (directory / "cert.pem").write_bytes(chain + key)
    (directory / "ca.pem").write_bytes(issuer_pem(issuer))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(directory / "cert.pem")
    client = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    return lambda: (StdlibEngine(client, server=False, server_name=WEB), StdlibEngine(server, server=True))


@pytest.fixture
def connect(engines):
    """Return an async function that makes the two ends of a TLS connection over two streams."""

    async def connect(first=None, second=None, **options):
        if first is None:
            first, second = memory_stream_pair()
        one, other = engines()
        async with both(shake(first, one), shake(second, other)) as streams:
            # A server's tickets are data that nobody asked for: the first receive takes them.
            return tuple(TlsStream(end.stream, end._engine, **options) if options else end for end in streams)

    return connect


async def test_passes_trios_conformance_kit(connect):
    async def make():
        return await connect(budget=0)

    async def make_clogged():
        return await connect(*lockstep_stream_pair(), budget=0)

    await check_half_closeable_stream(make, make_clogged)


async def test_passes_trios_conformance_kit_over_sockets(connect):
    async def make():
        return await connect(*(SocketStream(sock, budget=0) for sock in tcp_sockets()), budget=0)

    await check_half_closeable_stream(make, None)


async def test_carries_bulk_both_ways_at_once_and_each_end(connect):
    one, other = await connect(*lockstep_stream_pair())
    data = bytes(range(256)) * 2000  # half a megabyte, in no round number of records

    async def send(stream):
        for at in range(0, len(data), 100_001):
            await stream.send_all(data[at : at + 100_001])
        await stream.send_eof()
        await stream.send_eof()

    async def receive(stream):
        received = b""
        while chunk := await stream.receive_some(50_000):
            received += chunk
            assert len(chunk) <= 50_000
        assert await stream.receive_some() == b""
        return received

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, one)
        nursery.start_soon(send, other)
        async with both(receive(one), receive(other)) as results:
            assert results == [data, data]


async def test_receiving_goes_on_after_send_eof_and_sending_after_the_peers_end(connect):
    one, other = await connect()
    await one.send_eof()
    assert await other.receive_some() == b""
    await other.send_all(b"answer")
    assert await one.receive_some() == b"answer"
    await other.send_eof()
    assert await one.receive_some() == b""


async def test_data_on_its_way_when_the_end_is_sent_is_not_lost(connect):
    one, other = await connect()
    await other.send_all(b"before")
    await one.send_all(b"x")
    assert await other.receive_some() == b"x"
    await one.send_eof()
    await other.send_all(b"after")
    assert await one.receive_some(3) == b"bef"
    rest = b""
    while len(rest) < 8:
        rest += await one.receive_some()
    assert rest == b"oreafter"


async def test_an_end_without_close_notify_is_no_end(connect):
    one, other = await connect()
    await other.send_all(b"half of it")
    await other.stream.aclose()
    assert await one.receive_some() == b"half of it"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="without a close_notify"):
            await one.receive_some()


async def test_closing_says_so_and_aborting_does_not(connect):
    one, other = await connect()
    await one.aclose()
    assert await other.receive_some() == b""
    one, other = await connect()
    await abort(one)
    with pytest.raises(trio.BrokenResourceError):
        await other.receive_some()


async def test_what_is_no_tls_breaks_it_after_what_was_good(connect):
    one, other = await connect()
    await other.send_all(b"good")
    await other.stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    assert await one.receive_some() == b"good"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="TLS failed"):
            await one.receive_some()


async def test_an_alert_is_told_by_its_name(engines, connect):
    one, other = await connect()
    await one.stream.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    with pytest.raises(trio.BrokenResourceError):
        await other.receive_some()
    if isinstance(other._engine, StdlibEngine):
        return
    await other.stream.send_all(other._engine.take())
    with pytest.raises(trio.BrokenResourceError, match="alert 'bad record mac'"):
        await one.receive_some()


# --- cancellation: one test a wait -----------------------------------------------------------------


async def test_a_cancelled_receive_has_received_nothing(connect, autojump_clock):
    one, other = await connect()
    with trio.move_on_after(1) as scope:
        await one.receive_some()
    assert scope.cancelled_caught
    await other.send_all(b"later")
    assert await one.receive_some() == b"later"


async def test_a_receive_cancelled_within_a_record_goes_on_with_it(connect, autojump_clock):
    one, other = await connect()
    sealed = other._engine.encrypt(b"in two parts")
    await other.stream.send_all(sealed[:10])
    with trio.move_on_after(1) as scope:
        await one.receive_some()
    assert scope.cancelled_caught
    await other.stream.send_all(sealed[10:])
    assert await one.receive_some() == b"in two parts"


async def test_a_receive_cancelled_at_its_own_checkpoint_loses_nothing(connect):
    one, other = await connect(budget=0)
    await other.send_all(b"abc")
    assert await one.receive_some(1) == b"a"
    with trio.CancelScope() as scope:
        scope.cancel()
        await one.receive_some(1)
    assert scope.cancelled_caught
    assert await one.receive_some() == b"bc"


async def test_after_a_cancelled_send_nothing_more_is_sent(connect, autojump_clock):
    one, other = await connect(*lockstep_stream_pair())
    with trio.move_on_after(1) as scope:
        await one.send_all(b"x" * 100)
    assert scope.cancelled_caught
    assert "cut short" in repr(one)
    with pytest.raises(trio.BrokenResourceError, match="was not finished"):
        await one.send_all(b"y")
    with pytest.raises(trio.BrokenResourceError, match="was not finished"):
        await one.send_eof()
    await one.aclose()  # at once: no close_notify may follow half a record
    assert await other.receive_some() == b"x" * 100  # lockstep had taken it all
    with pytest.raises(trio.BrokenResourceError):
        await other.receive_some()


async def test_a_cancelled_send_leaves_receiving(connect, autojump_clock):
    one, other = await connect(*lockstep_stream_pair())
    with trio.move_on_after(1):
        await one.send_all(b"x" * 100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.send_all, b"still here")
        assert await one.receive_some() == b"still here"


async def test_a_cancelled_send_eof_is_not_repeated(connect, autojump_clock):
    one, other = await connect(*lockstep_stream_pair())
    with trio.move_on_after(1) as scope:
        await one.send_eof()
    assert scope.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        await one.send_all(b"y")
    await one.aclose()
    assert await other.receive_some() == b""  # lockstep had taken it all


async def test_a_cancelled_wait_changes_nothing(connect, autojump_clock):
    one, other = await connect(*lockstep_stream_pair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send_all, b"x")
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await one.wait_send_all_might_not_block()
        assert await other.receive_some() == b"x"
    with trio.CancelScope() as scope:
        scope.cancel()
        await one.wait_send_all_might_not_block()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.send_all, b"y")
        assert await other.receive_some() == b"y"


async def test_a_cancelled_close_closes(connect, autojump_clock):
    one, other = await connect(*lockstep_stream_pair())
    with trio.move_on_after(1) as scope:
        await one.aclose()
    assert scope.cancelled_caught
    assert repr(one) == "<TlsStream closed>"
    with pytest.raises(trio.ClosedResourceError):
        await one.receive_some()
    assert await other.receive_some() == b""  # lockstep had taken it all


async def test_closing_forcefully_waits_for_nothing(connect):
    one, _ = await connect(*lockstep_stream_pair())
    await trio.aclose_forcefully(one)
    with pytest.raises(trio.ClosedResourceError):
        await one.receive_some()


async def test_a_cancelled_handshake_leaves_a_stream_that_can_be_closed(engines, autojump_clock):
    first, second = memory_stream_pair()
    one, _ = engines()
    with trio.move_on_after(1) as scope:
        await shake(first, one)
    assert scope.cancelled_caught
    await first.aclose()
    assert (await second.receive_some())[0] == 22


async def test_a_handshake_cancelled_while_it_sends_leaves_a_stream_that_can_be_closed(engines, autojump_clock):
    first, second = lockstep_stream_pair()
    one, _ = engines()
    with trio.move_on_after(1) as scope:
        await shake(first, one)
    assert scope.cancelled_caught
    await first.aclose()
    await second.aclose()


# --- pieces ----------------------------------------------------------------------------------------


async def test_one_byte_at_a_time_is_enough(engines):
    first, second = memory_stream_pair()
    first, second = drop_by_drop(first), drop_by_drop(second)
    one, other = engines()
    async with both(shake(first, one), shake(second, other)) as (client, server):
        pass
    await client.send_all(b"drop by drop" * 3)
    received = b""
    while len(received) < 36:
        received += await server.receive_some()
    assert received == b"drop by drop" * 3


def drop_by_drop(stream):
    receive = stream.receive_stream.receive_some
    stream.receive_stream.receive_some = lambda max_bytes=None: receive(1)
    return stream


async def test_budgets_are_kept_without_and_with_waiting(connect):
    one, other = await connect()
    await other.send_all(b"x" * 200)
    await one.receive_some(1)
    ran = 0

    async def count():
        nonlocal ran
        while True:
            ran += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        for _ in range(190):
            await one.receive_some(1)
        nursery.cancel_scope.cancel()
    assert 4 <= ran <= 12  # every 32 calls or so


async def test_one_task_may_receive_and_one_send(connect):
    one, _ = await connect(*lockstep_stream_pair())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.receive_some)
        nursery.start_soon(one.send_all, b"x")
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await one.receive_some()
        with pytest.raises(trio.BusyResourceError):
            await one.send_all(b"y")
        with pytest.raises(trio.BusyResourceError):
            await one.send_eof()
        nursery.cancel_scope.cancel()


# --- what streams of this package have -------------------------------------------------------------


async def test_counts_plaintext_and_tells_its_state(connect):
    one, other = await connect()
    assert isinstance(one.tls, Tls)
    await one.send_all(b"12345")
    await other.receive_some()
    assert (one.bytes_sent, other.bytes_received) == (5, 5)
    assert repr(one).startswith("<TlsStream open, TLSv1.3")
    await one.send_eof()
    assert "sent its end" in repr(one)
    await other.receive_some()
    assert "the peer's end received" in repr(other)
    await one.aclose()
    assert repr(one) == "<TlsStream closed>"


async def test_over_sockets_it_closes_without_waiting_and_says_so(connect):
    one, other = await connect(*map(SocketStream, tcp_sockets()))
    one.close_nowait()
    one.close_nowait()
    assert await other.receive_some() == b""
    await other.aclose()
    one, other = await connect()
    assert one.close_nowait is None  # a memory stream can't


async def test_over_sockets_it_knows_whether_the_peer_is_quiet(connect):
    one, other = await connect(*map(SocketStream, tcp_sockets()))
    assert one.is_quiet()
    assert one.is_quiet()  # tickets, if there were any, are no data
    await other.send_all(b"unasked")
    with trio.fail_after(PATIENCE):
        while one.is_quiet():
            await trio.lowlevel.checkpoint()
    await other.aclose()
    await one.aclose()
    assert not one.is_quiet()
    one, other = await connect(*map(SocketStream, tcp_sockets()))
    await other.aclose()
    with trio.fail_after(PATIENCE):
        while one.is_quiet():
            await trio.lowlevel.checkpoint()
    await one.aclose()


def test_answers_that_a_peer_provokes_and_does_not_take_are_bounded(issuer, tmp_path):
    client, server = stdlib_engines(issuer, tmp_path)()
    for _ in range(3):
        for one, other in ((client, server), (server, client)):
            one.handshake()
            other.feed(one.take())
    client._from.write(bytes(OVERGROWN + 1))  # as answers to key updates without end
    with pytest.raises(trio.BrokenResourceError, match="provokes"):
        client.decrypt(b"", 100)


async def test_a_peer_that_talks_without_saying_anything_is_not_listened_to_for_ever():
    class Talking:
        received = 0

        def recv(self, _size):
            self.received += 1
            assert self.received < 1000, "nobody else gets a turn meanwhile"
            return b"a record of TLS itself"

    class Socket:
        socket = Talking()
        receive_some = send_all = None

    class Silent:
        more = ended = False

        def facts(self):
            return Tls()

        def decrypt(self, _data, _limit):
            return b""

    assert not TlsStream(Socket(), Silent()).is_quiet()


async def test_a_hangup_underneath_is_noticed(connect):
    one, other = await connect(*map(SocketStream, tcp_sockets()))
    hung_up = trio.Event()
    watch_hangup(one, hung_up.set)
    other.abort()
    with trio.fail_after(PATIENCE):
        await hung_up.wait()
    await one.aclose()
