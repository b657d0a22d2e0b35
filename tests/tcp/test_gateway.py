"""Connections through a gateway: to its domains only, dialled by name."""

import pytest

from linkerd_proxy.address import Address
from linkerd_proxy.core.work import Tls
from linkerd_proxy.errors import Denied, GatewayDomain, LoopDetected
from linkerd_proxy.tcp.forward import Forward
from linkerd_proxy.tcp.gateway import GatewayConnections
from linkerd_proxy.testing import check_layer, memory_connection

OWN = "gateway.ns"
LAYER = GatewayConnections(OWN, ("svc.east.local",))
NAME = "db.ns.svc.east.local"


def arrived(name=NAME, tls=Tls("web.ns")):  # noqa: B008  # frozen
    _, connection = memory_connection(tls=tls, original_dst=Address(name or "10.0.0.1", 5432), protocol="opaque")
    connection.target_name = name
    return connection


async def test_the_name_is_dialled():
    dialled = []

    async def inner(dial):
        dialled.append(dial.target.address)

    async with (LAYER | Forward()).open(inner) as service:
        await service(arrived())
    assert dialled == [Address(NAME, 5432)]


@pytest.mark.parametrize(
    ("connection", "error"),
    [
        (arrived, GatewayDomain),
        (lambda name: arrived(None), GatewayDomain),
        (lambda name: arrived(tls=None), Denied),
        (lambda name: arrived(tls=Tls()), Denied),
        (lambda name: arrived(tls=Tls(OWN)), LoopDetected),
    ],
    ids=["another domain", "no name", "plaintext", "no identity", "itself"],
)
async def test_what_is_refused(connection, error):
    async def inner(work):
        raise AssertionError

    with pytest.raises(error):
        await LAYER.serve(connection("db.elsewhere"), inner)


async def test_the_layer_keeps_every_layers_rules():
    await check_layer(LAYER, arrived)
