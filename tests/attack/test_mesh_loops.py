"""Proxies that lead to themselves or to each other: one answer soon, and few connections."""

from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing

from linkerd_proxy.address import Address
from linkerd_proxy.core.contain import contained
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Dial, Tls
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.limits import Limits
from linkerd_proxy.http.mesh_headers import OutboundHeaders
from linkerd_proxy.http.upgrade import Upgrade
from linkerd_proxy.io.transport_header import ALPN
from linkerd_proxy.metrics.registry import current_registry
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.tcp.transport_header import SendTransportHeader, TransportHeader
from linkerd_proxy.testing import memory_connection
from tests.http.between import heard, inbound

AGAIN = Tls("app.ns", "app.ns", ALPN)
HTTP = Tls("app.ns", "app.ns")


@dataclass(frozen=True, slots=True)
class Ring(Stack[Dial]):
    """Connects to services that are named after they were opened, in turn: a ring of proxies."""

    tls: Tls
    services: list = field(default_factory=list)
    made: list = field(default_factory=list)

    @asynccontextmanager
    async def open(self):
        async with trio.open_nursery() as nursery:

            async def dial(dial):
                client, connection = memory_connection(tls=self.tls)
                client.tls = self.tls
                self.made.append(connection)
                service = self.services[len(self.made) % len(self.services)]
                nursery.start_soon(contained, service, connection)
                try:
                    await dial.use(client)
                finally:
                    await trio.aclose_forcefully(client)

            yield dial
            nursery.cancel_scope.cancel()


def loops():
    for family in current_registry():
        if family.name == "proxy_errors_total":
            return sum(series.value for labels, series in family.series.items() if ("error", "LP") in labels)
    return 0


@pytest.mark.parametrize("proxies", [1, 2, 3])
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("protocol", ["same", "h2"])
async def test_http_in_a_ring_is_answered_508(proxies, version, protocol, autojump_clock):
    ring = Ring(HTTP)
    onwards = OutboundHeaders("app.ns") | Upgrade() | Client(protocol=protocol, limits=Limits()) | ring
    async with trio.open_nursery() as nursery, opened(onwards) as shared:
        for _ in range(proxies):
            ring.services.append(await nursery.start(hold, inbound(Given(shared))))
        client, connection = memory_connection(tls=HTTP)
        nursery.start_soon(contained, ring.services[0], connection)
        await client.send_all(b"GET / HTTP/" + version + b"\r\nhost: app\r\n\r\n")
        answer = await heard(client)
        nursery.cancel_scope.cancel()
    assert answer.startswith(b"HTTP/" + version + b" 508 ")
    assert loops() >= 1
    assert len(ring.made) <= 11
    assert trio.current_time() < 1


@dataclass(frozen=True, slots=True)
class Given(Stack):
    """A service that is open already."""

    service: object

    @asynccontextmanager
    async def open(self):
        yield self.service


async def hold(stack, task_status):
    async with opened(stack) as service:
        task_status.started(service)
        await trio.sleep_forever()


@pytest.mark.parametrize("proxies", [1, 2, 3])
async def test_any_connection_in_a_ring_is_closed(proxies, autojump_clock):
    ring = Ring(AGAIN)
    onwards = TransportHeader() | Forward(Address("10.0.0.1", 80)) | SendTransportHeader() | ring
    async with trio.open_nursery() as nursery, opened(onwards) as service:
        ring.services.extend([service] * proxies)
        client, connection = memory_connection()
        nursery.start_soon(contained, service, connection)
        await client.send_all(b"hello")
        answer = await heard(client)
        nursery.cancel_scope.cancel()
    assert b"hello" not in answer
    assert answer.endswith((b"<end>", b"<broken>"))
    assert len(ring.made) == 11
    assert trio.current_time() < 1
