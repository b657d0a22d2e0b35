"""The mesh's header fields, layer by layer. What clients try is in ``tests/attack/test_identity_headers.py``."""

import pytest

from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.work import Exchange, Tls
from linkerd_proxy.errors import BadGateway, ConnectFailed, LoopDetected
from linkerd_proxy.http.mesh_headers import InboundHeaders, OutboundHeaders, is_reserved
from linkerd_proxy.io.loops import hops, passed_on
from linkerd_proxy.testing import call, check_layer, memory_connection
from tests.http.between import MESHED, Leaf


async def through(layer, fields, *, tls=MESHED, answer=()):
    """Return the fields that came out of a layer, of the request and of the answer."""
    seen = []

    async def leaf(exchange):
        seen.append((exchange.request.headers, hops()))
        await exchange.respond(Response(200, answer, b"x"))

    _, connection = memory_connection(tls=tls)
    async with call(layer | Leaf(leaf), Request("GET", "/", fields), connection=connection) as response:
        assert await response.body.read() == b"x"
    (asked, count), answered = seen[0], response.headers
    return list(asked), list(answered), count


@pytest.mark.parametrize("name", ["l5d-", "l5d-client-id", "l5d_client_id", "l5d.x", "l5d~", "l5d-orig-proto"])
def test_what_is_reserved(name):
    assert is_reserved(name.encode())


@pytest.mark.parametrize("name", ["l5d", "l5dx", "l5d4", "x-l5d-client-id", "", "l5"])
def test_what_is_not(name):
    assert not is_reserved(name.encode())


async def test_the_order_and_everything_else_is_kept():
    fields = [("a", "1"), ("l5d-x", "2"), ("b", "3"), ("a", "4")]
    asked, answered, _ = await through(InboundHeaders(), fields, answer=fields)
    assert asked == [("a", "1"), ("b", "3"), ("a", "4"), ("l5d-client-id", "web.ns")]
    assert answered == [("a", "1"), ("b", "3"), ("a", "4")]
    asked, answered, _ = await through(OutboundHeaders("app.ns"), fields, answer=fields)
    assert asked == answered == [("a", "1"), ("b", "3"), ("a", "4")]


async def test_spiffe_names_are_told_too():
    asked, _, _ = await through(InboundHeaders(), [], tls=Tls("spiffe://mesh.local/web"))
    assert asked == [("l5d-client-id", "spiffe://mesh.local/web")]


async def test_a_required_identity():
    fields = [("l5d-require-id", "app.ns")]
    assert (await through(OutboundHeaders("app.ns"), fields))[0] == []
    for identity in (None, "other.ns", ""):
        with pytest.raises(BadGateway, match=r"requires the identity 'app\.ns'") as caught:
            await through(OutboundHeaders(identity), fields)
        assert caught.value.status == 502
        # A balancer takes endpoints out that could not be connected to: this one is as good as before.
        assert not isinstance(caught.value, ConnectFailed)


async def test_hops_are_counted_between_proxies_and_shown_to_nobody_else():
    asked, _, count = await through(InboundHeaders(), [("l5d-hops", "4")])
    assert (asked, count) == ([("l5d-client-id", "web.ns")], 5)
    _, _, count = await through(InboundHeaders(), [])
    assert count == 1
    passed_on(0)
    _, _, count = await through(InboundHeaders(), [("l5d-hops", "4")], tls=None)
    assert count == 0
    assert (await through(OutboundHeaders("app.ns"), []))[0] == []
    passed_on(5)
    assert (await through(OutboundHeaders("app.ns"), [("l5d-hops", "1")]))[0] == [("l5d-hops", "5")]
    assert (await through(OutboundHeaders(), []))[0] == []


@pytest.mark.parametrize("told", ["10", "99", "100", "-1", "x", "", "9" * 1000])
async def test_a_request_that_goes_round_and_round_is_stopped(told):
    if told:
        with pytest.raises(LoopDetected, match="more than 10 proxies") as caught:
            await through(InboundHeaders(), [("l5d-hops", told)])
        assert caught.value.status == 508
    else:
        assert (await through(InboundHeaders(), [("l5d-hops", "9")]))[2] == 10


async def test_the_layers_keep_every_layers_rules():
    async def respond(response):
        await response.body.read()

    def work():
        _, connection = memory_connection(tls=MESHED)
        return Exchange(Request("GET", "/", [("l5d-x", "y")]), respond, connection)

    for layer in (InboundHeaders(), OutboundHeaders(), OutboundHeaders("app.ns")):
        await check_layer(layer, work)
