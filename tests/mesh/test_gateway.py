"""A gateway leads peers to names under its suffixes, and nothing round in a circle."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import pytest
import trio

from linkerd_proxy.address import Address
from linkerd_proxy.core.message import Request, Response
from linkerd_proxy.core.stack import opened
from linkerd_proxy.core.work import Dial, Target
from linkerd_proxy.http.client import Client
from linkerd_proxy.http.upgrade import Upgrade
from linkerd_proxy.io.transport_header import ALPN
from linkerd_proxy.mesh.gateway import gateway
from linkerd_proxy.mesh.inbound import inbound
from linkerd_proxy.mesh.peer import MeshPeer
from linkerd_proxy.tcp.connect import Connect
from linkerd_proxy.tcp.transport_header import SendTransportHeader
from linkerd_proxy.testing import call, echo, http_origin, serving, tcp_origin
from linkerd_proxy.tls.authority import Authority
from linkerd_proxy.tls.identity import Given
from linkerd_proxy.tls.originate import Originate

GATEWAY, WEB, API = "gateway.mesh.local", "web.mesh.local", "api.mesh.local"


@pytest.fixture(scope="module")
def identities():
    authority = Authority.create("mesh.local")
    return {name: Given(authority.issue(name)) for name in (GATEWAY, WEB, API)}


@asynccontextmanager
async def gateway_for(identities, suffixes=("localhost",), peers=None, local=True):
    """Yield a way to the gateway for a name and a port, as a peer's proxy goes it."""
    leads = gateway(identities[GATEWAY], GATEWAY, suffixes, peers, local=local)
    async with serving(inbound(identities[GATEWAY], app=["127.0.0.1:9"], gateway=leads)) as address:

        def way(beyond, identity=WEB, protocol=None):
            dial = Originate(identities[identity], alpn=(ALPN,)) | Connect()
            return Towards(Target(address, GATEWAY, protocol=protocol, beyond=beyond)) | SendTransportHeader() | dial

        yield way


def Towards(target):  # noqa: N802  # it stands for a layer
    from dataclasses import dataclass, replace

    from linkerd_proxy.core.stack import Layer

    @dataclass(frozen=True)
    class Beyond(Layer[Dial, Dial]):
        async def serve(self, work, inner):
            await inner(replace(work, target=replace(target, protocol=work.target.protocol)))

    return Beyond()


async def told(request):
    seen = {name: request.headers.get(name) for name in ("forwarded", "l5d-client-id")}
    return Response(200, (), f"{request.version} {request.authority} {seen}".encode())


async def ask(stack, *, headers=()):
    request = Request("GET", "/", headers, authority="whoever.example")
    async with call(stack, request) as response:
        return response.status, (await response.body.read()).decode()


async def test_requests_go_on_to_the_name_and_tell_where_they_were(identities):
    async with http_origin(told) as origin, gateway_for(identities) as way:
        port = origin.address.port
        status, body = await ask(Upgrade() | Client(protocol="h2") | way(Address("localhost", port)))
        assert status == 200
        assert body.startswith(f"1.1 localhost:{port} ")
        assert f'by="{GATEWAY}"' in body or f"by={GATEWAY}" in body
        assert "'l5d-client-id': None" in body


async def test_to_a_peer_they_go_by_the_mesh(identities):
    async with http_origin(told) as origin, serving(inbound(identities[API], require_identity=True)) as sidecar:
        peers = {"localhost": MeshPeer(API, sidecar.port)}
        async with gateway_for(identities, peers=peers) as way:
            status, body = await ask(Upgrade() | Client(protocol="h2") | way(Address("localhost", origin.address.port)))
    assert status == 200
    assert f"'l5d-client-id': '{GATEWAY}'" in body


async def test_connections_go_on_to_the_name(identities):
    async with tcp_origin(echo) as origin, gateway_for(identities) as way:

        async def use(stream):
            await stream.send_all(b"there and back")
            await stream.send_eof()
            received = b"".join([data async for data in stream])
            assert received == b"there and back"

        async with opened(way(Address("localhost", origin.address.port))) as service:
            await service(Dial(Target(), use))


@pytest.mark.parametrize(
    ("name", "asks_as", "headers", "status"),
    [
        ("elsewhere.example", WEB, (), 404),
        ("localhost", GATEWAY, (), 508),
        ("localhost", WEB, [("forwarded", f"by={GATEWAY}")], 508),
    ],
)
async def test_other_names_and_circles_are_refused(identities, name, asks_as, headers, status):
    async with http_origin(told) as origin, gateway_for(identities) as way:
        stack = Upgrade() | Client(protocol="h2") | way(Address(name, origin.address.port), asks_as)
        assert (await ask(stack, headers=headers))[0] == status
        assert origin.requests == []


async def test_other_names_are_refused_to_connections_too(identities):
    async with gateway_for(identities) as way:

        async def use(stream):
            await stream.send_all(b"\0\0\0 no http")
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()

        async with opened(way(Address("elsewhere.example", 25))) as service:
            await service(Dial(Target(), use))


class Resolver(trio.abc.HostnameResolver):
    """Whoever holds a name says where it leads."""

    def __init__(self, address):
        self.address = address

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002
        assert host == b"held.example"
        return await trio.to_thread.run_sync(socket.getaddrinfo, self.address, port, family, type)

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


@pytest.mark.parametrize("leads_to", ["127.0.0.1", "127.8.9.10", "::ffff:127.0.0.1", "0.0.0.0", "169.254.169.254"])
async def test_no_name_leads_to_the_gateways_own_host(identities, leads_to):
    """A peer who holds a name under a domain of the gateway's would reach its admin endpoint: 127.0.0.1:4191."""
    before = trio.socket.set_custom_hostname_resolver(Resolver(leads_to))
    try:
        async with http_origin(told) as origin, gateway_for(identities, ("example",), local=False) as way:
            stack = Upgrade() | Client(protocol="h2") | way(Address("held.example", origin.address.port))
            assert (await ask(stack))[0] == 403
            assert origin.connections == 0
    finally:
        trio.socket.set_custom_hostname_resolver(before)


async def test_no_connection_does_either(identities):
    async with tcp_origin(echo) as origin, gateway_for(identities, local=False) as way:

        async def use(stream):
            await stream.send_all(b"\0\0\0 no http")
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()

        async with opened(way(Address("localhost", origin.address.port))) as service:
            await service(Dial(Target(), use))
        assert origin.connections == 0


async def test_a_peer_on_the_gateways_host_proves_who_it_is_and_is_reached(identities):
    async with http_origin(told) as origin, serving(inbound(identities[API], require_identity=True)) as sidecar:
        peers = {"localhost": MeshPeer(API, sidecar.port)}
        async with gateway_for(identities, peers=peers, local=False) as way:
            stack = Upgrade() | Client(protocol="h2") | way(Address("localhost", origin.address.port))
            assert (await ask(stack))[0] == 200
