"""A proxy that is cancelled at any step leaves no descriptor, no task and no registered socket behind."""

from __future__ import annotations

import random

import pytest
import trio

from linkerd_proxy.core.serve import serve
from linkerd_proxy.io import reactor, splice
from linkerd_proxy.io.dial import dial
from linkerd_proxy.io.listen import open_listeners
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.forward import Forward
from tests.descriptors import descriptors, idle_pipes

STEPS = 40


async def echo(listener):
    async with listener, trio.open_nursery() as nursery:

        async def answer(stream):
            async with stream:
                try:
                    while data := await stream.receive_some():
                        await stream.send_all(data)
                    await stream.send_eof()
                except trio.BrokenResourceError:
                    return

        while True:
            connection = await listener.accept()
            nursery.start_soon(answer, connection.stream)


async def scenario(seed):
    rng = random.Random(seed)
    (origin,) = await open_listeners("127.0.0.1:0")
    (front,) = await open_listeners("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo, origin)
        nursery.start_soon(serve, Forward() | Connect(origin.address), [front])
        async with await dial(front.address) as client:
            data = rng.randbytes(rng.choice([10, 200_000, 1_500_000]))

            async def send():
                await client.send_all(data)
                await client.send_eof()

            nursery.start_soon(send)
            got = bytearray()
            while received := await client.receive_some():
                got += received
            assert got == data
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["epoll", "portable"])
def mode(request, monkeypatch):
    monkeypatch.setattr(reactor, "_enabled", request.param == "epoll")
    return request.param


@pytest.mark.parametrize("seed", range(3))
async def test_cancelled_after_any_number_of_steps(mode, seed):
    await scenario(seed)
    running = reactor.current_reactor()
    splice.current_pipes()  # where no flow was spliced: with the task that closes them
    before, tasks = descriptors(), trio.lowlevel.current_statistics().tasks_living
    for steps in range(STEPS):
        try:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def cancel_later(steps=steps, scope=scope):
                        for _ in range(steps):
                            await trio.lowlevel.checkpoint()
                        scope.cancel()

                    await scenario(seed)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # whoever was not cancelled yet saw the others go
        await trio.testing.wait_all_tasks_blocked()
        assert descriptors() - before - idle_pipes() == set(), steps
        assert trio.lowlevel.current_statistics().tasks_living == tasks, steps
        assert splice.current_pipes().in_use == 0
        if running is not None:
            assert running.statistics().registered == 0
