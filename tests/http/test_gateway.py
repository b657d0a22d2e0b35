"""Requests through a gateway: to its domains only, with the way they came written down, and never round in a circle."""

import pytest

from linkerd_proxy.address import Address, is_under
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.work import Exchange, Tls
from linkerd_proxy.errors import BadRequest, Denied, GatewayDomain, LoopDetected
from linkerd_proxy.http.gateway import GatewayRequests
from linkerd_proxy.http.rescue import Rescue
from linkerd_proxy.testing import call, check_layer, memory_connection
from tests.http.between import MESHED, Leaf

OWN = "gateway.ns"
LAYER = GatewayRequests(OWN, ("svc.east.local", "Example.com."))
NAME = "web.ns.svc.east.local"


def arrived(name=NAME, port=80, tls=MESHED):
    _, connection = memory_connection(tls=tls, original_dst=Address(name or "10.0.0.1", port))
    connection.target_name = name
    return connection


async def through(*, fields=(), authority="web.other", version="1.1", layer=LAYER, **values):
    """Return the request as it goes on."""
    seen = []

    async def leaf(exchange):
        seen.append(exchange)
        await exchange.respond(Response(200))

    request = Request("GET", "/", fields, authority=authority, version=version)
    async with call(layer | Leaf(leaf), request, connection=arrived(**values)):
        pass
    assert seen[0].connection.original_dst == Address(values.get("name", NAME), values.get("port", 80))
    return seen[0].request


@pytest.mark.parametrize("version", ["1.0", "1.1", "2"])
async def test_the_way_is_written_down(version):
    request = await through(version=version)
    assert request.headers.get_all("forwarded") == ["by=gateway.ns;for=web.ns;host=web.other;proto=https"]
    assert (request.authority, request.version) == (NAME, version)


async def test_what_was_written_before_is_kept():
    fields = [("forwarded", "for=1.2.3.4, by=other.gateway;for=x"), ("a", "b")]
    request = await through(fields=fields)
    assert list(request.headers)[:2] == fields
    assert len(request.headers.get_all("forwarded")) == 2


async def test_names_that_are_no_tokens_are_quoted():
    layer = GatewayRequests("spiffe://mesh/gw", ("",))
    request = await through(layer=layer, tls=Tls("spiffe://mesh/web"), authority="web:80")
    assert request.headers["forwarded"] == 'by="spiffe://mesh/gw";for="spiffe://mesh/web";host="web:80";proto=https'


@pytest.mark.parametrize(
    ("said", "port", "expected"),
    [
        ("internal.admin", 80, NAME),
        ("internal.admin:80", 8080, f"{NAME}:8080"),
        ("", 80, NAME),
        (NAME, 80, NAME),
        (f"{NAME}:80", 80, f"{NAME}:80"),
        (NAME.upper(), 80, NAME.upper()),
        (f"{NAME}.", 80, f"{NAME}."),
        (NAME, 8080, f"{NAME}:8080"),
        (f"{NAME}:8080", 8080, f"{NAME}:8080"),
        (f"{NAME}:8080", 80, NAME),
        ("[::1]:80", 80, NAME),
        (f"x.{NAME}", 80, NAME),
    ],
)
async def test_the_authority_is_where_it_really_goes(said, port, expected):
    assert (await through(authority=said, port=port)).authority == expected


@pytest.mark.parametrize(
    "name", ["svc.east.local", "a.svc.east.local", "A.SVC.EAST.LOCAL", "example.com", "x.example.com."]
)
async def test_names_under_a_domain_pass(name):
    await through(name=name)


@pytest.mark.parametrize(
    "name", ["xsvc.east.local", "svc.west.local", "east.local", "localhost", "example.com.evil", None]
)
async def test_other_names_do_not_exist(name):
    with pytest.raises(GatewayDomain, match="does not lead to"):
        await through(name=name)
    async with call(Rescue() | LAYER | Leaf(None), Request("GET", "/"), connection=arrived(name)) as response:
        assert response.status == 404
        assert response.headers["l5d-proxy-error"].startswith("GD ")


def test_domains():
    assert is_under("anything", ("",))
    assert not is_under("anything", ())
    assert is_under("a.b", ("x", ".b"))


@pytest.mark.parametrize("tls", [None, Tls(), Tls(server_name="x")])
async def test_a_client_without_an_identity_is_denied(tls):
    with pytest.raises(Denied):
        await through(tls=tls)


@pytest.mark.parametrize(
    "forwarded",
    [
        "by=gateway.ns",
        "for=x;by=gateway.ns;host=y",
        "by=other, BY=gateway.ns, by=third",
        'by="gateway.ns"',
        r'by="gateway\.ns"',
        ", ".join(["by=other"] * 10),
    ],
)
async def test_a_request_that_was_here_before_is_stopped(forwarded):
    with pytest.raises(LoopDetected) as caught:
        await through(fields=[("forwarded", forwarded)])
    assert caught.value.status == 508
    with pytest.raises(LoopDetected):
        await through(fields=[("forwarded", part) for part in forwarded.split(", ")])


async def test_nine_proxies_are_not_too_many():
    await through(fields=[("forwarded", ", ".join(["by=other"] * 9))])


async def test_a_request_of_the_gateway_itself_is_stopped():
    with pytest.raises(LoopDetected):
        await through(tls=Tls(OWN))


async def test_a_malformed_field_hides_nothing():
    for value in ('for="x, by=gateway.ns', "x y, by=gateway.ns"):
        with pytest.raises(BadRequest):
            await through(fields=[("forwarded", value)])


async def test_the_layer_keeps_every_layers_rules():
    async def respond(response):
        await response.body.read()

    await check_layer(LAYER, lambda: Exchange(Request("GET", "/", authority="a"), respond, arrived()))
