"""Listening and connecting in memory."""

import pytest
import trio
import trio.testing

from linkerd_proxy.address import Address
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Dial, Target
from linkerd_proxy.errors import ConnectFailed
from linkerd_proxy.testing import MemoryConnect, MemoryListener


async def test_a_client_and_its_connection_are_two_ends() -> None:
    listener = MemoryListener()
    client = listener.connect(original_dst=Address("10.0.0.1", 80))
    connection = await listener.accept()
    assert connection.local == listener.address
    assert connection.peer != (await accepted(listener)).peer
    assert connection.original_dst == Address("10.0.0.1", 80)
    await client.send_all(b"hello")
    await client.send_eof()
    assert await connection.stream.receive_some() == b"hello"
    assert await connection.stream.receive_some() == b""


async def accepted(listener: MemoryListener):
    listener.connect()
    return await listener.accept()


async def test_lockstep_sends_wait_for_the_receiver() -> None:
    listener = MemoryListener(lockstep=True)
    client = listener.connect()
    connection = await listener.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"ab")
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        assert await connection.stream.receive_some() == b"ab"


async def test_closing_refuses_and_closes_what_waited() -> None:
    listener = MemoryListener()
    waiting = listener.connect()
    assert "1 waiting" in repr(listener)
    await listener.aclose()
    await listener.aclose()
    assert "closed" in repr(listener)
    assert await waiting.receive_some() == b""
    with pytest.raises(ConnectionRefusedError):
        listener.connect()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_a_full_backlog_refuses() -> None:
    listener = MemoryListener(backlog=1)
    listener.connect()
    with pytest.raises(ConnectionRefusedError):
        listener.connect()


async def test_memory_connect_dials_the_listener_and_closes_the_stream() -> None:
    listener = MemoryListener()
    dialled: list[trio.abc.HalfCloseableStream] = []

    async def use(stream: trio.abc.HalfCloseableStream) -> None:
        dialled.append(stream)
        await stream.send_all(b"x")

    async with opened(MemoryConnect(listener)) as service:
        await service(Dial(Target(), use))
        connection = await listener.accept()
        assert await connection.stream.receive_some() == b"x"
        assert await connection.stream.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await dialled[0].send_all(b"y")
        await listener.aclose()
        with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:8080"):
            await service(Dial(Target(), use))
