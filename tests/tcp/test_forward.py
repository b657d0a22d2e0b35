"""Forward and Connect together, over real sockets and over memory."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from linkerd_proxy.address import Address, UnixAddress
from linkerd_proxy.core.serve import serve
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Connection, Dial, Target
from linkerd_proxy.errors import (
    ConnectFailed,
    IdleTimeout,
    InvalidConfiguration,
    NoTarget,
    UpstreamReset,
)
from linkerd_proxy.io.dial import dial
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.io.options import TcpOptions
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.forward import Forward
from tests.ports import held_port

NOWHERE = Address("127.0.0.1", 1)


@pytest.fixture
def unused_address():
    """Return addresses that refuse, as long as the test runs."""
    with ExitStack() as held:
        yield lambda: Address("127.0.0.1", held.enter_context(held_port()))


class Upstream:
    """Records what each connection sends, and answers with its name once that has ended."""

    def __init__(self, name):
        self.name, self.got, self.listener = name, [], None

    async def run(self, *, task_status):
        (self.listener,) = await open_listeners("127.0.0.1:0")
        task_status.started(self.listener.address)
        async with self.listener, trio.open_nursery() as nursery:
            while True:
                connection = await self.listener.accept()
                nursery.start_soon(self.answer, connection.stream)

    async def answer(self, stream):
        got = b""
        async with stream:
            while data := await stream.receive_some():
                got += data
                if got == b"reset me":
                    stream.abort()
                    return
            self.got.append(got)
            await stream.send_all(self.name)


@pytest.fixture
async def upstream(nursery):
    made = Upstream(b"one")
    made.address = await nursery.start(made.run)
    return made


async def proxied(nursery, stack):
    listeners = await open_listeners("127.0.0.1:0")
    await nursery.start(lambda task_status: serve(stack, listeners, task_status=task_status))
    return listeners[0].address


async def ask(address, data=b"hello"):
    stream = await dial(address)
    await stream.send_all(data)
    await stream.send_eof()
    answer = b""
    try:
        while data := await stream.receive_some():
            answer += data
    finally:
        await stream.aclose()
    return answer


@pytest.mark.parametrize("how", ["Forward", "Connect", "original_dst"])
async def test_bytes_and_ends_are_passed_on(nursery, upstream, how):
    stack = {
        "Forward": Forward(str(upstream.address)) | Connect(),
        "Connect": Forward() | Connect(upstream.address),
        "original_dst": Forward() | Connect(),
    }[how]
    if how == "original_dst":
        near, far = memory_stream_pair()
        connection = Connection(far, NOWHERE, NOWHERE, upstream.address)
        async with opened(stack) as service, trio.open_nursery() as inside:
            inside.start_soon(service, connection)
            await near.send_all(b"hello")
            await near.send_eof()
            assert await near.receive_some() == b"one"
            assert await near.receive_some() == b""
    else:
        assert await ask(await proxied(nursery, stack)) == b"one"
    assert upstream.got == [b"hello"]


async def test_an_upstreams_reset_resets_the_client(nursery, upstream, caplog):
    address = await proxied(nursery, Forward() | Connect(upstream.address))
    with pytest.raises(trio.BrokenResourceError):
        await ask(address, b"reset me")
    await wait_all_tasks_blocked()
    assert "UR Forward: connection broken: Connection reset by peer" in caplog.text


async def test_a_clients_reset_resets_the_upstream_and_is_nobodys_failure(nursery, caplog):
    (listener,) = await open_listeners("127.0.0.1:0")
    address = await proxied(nursery, Forward() | Connect(listener.address))
    client = await dial(address)
    await client.send_all(b"half of")
    connection = await listener.accept()
    assert await connection.stream.receive_some() == b"half of"
    client.abort()
    with pytest.raises(trio.BrokenResourceError):
        await connection.stream.receive_some()
    await connection.stream.aclose()
    await listener.aclose()
    await wait_all_tasks_blocked()
    assert not caplog.records


async def test_no_upstream_resets_the_client(nursery, unused_address):
    address = await proxied(nursery, Forward() | Connect(unused_address()))
    with pytest.raises(trio.BrokenResourceError):
        await ask(address)


async def test_the_error_of_a_broken_upstream_is_typed():
    near, far = memory_stream_pair()
    up, other = memory_stream_pair()

    async def gone():
        raise trio.BrokenResourceError("gone")

    up.receive_stream.receive_some_hook = gone

    async def inner(work: Dial) -> None:
        assert (work.client, work.destination) == (NOWHERE, Address("10.0.0.1", 80))
        assert work.target == Target(Address("10.0.0.2", 81), protocol="opaque")
        await work.use(up)

    connection = Connection(far, NOWHERE, NOWHERE, Address("10.0.0.1", 80), protocol="opaque")
    with pytest.raises(UpstreamReset, match="gone"):
        await Forward("10.0.0.2:81").serve(connection, inner)
    assert await near.receive_some() == b""
    await other.aclose()


async def test_a_half_open_idle_connection_is_given_up(autojump_clock):
    near, far = memory_stream_pair()
    up, _other = memory_stream_pair()

    async def inner(work: Dial) -> None:
        await work.use(up)

    await near.send_eof()
    with pytest.raises(IdleTimeout):
        await Forward(half_open=5).serve(Connection(far, NOWHERE, NOWHERE), inner)
    assert trio.current_time() < 20


class TestConnect:
    async def use(self, stack, dial):
        async with opened(stack) as service:
            await service(dial)

    async def test_addresses_are_taken_in_turn_and_dead_ones_passed_over(self, nursery, unused_address):
        upstreams = [Upstream(b"one"), Upstream(b"two")]
        addresses = [await nursery.start(one.run) for one in upstreams]
        address = await proxied(nursery, Forward() | Connect(addresses[0], unused_address(), addresses[1]))
        answers = [await ask(address) for _ in range(6)]
        assert answers == [b"one", b"two", b"two"] * 2

    async def test_all_dead_says_so_of_each(self, unused_address):
        dead = [unused_address() for _ in range(2)]
        with pytest.raises(ConnectFailed) as caught:
            await self.use(Connect(*dead), Dial(Target(), None))
        assert caught.value.endpoint == str(dead[1])
        assert caught.value.__notes__ == [f"before that, {dead[0]}: connecting failed: Connection refused"]

    async def test_nobody_says_where_to(self):
        with pytest.raises(NoTarget, match="nothing says where to connect"):
            await self.use(Connect(), Dial(Target(), None))

    async def test_itself_is_refused(self, nursery, caplog, unused_address):
        address = unused_address()
        listeners = await open_listeners(address)
        await nursery.start(lambda task_status: serve(Forward(address) | Connect(), listeners, task_status=task_status))
        with pytest.raises(trio.BrokenResourceError):
            await ask(address)
        await wait_all_tasks_blocked()
        assert [record.message[:60] for record in caplog.records] == [
            f"LP the target is a listener of this proxy (endpoint {address}"[:60]
        ]

    async def test_what_use_raises_aborts_the_connection(self):
        (listener,) = await open_listeners("127.0.0.1:0")

        async def use(stream):
            raise ValueError("mine")

        with pytest.raises(ValueError, match="mine"):
            await self.use(Connect(), Dial(Target(listener.address), use))
        connection = await listener.accept()
        with pytest.raises(trio.BrokenResourceError):
            await connection.stream.receive_some()
        await connection.stream.aclose()
        await listener.aclose()

    def test_the_repr_is_what_one_would_write(self):
        assert repr(Connect()) == "Connect()"
        assert repr(Connect("127.0.0.1:80", UnixAddress("/x"))) == "Connect('127.0.0.1:80', 'unix:/x')"
        full = Connect("[::1]:80", timeout=2, source="::1", options=TcpOptions(keepalive=5))
        assert repr(full) == (
            "Connect('[::1]:80', timeout=2, source='::1', options=TcpOptions(keepalive=5, user_timeout=None))"
        )
        assert Connect("127.0.0.1:80") == Connect("127.0.0.1:80")

    def test_bad_values_are_refused_where_they_are_written(self):
        with pytest.raises(InvalidConfiguration, match="has no port"):
            Connect("nowhere")
        with pytest.raises(InvalidConfiguration, match="never connects"):
            Connect("nowhere:1", timeout=0)
        with pytest.raises(InvalidConfiguration, match="has no port"):
            Forward("nowhere")
