"""Work goes down the branch for where its client was going."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio

from linkerd_proxy.address import Address, UnixAddress
from linkerd_proxy.core.message import Request
from linkerd_proxy.core.stack import Stack, opened
from linkerd_proxy.core.work import Connection, Dial, Exchange, Target
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.tcp.aim import Aim
from linkerd_proxy.tcp.destinations import Destinations
from linkerd_proxy.testing import check_layer, memory_connection

here: list[str] = []


@dataclass(frozen=True)
class Noting(Stack):
    name: str

    @asynccontextmanager
    async def open(self):
        async def note(_work):
            here.append(self.name)

        yield note


@pytest.fixture(autouse=True)
def _fresh():
    here.clear()


TABLE = {
    "10.0.0.5:80": Noting("five on 80"),
    "10.0.0.5": Noting("five"),
    "[2001:db8::1]:80": Noting("six on 80"),
    "2001:db8::2": Noting("six"),
    "web.example:80": Noting("name"),
}


@pytest.mark.parametrize(
    ("destination", "branch"),
    [
        (Address("10.0.0.5", 80), "five on 80"),
        (Address("10.0.0.5", 81), "five"),
        (Address("10.0.0.6", 80), "rest"),
        (Address("2001:db8::1", 80), "six on 80"),
        (Address("2001:db8::1", 81), "rest"),
        (Address("2001:db8::2", 81), "six"),
        (Address("web.example", 80), "name"),
        (UnixAddress("/web"), "rest"),
        (None, "rest"),
    ],
)
async def test_a_destination_finds_its_branch(destination, branch):
    _, connection = memory_connection(original_dst=destination)
    async with opened(Destinations[Connection](TABLE, Noting("rest"))) as service:
        await service(connection)
    async with opened(Destinations[Exchange](TABLE, Noting("rest"))) as service:
        await service(Exchange(Request("GET", "/"), None, connection))
    assert here == [branch, branch]


def test_it_draws_every_branch():
    text = str(Destinations[Connection](TABLE, Noting("rest")))
    assert text.splitlines()[0] == "Destinations()"
    assert "├─ 10.0.0.5:80: Noting(name='five on 80')" in text
    assert text.endswith("└─ otherwise: Noting(name='rest')")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["10.0.0.5:80", "10.0.0.5:80 "], "names no host|no valid port"),
        (["[2001:db8::1]:80", "[2001:db8:0::1]:80"], "which are the same"),
        (["10.0.0.5", "10.0.0.5:0"], "which are the same"),
        ([":80"], "':80' is no destination"),
        (["unix:/x"], "'unix:/x' is no destination"),
        (["10.0.0.5:http"], "no valid port"),
    ],
)
def test_what_is_no_destination_is_told(keys, told):
    with pytest.raises(InvalidConfiguration, match=told):
        Destinations[Connection](dict.fromkeys(keys, Noting("x")), Noting("rest"))


async def test_aim_says_what_is_known_of_the_target_and_leaves_the_address():
    seen = []

    async def inner(dial):
        seen.append(dial.target)

    target = Target(Address("10.0.0.5", 80), protocol="http/2")
    async with Aim("web.mesh.local", 4143).open(inner) as service:
        await service(Dial(target, None))
    assert seen == [replace(target, identity="web.mesh.local", tagged_port=4143)]


async def test_aim_is_a_layer():
    async def use(_stream):
        await trio.lowlevel.checkpoint()

    await check_layer(Aim("web.mesh.local"), lambda: Dial(Target(Address("10.0.0.5", 80)), use))


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_aim_wants_a_port_that_is_one(port):
    with pytest.raises(InvalidConfiguration, match="is no port"):
        Aim("web.mesh.local", port)
