"""The small stacks that tell clients and sides apart."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from linkerd_proxy.address import Address, UnixAddress
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Connection, Tls
from linkerd_proxy.mesh.sidecar import Sidecar
from linkerd_proxy.testing import memory_connection
from linkerd_proxy.tls.meshed import Meshed


@dataclass(frozen=True)
class Noting(Stack[Connection]):
    name: str
    seen: list[str]

    @asynccontextmanager
    async def open(self):
        async def note(_connection):
            self.seen.append(self.name)

        yield note


@pytest.mark.parametrize(
    ("local", "side"),
    [
        (Address("127.0.0.1", 4140), "outbound"),
        (Address("::1", 4140), "outbound"),
        (Address("10.0.0.5", 4143), "inbound"),
        (Address("10.0.0.5", 4141), "outbound"),
        (UnixAddress("/socket"), "inbound"),
    ],
)
async def test_the_port_that_a_connection_came_to_says_which_side_serves_it(local, side):
    seen: list[str] = []
    sidecar = Sidecar(
        inbound=Noting("inbound", seen), outbound=Noting("outbound", seen), outbound_ports=frozenset({4140, 4141})
    )
    _, connection = memory_connection(local=local)
    async with opened(sidecar) as service:
        await service(connection)
    assert seen == [side]
    assert str(sidecar).startswith("Sidecar(outbound_ports={4140, 4141})\n├─ inbound: Noting(")


@pytest.mark.parametrize(
    ("tls", "branch"),
    [(None, "otherwise"), (Tls(server_name="web"), "otherwise"), (Tls(peer_identity="web.mesh.local"), "meshed")],
)
async def test_only_clients_that_proved_an_identity_are_meshed(tls, branch):
    seen: list[str] = []
    stack = Meshed(meshed=Noting("meshed", seen), otherwise=Noting("otherwise", seen))
    _, connection = memory_connection()
    async with opened(stack) as service:
        await service(replace(connection, tls=tls))
    assert seen == [branch]
    assert str(stack).startswith("Meshed()\n├─ meshed: Noting(")
