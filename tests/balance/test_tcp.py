"""Balancing of dials and of whole connections."""

import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from linkerd_proxy.address import Address
from linkerd_proxy.balance.balance import Balance
from linkerd_proxy.balance.breaker import Breaker
from linkerd_proxy.core.backoff import Backoff
from linkerd_proxy.core.ready import hearing_ready
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Dial, Target
from linkerd_proxy.discover.static import Static
from linkerd_proxy.errors import ConnectFailed, UpstreamReset
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.testing import serving, tcp_origin
from tests.balance.origins import Fleet, Known, end, known
from tests.patience import PATIENCE

NOBODY = "127.0.0.1:1"  # a port on which nothing listens


async def test_connections_go_to_who_can_be_reached_and_to_the_less_busy() -> None:
    with trio.fail_after(PATIENCE):
        async with tcp_origin() as one, tcp_origin() as two:
            resolve = Static(NOBODY, one.address, two.address)
            stack = Forward() | Balance[Dial](resolve, lambda e: Connect(e.address), dice=random.Random(1))
            async with serving(stack) as address:
                clients = []
                for number in range(10):
                    client = await trio.open_tcp_stream(address.host, address.port)
                    await client.send_all(b"hello %d" % number)
                    assert await client.receive_some() == b"hello %d" % number
                    clients.append(client)
                assert one.connections + two.connections == 10
                assert min(one.connections, two.connections) >= 1
                for client in clients:
                    await client.aclose()


@dataclass(frozen=True, slots=True)
class Line(Stack[Dial]):
    """Connects in memory after some seconds."""

    seconds: float
    log: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def open(self):
        async def service(dial: Dial) -> None:
            await trio.sleep(self.seconds)
            mine, _ = trio.testing.memory_stream_pair()
            await dial.use(mine)

        yield service


async def test_a_dial_s_latency_is_that_of_connecting_and_it_is_load_as_long_as_it_lives(autojump_clock) -> None:
    async def use(_) -> None:
        await trio.sleep(100)

    async with opened(Balance[Dial](known(1), lambda _: Line(0.2))) as service, trio.open_nursery() as nursery:
        nursery.start_soon(service, Dial(Target(), use))
        await trio.sleep(50)
        (one,) = service.statistics().endpoints
        assert (one.pending, one.in_flight) == (1, 1)
        nursery.cancel_scope.cancel()
    assert one.rtt == pytest.approx(0.2 * 2.71828 ** (-49.8 / 10), rel=0.01)


async def test_what_becomes_of_a_connection_that_stood_is_not_the_endpoint_s_fault(autojump_clock) -> None:
    async def use(_) -> None:
        raise UpstreamReset("as some applications end")

    async with opened(Balance[Dial](known(1), lambda _: Line(0), breaker=Breaker(consecutive=1, floor=0))) as service:
        for _ in range(3):
            with pytest.raises(UpstreamReset):
                await service(Dial(Target(Address("x", 1)), use))
        assert service.statistics().endpoints[0].state == "ready"


@dataclass(frozen=True, slots=True)
class Session(Stack[str]):
    """Work of another kind: fails or lasts, as it says."""

    @asynccontextmanager
    async def open(self):
        async def service(work: str) -> None:
            if work == "refused":
                raise ConnectFailed("refused")
            await trio.sleep(float(work))

        yield service


async def test_a_probe_that_tells_nothing_passes_by_lasting(autojump_clock) -> None:
    stack = Balance[str](known(1), lambda _: Session(), connect_backoff=Backoff(1, 60))
    async with opened(stack) as service, trio.open_nursery() as nursery:
        with pytest.raises(ConnectFailed):
            await service("refused")
        await trio.sleep(1.5)
        nursery.start_soon(service, "1000")
        await trio.sleep(4)
        assert service.statistics().endpoints[0].state == "probing"
        await trio.sleep(2)
        assert service.statistics().endpoints[0].state == "ready"
        nursery.cancel_scope.cancel()


async def test_it_says_whether_work_would_wait(autojump_clock) -> None:
    resolve = Known()
    with hearing_ready() as heard:
        async with opened(Balance(resolve, Fleet().replica)):
            (is_ready,) = heard
            assert not is_ready()
            resolve.published.publish([end(1)])
            await trio.testing.wait_all_tasks_blocked()
            assert is_ready()
            resolve.published.withdraw("gone")
            await trio.testing.wait_all_tasks_blocked()
            assert not is_ready()
