"""The layer that aims dials at an endpoint."""

import pytest

from linkerd_proxy.address import Address
from linkerd_proxy.balance.towards import Towards
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.work import Dial, Target
from linkerd_proxy.testing import check_layer

ENDPOINT = Endpoint(
    Address("10.0.0.9", 8080),
    identity="app.ns",
    server_name="app",
    protocol="http/2",
    tagged_port=4143,
    labels={"zone": "a"},
)


async def use(stream):
    await stream.receive_some(1)


@pytest.mark.parametrize("spoken", [None, "http/1", "http/2", "opaque"])
async def test_everything_of_the_endpoint_is_in_the_target(spoken):
    dialled = []

    async def inner(dial):
        dialled.append(dial.target)

    async with Towards(ENDPOINT).open(inner) as service:
        await service(Dial(Target(Address("1.2.3.4", 5), protocol=spoken), use))
        await service(Dial(Target(beyond=Address("web.ns", 80), protocol=spoken), use))
    plain, gateway = dialled
    assert (plain.address, plain.identity, plain.server_name) == (ENDPOINT.address, "app.ns", "app")
    assert (plain.protocol, plain.tagged_port, plain.labels) == (spoken or "http/2", 4143, {"zone": "a"})
    assert (plain.beyond, gateway.beyond) == (None, Address("web.ns", 80))
    assert gateway.tagged_port == 4143


async def test_the_layer_keeps_every_layers_rules():
    await check_layer(Towards(ENDPOINT), lambda: Dial(Target(), use))
