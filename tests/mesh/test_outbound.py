"""A destination of the outbound side that stands for several endpoints."""

from __future__ import annotations

import pytest
import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.endpoint import Endpoint
from linkerd_proxy.core.message import Response
from linkerd_proxy.core.stack import opened
from linkerd_proxy.discover.static import Static
from linkerd_proxy.errors import InvalidConfiguration
from linkerd_proxy.mesh.inbound import inbound
from linkerd_proxy.mesh.outbound import outbound
from linkerd_proxy.mesh.peer import MeshPeer
from linkerd_proxy.testing import echo, http_origin, memory_connection, serving, tcp_origin
from linkerd_proxy.tls.authority import Authority
from linkerd_proxy.tls.identity import Given
from tests.patience import PATIENCE

VIRTUAL = Address("192.0.2.10", 80)
WEB, API = "web.mesh.local", "api.mesh.local"
GET = b"GET / HTTP/1.1\r\nhost: whatever.example\r\nconnection: close\r\n\r\n"


async def talk(service, data, going_to=VIRTUAL):
    """Return all that is answered on a connection of its own."""
    client, connection = memory_connection(original_dst=going_to)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service, connection)
            await client.send_all(data)
            if not data.startswith(b"GET"):
                await client.send_eof()
            said = b"".join([piece async for piece in client])
            await client.aclose()
    return said


async def gone():
    async with tcp_origin(echo) as origin:
        return origin.address


async def test_requests_are_balanced_over_the_endpoints_of_a_service():
    dead = await gone()
    async with http_origin() as one, http_origin() as two:
        services = {str(VIRTUAL): Static(one.address, two.address, dead)}
        async with opened(outbound(services=services)) as service:
            for _ in range(40):
                assert (await talk(service, GET)).startswith(b"HTTP/1.1 200 ")
    # The one that can't be reached costs nobody a request.
    assert len(one.requests) + len(two.requests) == 40
    assert min(len(one.requests), len(two.requests)) > 0


async def test_connections_are_too():
    async with tcp_origin(echo) as one, tcp_origin(echo) as two:
        services = {str(VIRTUAL): Static(one.address, two.address)}
        async with opened(outbound(services=services)) as service:
            for _ in range(40):
                assert await talk(service, b"\0\0 no http") == b"\0\0 no http"
    assert one.connections + two.connections == 40
    assert min(one.connections, two.connections) > 0


async def test_what_is_no_service_goes_where_it_was_going():
    async with http_origin() as one, http_origin() as other:
        services = {str(VIRTUAL): Static(one.address)}
        async with opened(outbound(services=services)) as service:
            assert (await talk(service, GET, other.address)).startswith(b"HTTP/1.1 200 ")
    assert (len(one.requests), len(other.requests)) == (0, 1)


async def test_an_endpoint_with_an_identity_is_spoken_to_by_the_meshs_ways():
    authority = Authority.create("mesh.local")
    identities = {name: Given(authority.issue(name)) for name in (WEB, API)}

    async def who(request):
        return Response(200, (), (request.headers.get("l5d-client-id") or "nobody").encode())

    async with http_origin(who) as origin:
        sidecar = inbound(identities[API], app=[origin.address], require_identity=True)
        async with serving(sidecar) as address:
            services = {str(VIRTUAL): Static(Endpoint(address, identity=API))}
            async with opened(outbound(identities[WEB], services=services)) as service:
                assert (await talk(service, GET)).endswith(WEB.encode())


def test_a_destination_is_a_peer_or_a_service():
    authority = Authority.create("mesh.local")
    with pytest.raises(InvalidConfiguration, match=r"192\.0\.2\.10:80 is a peer and a service: keep one"):
        outbound(
            Given(authority.issue(WEB)), {str(VIRTUAL): MeshPeer(API)}, services={str(VIRTUAL): Static("10.0.0.1:80")}
        )
